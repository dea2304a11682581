"""How many bytes autograd keeps for backward passes: what training holds beyond the weights, measured and not estimated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SavedBytes:
    """A context that counts bytes of tensors saved for backward, each storage once, the model's own tensors left out.

    with SavedBytes(model) as saved:
        loss(model(x)).backward()
    saved.peak                  # the most that was held at a time; `saved.now` is what is held still
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
        self._held: dict[int, int] = {}  # by storage: how many saved tensors use it
        self.now = self.peak = 0

    def __enter__(self) -> SavedBytes:
        self._hooks: Any = torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Held(self, tensor), _tensor_of)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _count(self, tensor: Tensor, by: int) -> None:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self._own:
            return
        before = self._held.get(place, 0)
        self._held[place] = before + by
        if not before or not self._held[place]:
            self.now += by * storage.nbytes()
            self.peak = max(self.peak, self.now)


class _Held:
    """A saved tensor, which counts itself as long as it lives."""

    def __init__(self, meter: SavedBytes, tensor: Tensor) -> None:
        self.meter, self.tensor = meter, tensor
        meter._count(tensor, 1)

    def __del__(self) -> None:
        self.meter._count(self.tensor, -1)


def _tensor_of(held: _Held) -> Tensor:
    return held.tensor
