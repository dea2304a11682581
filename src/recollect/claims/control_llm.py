"""Control LLM's claim: twins beside frozen blocks, held close, learn a second corpus and lose less of the first."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
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
RATES = (3e-3, 1e-3)  # of twins and of fine-tuning; the latter also at a tenth of the last


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Loss on the old and on the new corpus of each arm at its best rate, and what fine-tuning loses for the same gain."""
    full = setting.scale == "full"
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(setting.seed, setting.seed + (1 if full else 3)):
        model, tasks, steps = (_real if full else _made)(setting, seed, progress)
        losses = _losses(model, tasks)
        found.setdefault(BEFORE, []).append(losses)
        front = [tuple(losses.values())]
        points = []
        for rate in (*RATES, RATES[-1] / 10):
            progress(f"seed {seed}: {TUNED} at {rate}")
            tuned = copy.deepcopy(model)
            points.append(_learn(tuned, tasks, rate, steps, seed))
            front.append((points[-1]["old"], points[-1]["new"]))
        found.setdefault(TUNED, []).append(min(points, key=lambda each: each["new"]))
        for name, settings in EXPANSIONS.items():
            points = []
            for rate in RATES:
                progress(f"seed {seed}: {name} at {rate}")
                points.append(_expanded(model, settings, tasks, rate, steps, seed, front))
            best = min(points, key=lambda each: each[0]["new"])
            found.setdefault(name, []).append(best[0])
            if name == SYSTEM:
                found.setdefault(MERGED, []).append(best[1])
    return [Row(name, "system" if name == SYSTEM else "baseline", _over(runs)) for name, runs in found.items()]


def _over(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: mean(run[name] for run in runs) for name in runs[0]} | {
        "spread": pstdev([run["old"] for run in runs])
    }


def _expanded(
    model: Any,
    settings: ControlLLM,
    tasks: Sequence[Task],
    rate: float,
    steps: int,
    seed: int,
    front: list[tuple[float, ...]],
) -> tuple[dict[str, float], dict[str, float]]:
    """(losses with twins, losses merged back); `tuned, old`: what fine-tuning has on the old corpus at the same new loss."""
    grown = copy.deepcopy(model)
    twins = settings.expand(grown)
    values = _learn(grown, tasks, rate, steps, seed)
    values["tuned, old"] = _on_front(front, values["new"])
    twins.merge("slerp")
    merged = _losses(grown, tasks)
    return values, merged | {"tuned, old": _on_front(front, merged["new"])}


def _on_front(front: list[tuple[float, ...]], new: float) -> float:
    """Fine-tuning's loss on the old corpus where its loss on the new one is this, on straight lines between its rates."""
    points = sorted((each[1], each[0]) for each in front)
    for (low, at_low), (high, at_high) in pairwise(points):
        if low <= new <= high:
            return at_low + (at_high - at_low) * (new - low) / (high - low)
    return points[0][1] if new < points[0][0] else points[-1][1]


def _learn(model: Any, tasks: Sequence[Task], rate: float, steps: int, seed: int) -> dict[str, float]:
    optimizer = partial(torch.optim.AdamW, lr=rate, weight_decay=0.01)
    learner = Learner(
        model, optimizer=optimizer, score=minus_loss, batch_rows=32, num_steps=steps, clip_norm=1.0, seed=seed
    )
    learner.learn(tasks[1], evaluate=[])
    return _losses(model, tasks)


def _losses(model: Any, tasks: Sequence[Task]) -> dict[str, float]:
    tests: list[Any] = [task.test for task in tasks]
    return {name: text_loss(model, test) for name, test in zip(("old", "new"), tests, strict=True)}


def _made(setting: Setting, seed: int, progress: Progress) -> tuple[Any, list[Task], int]:
    one = Language.made(64, 10 * seed)
    two = one.shifted(0.5, 10 * seed + 1)
    tasks = [one.task("old", 32 * 250, 24, seed), two.task("new", 32 * 120, 24, seed)]
    model = tiny_decoder(64, width=48, inner=96, layers=4, heads=2, tokens=32, seed=seed).to(setting.device)
    progress(f"seed {seed}: learning the first language")
    optimizer = partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.01)
    Learner(model, optimizer=optimizer, batch_rows=32, num_steps=250, clip_norm=1.0, seed=seed).learn(
        tasks[0], evaluate=[]
    )
    return model, tasks, 120


def _real(setting: Setting, seed: int, progress: Progress) -> tuple[Any, list[Task], int]:
    model, tokenizer = checkpoint(setting, "float32")
    return model, corpora(setting, tokenizer, rows=32 * 200, tokens=256, seed=seed), 200


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
