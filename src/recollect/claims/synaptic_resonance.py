"""Synaptic Resonance's claim: writing by resonance keeps what matters among distractors better than plain fast weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.claims.runs import Run, averages, grid

SYSTEM, OPEN, SHUFFLED, GATE = "resonance", "always written", "resonance, shuffled over time", "an ordinary gate"
NONE = "no fast weights"
NAMES = (SYSTEM, OPEN, SHUFFLED, GATE, NONE)
DISTRACTORS = (0, 4)  # for each pair that is asked for
LENGTH, PAIRS, KEYS, VALUES, NOISE = 72, 3, 12, 12, 8
FIRST_KEY, FIRST_VALUE = NOISE + 2, NOISE + 2 + KEYS
VOCABULARY = FIRST_VALUE + VALUES


def announced(distractors: int) -> Any:
    """Pairs behind a marker that says they will be asked for, among pairs behind one that says they will not.

    Tokens: noise 0 to 7, the two markers, keys, values. The pairs come first, then noise beyond the window, then the
    keys. A distractor may have a key that is asked for, with another value.
    """

    import torch

    from recollect.benchmarks.state_tasks import IGNORED, Task

    def make(rows: int, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        tokens, labels = rng.integers(0, NOISE, (rows, LENGTH)), np.full((rows, LENGTH), IGNORED)
        for row in range(rows):
            keys = np.concatenate([rng.permutation(KEYS)[:PAIRS], rng.integers(0, KEYS, PAIRS * distractors)])
            values = rng.integers(0, VALUES, len(keys))
            for place, which in enumerate(rng.permutation(len(keys))):
                pair = FIRST_KEY + keys[which], FIRST_VALUE + values[which]
                tokens[row, 3 * place : 3 * place + 3] = NOISE + (which >= PAIRS), *pair
            asked, at = rng.permutation(PAIRS), np.arange(LENGTH - 2 * PAIRS, LENGTH, 2)
            tokens[row, at], labels[row, at] = FIRST_KEY + keys[asked], FIRST_VALUE + values[asked]
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    return Task(f"announced pairs, {distractors} distractors", VOCABULARY, make)


def trained(run: Run, setting: Setting, progress: Progress) -> dict[str, float]:
    """Accuracy with the distractors that the part names."""
    from recollect.benchmarks.state_tasks import score, teach
    from recollect.state.trainer import Plan

    def told(step: int, total: int, what: str) -> None:
        progress(f"step {step} of {total}: {what}")

    task = announced(int(run.part.split(":")[1]))
    plan = Plan(num_steps=700 if setting.scale == "small" else 2000, seed=run.seed)
    model = _model(run.name, run.seed).to(setting.device)
    teach(model, task, plan, 16, told)
    return {run.part: score(model, task, 512)}


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """Accuracy by distractors, mean and spread over seeds."""
    seeds = range(setting.seed, setting.seed + (1 if setting.scale == "small" else 3))
    runs = grid(NAMES, seeds, [f"1:{distractors}" for distractors in DISTRACTORS])
    for name, values in averages(trained, runs, setting, progress, spread=True):
        yield Row(name, "system" if name == SYSTEM else "baseline", values)


def _model(name: str, seed: int) -> Any:
    """Two layers of width 64; the baselines differ in how strongly a token writes."""
    import torch
    from torch import nn

    from recollect.state.lm import memory_lm
    from recollect.state.synaptic_resonance import SynapticResonance

    class Open(SynapticResonance):
        def resonance(self, x: Any, before: Any) -> Any:
            return super().resonance(x, before) * 0 + 1

    class Shuffled(SynapticResonance):
        def resonance(self, x: Any, before: Any) -> Any:
            found = super().resonance(x, before)
            return found[:, torch.randperm(found.shape[1], device=found.device)]

    class Gate(SynapticResonance):
        def __init__(self, *options: Any, **settings: Any):
            super().__init__(*options, **settings)
            self.strength = nn.Linear(self.dim, self.num_heads)

        def resonance(self, x: Any, before: Any) -> Any:
            return self.strength(x).sigmoid().float()

    model: Any = memory_lm(VOCABULARY, 64, [{"layer": "attention", "window_tokens": 8}] * 2, seed=seed)
    kinds = {SYSTEM: SynapticResonance, OPEN: Open, SHUFFLED: Shuffled, GATE: Gate}
    if name in kinds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for block in model.blocks:
                block.layer = kinds[name](64, window_tokens=8)
    return model


def decide(rows: Mapping[str, Row]) -> bool:
    """At the most distractors 0.03 above writing always and above no fast weights, and not 0.03 below an ordinary gate."""
    at = f"1:{DISTRACTORS[-1]}"
    ours, others = rows[SYSTEM].values[at], {name: rows[name].values[at] for name in NAMES}
    return ours >= max(others[OPEN], others[NONE]) + 0.03 and ours >= others[GATE] - 0.03


CLAIM = Claim(
    key="synaptic-resonance",
    sentence="Pathways that are strengthened by how relevant a token is to its context retain memories better than a model "
    "without them.",
    figure="Lower perplexity, better retention and robustness than the unmodified model (abstract; no figure could be checked).",
    experiment="Two layers of width 64 with attention over 8 tokens; three pairs whose marker says that they will be asked for, "
    "among none or 4 distracting pairs for each; accuracy of fast weights written by resonance, always, by resonance "
    "shuffled over time, by an ordinary sigmoid gate, and without fast weights.",
    rule="at the most distractors resonance is 0.03 or more above writing always and above no fast weights, and at most 0.03 below "
    "an ordinary gate; where it only equals that gate, there is no benefit over gated linear attention.",
    measure=measure,
    decide=decide,
)
