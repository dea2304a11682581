"""A step of decoding as a CUDA graph: run a few times, recorded once, and then replayed without Python.

A step that cannot be recorded (an operation in it waits for the GPU, or the driver refuses) is run as before, every time.
What a graph reads are addresses: whoever holds one must let go of it when the model's weights have moved, which `Weights`
notices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recollect.cuda_graphs import abandon

RECORD_AFTER = 3  # runs without a graph first, in which libraries make what they need


class Recorded:
    """Calls `forward` on token ids [B, 1]; on a GPU by a graph as soon as there is one. It must do the same every time."""

    def __init__(self) -> None:
        self.num_eager = 0
        self.refused: Exception | None = None  # why there is no graph, if recording failed
        self._graph: torch.cuda.CUDAGraph | None = None
        self._ids = self._output = torch.empty(0)

    @property
    def is_recorded(self) -> bool:
        """Whether the next call replays a graph."""
        return self._graph is not None

    def forget(self) -> None:
        """Let go of the graph; the next call makes anew what has changed, and the one after it records."""
        self._graph, self.num_eager = None, min(self.num_eager, RECORD_AFTER - 1)

    def __call__(self, forward: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """What `forward(ids)` returns."""
        if self._graph is None and self.refused is None and self.num_eager >= RECORD_AFTER and ids.is_cuda:
            self._try(forward, ids)
        if self._graph is None:
            output = forward(ids)
            self.num_eager += 1
            return output
        self._ids.copy_(ids)
        self._graph.replay()
        return self._output.clone()

    def _try(self, forward: Callable[[Tensor], Tensor], ids: Tensor) -> None:
        try:
            self._record(forward, ids)
        except Exception as error:  # whatever it was, the step itself can go on
            self._graph, self.refused = None, error

    def _record(self, forward: Callable[[Tensor], Tensor], ids: Tensor) -> None:
        """Record a call; nothing is computed yet. The memory of the graph is its own."""
        self._ids, graph, pool = ids.clone(), torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._output = forward(self._ids)
        except BaseException:
            abandon(pool, ids.device)
            raise
        self._graph = graph


class Weights:
    """Where the tensors of a model lie in memory, and which modules it has."""

    def __init__(self, model: Any):
        parts = list(model.modules())
        self._tensors = [each for part in parts for each in (part._parameters, part._buffers) if each]
        self._children = [part._modules for part in parts if part._modules]
        self._known = self._now()

    def moved(self) -> bool:
        """Whether anything lies elsewhere than at the last call (`to`, `half`, a state dict that was assigned)."""
        known, self._known = self._known, self._now()
        return known != self._known

    def _now(self) -> list[Any]:
        found: list[Any] = [
            (each.data_ptr(), each.dtype) for named in self._tensors for each in named.values() if each is not None
        ]
        found.extend(id(child) for named in self._children for child in named.values())
        return found
