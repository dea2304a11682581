"""The recipe's claim: re-warming, re-decaying and a little replay end where training on everything from scratch ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, pstdev
from typing import Any

import torch

from recollect.benchmarks.facts import tiny_decoder
from recollect.benchmarks.languages import Language, minus_loss
from recollect.benchmarks.real_data import checkpoint, corpora
from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.weights.batches import Rows
from recollect.weights.continual_pretraining import (
    Constant,
    ContinualPretraining,
    InfiniteRate,
    RewarmCosine,
    Schedule,
)
from recollect.weights.learner import Learner
from recollect.weights.streams import Task, iid

SYSTEM, REWARMED, FLOOR, FLOOR_REPLAY = (
    "re-warmed, replay 25%",
    "re-warmed, no replay",
    "at the floor",
    "at the floor, replay 25%",
)
LITTLE, HALF, UNION, BEFORE = (
    "re-warmed, replay 5%",
    "re-warmed, replay 50%",
    "both from scratch",
    "before the second corpus",
)
INFINITE = "infinite schedule, annealed, replay 25%"
ARMS: dict[str, tuple[float, str]] = {  # replayed share, schedule
    SYSTEM: (0.25, "rewarm"),
    REWARMED: (0.0, "rewarm"),
    FLOOR: (0.0, "floor"),
    FLOOR_REPLAY: (0.25, "floor"),
    LITTLE: (0.05, "rewarm"),
    HALF: (0.5, "rewarm"),
}


@dataclass(frozen=True)
class World:
    """Two corpora, a model that knows the first one and some rows of it, and a model to start the union from."""

    seed: int
    tasks: Sequence[Task]
    known: Any
    rows: Mapping[str, Any]  # what replay remembers of the first corpus
    fresh: Any
    peak: float
    floor: float
    batch_rows: int

    def learner(self, model: Any, schedule: Schedule, share: float = 0.0, keep: bool = False) -> Learner:
        """A learner of a copy of the model; the optimizer's moments go with it to the next corpus if `keep`."""
        return _learner(copy.deepcopy(model), schedule, share, self.seed, self.batch_rows, keep)

    def rewarm(self) -> Schedule:
        """The schedule that starts anew at each corpus."""
        return RewarmCosine(self.peak, self.floor)


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """Loss on the old and on the new corpus at the end of each arm, over seeds."""
    full = setting.scale == "full"
    seeds = range(setting.seed, setting.seed + (2 if full else 3))
    worlds = [(_real if full else _made)(setting, seed, progress) for seed in seeds]
    arms: dict[str, Callable[[World], Learner]] = {
        BEFORE: lambda world: world.learner(world.known, world.rewarm()),
        **{name: partial(_continued, share=share, kind=kind) for name, (share, kind) in ARMS.items()},
        UNION: _union,
    }
    if not full:  # a model that was annealed cannot go on with such a schedule
        arms[INFINITE] = _infinite
    for name, arm in arms.items():
        runs = []
        for world in worlds:
            progress(f"{name}, seed {world.seed}")
            runs.append(_losses(arm(world), world.tasks))
        yield Row(name, "system" if name in (SYSTEM, INFINITE) else "baseline", _over(runs))


def _over(runs: list[dict[str, float]]) -> dict[str, float]:
    values = {name: mean(run[name] for run in runs) for name in runs[0]}
    return values | {"mean": (values["old"] + values["new"]) / 2, "spread": pstdev([run["old"] for run in runs])}


def _continued(world: World, share: float, kind: str) -> Learner:
    """The second corpus after the first."""
    arm = world.learner(world.known, world.rewarm() if kind == "rewarm" else Constant(world.floor), share)
    arm.methods[0].state = {key: list(each) if isinstance(each, list) else each for key, each in world.rows.items()}
    arm.learn(world.tasks[1], evaluate=[])
    return arm


def _union(world: World) -> Learner:
    arm = world.learner(world.fresh, world.rewarm())
    arm.learn(iid(world.tasks), evaluate=[])
    return arm


def _infinite(world: World) -> Learner:
    """Both corpora at a rate without an end, and a last tenth of the second one again, by the copy that is annealed."""
    rows: Any = world.tasks[1].train
    steps = len(rows) // world.batch_rows
    infinite = InfiniteRate(world.peak, (world.peak + world.floor) / 2, steps // 100, steps // 2)
    arm = world.learner(world.fresh, infinite, 0.25, keep=True)
    for task in world.tasks:
        arm.learn(task, evaluate=[])
    arm.methods[0].schedule = infinite.annealing(world.floor)  # type: ignore[attr-defined]
    last = world.batch_rows * steps // 10
    arm.learn(Task("annealing", Rows(**rows[-last:]), world.tasks[1].test), evaluate=[])
    return arm


def _made(setting: Setting, seed: int, progress: Progress, steps: int = 500, batch_rows: int = 32) -> World:
    """Two made languages, of which the second redraws 70% of the first."""
    peak, floor = 3e-3, 3e-4
    one = Language.made(64, 10 * seed)
    two = one.shifted(0.7, 10 * seed + 1)
    tasks = [one.task("old", batch_rows * steps, 24, seed), two.task("new", batch_rows * steps, 24, seed)]
    fresh = tiny_decoder(64, width=48, inner=96, heads=2, tokens=32, seed=seed).to(setting.device)
    progress(f"the first corpus, seed {seed}")
    base = _learner(copy.deepcopy(fresh), RewarmCosine(peak, floor), 0.0, seed, batch_rows)
    base.learn(tasks[0], evaluate=[])
    return World(seed, tasks, base.model, base.methods[0].state, fresh, peak, floor, batch_rows)


def _real(setting: Setting, seed: int, progress: Progress, steps: int = 160, batch_rows: int = 16) -> World:
    """A pretrained model that has read novels reads reviews and news; the union starts from it too."""
    model, tokenizer = checkpoint(setting, "float32")
    tasks = corpora(setting, tokenizer, rows=batch_rows * steps, tokens=256, seed=seed)
    old: Any = tasks[0].train
    rows = [old[place] for place in range(min(len(old), 4000))]
    seen = {"rows": rows, "labels": [-1] * len(rows), "tasks": ["old"] * len(rows), "num_seen": len(rows)}
    return World(seed, tasks, model, seen, model, 6e-4, 6e-5, batch_rows)


def _learner(model: Any, schedule: Schedule, share: float, seed: int, batch_rows: int, keep: bool = False) -> Learner:
    return Learner(
        model,
        [ContinualPretraining(share=share, schedule=schedule, capacity=4000)],
        optimizer=partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1),
        score=minus_loss,
        batch_rows=batch_rows,
        clip_norm=1.0,
        keep_optimizer=keep,
        seed=seed,
    )


def _losses(learner: Learner, tasks: Sequence[Task]) -> dict[str, float]:
    return {name: -learner.evaluate(task) for name, task in zip(("old", "new"), tasks, strict=True)}


def decide(rows: Mapping[str, Row]) -> bool:
    """Re-warming learns and forgets more than the floor; replay mends the forgetting; together they come near the union."""
    of = {name: row.values for name, row in rows.items() if row.role != "paper"}
    adapts = of[REWARMED]["new"] < of[FLOOR]["new"] and of[REWARMED]["old"] > of[FLOOR]["old"]
    rise = of[REWARMED]["old"] - of[BEFORE]["old"]
    mends = of[REWARMED]["old"] - of[SYSTEM]["old"] >= 0.5 * rise
    both = all(of[SYSTEM][part] < of[FLOOR_REPLAY][part] for part in ("old", "new"))
    return adapts and mends and both and of[SYSTEM]["mean"] <= of[UNION]["mean"] + 0.1


CLAIM = Claim(
    key="continual-pretraining",
    sentence="Warming the learning rate up again, letting it fall again and replaying a little of the old data ends close to training "
    "on all data from scratch, at a part of the cost; without replay the old data are forgotten, at a low rate the new ones are "
    "not learned.",
    figure="405M parameters, Pile then German: validation loss old 3.56 and new 1.11 without replay, 2.33 and 1.16 with 25% replay, "
    "2.26 and 1.11 from scratch on both (section 6; the figures are read from the paper's tables at second hand).",
    experiment="A tiny decoder reads one made language, then another that redraws 70% of what follows each token; three seeds, 500 "
    "steps a language, the union arm 1,000. `old` and `new`: loss in nats a token at the end. At full scale the model given by "
    "--data, pretrained on novels, reads reviews and news; its union arm starts from it too. spread: of `old`, over seeds.",
    rule="Re-warming ends below the floor on the new and above it on the old language; 25% replay takes back at least half of "
    "what re-warming forgot, beats the floor with the same replay on both, and its mean is at most 0.1 nats above the union's.",
    measure=measure,
    decide=decide,
)
