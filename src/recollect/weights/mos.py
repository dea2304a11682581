"""MOS: an adapter for each task that stays near those before it, and a model that finds the right one by its own answers.

Remembers, for each task, an adapter, and for each class a Gaussian of its features and a mean. While a task is learned its
adapter is pulled to the mean of the finished ones after every step (merging). Afterwards the head is trained anew on
features drawn from all Gaussians. At test time a prototype classifier on the first adapter guesses a class, the adapter of
that class's task answers again, and so on until the answer names the adapter that gave it; both classifiers are added up.

Paper: MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning, arXiv:2412.09441 (2024), section 4.
Differs: merging is applied once a step, as the text says, and never in evaluation (the authors' program applies it in every
layer of every forward pass; `merges_a_step` repeats it); Gaussians are shrunk towards their diagonal; a search that does not
settle keeps its most confident round; features are normalised in the orthogonality term; the prototypes weigh by the number
of tasks, as in the program.
Cost: an adapter (2 * D * H numbers a layer) a task and D^2 a class; at test time one pass for each adapter that is asked for
by some row of the batch.

Shapes: B rows, D features, C classes seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.errors import InvalidInput
from recollect.weights.adapters import adapter_weights
from recollect.weights.batches import classes_of, forward, labels_of
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task


@dataclass
class MOS(Method):
    """The paper's settings. The model has adapters (`add_adapters`); use it with `objective=local_cross_entropy`.

    `state`: `adapters` by task number, `tasks` by class, `means` and `spreads` by class, `prototypes` by class.
    """

    merge: float = 0.1  # of the way to the mean of the finished adapters, after each step
    merges_a_step: int = 1
    orthogonality: float = 0.1
    orthogonality_temperature: float = 0.8
    gaussians: Literal["full", "diagonal"] = "full"
    shrinkage: float = 0.1  # of a covariance towards its diagonal
    align_epochs: int = 30
    align_rows: int = 64  # drawn for each class in an epoch
    align_rate: float = 5e-3
    num_rounds: int = 4  # of the search for the adapter; 0: the first guess stands
    ensemble: bool = True
    head: str | None = None  # the classifier's name; None: the last linear layer
    _caught: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.merge <= 1:
            raise InvalidInput(f"merge: {self.merge} is not in [0, 1]; use the part of the way to the mean.")

    @classmethod
    def idle(cls) -> Self:
        """Neither merging nor alignment, and the plain model answers."""
        return cls(merge=0.0, orthogonality=0.0, align_epochs=0, num_rounds=-1)

    def before_task(self, learner: Learner, task: Task) -> None:
        """A new adapter starts where the last one ended."""
        number = len(self.state.setdefault("adapters", []))
        for label in classes_of(task):
            self.state.setdefault("tasks", {})[label] = number

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The task's loss, and the term that pushes features away from the means of other classes."""
        if not self.orthogonality:
            return loss
        labels = labels_of(batch)
        features = F.normalize(self.features(learner, batch), dim=1)
        firsts = torch.stack([features[labels == each].mean(0) for each in labels.unique()])
        olds = [mean for label, mean in self.state.get("means", {}).items() if label not in set(labels.tolist())]
        rows = F.normalize(torch.cat([torch.stack(olds).to(features), firsts]) if olds else firsts, dim=1)
        likeness = rows @ rows.T / self.orthogonality_temperature
        return loss + self.orthogonality * F.cross_entropy(likeness, torch.arange(len(rows), device=rows.device))

    def after_step(self, learner: Learner, batch: Any) -> None:
        """Pull the adapter to the mean of the finished ones."""
        finished = self.state["adapters"]
        if not finished or not self.merge:
            return
        with torch.no_grad():
            for name, each in adapter_weights(learner.model).items():
                mean = torch.stack([one[name] for one in finished]).mean(0)
                for _ in range(self.merges_a_step):
                    each.lerp_(mean, self.merge)

    def after_task(self, learner: Learner, task: Task) -> None:
        """Keep the adapter, describe the classes, and align the head."""
        adapter = {name: each.detach().clone() for name, each in adapter_weights(learner.model).items()}
        self.state["adapters"].append(adapter)
        if self.num_rounds < 0:
            return
        features, labels = self._all_features(learner, task)
        self._describe(features, labels)
        first = self.under(learner, 0, lambda: self._all_features(learner, task)[0])
        for label in labels.unique().tolist():
            self.state.setdefault("prototypes", {})[label] = first[labels == label].mean(0)
        if len(self.state["adapters"]) > 1 and self.align_epochs:
            self._align(learner)

    def predict(self, learner: Learner, batch: Any) -> Tensor | None:
        """Logarithms of the summed probabilities [B, classes of the head]; unseen classes get minus infinity."""
        if not self.state.get("prototypes"):
            return None
        found = self.search(learner, batch)
        score = found["logits"].softmax(1)
        if self.ensemble:
            score = score + (len(self.state["adapters"]) * found["cosines"]).softmax(1)
        whole = score.new_full((len(score), self._head(learner.model).out_features), -torch.inf)
        whole[:, sorted(self.state["prototypes"])] = score.log()
        return whole

    def search(self, learner: Learner, batch: Any) -> dict[str, Tensor]:
        """The self-refined retrieval: `logits` and `cosines` [B, C], `first` and `task` [B] (task numbers), `rounds` [B]."""
        seen = sorted(self.state["prototypes"])
        owner = torch.tensor([self.state["tasks"][label] for label in seen], device=learner.device)
        by_adapter: dict[int, Tensor] = {}

        def features(number: int) -> Tensor:
            if number not in by_adapter:
                by_adapter[number] = self.under(learner, number, lambda: self.features(learner, batch))
            return by_adapter[number]

        prototypes = torch.stack([self.state["prototypes"][label] for label in seen]).to(features(0))
        cosines = F.normalize(features(0), dim=1) @ F.normalize(prototypes, dim=1).T
        head = self._head(learner.model)
        weight, bias = head.weight[seen], None if head.bias is None else head.bias[seen]
        now = owner[cosines.argmax(1)]
        first, rounds = now.clone(), torch.zeros_like(now)
        best, best_task = cosines.new_zeros(len(now), len(seen)), now.clone()
        certainty, settled = cosines.new_full((len(now),), -1.0), torch.zeros_like(now, dtype=torch.bool)
        for _ in range(max(1, self.num_rounds)):
            logits = torch.empty_like(best)
            for number in now[~settled].unique().tolist():
                rows = (now == number) & ~settled
                logits[rows] = F.linear(features(number)[rows], weight, bias)
            sure = torch.where(settled, certainty, logits.softmax(1).amax(1))
            after = torch.where(settled, now, owner[logits.argmax(1)])
            agreed = ~settled & (after == now)
            better = ~settled & (agreed | (sure > certainty))
            best[better], best_task[better], certainty[better] = logits[better], now[better], sure[better]
            rounds[~settled] += 1
            settled |= agreed
            now = after
            if bool(settled.all()) or not self.num_rounds:
                break
        return {"logits": best, "cosines": cosines, "first": first, "task": best_task, "rounds": rounds}

    def features(self, learner: Learner, batch: Any) -> Tensor:
        """What goes into the head [B, D] under the adapter that the model holds now."""

        def catch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._caught.append(inputs[0])

        hook = self._head(learner.model).register_forward_pre_hook(catch)
        try:
            forward(learner.model, batch)
            return self._caught.pop()
        finally:
            hook.remove()
            self._caught.clear()

    def under(self, learner: Learner, number: int, function: Any) -> Any:
        """What the function gives while the model holds the adapter of a task; the model is left as it was."""
        weights = adapter_weights(learner.model)
        held = {name: each.detach().clone() for name, each in weights.items()}
        with torch.no_grad():
            for name, each in weights.items():
                each.copy_(self.state["adapters"][number][name])
            try:
                return function()
            finally:
                for name, each in weights.items():
                    each.copy_(held[name])

    @torch.no_grad()
    def _all_features(self, learner: Learner, task: Task) -> tuple[Tensor, Tensor]:
        """Features and labels of a task's rows, in evaluation mode."""
        training = learner.model.training
        learner.model.eval()
        parts = [(self.features(learner, batch), labels_of(batch)) for batch in learner.batches(task.train)]
        learner.model.train(training)
        return torch.cat([one for one, _ in parts]), torch.cat([other for _, other in parts])

    def _describe(self, features: Tensor, labels: Tensor) -> None:
        """A Gaussian for each class: its mean, and the factor [D, D] or deviations [D] of its covariance."""
        D = features.shape[1]
        for label in labels.unique().tolist():
            rows = features[labels == label]
            mean = rows.mean(0)
            rest = rows - mean
            variance = rest.pow(2).mean(0) + 1e-4
            self.state.setdefault("means", {})[label] = mean
            if self.gaussians == "diagonal":
                spread = variance.sqrt()
            else:
                covariance = rest.T @ rest / max(1, len(rows) - 1) + 1e-4 * torch.eye(D).to(rest)
                covariance = (1 - self.shrinkage) * covariance + self.shrinkage * torch.diag(variance)
                spread = torch.linalg.cholesky(covariance).contiguous()
            self.state.setdefault("spreads", {})[label] = spread

    def _align(self, learner: Learner) -> None:
        """Train the head on features drawn from the Gaussians of all classes that were seen."""
        head, source = self._head(learner.model), learner.generator("alignment")
        parameters = [each for each in head.parameters() if each.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=self.align_rate, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.align_epochs)
        seen, n = sorted(self.state["means"]), self.align_rows
        labels = torch.tensor(seen, device=learner.device).repeat_interleave(n)
        with torch.enable_grad():
            for _ in range(self.align_epochs):
                rows = torch.cat([self._draw(label, n, source) for label in seen])
                order = torch.randperm(len(rows), generator=source).to(rows.device)
                for places in order.split(n):
                    logits = head(rows[places])[:, seen]
                    targets = torch.searchsorted(torch.tensor(seen, device=rows.device), labels[places])
                    optimizer.zero_grad()
                    F.cross_entropy(logits, targets).backward()
                    optimizer.step()
                schedule.step()

    def _draw(self, label: int, count: int, source: torch.Generator) -> Tensor:
        mean, spread = self.state["means"][label], self.state["spreads"][label]
        noise = torch.randn(count, len(mean), generator=source).to(mean)
        return mean + (noise * spread if spread.dim() == 1 else noise @ spread.T)

    def _head(self, model: nn.Module) -> nn.Linear:
        if self.head is not None:
            return model.get_submodule(self.head)  # type: ignore[return-value]
        found = [part for part in model.modules() if isinstance(part, nn.Linear)]
        if not found:
            raise InvalidInput("head: the model has no linear layer; name the module that classifies.")
        return found[-1]
