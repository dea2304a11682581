"""MIR: replay the rows that the coming step would hurt most.

Remembers a reservoir of rows. Before a step it takes the step on trial, with the new rows alone, and looks at some random
rows of the memory: those whose loss rises most are replayed.

Source: Aljundi, Continual Learning in Neural Networks (thesis), arXiv:1910.02718 (2019), after Online Continual Learning
with Maximally Interfered Retrieval, arXiv:1908.04742.
Differs: the losses are weighed by `share` as in `Replay`, where the authors' program adds the two means.
Cost: beyond replay, a forward and backward pass over the new rows, and two forward passes over `num_candidates` rows a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call

from recollect.weights.batches import forward, row_losses
from recollect.weights.replay import Replay

if TYPE_CHECKING:
    from recollect.weights.learner import Learner


@dataclass
class MIR(Replay):
    """Draws the candidates whose loss rises most by a trial step of plain gradient descent."""

    num_candidates: int = 50
    rate: float | None = None  # of the trial step; None: the optimizer's learning rate

    def draw(self, learner: Learner, batch: Any, wanted: int) -> list[int]:
        """Places of the `wanted` candidates that interfere most; candidates are random rows of earlier tasks."""
        assert learner.task is not None
        assert learner.optimizer is not None
        older = [place for place, task in enumerate(self.state["tasks"]) if task != learner.task_name]
        if not older:
            return super().draw(learner, batch, wanted)
        order = torch.randperm(len(older), generator=learner.generator("mir"))[: self.num_candidates].tolist()
        candidates = [older[each] for each in order]
        if len(candidates) <= wanted:
            return candidates
        rate = learner.optimizer.param_groups[0]["lr"] if self.rate is None else self.rate
        training = learner.model.training
        learner.model.eval()
        named = dict(learner.named_parameters())
        loss = learner.objective(forward(learner.model, batch), batch, learner.task)
        slopes = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        rows = self.batch(learner, candidates)
        with torch.no_grad():
            trial = {
                name: each if slope is None else each - rate * slope
                for (name, each), slope in zip(named.items(), slopes, strict=True)
            }
            arguments = ((), dict(rows)) if isinstance(rows, Mapping) else ((rows[0],), {})
            after = row_losses(functional_call(learner.model, trial, *arguments), rows)
            rise = after - row_losses(forward(learner.model, rows), rows)
        learner.model.train(training)
        return [candidates[each] for each in rise.topk(wanted).indices.tolist()]
