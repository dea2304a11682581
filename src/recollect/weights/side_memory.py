"""A side memory beside the value projection of a decoder's feed-forward layer: where it sits and how prompts are routed.

`SideMemory` takes the place of the projection. It holds memories (tau, threshold); a row whose prompt moves one of them
further than its threshold gets a tau added to its output, the others get the projection's own output, unchanged. The choice
is made once, when the model reads a prompt, and kept while the cache grows.

Shapes: B rows, T tokens, F width of the feed-forward layer, D of the model, M memories; tau [D, F].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.errors import InvalidInput

NAMES = ("down_proj", "fc_out", "fc2", "c_proj", "dense_4h_to_h", "w2")  # value projections of known decoders
DEPTH = 27 / 32  # of the default block: the paper's layer 27 of Llama-2-7B
LONG_TOKENS = 100  # beyond which the largest distance of a token counts, not the mean


def value_projection(model: nn.Module, name: str | None = None) -> tuple[str, nn.Module]:
    """(name, module) of the value projection of this name, or of the block at 27/32 of the depth.

    Raises InvalidInput when there is none of the name or none is found.
    """
    modules = dict(model.named_modules())
    if name is None:
        found = [each for each in modules if each.split(".")[-1] in NAMES and "attn" not in each]
        if not found:
            raise InvalidInput(f"layer: no value projection was found in {type(model).__name__}; name one.")
        name = found[min(int(DEPTH * len(found)), len(found) - 1)]
    module = modules.get(name)
    if not isinstance(getattr(module, "weight", None), Tensor) or module is None or module.weight.ndim != 2:
        raise InvalidInput(f"layer: {name!r:.60} is not a linear layer of {type(model).__name__}; name one.")
    return name, module


class SideMemory(nn.Module):
    """The projection, and memories beside it."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main
        weight: Any = main.weight
        transposed = not isinstance(main, nn.Linear)  # GPT-2's layers keep their weight as [F, D]
        self.shape: torch.Size = torch.Size(reversed(weight.shape)) if transposed else weight.shape
        self.memories: list[tuple[Tensor, float]] = []
        self.choice = torch.zeros(0, dtype=torch.long)  # of each row [B]: the memory that answers, -1 for none
        self.ratios = torch.zeros(0, 0)  # distance over threshold [B, M]
        self.power = 1.0  # mean squared norm of the activations that were last learned from
        self._prompt: Tensor | None = None  # which tokens count [B, T], while a prompt is read
        self._learning: tuple[Tensor, Tensor, list[Tensor]] | None = None
        self._hook: Any = None

    def attach(self, model: nn.Module, name: str) -> None:
        """Take the projection's place in the model."""
        _put(model, name, self)
        self._hook = model.register_forward_pre_hook(self._before, with_kwargs=True)

    def detach(self, model: nn.Module, name: str) -> None:
        """Give the place back."""
        _put(model, name, self.main)
        if self._hook is not None:
            self._hook.remove()

    @contextmanager
    def learning(self, tau: Tensor, counted: Tensor) -> Iterator[list[Tensor]]:
        """Every row goes through `tau` in the body; the list gets the distance of each row's counted tokens [B]."""
        deltas: list[Tensor] = []
        self._learning = tau, counted, deltas
        try:
            yield deltas
        finally:
            self._learning = None

    def forward(self, activations: Tensor) -> Tensor:
        """Activations [B, T, F] to outputs [B, T, D]."""
        output = self.main(activations)
        if self._learning is not None:
            tau, counted, deltas = self._learning
            self.power = float(activations.detach().float().square().sum(-1).mean())
            moved = F.linear(activations.to(tau.dtype), tau)
            deltas.append(distance(moved, counted))
            return output + moved.to(output.dtype)
        if not self.memories:
            self.choice = torch.full((len(activations),), -1)
            self.ratios = torch.zeros(len(activations), 0)
            return output
        if self._prompt is not None or len(self.choice) != len(activations):
            self._choose(activations)
        chosen = self.choice.to(output.device)
        for number, (tau, _) in enumerate(self.memories):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                moved = F.linear(activations[rows].to(tau.dtype), tau).to(output.dtype)
                output = output.index_add(0, rows, moved)
        return output

    def _choose(self, activations: Tensor) -> None:
        """Of each row the memory that its prompt moves furthest, among those above their threshold."""
        counted = self._prompt
        if counted is None or counted.shape != activations.shape[:2]:
            counted = torch.ones(activations.shape[:2], dtype=torch.bool, device=activations.device)
        moved = [F.linear(activations.to(tau.dtype), tau) for tau, _ in self.memories]
        deltas = torch.stack([distance(each, counted) for each in moved], dim=1)  # [B, M]
        thresholds = deltas.new_tensor([threshold for _, threshold in self.memories])
        self.ratios = (deltas / thresholds).detach().cpu()
        best = deltas.masked_fill(deltas <= thresholds, -1).max(1)
        self.choice = torch.where(best.values < 0, -1, best.indices).cpu()

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes, before the model runs, whether it reads a prompt, and which tokens of it count."""
        cache = kwargs.get("cache")
        self._prompt = None
        if cache is None or cache.get_seq_length() == 0:
            ids = kwargs.get("input_ids", args[0] if args else kwargs.get("inputs_embeds"))
            mask = kwargs.get("attention_mask")
            if ids is not None:
                whole = torch.ones(ids.shape[:2], dtype=torch.bool, device=ids.device)
                self._prompt = mask.bool() if mask is not None and mask.shape == whole.shape else whole


def distance(moved: Tensor, counted: Tensor) -> Tensor:
    """How far a memory moves each row's output [B]: the norm of a tau [B, T, D], averaged over the counted tokens [B, T].

    Of more than 100 tokens, the largest.
    """
    sizes = moved.norm(dim=-1) * counted
    counts = counted.sum(1)
    return torch.where(counts > LONG_TOKENS, sizes.amax(1), sizes.sum(1) / counts.clamp(min=1))


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
