"""One objective for continual learning: replay, distillation, weight penalties and variational learning are cases of it.

    L = L_task + sum of weight * D_Phi(outputs, target) + sum of weight * D_Psi(weights, old weights)

D is a Bregman divergence, D_F(p, q) = F(p) - F(q) - <grad F(q), p - q>. Of the squared norm it is ||p - q||^2, of the negative
entropy on distributions it is KL(p || q), of the quadratic form theta' F theta / 2 it is EWC's penalty. What is kept are old
weights, rows with the logits that they once had, or variances, as the terms ask.

Paper: A Unified and General Framework for Continual Learning, arXiv:2403.13249 (2024), sections 3 and 4.
Differs: all terms of a step read the same rows of the memory. Variational learning (`vcl`) draws one sample of the weights
a step and keeps its variances beside the model, which holds the means; `natural` divides gradients by the importances
where the paper inverts their matrix.
Cost: as the case: `capacity` rows and a second pass over them, or one or two tensors for each weight.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.weights.batches import forward, labels_of, logits_of, num_rows
from recollect.weights.importance import add, anchor_of, fisher, penalty
from recollect.weights.replay import Replay

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task


def bregman(potential: Callable[[Tensor], Tensor], p: Tensor, q: Tensor) -> Tensor:
    """D_F(p, q) of any convex potential F (a scalar of a tensor), by its definition: the specification of the cases."""
    with torch.enable_grad():
        at = q.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(potential(at), at)
    return potential(p) - potential(q) - (slope * (p - q)).sum()


def divergence(kind: str, p: Tensor, q: Tensor) -> Tensor:
    """Rows' mean D(p, q): "square" of logits [B, C], ||p - q||^2; "entropy" of log-probabilities [B, C], KL(p || q)."""
    if kind == "square":
        return (p - q).pow(2).sum(-1).mean()
    return F.kl_div(q, p, log_target=True, reduction="batchmean")


@dataclass(frozen=True)
class OutputTerm:
    """weight * D(target, outputs), or D(outputs, target) for the uniform target, on rows of the batch or of the memory."""

    kind: Literal["entropy", "square"]
    weight: float
    source: Literal["batch", "memory"]
    target: Literal["labels", "stored", "old", "uniform"]  # stored: logits when the row was kept; old: of the last task
    temperature: float = 1.0  # of both sides; the term is multiplied by its square


@dataclass(frozen=True)
class WeightTerm:
    """weight * D(weights, old weights).

    "square": ||theta - theta*||^2 / 2; "fisher": half the quadratic form of the importances; "gaussian": KL of a Gaussian
    over the weights to the last task's, over the number of rows; "natural": the task's loss linearised at the old weights.
    """

    kind: Literal["square", "fisher", "gaussian", "natural"]
    weight: float
    keep: float = 1.0  # of the old importances
    fisher_rows: int = 256
    damping: float = 1.0  # added to importances before they divide
    start_deviation: float = 0.02  # of the weights' Gaussian
    prior_deviation: float = 1.0  # of the first task's prior, around zero


@dataclass
class Unified(Replay):
    """The task's loss plus the terms. `Unified.er()`, `.der()`, `.ewc()` and so on are the named cases."""

    terms: tuple[OutputTerm | WeightTerm, ...] = ()
    _old: nn.Module | None = field(default=None, init=False, repr=False, compare=False)
    _noise: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def idle(cls) -> Self:
        """No terms."""
        return cls()

    @classmethod
    def er(cls, weight: float = 1.0, capacity: int = 500) -> Self:
        """Experience replay: cross-entropy on rows from memory."""
        return cls(capacity, terms=(OutputTerm("entropy", weight, "memory", "labels"),))

    @classmethod
    def der(cls, weight: float = 0.1, capacity: int = 500) -> Self:
        """Dark experience replay: the logits that a row had when it was kept (arXiv:2004.07211)."""
        return cls(capacity, terms=(OutputTerm("square", weight, "memory", "stored"),))

    @classmethod
    def derpp(cls, weight: float = 0.1, labels: float = 0.5, capacity: int = 500) -> Self:
        """DER++: both; the weights are the paper's for CIFAR."""
        parts = (OutputTerm("square", weight, "memory", "stored"), OutputTerm("entropy", labels, "memory", "labels"))
        return cls(capacity, terms=parts)

    @classmethod
    def lwf(cls, weight: float = 1.0, temperature: float = 2.0) -> Self:
        """Learning without forgetting: the old model's predictions on the new rows."""
        return cls(terms=(OutputTerm("entropy", weight, "batch", "old", temperature),))

    @classmethod
    def fdr(cls, weight: float = 0.1, capacity: int = 500) -> Self:
        """Function distance: the old model's logits on rows from memory."""
        return cls(capacity, terms=(OutputTerm("square", weight, "memory", "old"),))

    @classmethod
    def cpr(cls, weight: float = 0.1) -> Self:
        """Classifier-projection regularisation: predictions are pulled towards the uniform distribution."""
        return cls(terms=(OutputTerm("entropy", weight, "batch", "uniform"),))

    @classmethod
    def ewc(cls, weight: float = 10.0, keep: float = 1.0) -> Self:
        """Elastic weight consolidation; below 1, `keep` makes it the online one."""
        return cls(terms=(WeightTerm("fisher", weight, keep),))

    @classmethod
    def l2(cls, weight: float = 0.1) -> Self:
        """The old weights, all alike."""
        return cls(terms=(WeightTerm("square", weight),))

    @classmethod
    def vcl(cls, weight: float = 1.0) -> Self:
        """Variational continual learning: a Gaussian over each weight, held near the last task's."""
        return cls(terms=(WeightTerm("gaussian", weight),))

    @classmethod
    def natural(cls, damping: float = 1.0) -> Self:
        """Natural-gradient continual learning: steps are short along weights that mattered."""
        return cls(terms=(WeightTerm("natural", 1.0, damping=damping),))

    def before_task(self, learner: Learner, task: Task) -> None:
        """The old model is that of the end of the last task."""
        self._old = None

    def before_step(self, learner: Learner, batch: Any) -> Any:
        """For `gaussian`: move the weights to a sample of their Gaussian; `after_backward` moves them back."""
        self._noise = {}
        if term := self._weight_term("gaussian"):
            deviations, source = self._log_deviations(learner, term), learner.generator("sampled weights")
            with torch.no_grad():
                for name, parameter in learner.named_parameters():
                    noise = torch.randn(parameter.shape, generator=source).to(parameter)
                    self._noise[name] = parameter.detach().clone(), noise
                    parameter.add_(deviations[name].exp() * noise)
        return batch

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The loss so far plus the output terms and the penalties."""
        drawn = None
        for term in self.terms:
            if isinstance(term, WeightTerm):
                if term.kind in ("square", "fisher") and "anchor" in self.state:
                    importance = self.state["fisher"] if term.kind == "fisher" else None
                    named = list(learner.named_parameters())
                    loss = loss + term.weight / 2 * penalty(named, self.state["anchor"], importance)
                continue
            if term.source == "memory":
                if not self.state["rows"]:
                    continue
                if drawn is None:
                    places = self.draw(learner, batch, num_rows(batch))
                    rows = self.batch(learner, places)
                    drawn = rows, logits_of(forward(learner.net, rows)), places
                loss = loss + term.weight * self._output_term(learner, term, *drawn)
            elif term.target != "old" or "old" in self.state:
                loss = loss + term.weight * self._output_term(learner, term, batch, logits_of(learner.outputs), [])
        return loss

    def after_backward(self, learner: Learner) -> None:
        """For `gaussian`: back to the means, with the gradients of the KL; for `natural`: divide by the importances."""
        if term := self._weight_term("gaussian"):
            self._learn_deviations(learner, term)
        if (term := self._weight_term("natural")) and "fisher" in self.state:
            for name, parameter in learner.named_parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(self.state["fisher"][name] + term.damping)

    def after_step(self, learner: Learner, batch: Any) -> None:
        """Rows from memory are needed only where a term reads them."""
        if any(isinstance(term, OutputTerm) and term.source == "memory" for term in self.terms):
            super().after_step(learner, batch)

    def put(self, learner: Learner, place: int | None, row: Any, label: int) -> None:
        """Keep a row, and the logits that the model gives it now where a term asks for them."""
        super().put(learner, place, row, label)
        if any(isinstance(term, OutputTerm) and term.target == "stored" for term in self.terms):
            stored = self.state.setdefault("logits", [])
            at = len(self.state["rows"]) - 1 if place is None else place
            with torch.no_grad():
                logits = logits_of(forward(learner.model, self.batch(learner, [at])))[0]
            stored[at : at + 1] = [logits]

    def after_task(self, learner: Learner, task: Task) -> None:
        """Keep what the terms compare with in the next task."""
        weights = [term for term in self.terms if isinstance(term, WeightTerm)]
        if any(term.kind in ("square", "fisher") for term in weights):
            self.state["anchor"] = anchor_of(learner.named_parameters())
        for term in weights:
            if term.kind in ("fisher", "natural"):
                found = fisher(learner, task, term.fisher_rows)
                self.state["fisher"] = add(self.state.get("fisher"), found, term.keep)
            if term.kind == "gaussian":
                prior = {name: each.detach().clone() for name, each in learner.named_parameters()}
                self.state["prior"] = prior, {name: each.clone() for name, each in self.state["deviations"].items()}
        if any(isinstance(term, OutputTerm) and term.target == "old" for term in self.terms):
            self.state["old"] = {name: each.detach().clone() for name, each in learner.model.state_dict().items()}

    def forget(self, task: str) -> int:
        """Drop every row of a task with its logits; returns how many went."""
        kept = [owner != task for owner in self.state["tasks"]]
        if "logits" in self.state:
            self.state["logits"] = [each for each, stays in zip(self.state["logits"], kept, strict=True) if stays]
        return super().forget(task)

    def _output_term(self, learner: Learner, term: OutputTerm, batch: Any, logits: Tensor, places: list[int]) -> Tensor:
        """D of one term on a batch with these logits [B, C]."""
        if term.target == "labels":
            return F.cross_entropy(logits, labels_of(batch))  # D(one-hot, prediction); its own entropy is 0
        if term.target == "uniform":
            log = logits.log_softmax(-1)
            return divergence("entropy", log, torch.full_like(log, 1 / log.shape[-1]).log())
        if term.target == "stored":
            told = torch.stack([self.state["logits"][place] for place in places]).to(logits)
        else:
            told = self._old_logits(learner, batch)
        tau = term.temperature
        if term.kind == "square":
            return tau**2 * divergence("square", told / tau, logits / tau)
        return tau**2 * divergence("entropy", (told / tau).log_softmax(-1), (logits / tau).log_softmax(-1))

    def _old_logits(self, learner: Learner, batch: Any) -> Tensor:
        if "old" not in self.state:
            return logits_of(learner.outputs).detach()
        if self._old is None:
            import copy

            self._old = copy.deepcopy(learner.model).requires_grad_(False).eval()
            self._old.load_state_dict(self.state["old"])
        with torch.no_grad():
            return logits_of(forward(self._old, batch))

    def _weight_term(self, kind: str) -> WeightTerm | None:
        return next((term for term in self.terms if isinstance(term, WeightTerm) and term.kind == kind), None)

    def _log_deviations(self, learner: Learner, term: WeightTerm) -> dict[str, Tensor]:
        """Logarithms of the deviations of the weights' Gaussian."""
        if "deviations" not in self.state:
            start = torch.tensor(term.start_deviation).log()
            self.state["deviations"] = {
                name: torch.full_like(each, float(start)) for name, each in learner.named_parameters()
            }
        return self.state["deviations"]

    def _learn_deviations(self, learner: Learner, term: WeightTerm) -> None:
        """Gradients of E[loss] + weight / N KL(q || prior): for the means in place, for the deviations by a step here."""
        deviations = self.state["deviations"]
        means, logs = self.state.get("prior", ({}, {}))
        assert learner.optimizer is not None
        assert learner.task is not None
        scale, rate = term.weight / len(learner.task.train), learner.optimizer.param_groups[0]["lr"]
        with torch.no_grad():
            for name, parameter in learner.named_parameters():
                mean, noise = self._noise[name]
                parameter.copy_(mean)
                if parameter.grad is None:
                    continue
                prior = (2 * logs[name]).exp() if name in logs else term.prior_deviation**2
                variance = (2 * deviations[name]).exp()
                slope = parameter.grad * noise * deviations[name].exp() + scale * (variance / prior - 1)
                parameter.grad.add_(scale * (mean - means.get(name, 0.0)) / prior)
                deviations[name].sub_(rate * slope)


def gaussian_kl(mean: Tensor, deviation: Tensor, old_mean: Tensor, old_deviation: Tensor) -> Tensor:
    """KL of independent Gaussians, summed: the Bregman divergence of the negative differential entropy."""
    ratio = (deviation / old_deviation) ** 2
    return 0.5 * (ratio - 1 - ratio.log() + ((mean - old_mean) / old_deviation) ** 2).sum()
