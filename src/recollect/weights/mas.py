"""Memory aware synapses: weights are held by how much the output, not the loss, depends on them; no labels are needed.

Remembers an importance and the old value of each weight. `MAS` consolidates at the end of a task. `TaskFreeMAS` needs no
tasks: it watches the loss, consolidates once on each plateau, and measures importances on the hardest rows that it has met.

Source: Aljundi, Continual Learning in Neural Networks (thesis), arXiv:1910.02718 (2019), chapters on MAS (also
arXiv:1711.09601) and on task-free continual learning (arXiv:1812.03596).
Differs: of language models the logits are centred first, since a shift that all share would rule their norm.
Cost: two tensors for each weight; one single-row backward pass for each of `num_rows` rows at a consolidation; for
`TaskFreeMAS` also `hard_rows` rows and a forward pass over them in each step.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, pstdev, pvariance
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from recollect.errors import InvalidInput
from recollect.weights.batches import forward, join, logits_of, num_rows, row_losses, select, tree_map
from recollect.weights.importance import Importance, add, anchor_of, mean_of, penalty, row_gradients
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task


@dataclass
class MAS(Method):
    """L = L_task + strength * sum_j Omega_j (theta_j - theta*_j)^2, Omega summed over tasks."""

    strength: float = 1.0
    num_rows: int = 256  # of a task on which importances are measured

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise InvalidInput(f"strength: {self.strength} is below 0; use a strength of at least 0.")

    @classmethod
    def idle(cls) -> Self:
        """No penalty."""
        return cls(strength=0.0)

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The loss so far plus the penalty, once something was consolidated."""
        if not self.strength or "omega" not in self.state:
            return loss
        return loss + self.strength * penalty(learner.named_parameters(), self.state["anchor"], self.state["omega"])

    def after_task(self, learner: Learner, task: Task) -> None:
        """Consolidate: add the task's importances, and hold the weights where they are."""
        order = torch.randperm(len(task.train), generator=learner.generator("mas"))[: self.num_rows]
        new = sensitivity(learner, task.train, order.tolist())
        self.state["omega"] = add(self.state.get("omega"), new)
        self.state["anchor"] = anchor_of(learner.named_parameters())


def sensitivity(learner: Learner, data: Any, places: list[int]) -> Importance:
    """Omega: the mean over rows of |d ||F(x)||^2 / d theta|, row by row."""

    def value(outputs: Any, batch: Any) -> Tensor:
        logits = logits_of(outputs)
        if logits.dim() == 3:
            logits = logits - logits.mean(-1, keepdim=True)
        return logits.pow(2).sum()

    return mean_of(row_gradients(learner, data, places, value), torch.abs, len(places))


@dataclass
class TaskFreeMAS(Method):
    """MAS that finds its own moments to consolidate; it never looks at a task's beginning or end.

    A plateau is a window of losses whose mean and variance are low; the next one can come only after a peak, a window whose
    mean is above the last plateau's by its standard deviation. The thresholds are in nats.
    """

    strength: float = 0.5
    window: int = 5  # steps
    plateau_mean: float = 0.2
    plateau_variance: float = 0.1
    hard_rows: int = 30

    @classmethod
    def idle(cls) -> Self:
        """No penalty, and nothing is watched."""
        return cls(strength=0.0)

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """Note the task's loss and the rows' losses; the loss so far plus the penalty."""
        if not self.strength:
            return loss
        self.state.setdefault("losses", []).append(float(loss.detach()))
        if "omega" not in self.state:
            return loss
        return loss + self.strength * penalty(learner.named_parameters(), self.state["anchor"], self.state["omega"])

    def after_step(self, learner: Learner, batch: Any) -> None:
        """Keep the hardest rows, and consolidate on a new plateau."""
        if not self.strength:
            return
        self._keep_hard(learner, batch)
        losses = self.state["losses"] = self.state["losses"][-self.window :]
        if len(losses) < self.window:
            return
        now, is_armed = mean(losses), self.state.get("armed", True)
        if not is_armed and now > self.state["peak"]:
            self.state["armed"] = is_armed = True
        if is_armed and now < self.plateau_mean and pvariance(losses) < self.plateau_variance:
            self._consolidate(learner)
            self.state["armed"], self.state["peak"] = False, now + pstdev(losses)

    @property
    def num_consolidations(self) -> int:
        """How often it has consolidated."""
        return self.state.get("consolidations", 0)

    def _keep_hard(self, learner: Learner, batch: Any) -> None:
        """Of the rows kept and those of this step, keep those with the highest losses now."""
        rows = batch if "hard" not in self.state else join(self.state["hard"], batch)
        training = learner.model.training
        learner.model.eval()
        with torch.no_grad():
            losses = row_losses(forward(learner.model, rows), rows)
        learner.model.train(training)
        self.state["hard"] = select(rows, losses.topk(min(self.hard_rows, len(losses))).indices)

    def _consolidate(self, learner: Learner) -> None:
        """Omega <- (1 - 1/c) Omega + (1/c) Omega of the hard rows, at the c-th time; hold the weights where they are."""
        rows = range(num_rows(self.state["hard"]))
        new = sensitivity(learner, _Batch(self.state["hard"]), list(rows))
        count = self.state["consolidations"] = self.num_consolidations + 1
        scaled = {name: each / count for name, each in new.items()}
        self.state["omega"] = add(self.state.get("omega"), scaled, 1 - 1 / count)
        self.state["anchor"] = anchor_of(learner.named_parameters())


class _Batch:
    """A batch as a data set of its rows, for a learner's collate."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __getitem__(self, place: int) -> Any:
        return tree_map(lambda x: x[place], self.batch)
