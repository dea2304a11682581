"""Expert Gate: a model for each task, and a gate of small autoencoders that tells which one an input belongs to.

Remembers, for each task, the trained weights and an autoencoder of its inputs. A new task starts from the expert whose
inputs are most alike, and where they are very alike also keeps that expert's answers (LwF). At test time every input goes to
the expert whose autoencoder rebuilds it best; no task is told.

Source: Aljundi, Continual Learning in Neural Networks (thesis), arXiv:1910.02718 (2019), after Expert Gate,
arXiv:1611.06194.
Differs: features are the flat inputs, or what `features` names of a pretrained module; the gate takes the best expert only.
Cost: a copy of the trained weights and 2 * features * code numbers a task; at test time one pass through each autoencoder
and one through the chosen expert.

Shapes: B rows, D features, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from recollect.errors import InvalidInput
from recollect.weights.batches import logits_of, only
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task


def flat_inputs(batch: Any) -> Tensor:
    """The inputs of a batch as vectors [B, D]: of a pair the first, of a dict the first tensor that is no label."""
    inputs = (
        next(value for name, value in batch.items() if name != "labels") if isinstance(batch, Mapping) else batch[0]
    )
    return inputs.flatten(1).float()


@dataclass
class ExpertGate(Method):
    """The gate and its experts. `state["experts"]`: weights, autoencoder and classes of each task; code 0 turns it off."""

    code: int = 100  # units of an autoencoder
    temperature: float = 2.0  # of the gate's softmax over reconstruction errors
    related: float = 0.85  # from here on a new task also keeps the answers of the expert that it starts from
    distillation: float = 1.0
    num_steps: int = 200  # of an autoencoder's training
    rate: float = 3e-3
    features: Callable[[Any], Tensor] = flat_inputs  # of a batch, [B, D]

    def __post_init__(self) -> None:
        if self.code < 0:
            raise InvalidInput(f"code: {self.code} is below 0; use how many units an autoencoder has.")

    @classmethod
    def idle(cls) -> Self:
        """No experts and no gate."""
        return cls(code=0)

    def before_task(self, learner: Learner, task: Task) -> None:
        """Train the task's autoencoder, and start from the most related expert."""
        if not self.code:
            return
        inputs = torch.cat([self.features(batch) for batch in learner.batches(task.train)])
        mine = self._train(inputs, learner.generator("autoencoder"))
        self.state["new"], self.state["teacher"] = mine, None
        experts = self.state.setdefault("experts", [])
        if experts:
            relations = [self._relation(each["autoencoder"], mine, inputs) for each in experts]
            best = max(range(len(experts)), key=relations.__getitem__)
            self.state.setdefault("relations", []).append(relations)
            with torch.no_grad():
                for name, each in learner.named_parameters():
                    each.copy_(experts[best]["weights"][name])
            self.state["teacher"] = best if relations[best] > self.related else None

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The loss so far, plus distillation of the related expert's answers."""
        if self.state.get("teacher") is None:
            return loss
        expert = self.state["experts"][self.state["teacher"]]
        with torch.no_grad():
            told = self._logits(learner, expert, batch) / 2.0
        ours = logits_of(learner.outputs) / 2.0
        if expert["classes"]:
            told, ours = told[..., expert["classes"]], ours[..., expert["classes"]]
        term = F.kl_div(ours.log_softmax(-1), told.log_softmax(-1), log_target=True, reduction="batchmean")
        return loss + self.distillation * 4.0 * term

    def after_task(self, learner: Learner, task: Task) -> None:
        """Keep the expert."""
        if self.code:
            weights = {name: each.detach().clone() for name, each in learner.named_parameters()}
            classes = [int(each) for each in getattr(task, "classes", None) or []]
            expert = {"weights": weights, "autoencoder": self.state.pop("new"), "classes": classes}
            self.state["experts"].append(expert)

    def predict(self, learner: Learner, batch: Any) -> Tensor | None:
        """Logits [B, C], each row by the expert that the gate picks, over that expert's classes."""
        if not self.state.get("experts"):
            return None
        chosen, logits = self.gate(batch).argmax(1), None
        for number, expert in enumerate(self.state["experts"]):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                part = (
                    {k: v[rows] for k, v in batch.items()} if isinstance(batch, Mapping) else [x[rows] for x in batch]
                )
                found = self._logits(learner, expert, part)
                found = only(found, expert["classes"]) if expert["classes"] else found
                logits = found.new_zeros(len(chosen), *found.shape[1:]) if logits is None else logits
                logits[rows] = found
        return logits

    def gate(self, batch: Any) -> Tensor:
        """The probability of each expert for each row [B, E]: softmax(-error / temperature)."""
        inputs = self.features(batch)
        errors = [self._error(each["autoencoder"], inputs) for each in self.state["experts"]]
        return (-torch.stack(errors, 1) / self.temperature).softmax(1)

    def _logits(self, learner: Learner, expert: dict[str, Any], batch: Any) -> Tensor:
        arguments = ((), dict(batch)) if isinstance(batch, Mapping) else ((batch[0],), {})
        return logits_of(functional_call(learner.model, expert["weights"], *arguments))

    def _relation(self, other: dict[str, Tensor], mine: dict[str, Tensor], inputs: Tensor) -> float:
        """1 - (Er_other - Er_mine) / Er_mine, errors on the new task's inputs."""
        own = float(self._error(mine, inputs).mean())
        return 1 - (float(self._error(other, inputs).mean()) - own) / max(own, 1e-12)

    def _train(self, inputs: Tensor, source: torch.Generator) -> dict[str, Tensor]:
        """An autoencoder of these inputs [N, D]: one hidden layer of ReLUs, sigmoids on both sides."""
        D = inputs.shape[1]
        found = {"mean": inputs.mean(0), "deviation": inputs.std(0, correction=0).clamp(min=1e-3)}
        for name, shape in (("down", (self.code, D)), ("up", (D, self.code))):
            found[name] = (torch.randn(shape, generator=source) / shape[1] ** 0.5).to(inputs)
        found |= {"down bias": inputs.new_zeros(self.code), "up bias": inputs.new_zeros(D)}
        learned = [found[name].requires_grad_() for name in ("down", "up", "down bias", "up bias")]
        optimizer = torch.optim.Adam(learned, lr=self.rate)
        with torch.enable_grad():
            for _ in range(self.num_steps):
                rows = torch.randint(len(inputs), (64,), generator=source).to(inputs.device)
                loss = self._error(found, inputs[rows]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return {name: each.detach() for name, each in found.items()}

    def _error(self, autoencoder: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The squared error of each row [B], summed over features; inputs are standardised and squashed first."""
        wanted = ((inputs - autoencoder["mean"]) / autoencoder["deviation"]).sigmoid()
        code = F.relu(F.linear(wanted, autoencoder["down"], autoencoder["down bias"]))
        built = F.linear(code, autoencoder["up"], autoencoder["up bias"]).sigmoid()
        return (built - wanted).pow(2).sum(1)
