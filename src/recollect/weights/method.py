"""What a method of continual learning is: hooks that the learner calls, and a state that it saves.

A method implements only the hooks that it needs. Methods compose: the learner calls them in the order in which they were
given, and each hook sees what the ones before it made. Everything that a method remembers between calls is in `state`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor

    from recollect.weights.learner import Learner, Task


@dataclass
class Method:
    """The base of all methods, with hooks that do nothing. A subclass is a dataclass of its settings.

    `state` holds what the method has learned: a tree of dicts, lists, tensors and plain JSON values. The learner saves and
    loads it, so that a method with no other state resumes exactly.
    """

    state: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def idle(cls) -> Self:
        """An instance of strength zero: learning with it equals plain training, bit for bit."""
        return cls()

    def before_task(self, learner: Learner, task: Task) -> None:
        """Called before a task's first step, and before the optimizer is made."""

    def before_step(self, learner: Learner, batch: Any) -> Any:
        """The batch to learn from in this step; may change learning rates or weights, or add rows."""
        return batch

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The loss to learn by, of the loss so far (a scalar): usually `loss + strength * term`."""
        return loss

    def after_backward(self, learner: Learner) -> None:
        """Called with gradients in place, before they are clipped and used."""

    def after_step(self, learner: Learner, batch: Any) -> None:
        """Called after the optimizer's step."""

    def after_task(self, learner: Learner, task: Task) -> None:
        """Called after a task's last step, before the tasks are scored."""

    def predict(self, learner: Learner, batch: Any) -> Tensor | None:
        """Logits for a batch, or None to leave it to the next method, and at last to the model."""
        return None
