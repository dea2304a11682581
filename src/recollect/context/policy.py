"""What a context policy is: a dataclass of settings that decides which keys a model attends to, and where they stand.

    with StreamingLLM(window_tokens=1020).attach(model) as memory:
        model.generate(**inputs)                   # any way of generating; each call has a memory of its own
        memory.read(ids)                           # or one kept memory: read, generate, read on
        memory.generate(ids, max_new_tokens=50)
        memory.save("memory.safetensors")

A policy implements `attend`, and, if it can bound what a token attends to, the class method `with_budget(attended_tokens)`:
the policy with which a token attends to at most so many keys, by which policies are compared. A policy is only settings: it
may be attached to several models, and what is kept lives in what `attach` returns.

Shapes: B rows, H query heads, G key-value heads, T new tokens, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from recollect.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from recollect.context.attach import Attached
    from recollect.context.attention import Window
    from recollect.context.cache import Layer, Unit
    from recollect.context.in_place import Room
    from recollect.context.rotary import Rotary


@dataclass
class ContextMemory:
    """Base of all policies."""

    per_row: ClassVar[bool] = False  # each row of a batch is a unit of its own, because rows differ in what is kept
    needs_logits: ClassVar[bool] = False  # `after_chunk` is given the logits of every token
    bounded: ClassVar[bool] = True  # what the model's device holds does not grow with the stream

    chunk_tokens: int = 512  # a longer input is read in chunks of this many tokens, so that memory stays bounded

    def __post_init__(self) -> None:
        self.check(chunk_tokens=1)

    def check(self, **least: float) -> None:
        """Raise InvalidInput for a setting below the least value that is named here."""
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InvalidInput(f"{name}: {getattr(self, name)} is too small; use {value} or more.")

    @contextmanager
    def attach(self, model: Any) -> Iterator[Attached]:
        """Let this policy do the attention of `model`, a RoPE decoder of transformers, until the block ends.

        Yields the memory. On leaving, also by an exception, the model is as it was. Raises InvalidInput for a model
        whose attention cannot be taken over, and Conflict for one to which a policy is attached already.
        """
        from recollect.context.attach import Attached

        attached = Attached(self, model)
        try:
            yield attached
        finally:
            attached.detach()

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of a chunk [B, H, T, D] over what is kept and over itself; updates `layer.state`.

        Queries [B, H, T, D], keys and values [B, G, T, D] are unrotated. Rows hold no padding.
        """
        raise NotImplementedError

    def window(self) -> Window | None:
        """The window that is all a token attends to, for a policy that has one: decoding then runs in place (ring.py)."""
        return None

    def room(self, unit: Unit, rotary: Rotary, layer_type: str | None) -> Room | None:
        """Memory in which the unit's next tokens can be decoded in place (in_place.py); None where that cannot be yet."""
        from recollect.context.ring import Ring

        window = self.window()
        return Ring(window, unit, rotary, layer_type) if window is not None and Ring.full(unit, window) else None

    def begin_turn(self, unit: Unit) -> None:
        """Called before an input of more than one token is read."""

    def before_chunk(self, unit: Unit, num_tokens: int) -> None:
        """Called before a chunk of `num_tokens` passes through the layers."""

    def after_chunk(self, unit: Unit, input_ids: Tensor, logits: Tensor) -> None:
        """Called after a chunk with its tokens [B, T] and logits [B, T, V], for a policy that `needs_logits`."""

    def report(self, unit: Unit) -> dict[str, Any]:
        """What `stats` shall say beside sizes, as numbers that are summed over units."""
        return {}
