"""LSSL's claim: HiPPO matrices are what remembers, and a trained layer follows a change of the sampling rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recollect.benchmarks.state_tasks import Batch, Labeller, delayed, waves
from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.claims.runs import Run, averages, grid
from recollect.state.trainer import Plan, learn

FIXED, RANDOM, FULL, DIAGONAL, LSTM, GRU = "LSSL-f", "LSSL-f, random matrix", "LSSL", "S4D", "LSTM", "GRU"
FROZEN = {"learn_matrix": False, "learn_step": False}
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    FIXED: ("lssl", {"state_size": 32, **FROZEN}),
    RANDOM: ("lssl", {"state_size": 32, "measure": "random", **FROZEN}),
    FULL: ("lssl", {"state_size": 32}),
    DIAGONAL: ("s4d", {"state_size": 32}),
    LSTM: ("lstm", {"state_size": 32}),
    GRU: ("gru", {"state_size": 32}),
}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def delay_error(name: str, delay: int, steps: int, seed: int, device: str, progress: Progress) -> float:
    """Mean squared error of the input `delay` steps ago, in variances of the input: 1 is what knowing nothing gives."""
    layer, settings = LAYERS[name]
    model = Labeller(1, 1, 16, layer, seed, **settings).to(device)

    def error(x: Tensor, target: Tensor) -> Tensor:
        return (model(x)[:, delay:, 0] - target[:, delay:]).square().mean()

    def batch(seed: int, rows: int) -> Batch:
        return delayed(rows, 2 * delay, _generator(seed), delay)

    plan = Plan(num_steps=steps, learning_rate=2e-2, weight_decay=0.0, seed=seed)
    report = lambda step, of, what: progress(f"step {step} of {of}: {what}")  # noqa: E731
    learn(model, error, lambda step: batch(seed * 1_000_003 + step, 16), plan, progress=report)
    with torch.no_grad():
        return float(error(*(each.to(device) for each in batch(-1 - seed, 128))))


def wave_accuracy(name: str, steps: int, seed: int, device: str, progress: Progress) -> tuple[float, float]:
    """Share of waves told apart at the trained rate, and at half of it: a layer with a step doubles the step."""
    layer, settings = LAYERS[name]
    model = Labeller(1, 10, 16, layer, seed, **settings).to(device)

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(x)[:, -1], labels)

    def batch(step: int) -> Batch:
        return waves(32, 128, _generator(seed * 1_000_003 + step))

    plan = Plan(num_steps=steps, learning_rate=1e-2, weight_decay=0.0, seed=seed)
    learn(model, loss, batch, plan, progress=lambda step, of, what: progress(f"step {step} of {of}: {what}"))
    x, labels = waves(512, 128, _generator(-1 - seed))
    with torch.no_grad():
        whole = float((model(x.to(device))[:, -1].argmax(-1).cpu() == labels).float().mean())
        if hasattr(model.layer, "rate"):
            model.layer.rate = 2.0  # pyright: ignore
        half = float((model(x[:, 1::2].to(device))[:, -1].argmax(-1).cpu() == labels).float().mean())
    return whole, half


def trained(run: Run, setting: Setting, progress: Progress) -> dict[str, float]:
    """The error of a delay, or the accuracies on waves."""
    if run.part == "delay":
        delay, steps = (200, 800) if setting.scale == "full" else (100, 400)
        return {"error": delay_error(run.name, delay, steps, run.seed, setting.device, progress)}
    steps = 4000 if setting.scale == "full" else 1000
    whole, half = wave_accuracy(run.name, steps, run.seed, setting.device, progress)
    return {"trained rate": whole, "half rate": half}


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """A row for each layer, averaged over seeds."""
    seeds = range(setting.seed, setting.seed + (3 if setting.scale == "full" else 2))
    runs = grid((FIXED, RANDOM, FULL, DIAGONAL, LSTM), seeds, ["delay"]) + grid((FULL, DIAGONAL, GRU), seeds, ["waves"])
    for name, values in averages(trained, runs, setting, progress):
        yield Row(name, "system" if name in (FIXED, FULL, DIAGONAL) else "baseline", values)


def decide(rows: Mapping[str, Row]) -> bool:
    """A fifth of the random matrix's error and less than the LSTM's; 80% kept at half the rate, where a GRU keeps half."""
    error = {name: rows[name].values["error"] for name in (FIXED, RANDOM, LSTM)}
    remembers = error[FIXED] <= error[RANDOM] / 5 and error[FIXED] < error[LSTM]
    kept = {name: rows[name].values["half rate"] / rows[name].values["trained rate"] for name in (FULL, GRU)}
    learned = rows[FULL].values["trained rate"] > 0.8
    return remembers and learned and kept[FULL] >= 0.8 and kept[GRU] < 0.5


CLAIM = Claim(
    key="lssl",
    sentence="A linear state-space layer remembers because of HiPPO's matrix: with a random one of the same size it does not; and "
    "one that was trained at one sampling rate works at another when its step is changed.",
    figure="Sequential MNIST, permuted: 98.76% with HiPPO, 62% with a random matrix; raw speech of 16,000 samples: 95.87%, and "
    "88.66% at half the sampling rate (tables 2 to 4 and section 5).",
    experiment="Saying a smooth random signal of a hundred steps ago (200 at full scale; error in variances, 1 is what knowing "
    "nothing gives) after 400 steps of training (800), with the matrix frozen at HiPPO's or at random, learned, diagonal, and an "
    "LSTM; and, after 1,000 steps (4,000), telling apart sines of ten frequencies from 128 samples, then from every second one with "
    "the step doubled.",
    rule="the error with HiPPO's matrix is at most a fifth of that with a random one and below the LSTM's; LSSL tells more than "
    "80% of the sines, keeps at least 80% of that at half the rate, and a GRU less than half.",
    measure=measure,
    decide=decide,
)
