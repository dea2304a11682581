"""Rehearsal-free continual learning: hold on to what was known by distillation or by a pull towards old weights, no data kept.

Remembers the model as it was after the last task, and for EWC how much each of its weights mattered. Four terms, in any
combination: distillation of predictions over the old classes, distillation of features, L2 to the old weights, and EWC. The
first holds the classifier, the others the features below it; the paper joins the first with L2 where the backbone was
pretrained (on the attention projections only, `pattern=ATTENTION`), with EWC where it was not. Use it with
`objective=local_cross_entropy`: without stored rows a softmax over all classes pushes the old ones down.

Paper: A Closer Look at Rehearsal-Free Continual Learning, arXiv:2203.17269 (2022).
Differs: the strengths of the paper could not be verified and are for the user to sweep; the Fisher information takes one
gradient a row and labels drawn from the model.
Cost: a copy of the model, and for EWC one more tensor for each penalised weight; a forward pass of the copy for each step
with distillation; `fisher_rows` single-row backward passes at a task's end for EWC.

Shapes: B rows, C classes, D features.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.errors import InvalidInput
from recollect.weights.batches import aligned, forward
from recollect.weights.importance import add, fisher, penalty
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task

ATTENTION = r"(^|[._])(q_proj|k_proj|v_proj|query|key|value|qkv)\."  # names of self-attention projections


@dataclass
class RehearsalFree(Method):
    """L = L_task + prediction L_PKD + features L_FKD + l2 L_L2 + ewc L_EWC; a strength of 0 leaves its term out.

    `head` names the classifier, whose rows the parameter terms leave alone; None: the last linear layer.
    """

    prediction: float = 1.0
    features: float = 0.0
    l2: float = 0.0
    ewc: float = 0.0
    pattern: str = ""  # found in the names of the parameters that are penalised
    temperature: float = 2.0
    head: str | None = None
    fisher_rows: int = 1024
    fisher_labels: Literal["model", "true"] = "model"
    fisher_keep: float = 1.0  # of the old importances, when those of a task are added
    _teacher: nn.Module | None = field(default=None, init=False, repr=False, compare=False)
    _hook: Any = field(default=None, init=False, repr=False, compare=False)
    _features: dict[bool, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("prediction", "features", "l2", "ewc"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name}: {getattr(self, name)} is below 0; use a strength of at least 0.")

    @classmethod
    def idle(cls) -> Self:
        """All strengths zero."""
        return cls(prediction=0.0)

    def before_task(self, learner: Learner, task: Task) -> None:
        """The copy of the model is that of the end of the last task."""
        self._teacher = None

    def before_step(self, learner: Learner, batch: Any) -> Any:
        """Catch the features of the forward passes of this task."""
        if self.features and "old" in self.state and self._hook is None:
            self._hook = self._catch(learner.model, is_teacher=False)
        return batch

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The loss so far plus the terms, once there is an old model."""
        old = self.state.get("old")
        if old is None:
            return loss
        if self.prediction or self.features:
            outputs = self._old_outputs(learner, batch)
            if self.prediction:
                loss = loss + self.prediction * self._prediction_term(learner.outputs, outputs, batch)
            if self.features:
                gap = self._features[False] - self._features[True]
                loss = loss + self.features * gap.pow(2).sum(-1).mean()
        named = self.penalised(learner)
        if self.l2:
            loss = loss + self.l2 * penalty(named, old)
        if self.ewc:
            loss = loss + self.ewc * penalty(named, old, self.state["fisher"])
        return loss

    def after_task(self, learner: Learner, task: Task) -> None:
        """Keep the model, the classes that have been learned, and the importances."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self.ewc:
            new = fisher(learner, task, self.fisher_rows, self.fisher_labels)
            self.state["fisher"] = add(self.state.get("fisher"), new, self.fisher_keep)
        if self.prediction or self.features or self.l2 or self.ewc:
            self.state["old"] = {name: each.detach().clone() for name, each in learner.model.state_dict().items()}
        known = set(self.state.get("classes", [])) | {int(each) for each in getattr(task, "classes", None) or []}
        self.state["classes"] = sorted(known)

    def penalised(self, learner: Learner) -> list[tuple[str, nn.Parameter]]:
        """The trained parameters that the parameter terms hold: those of the pattern, without the head."""
        head = self._head_name(learner.model)
        return [
            (name, each)
            for name, each in learner.named_parameters()
            if not name.startswith(f"{head}.") and re.search(self.pattern, name)
        ]

    def _prediction_term(self, outputs: Any, old: Any, batch: Any) -> Tensor:
        """tau^2 KL(softmax(old / tau) || softmax(new / tau)) over the classes that the old model knew, mean over rows."""
        (new, _), (told, _) = aligned(outputs, batch), aligned(old, batch)
        if classes := self.state["classes"]:
            new, told = new[..., classes], told[..., classes]
        tau = self.temperature
        new, told = (each.flatten(0, -2) / tau for each in (new, told))
        return tau**2 * F.kl_div(new.log_softmax(-1), told.log_softmax(-1), log_target=True, reduction="batchmean")

    def _old_outputs(self, learner: Learner, batch: Any) -> Any:
        """What the model of the last task makes of the batch; its features are caught if they are asked for."""
        if self._teacher is None:
            if self._hook is not None:
                self._hook.remove()
            self._teacher = copy.deepcopy(learner.model).requires_grad_(False).eval()
            self._teacher.load_state_dict(self.state["old"])
            if self._hook is not None:
                self._hook = self._catch(learner.model, is_teacher=False)
                self._catch(self._teacher, is_teacher=True)
        with torch.no_grad(), learner.accelerator.autocast():
            return forward(self._teacher, batch)

    def _catch(self, model: nn.Module, is_teacher: bool) -> Any:
        """Note what goes into the head in each forward pass of a model; returns the hook's handle."""

        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._features[is_teacher] = inputs[0]

        return model.get_submodule(self._head_name(model)).register_forward_pre_hook(note)

    def _head_name(self, model: nn.Module) -> str:
        if self.head is not None:
            return self.head
        linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise InvalidInput("head: the model has no linear layer; name the module that classifies.")
        return linear[-1]
