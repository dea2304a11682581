"""Refresh learning: before each step, unlearn its batch a little, then learn it; a plug-in for any other method.

Remembers how much each weight mattered for the tasks so far. The unlearning step climbs the loss of the batch, more where
weights did not matter, with a little noise; the step that follows descends from there. To first order this penalises the
gradient norm, so that flatter solutions are found.

Paper: A Unified and General Framework for Continual Learning, arXiv:2403.13249 (2024), sections 4 and 5.
Differs: two variants. `Refresh` is the authors' program, in which the climb follows the batch's own loss and is as long as
`step` times each tensor's norm; with its constants the importances hardly weigh. `Langevin` is the paper's equation. The
gradient is taken in place, where the program trains a copy of the model.
Cost: one more forward and backward pass a step; one tensor for each weight; `fisher_rows` single-row passes a task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from recollect.errors import InvalidInput
from recollect.weights.importance import add, fisher
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task


@dataclass
class Refresh(Method):
    """theta += step * (|theta| / |d| d + noise N(0, 1)) / (1 + fisher_weight F), d the batch's gradient, tensor by tensor.

    `objective` "current" climbs the task's loss, "full" the loss with the terms of all methods; then name it last.
    """

    step: float = 1e-5  # of a tensor's norm
    noise: float = 1e-3
    fisher_weight: float = 1e-3
    fisher_keep: float = 1e-5  # of the old importances
    fisher_rows: int = 256
    objective: Literal["current", "full"] = "current"
    num_inner_steps: int = 1

    def __post_init__(self) -> None:
        if self.step < 0:
            raise InvalidInput(f"step: {self.step} is below 0; use a share of the weights' norm, such as 1e-5.")
        if self.objective not in ("current", "full"):
            raise InvalidInput(f"objective: {self.objective!r:.20} is not known; use current or full.")

    @classmethod
    def idle(cls) -> Self:
        """A climb of length zero."""
        return cls(step=0.0)

    def before_step(self, learner: Learner, batch: Any) -> Any:
        """Unlearn the batch."""
        if self.step:
            source = learner.generator("refresh")
            for _ in range(self.num_inner_steps):
                self.unlearn(learner, self.direction(learner, batch), source)
        return batch

    def direction(self, learner: Learner, batch: Any) -> dict[str, Tensor]:
        """Where the loss climbs: its gradient, by parameter."""
        assert learner.task is not None
        if self.objective == "full":
            loss = learner.total_loss(batch, learner.task)
        else:
            loss = learner.loss_of(batch, learner.task)
        named = list(learner.named_parameters())
        found = torch.autograd.grad(loss, [each for _, each in named], allow_unused=True)
        return {name: each for (name, _), each in zip(named, found, strict=True) if each is not None}

    def unlearn(self, learner: Learner, direction: dict[str, Tensor], source: torch.Generator) -> None:
        """Move the weights along the direction."""
        importance = self.state.get("fisher", {})
        with torch.no_grad():
            for name, parameter in learner.named_parameters():
                if name not in direction:
                    continue
                climb = direction[name]
                climb = climb * (parameter.norm() / climb.norm().clamp(min=1e-12))
                noise = torch.randn(parameter.shape, generator=source).to(parameter)
                weighed = 1 + self.fisher_weight * importance.get(name, 0.0)
                parameter.add_(self.step * (climb + self.noise * noise) / weighed)

    def after_task(self, learner: Learner, task: Task) -> None:
        """Add the task's importances to those that fade."""
        if self.step:
            found = fisher(learner, task, self.fisher_rows)
            self.state["fisher"] = add(self.state.get("fisher"), found, self.fisher_keep)


@dataclass
class Langevin(Refresh):
    """The paper's step: theta += step F^-1 gradient + N(0, 2 step F^-1), with `damping` added to F."""

    step: float = 1e-4  # gamma
    noise: float = 1.0  # 1 is the equation
    fisher_keep: float = 1.0
    damping: float = 1.0

    def unlearn(self, learner: Learner, direction: dict[str, Tensor], source: torch.Generator) -> None:
        """Move the weights along the direction."""
        importance = self.state.get("fisher", {})
        with torch.no_grad():
            for name, parameter in learner.named_parameters():
                if name in direction:
                    inverse = 1 / (self.damping + importance.get(name, torch.zeros(())).to(parameter))
                    noise = torch.randn(parameter.shape, generator=source).to(parameter)
                    parameter.add_(self.step * inverse * direction[name])
                    parameter.add_(self.noise * (2 * self.step * inverse).sqrt() * noise)
