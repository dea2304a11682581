"""Continual pre-training: warm the learning rate up again, let it fall again, and mix in a little of what was read before.

The plain recipe for a language model that must read on: at each new corpus the schedule starts anew, and a few per cent of
every batch come from earlier corpora, in place of new rows, so that the cost stays the same. An infinite schedule needs
no restart: it stays at one rate for as long as there is text, and a copy is annealed to be used.

Paper: Simple and Scalable Strategies to Continually Pre-train Large Language Models, arXiv:2403.08763 (2024), sections 3, 7.
Differs: rows to replay are a reservoir of at most `capacity`. Whether a row is replayed is drawn for each row, so that a small
share does not round to none.
Cost: `capacity` rows; nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from recollect.errors import InvalidInput
from recollect.weights.batches import num_rows, tree_map
from recollect.weights.replay import Replay

if TYPE_CHECKING:
    from recollect.weights.learner import Learner


class Schedule(Protocol):
    """A learning rate for each step."""

    def rate(self, step: int, steps: int, before: int) -> float:
        """The rate of a step (from 0) of a corpus that takes `steps`, after `before` steps on earlier ones."""
        ...


@dataclass(frozen=True)
class RewarmCosine:
    """Warm-up, then a cosine to the floor; anew for each corpus."""

    peak: float = 3e-4
    floor: float = 3e-5
    warmup_share: float = 0.01  # of a corpus's steps

    def rate(self, step: int, steps: int, before: int) -> float:
        """See `Schedule.rate`."""
        warmup = round(self.warmup_share * steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        through = min(1.0, (step - warmup) / max(1, steps - warmup))
        return self.floor + (self.peak - self.floor) / 2 * (1 + math.cos(math.pi * through))


@dataclass(frozen=True)
class Constant:
    """One rate for ever, as the control that goes on at the floor."""

    value: float = 3e-5

    def rate(self, step: int, steps: int, before: int) -> float:
        """See `Schedule.rate`."""
        return self.value


@dataclass(frozen=True)
class InfiniteRate:
    """Warm-up, cool-down to a constant rate, and that rate for ever; `annealing` ends a copy.

    Steps count over all corpora. `shape` of the cool-down: a cosine, or an inverse square root with a timescale.
    """

    peak: float = 3e-4
    constant: float = 1.65e-4
    warmup_steps: int = 100
    cooldown_steps: int = 1000
    shape: Literal["cosine", "rsqrt"] = "cosine"
    timescale: float = 10.0

    def rate(self, step: int, steps: int, before: int) -> float:
        """See `Schedule.rate`."""
        at = before + step
        if at < self.warmup_steps:
            return self.peak * (at + 1) / self.warmup_steps
        through = min(1.0, (at - self.warmup_steps) / max(1, self.cooldown_steps))
        if self.shape == "cosine":
            return self.constant + (self.peak - self.constant) / 2 * (1 + math.cos(math.pi * through))
        fallen = (1 / math.sqrt(1 + self.timescale * through) - 1) / (1 / math.sqrt(1 + self.timescale) - 1)
        return self.peak + (self.constant - self.peak) * fallen

    def annealing(self, floor: float) -> Anneal:
        """The end of a copy that is to be used: from the constant rate to the floor."""
        return Anneal(self.constant, floor)


@dataclass(frozen=True)
class Anneal:
    """From one rate to another along an exponential, over the steps of a corpus. Raises InvalidInput for a floor of 0."""

    start: float
    floor: float

    def __post_init__(self) -> None:
        if self.floor <= 0:
            raise InvalidInput(
                f"floor: {self.floor} is not above 0, which an exponential never reaches; use a little more."
            )

    def rate(self, step: int, steps: int, before: int) -> float:
        """See `Schedule.rate`."""
        return self.start * (self.floor / self.start) ** ((step + 1) / steps)


@dataclass
class ContinualPretraining(Replay):
    """A schedule of the learning rate, and rows of earlier corpora in place of a share of each batch.

    With `schedule` None the optimizer's own rate stays. Keep the optimizer's moments over corpora, as an infinite
    schedule wants, by the learner's `keep_optimizer`.
    """

    capacity: int = 10_000
    share: float = 0.05
    schedule: Schedule | None = RewarmCosine()

    @classmethod
    def idle(cls) -> Self:
        """The optimizer's rate, and nothing replayed."""
        return cls(share=0.0, schedule=None)

    def before_step(self, learner: Learner, batch: Any) -> Any:
        """Set the rate of this step, and exchange rows for earlier ones."""
        assert learner.optimizer is not None
        if self.schedule is not None:
            rate = self.schedule.rate(learner.step, learner.num_steps, learner.total_steps - learner.step)
            for group in learner.optimizer.param_groups:
                group["lr"] = rate
        return self._mixed(learner, batch)

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The loss of the mixed batch as it is."""
        return loss

    def _mixed(self, learner: Learner, batch: Any) -> Any:
        old = [place for place, task in enumerate(self.state["tasks"]) if task != learner.task_name]
        if not self.share or not old:
            return batch
        source = learner.generator("ContinualPretraining draws")
        replaced = (torch.rand(num_rows(batch), generator=source) < self.share).nonzero()[:, 0]
        if not len(replaced):
            return batch
        drawn = [old[int(each)] for each in torch.randint(len(old), (len(replaced),), generator=source)]
        rows = self.batch(learner, drawn)
        return tree_map(lambda new, kept: new.index_copy(0, replaced.to(new.device), kept.to(new)), batch, rows)


class ReplayMix(Dataset[Any]):
    """New rows, of which a share is exchanged for rows of old data sets: as many rows as the new data set has.

    For the Trainer of transformers, or for any loader. Which rows are exchanged and for which is drawn by the seed; old
    sets count by their size. `sources` tells where each row comes from: 0 new, 1 the first old set, and so on.
    """

    def __init__(self, new: Dataset[Any], old: Sequence[Dataset[Any]], share: float = 0.05, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise InvalidInput(f"share: {share} is not between 0 and 1.")
        self.parts: list[Any] = [new, *old]
        source = torch.Generator().manual_seed(seed)
        sizes = torch.tensor([float(len(part)) for part in self.parts[1:]])
        total = len(self.parts[0])
        taken = torch.rand(total, generator=source) < (share if len(sizes) else 0)
        drawn = 1 + torch.multinomial(sizes, total, True, generator=source) if len(sizes) else torch.zeros(total).long()
        self.sources = torch.where(taken, drawn, 0)
        chance = torch.rand(total, generator=source)
        self.places = [
            at if number == 0 else int(chance[at] * len(self.parts[number]))
            for at, number in enumerate(self.sources.tolist())
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Any:
        return self.parts[int(self.sources[place])][self.places[place]]


def for_trainer(
    parameters: Any, schedule: Schedule, steps: int, before: int = 0, weight_decay: float = 0.1
) -> tuple[Any, Any]:
    """(AdamW, LambdaLR) for `Trainer(optimizers=...)` of transformers: one corpus of `steps`, after `before` earlier steps.

    AdamW with betas 0.9 and 0.95, as in the paper.
    """
    optimizer = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.95), weight_decay=weight_decay)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule.rate(min(step, steps - 1), steps, before)
    )
    return optimizer, rates
