"""I-LoRA: a fast adapter learns the task, a slow one is its moving average, and replayed texts keep the two close.

The slow adapter is the long-term memory: it is what answers, and what the fast one's hidden states are drawn to on texts of
earlier tasks. It rests on the finding that points between the adapters of successive tasks often do better than both ends.

Paper: Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient Tuning, arXiv:2402.18865 (2024), section 4.
Differs: the consistency is the plain squared difference, where the code pulls only what lies below the slow state. The
retention is 0.99; the code's 0.25 lets the slow adapter forget within a step. Rows enter the memory after they were learned,
so that none is drawn in its own step. What is averaged are the trained parameters, an adapter's or any others.
Cost: a second copy of what is trained, `capacity` rows, and two more forward passes over as many rows as a step has.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from recollect.errors import InvalidInput
from recollect.weights.batches import logits_of, num_rows
from recollect.weights.replay import Replay

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task


@dataclass
class ILoRA(Replay):
    """A reservoir of `capacity` rows, and in `state["slow"]` the moving average of the trained parameters, by name.

    `answers` says which of the two predicts. Give it a model with an adapter of peft, or any whose trained parameters
    are few.
    """

    capacity: int = 500
    share: float = 0.5
    retention: float = 0.99  # a_max, the part of the slow adapter that a step keeps
    consistency: float = 1.0  # gamma
    answers: Literal["slow", "fast"] = "slow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.retention <= 1:
            raise InvalidInput(f"retention: {self.retention} is not between 0 and 1.")
        if self.answers not in ("slow", "fast"):
            raise InvalidInput(f"answers: {self.answers!r:.20} is not known; use slow or fast.")

    @classmethod
    def idle(cls) -> Self:
        """Nothing is replayed, and the fast adapter answers."""
        return cls(share=0.0, consistency=0.0, answers="fast")

    def before_task(self, learner: Learner, task: Task) -> None:
        """Start the slow adapter where the fast one is, at the first task."""
        if "slow" not in self.state:
            self.state["slow"] = {name: each.detach().clone() for name, each in learner.named_parameters()}

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """(L_new + L_mem) / 2 + gamma L_cons on as many replayed rows as new ones; at the first task the loss itself."""
        wanted = round(num_rows(batch) * self.share / (1 - self.share))
        if not wanted or not self.state["rows"] or not learner.learned:
            return loss
        drawn = self.batch(learner, self.draw(learner, batch, wanted))
        with learner.accelerator.autocast():
            fast = _run(learner.model, drawn)
            mixed = (1 - self.share) * loss + self.share * learner.objective(fast, drawn, None)
            if not self.consistency:
                return mixed
            with torch.no_grad():
                slow = _run(learner.model, drawn, self.state["slow"])
        return mixed + self.consistency * _apart(fast, slow, drawn)

    def after_step(self, learner: Learner, batch: Any) -> None:
        """Move the slow adapter a little to the fast one (equation 4), and offer the rows to the memory."""
        super().after_step(learner, batch)
        kept = min(1 - 1 / (learner.total_steps + 1), self.retention)
        with torch.no_grad():
            for name, each in learner.named_parameters():
                self.state["slow"][name].lerp_(each.detach(), 1 - kept)

    def predict(self, learner: Learner, batch: Any) -> Tensor | None:
        """The slow adapter's logits."""
        if self.answers == "fast" or "slow" not in self.state:
            return None
        return logits_of(_run(learner.model, batch, self.state["slow"]))

    @contextmanager
    def using(self, model: nn.Module, slow_share: float = 1.0) -> Iterator[nn.Module]:
        """The model with a point between the fast (0) and the slow adapter (1) in the body; the fast one comes back."""
        with placed(model, between(parameters(model), self.state["slow"], slow_share)):
            yield model


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trained parameters, by name."""
    return {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}


def between(one: dict[str, Tensor], two: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The point `share` of the way from one set of parameters to the other, each tensor by itself."""
    return {name: torch.lerp(each, two[name].to(each), share) for name, each in one.items()}


@contextmanager
def placed(model: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """These parameter values in the model, in the body; the old ones come back bit for bit."""
    named = dict(model.named_parameters())
    before = {name: named[name].detach().clone() for name in values}
    try:
        _put(named, values)
        yield
    finally:
        _put(named, before)


def path(
    model: nn.Module,
    earlier: dict[str, Tensor],
    later: dict[str, Tensor],
    score: Any,
    shares: Sequence[float] = tuple(each / 10 for each in range(11)),
) -> list[float]:
    """The score along the straight line from one adapter to a later one (section 3): `score()` with each point in place."""
    found = []
    for share in shares:
        with placed(model, between(earlier, later, share)):
            found.append(score())
    return found


def _put(named: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(value)


def _run(model: nn.Module, batch: Any, values: dict[str, Tensor] | None = None) -> Any:
    """What the model makes of a batch, with other values of some parameters if given; of a text all hidden states too."""
    if isinstance(batch, dict):
        args, more = (), {**batch, "output_hidden_states": True}
    else:
        args, more = (batch[0],), {}
    return model(*args, **more) if values is None else functional_call(model, values, args, more, tie_weights=False)


def _apart(fast: Any, slow: Any, batch: Any) -> Tensor:
    """L_cons: the mean squared difference of the hidden states of all layers, padding left out; else of the outputs."""
    states = getattr(fast, "hidden_states", None)
    if not states:
        return (logits_of(fast) - logits_of(slow)).square().mean()
    counted = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(batch["input_ids"])
    weight = counted[..., None] / (counted.sum() * states[0].shape[-1])
    return sum(
        (((one - two).square() * weight).sum() for one, two in zip(states, slow.hidden_states, strict=True)),
        torch.zeros((), device=weight.device),
    ) / len(states)
