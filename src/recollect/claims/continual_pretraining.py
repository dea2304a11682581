"""The recipe's claim: re-warming, re-decaying and a little replay end where training on everything from scratch ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from recollect.weights.delta import Delta, snapshot
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
    LITTLE: (0.05, "rewarm"),
    HALF: (0.5, "rewarm"),
    REWARMED: (0.0, "rewarm"),
    FLOOR: (0.0, "floor"),
    FLOOR_REPLAY: (0.25, "floor"),
}
BATCH = 32


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Loss on the old and on the new corpus at the end of each arm, over seeds."""
    found: dict[str, list[dict[str, float]]] = {}
    full = setting.scale == "full"
    for seed in range(setting.seed, setting.seed + (2 if full else 3)):
        for name, values in (_real if full else _made)(setting, seed, progress).items():
            found.setdefault(name, []).append(values)
    return [
        Row(name, "system" if name in (SYSTEM, INFINITE) else "baseline", _over(runs)) for name, runs in found.items()
    ]


def _over(runs: list[dict[str, float]]) -> dict[str, float]:
    values = {name: mean(run[name] for run in runs) for name in runs[0]}
    return values | {"mean": (values["old"] + values["new"]) / 2, "spread": pstdev([run["old"] for run in runs])}


def _made(setting: Setting, seed: int, progress: Progress, steps: int = 500) -> dict[str, dict[str, float]]:
    """Two made languages, of which the second redraws 70% of the first."""
    peak, floor = 3e-3, 3e-4
    one = Language.made(64, 10 * seed)
    two = one.shifted(0.7, 10 * seed + 1)
    tasks = [one.task("old", BATCH * steps, 24, seed), two.task("new", BATCH * steps, 24, seed)]

    def learner(schedule: Schedule, share: float, keep: bool = False) -> Learner:
        model = tiny_decoder(64, width=48, inner=96, heads=2, tokens=32, seed=seed).to(setting.device)
        return _learner(model, schedule, share, seed, keep)

    def tell(name: str) -> None:
        progress(f"seed {seed}: {name}")

    rewarm, found = RewarmCosine(peak, floor), {}
    tell(BEFORE)
    base = learner(rewarm, 0.0)
    base.learn(tasks[0])
    found[BEFORE] = _losses(base, tasks)
    start, seen = snapshot(base.model), base.methods[0].state
    for name, (share, kind) in ARMS.items():
        tell(name)
        arm = learner(rewarm if kind == "rewarm" else Constant(floor), share)
        arm.model.load_state_dict(start)
        _remember(arm, seen)
        arm.learn(tasks[1], evaluate=[])
        found[name] = _losses(arm, tasks)
    tell(INFINITE)
    infinite = InfiniteRate(peak, (peak + floor) / 2, steps // 100, steps // 2)
    arm = learner(infinite, 0.25, keep=True)
    for task in tasks:
        arm.learn(task, evaluate=[])
    last = BATCH * steps // 10  # rows of the new corpus, read again by the copy that is annealed
    arm.methods[0].schedule = infinite.annealing(floor)  # type: ignore[attr-defined]
    rows = tasks[1].train[-last:]  # type: ignore[index]
    arm.learn(Task("annealing", Rows(**rows), tasks[1].test), evaluate=[])
    found[INFINITE] = _losses(arm, tasks)
    tell(UNION)
    arm = learner(rewarm, 0.0)
    arm.learn(iid(tasks), evaluate=[])
    found[UNION] = _losses(arm, tasks)
    return found


def _real(setting: Setting, seed: int, progress: Progress, steps: int = 300) -> dict[str, dict[str, float]]:
    """A pretrained model that has read novels reads reviews and news; every arm starts from the same weights."""
    peak, floor = 6e-4, 6e-5
    model, tokenizer = checkpoint(setting, "float32")
    tasks = corpora(setting, tokenizer, rows=BATCH * steps, tokens=256, seed=seed)
    start, found = snapshot(model), {}
    found[BEFORE] = _losses(_learner(model, Constant(floor), 0.0, seed), tasks)
    for name, (share, kind) in ARMS.items():
        progress(f"seed {seed}: {name}")
        arm = _learner(model, RewarmCosine(peak, floor) if kind == "rewarm" else Constant(floor), share, seed)
        old: Any = tasks[0].train
        rows = [old[place] for place in range(min(len(old), 4000))]
        _remember(arm, {"rows": rows, "labels": [-1] * len(rows), "tasks": ["old"] * len(rows), "num_seen": len(rows)})
        arm.learn(tasks[1], evaluate=[])
        found[name] = _losses(arm, tasks)
        Delta.between(start, model, name).undo(model)
    progress(f"seed {seed}: {UNION}")
    arm = _learner(model, RewarmCosine(peak, floor), 0.0, seed)
    arm.learn(iid(tasks), evaluate=[])
    found[UNION] = _losses(arm, tasks)
    return found


def _learner(model: Any, schedule: Schedule, share: float, seed: int, keep: bool = False) -> Learner:
    method = ContinualPretraining(share=share, schedule=schedule, capacity=4000)
    optimizer = partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    return Learner(
        model,
        [method],
        optimizer=optimizer,
        score=minus_loss,
        batch_rows=BATCH,
        clip_norm=1.0,
        keep_optimizer=keep,
        seed=seed,
    )


def _remember(learner: Learner, seen: Mapping[str, Any]) -> None:
    """Give a learner the rows that another one saw."""
    learner.methods[0].state = {key: list(value) if isinstance(value, list) else value for key, value in seen.items()}


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
