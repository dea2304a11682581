"""GSS: a replay memory of rows whose gradients point in different directions.

Remembers, beside each row, how alike its gradient was to those of others. A new row enters a full memory only where its
gradient opposes what is there, and takes the place of one that had company.

Source: Aljundi, Continual Learning in Neural Networks (thesis), arXiv:1910.02718 (2019), after Gradient based sample
selection for online continual learning, arXiv:1903.08671; the greedy form.
Differs: each row is scored by its own gradient, where the authors' program scores the batch first.
Cost: one backward pass for each row that is offered and for `num_references` rows a step; `pattern` limits the gradients to
some weights, such as the last layer or adapters, as large models need.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recollect.weights.batches import cross_entropy, forward, move
from recollect.weights.replay import Replay

if TYPE_CHECKING:
    from recollect.weights.learner import Learner


@dataclass
class GSS(Replay):
    """Keeps rows by the cosine of their gradients; `state["scores"]` are (cosine + 1) / 2 when a row was kept."""

    num_references: int = 10  # random rows of the memory that a new one is compared with
    threshold: float = 0.0  # of the greatest cosine: a row above it does not enter a full memory
    pattern: str = ""  # found in the names of the weights whose gradients are compared
    _references: tuple[tuple[int, int], Tensor] | None = field(default=None, init=False, repr=False, compare=False)

    def offer(self, learner: Learner, row: Any, label: int, source: torch.Generator) -> None:
        """Keep the row while there is room; then in place of a row that had company, if it opposes what is there."""
        self.state["num_seen"] += 1
        scores = self.state.setdefault("scores", [])
        own = self._gradient(learner, row)
        references = self._of_memory(learner, source)
        cosine = float((references @ own).max()) if len(references) else -1.0
        score = (cosine + 1) / 2
        if len(self.state["rows"]) < self.capacity:
            self.put(learner, None, row, label)
            scores.append(score)
        elif cosine < self.threshold:
            kept = torch.tensor(scores)
            scaled = (kept - kept.min()) / (kept.max() - kept.min()).clamp(min=1e-12) + 1e-6
            place = int(torch.multinomial(scaled, 1, generator=source))
            chance = scores[place] / max(1e-12, scores[place] + score)
            if float(torch.rand((), generator=source)) < chance:
                self.put(learner, place, row, label)
                scores[place] = score

    def forget(self, task: str) -> int:
        """Drop every row of a task with its score; returns how many went."""
        kept = [owner != task for owner in self.state["tasks"]]
        self.state["scores"] = [each for each, stays in zip(self.state.get("scores", []), kept, strict=True) if stays]
        return super().forget(task)

    def _of_memory(self, learner: Learner, source: torch.Generator) -> Tensor:
        """Unit gradients [R, weights] of random rows of the memory, drawn once a step."""
        now = len(learner.learned), learner.step
        if self._references is None or self._references[0] != now or not len(self._references[1]):
            places = torch.randperm(len(self.state["rows"]), generator=source)[: self.num_references].tolist()
            rows = [self._gradient(learner, self.state["rows"][place]) for place in places]
            self._references = now, torch.stack(rows) if rows else torch.zeros(0, 0)
        return self._references[1]

    def _gradient(self, learner: Learner, row: Any) -> Tensor:
        """The gradient of one row's loss over all classes, as a vector of length 1, in evaluation mode."""
        named = [each for name, each in learner.named_parameters() if re.search(self.pattern, name)]
        batch = move(learner.collate([row]), learner.device)
        training = learner.model.training
        learner.model.eval()
        loss = cross_entropy(forward(learner.model, batch), batch)
        found = torch.autograd.grad(loss, named, allow_unused=True)
        learner.model.train(training)
        return F.normalize(torch.cat([each.flatten() for each in found if each is not None]), dim=0, eps=1e-12)
