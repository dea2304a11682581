"""A loss with its gradients as CUDA graphs: recorded once for each shape of a batch, and then replayed without Python.

Small models are bound by how fast Python can launch kernels; a graph launches all of them at once. A loss that cannot be
recorded, because something in it waits for the GPU, is computed as it is, every time.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recollect.cuda_graphs import abandon

Objective = Callable[..., Tensor]
MAX_GRAPHS = 16  # of one loss: each keeps the memory of a whole step


class Recorded:
    """Calls `objective`, a loss of a model by tensors without gradient, in training; on a GPU by graphs.

    The weights must stay where they are in memory, and the loss must do the same for all batches of a shape. `refused`
    says why there is no graph, if recording failed.
    """

    def __init__(self, model: nn.Module, objective: Objective):
        self.refused: str | None = None
        self._model, self._objective = model, objective
        self._graphs: dict[Any, Objective] = {}

    @property
    def is_recorded(self) -> bool:
        """Whether graphs were replayed."""
        return bool(self._graphs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What `objective(*inputs)` returns; its gradient goes to the parameters of the model."""
        shapes = tuple((each.shape, each.dtype) for each in inputs)
        if shapes not in self._graphs and self.refused is None and inputs[0].is_cuda and len(self._graphs) < MAX_GRAPHS:
            try:
                self._graphs[shapes] = _record(_Loss(self._model, self._objective), inputs)
            except Exception as error:  # whatever it was, the step itself can go on
                self.refused = _reason(error)
        return self._graphs.get(shapes, self._objective)(*inputs)

    def close(self) -> None:
        """Let go of the graphs; they lie in cycles, and with them the memory of a step on the GPU."""
        if self._graphs:
            self._graphs.clear()
            gc.collect()


class _Loss(nn.Module):
    """The loss as a module that has the model's parameters, as recording asks for."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, *inputs: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.objective(*inputs)


def _record(loss: _Loss, inputs: tuple[Tensor, ...]) -> Objective:
    """The loss as graphs for batches of this shape. Raises whatever refuses it."""
    device, given = inputs[0].device, tuple(each.clone() for each in inputs)
    if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
        # gradients come from the stream of the graph, as they should; newer versions of PyTorch warn of it in each process
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    pool = torch.cuda.graph_pool_handle()
    # random numbers and the current stream are afterwards as they were, also where recording breaks off
    with torch.random.fork_rng([device]), torch.cuda.stream(torch.cuda.current_stream(device)):
        try:
            made: Any = torch.cuda.make_graphed_callables(loss, given, allow_unused_input=True, pool=pool)
        except BaseException:
            abandon(pool, device)
            raise
    return made


def _reason(error: BaseException) -> str:
    """What went wrong first, and where: to end a recording that broke off is an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    frames = traceback.extract_tb(error.__traceback__)
    where = next((each for each in reversed(frames) if "recollect" in each.filename), frames[-1])
    said = (str(error).strip() or repr(error)).splitlines()[0]
    return f"{said[:200]} ({Path(where.filename).name}, line {where.lineno})"
