"""When the next token of an attached model is decoded in place, and the call of the model that does it.

The readable way keeps its state by replacing tensors, and works out anew what a token attends to. A ring (ring.py) holds the
same in memory that is overwritten, so that each step is the same kernels on the same addresses. It is begun at a single token,
and gives its content back to the memory before anything else is done with that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recollect.context.recorded import Weights
from recollect.context.ring import Ring
from recollect.context.rotary import Rotary

if TYPE_CHECKING:
    from recollect.context.cache import MemoryCache
    from recollect.context.policy import ContextMemory


class InPlace:
    """Decodes single tokens of an attached model in place, where its policy and its memory allow that.

    `forward` is the model's own; `rotary` and `layer_type` are those of all layers. `plain` says whether these take angles
    of the place alone and scores without a cap, as such a step needs.
    """

    def __init__(
        self,
        policy: ContextMemory,
        model: Any,
        decoder: Any,
        forward: Callable[..., Any],
        rotary: Rotary,
        layer_type: str | None,
        plain: bool,
    ):
        self._model, self._decoder, self._forward = model, decoder, forward
        self._rotary, self._layer_type = rotary, layer_type
        self._window = policy.window() if plain else None
        self._ring: Ring | None = None  # made when tokens are first decoded one by one
        self._weights: Weights | None = None  # as the ring's graph knows them
        self._output_class: Any = None  # of the model, as a step found it
        self.stepping: Ring | None = None  # during a step

    def takes(self, memory: MemoryCache, padded: bool) -> bool:
        """Whether the next token of this memory can be decoded in place; if it can, the ring holds the memory.

        When the weights have moved, ring and graph are let go of, and the token is read the readable way, by which the
        memory follows the model to another type or device.
        """
        if self._window is None or torch.is_grad_enabled() or self._model.training:
            return False
        if self._ring is not None and self._weights is not None and self._weights.moved():
            self.forget()
            return False
        if memory.ring is not None:
            return True
        if len(memory.units) != 1 or padded or not Ring.full(memory.units[0], self._window):
            return False
        (unit,) = memory.units
        if self._ring is None or not self._ring.fits(unit):
            self.forget()
            own = Rotary(self._rotary.module, self._rotary.apply)
            self._ring, self._weights = Ring(self._window, unit, own, self._layer_type), Weights(self._model)
        self._ring.begin(memory, unit)
        return True

    def step(self, memory: MemoryCache, ids: Tensor, use_cache: bool | None, return_dict: bool | None) -> Any:
        """What the model returns for one token of each row, `ids` [B, 1], decoded on the ring that holds the memory."""
        ring = memory.ring
        assert ring is not None

        def forward(ids: Tensor) -> Tensor:
            self._decoder.rotary_emb.angles = ring.turn()
            try:
                outputs = self._forward(input_ids=ids, cache=memory, use_cache=True, return_dict=True)
            finally:
                self._decoder.rotary_emb.angles = None
            self._output_class = type(outputs)
            return outputs.logits

        try:
            self.stepping = ring
            logits = ring.step(forward, ids)
        finally:
            self.stepping = None
        memory.num_seen += 1
        outputs = self._output_class(logits=logits, cache=None if use_cache is False else memory)
        return outputs.to_tuple() if return_dict is False else outputs

    def forget(self) -> None:
        """Give back what the ring holds, and let go of it."""
        if self._ring is not None:
            self._ring.settle()
        self._ring = None

    def nbytes(self) -> int:
        """Bytes on the device, beside those of the memory."""
        return 0 if self._ring is None else self._ring.nbytes()
