"""Control LLM's claim: twins beside frozen blocks, held close, learn a second corpus and lose less of the first."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import mean, pstdev
from typing import Any

import torch

from recollect.benchmarks.facts import tiny_decoder
from recollect.benchmarks.languages import Language, minus_loss, text_loss
from recollect.benchmarks.real_data import checkpoint, corpora
from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.weights.control_llm import ControlLLM
from recollect.weights.learner import Learner
from recollect.weights.streams import Task

SYSTEM, TUNED, FREE, MERGED = (
    "Control LLM",
    "fine-tuning all weights",
    "Control LLM, no divergence",
    "Control LLM, merged back",
)
BEFORE = "before the second corpus"
EXPANSIONS = {
    SYSTEM: ControlLLM(),
    FREE: ControlLLM(divergence_weight=0.0),
    "Control LLM, lerp at 0.5, mse": ControlLLM(interpolator="lerp", divergence="mse", train_weight=False),
    "Control LLM, dlerpin": ControlLLM(interpolator="dlerpin"),
}


@dataclass(frozen=True)
class World:
    """A model that knows the old corpus, the two corpora, and the rates at which twins and fine-tuning learn the new one."""

    seed: int
    model: Any
    tasks: Sequence[Task]
    num_steps: int
    batch_rows: int
    rates: tuple[float, float]  # fine-tuning also at a tenth of the last


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """Loss on the old and on the new corpus of each arm at its best rate, and what fine-tuning loses for the same gain."""
    full = setting.scale == "full"
    seeds = range(setting.seed, setting.seed + (1 if full else 3))
    worlds = [(_real if full else _made)(setting, seed, progress) for seed in seeds]
    before = [_losses(world.model, world.tasks) for world in worlds]
    yield Row(BEFORE, "baseline", _over(before))
    tuned = [_tuned(world, progress) for world in worlds]
    yield Row(TUNED, "baseline", _over([_best(points) for points in tuned]))
    fronts = [
        [(each["old"], each["new"]) for each in (first, *points)] for first, points in zip(before, tuned, strict=True)
    ]
    for name, settings in EXPANSIONS.items():
        found: list[dict[str, float]] = []
        merged: list[dict[str, float]] = []
        for world, front in zip(worlds, fronts, strict=True):
            points = []
            for rate in world.rates:
                progress(f"{name} at {rate}, seed {world.seed}")
                points.append(_expanded(world, settings, rate, front))
            best = min(points, key=lambda each: each[0]["new"])
            found.append(best[0])
            merged.append(best[1])
        yield Row(name, "system" if name == SYSTEM else "baseline", _over(found))
        if name == SYSTEM:
            yield Row(MERGED, "baseline", _over(merged))


def _tuned(world: World, progress: Progress) -> list[dict[str, float]]:
    points = []
    for rate in (*world.rates, world.rates[-1] / 10):
        progress(f"{TUNED} at {rate}, seed {world.seed}")
        points.append(_learn(copy.deepcopy(world.model), world, rate))
    return points


def _best(points: Sequence[dict[str, float]]) -> dict[str, float]:
    return min(points, key=lambda each: each["new"])


def _over(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: mean(run[name] for run in runs) for name in runs[0]} | {
        "spread": pstdev([run["old"] for run in runs])
    }


def _expanded(
    world: World, settings: ControlLLM, rate: float, front: list[tuple[float, ...]]
) -> tuple[dict[str, float], dict[str, float]]:
    """(losses with twins, losses merged back); `tuned, old`: what fine-tuning has on the old corpus at the same new loss."""
    grown = copy.deepcopy(world.model)
    twins = settings.expand(grown)
    values = _learn(grown, world, rate)
    values["tuned, old"] = _on_front(front, values["new"])
    twins.merge("slerp")
    merged = _losses(grown, world.tasks)
    return values, merged | {"tuned, old": _on_front(front, merged["new"])}


def _on_front(front: list[tuple[float, ...]], new: float) -> float:
    """Fine-tuning's loss on the old corpus where its loss on the new one is this, on straight lines between its rates."""
    points = sorted((each[1], each[0]) for each in front)
    for (low, at_low), (high, at_high) in pairwise(points):
        if low <= new <= high:
            return at_low + (at_high - at_low) * (new - low) / (high - low)
    return points[0][1] if new < points[0][0] else points[-1][1]


def _learn(model: Any, world: World, rate: float) -> dict[str, float]:
    learner = Learner(
        model,
        optimizer=partial(torch.optim.AdamW, lr=rate, weight_decay=0.01),
        score=minus_loss,
        batch_rows=world.batch_rows,
        num_steps=world.num_steps,
        clip_norm=1.0,
        seed=world.seed,
    )
    learner.learn(world.tasks[1], evaluate=[])
    return _losses(model, world.tasks)


def _losses(model: Any, tasks: Sequence[Task]) -> dict[str, float]:
    tests: list[Any] = [task.test for task in tasks]
    return {name: text_loss(model, test) for name, test in zip(("old", "new"), tests, strict=True)}


def _made(setting: Setting, seed: int, progress: Progress) -> World:
    one = Language.made(64, 10 * seed)
    two = one.shifted(0.5, 10 * seed + 1)
    tasks = [one.task("old", 32 * 250, 24, seed), two.task("new", 32 * 120, 24, seed)]
    model = tiny_decoder(64, width=48, inner=96, layers=4, heads=2, tokens=32, seed=seed).to(setting.device)
    progress(f"seed {seed}: learning the first language")
    optimizer = partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.01)
    Learner(model, optimizer=optimizer, batch_rows=32, num_steps=250, clip_norm=1.0, seed=seed).learn(
        tasks[0], evaluate=[]
    )
    return World(seed, model, tasks, 120, 32, (3e-3, 1e-3))


def _real(setting: Setting, seed: int, progress: Progress, num_steps: int = 200) -> World:
    model, tokenizer = checkpoint(setting, "float32")
    tasks = corpora(setting, tokenizer, rows=16 * num_steps, tokens=256, seed=seed)
    return World(seed, model, tasks, num_steps, 16, (1e-3, 3e-4))


def decide(rows: Mapping[str, Row]) -> bool:
    """Less lost on the old corpus than fine-tuning loses for the same new loss; divergence helps; merging keeps half."""
    ours, free, merged = (rows[name].values for name in (SYSTEM, FREE, MERGED))
    before, tuned = rows[BEFORE].values, rows[TUNED].values
    dominates = ours["old"] < ours["tuned, old"] and ours["old"] < free["old"]
    kept = before["new"] - merged["new"] >= 0.5 * (before["new"] - ours["new"])
    return dominates and kept and merged["old"] < tuned["old"]


CLAIM = Claim(
    key="control-llm",
    sentence="Blocks with a trainable twin beside the frozen original, interpolated and held close by a divergence loss, learn a "
    "second domain and lose less of the first than fine-tuning does; the pairs can be merged back into single blocks.",
    figure="Llama3.1-8B-Instruct: Math-Hard +14.4, MBPP-Plus +10, C-Eval +10.6, with less than 4.3% lost on MMLU where open "
    "fine-tunes lose more than 35% (abstract).",
    experiment="A tiny decoder of 4 layers that knows one made language learns another that redraws half of what follows each token, "
    "without any of the first; three seeds, two learning rates, of which the one with the lowest new loss counts. `old`, "
    "`new`: loss in nats a token; `tuned, old`: the old loss of fine-tuning at the same new loss, between its three rates; "
    "spread: of `old` over seeds. At full scale the model given by --data, pretrained on novels, reads reviews and news.",
    rule="Control LLM's old loss is below fine-tuning's at the same new loss and below that without divergence; merged back it keeps "
    "at least half of the gain on the new language and its old loss is below that of fine-tuning.",
    measure=measure,
    decide=decide,
)
