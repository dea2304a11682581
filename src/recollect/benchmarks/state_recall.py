"""Recall against the bytes of state: every layer, small to large, trained on the same made task and asked afterwards.

Two blocks of a layer between an embedding and a head learn a task of `state_tasks`, with AdamW and a cosine, the best of some
learning rates counting. The axis is what Zoology (arXiv:2312.04927, 2023) made the fair one: how many bytes a row's state has
at the end of the sequence, float32, all blocks together. Attention's grows with the sequence, all others' do not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recollect.benchmarks import plots
from recollect.benchmarks.jobs import each
from recollect.benchmarks.provenance import provenance
from recollect.errors import Conflict, InvalidInput, Unavailable

BLOCKS = 2
SLOW = ("titans", "lssl", "longvq")
ENOUGH = 0.01  # nats: a model whose loss stays below this has learned, and is asked at once
Progress = Callable[[str, int, int], None]  # what was done last, done, of


@dataclass(frozen=True)
class Setup:
    """What is trained, the same for all layers."""

    task: str = "mqar"
    num_pairs: int = 16  # of mqar
    length: int = 128
    dim: int = 64
    batch_rows: int = 64
    num_steps: int = 1000
    rates: tuple[float, ...] = (3e-3,)
    seed: int = 0

    def make_task(self) -> Any:
        """The task. Raises InvalidInput for an unknown one, or for sizes that do not fit."""
        from recollect.benchmarks import state_tasks as tasks
        from recollect.benchmarks.stories import KINDS, stories

        made = {
            "mqar": lambda: tasks.mqar_task(self.num_pairs, self.length, max(128, 4 * self.num_pairs)),
            "selective-copying": lambda: tasks.selective_copying(16, self.length),
            "induction": lambda: tasks.induction(self.length),
            "listops": lambda: tasks.listops(self.length),
        }
        made |= {kind: partial(stories, kind, self.length) for kind in KINDS}
        if self.task not in made:
            raise InvalidInput(f"task: {self.task!r:.20} is not known; use one of {', '.join(made)}.")
        return made[self.task]()


def entries(setup: Setup) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """By the name of a line in the plot: layers with their settings, from small states to large ones.

    Layers of the home that are not spoken of here have a line too, by their own name and with their defaults.
    """
    from recollect.state.layers import layers

    dim, prefix = setup.dim, 2 * setup.num_pairs
    single = {"num_memories": 0}
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "attention": [("attention", {"conv_tokens": 4})],
        "window attention": [("attention", {"conv_tokens": 4, "window_tokens": tokens}) for tokens in (8, 32)],
        "linear attention": [("linear-attention", {"key_size": size}) for size in (8, 32)],
        "linear attention (Taylor)": [
            ("linear-attention", {"key_size": size, "feature_map": "taylor"}) for size in (4, 8, 16)
        ],
        "JRT-RNN": [("jrt-rnn", {"key_size": size, "prefix_tokens": prefix}) for size in (4, 8)],
        "gated delta rule": [("mom", {"key_size": size, **single}) for size in (8, 16, 64)],
        "MoM": [("mom", {"key_size": size}) for size in (4, 8, 16)],
        "LSTM": [("lstm", {"state_size": size}) for size in (dim, 4 * dim)],
        "GRU": [("gru", {"state_size": size}) for size in (dim, 4 * dim)],
        "S4D": [("s4d", {"state_size": size}) for size in (16, 64)],
        "S5": [("s5", {"state_size": size}) for size in (64, 512)],
        "LSSL": [("lssl", {"state_size": 16})],
        "Titans (MAC)": [("titans", {"segment_tokens": 16, "expansion": size}) for size in (1, 2)],
        "Titans (MAG)": [("titans-mag", {"window_tokens": 16})],
        "Titans (LMM)": [("titans-lmm", {"depth": 1}), ("titans-lmm", {})],
    }
    known = layers()
    spoken = {known[layer] for line in found.values() for layer, _ in line}
    return found | {name: [(name, {})] for name, kind in known.items() if kind.causal and kind not in spoken}


def specs(setup: Setup, lines: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Each run to be made: of all layers at the middle rate first, the slow layers among the others, so that what there is at
    any time is a fair picture. Raises InvalidInput for an unknown line."""
    known = entries(setup)
    for line in lines or ():
        if line not in known:
            raise InvalidInput(f"layers: {line!r:.40} is not known; use some of {', '.join(known)}.")
    found = [
        {"line": line, "layer": layer, "settings": settings}
        for line in known
        for layer, settings in known[line]
        if lines is None or line in lines
    ]
    slow = [each for each in found if each["layer"].startswith(SLOW)]
    fast = [each for each in found if each not in slow]
    places = [(number / len(some), each) for some in (fast, slow) for number, each in enumerate(some, 1)]
    ordered = [each for _, each in sorted(places, key=lambda placed: placed[0])]
    rates = sorted(setup.rates)
    middle = len(rates) // 2
    near = sorted(range(len(rates)), key=lambda number: abs(number - middle))
    return [each | {"rate": rates[number]} for number in near for each in ordered]


def measure(setup: Setup, spec: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Train and ask one model: the spec with its bytes of state, accuracy, last loss, steps and seconds.

    A model that has learned stops early. `recorded` says whether its steps were CUDA graphs, `refused` why not on a GPU.
    """
    import torch

    from recollect.benchmarks.state_tasks import score, teach
    from recollect.state.lm import memory_lm
    from recollect.state.trainer import Plan

    torch.set_num_threads(1)
    began, task = time.perf_counter(), setup.make_task()
    plan = Plan(setup.num_steps, spec["rate"], warmup_steps=setup.num_steps // 20, seed=setup.seed, enough=ENOUGH)
    blocks = [{"layer": spec["layer"], **spec["settings"]}] * BLOCKS
    try:
        model: Any = memory_lm(task.vocabulary, setup.dim, blocks, setup.seed)
        learned = teach(model.to(device), task, plan, setup.batch_rows)
        accuracy = score(model, task, 512, max(64, setup.batch_rows))
    except (InvalidInput, torch.OutOfMemoryError) as error:
        return {**spec, "why_not": str(error)[:200], "seconds": round(time.perf_counter() - began, 1)}
    tokens = task.make(1, 0)[0].shape[1]
    return {
        **spec,
        "state_bytes": model.state_bytes(tokens),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "accuracy": round(accuracy, 4),
        "loss": round(learned.losses[-1], 4),
        "steps": len(learned.losses),
        "recorded": learned.recorded,
        **({"refused": learned.refused} if learned.refused else {}),
        "seconds": round(time.perf_counter() - began, 1),
    }


def run(
    setup: Setup,
    lines: Sequence[str] | None = None,
    device: str = "cpu",
    workers: int = 1,
    limit_s: float = math.inf,
    earlier: Mapping[str, Any] | None = None,
    progress: Progress = lambda *_: None,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measure all lines, or those named; one plain JSON object.

    `workers` processes train side by side on the one device. After `limit_s` seconds no further run is begun. Rows of an
    `earlier` result are taken over. `save` is given what there is after each run. Raises Conflict when the earlier result
    was of another setup, Unavailable without the device.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable("device: this machine has no CUDA device that PyTorch can use; give --device cpu.")
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(setup).items()}
    if earlier is not None and earlier["setup"] != plain:
        raise Conflict(f"setup: the earlier result was measured with {earlier['setup']}, not {plain}; leave it out.")
    rows: list[dict[str, Any]] = list(earlier["rows"]) if earlier is not None else []
    spent = earlier["total_seconds"] if earlier is not None else 0.0
    began, known = (
        time.perf_counter(),
        [{name: row[name] for name in ("line", "layer", "settings", "rate")} for row in rows],
    )
    wanted = [spec for spec in specs(setup, lines) if spec not in known]
    result: dict[str, Any] = {
        "benchmark": "state-recall",
        "setup": plain,
        "chance": round(chance(setup), 4),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "workers": workers,
        "rows": rows,
        **provenance(),
    }
    work = partial(measure, setup, device=device)
    for _, row in each(work, wanted, workers, lambda: time.perf_counter() - began < limit_s):
        rows.append(row)
        result["total_seconds"] = round(spent + time.perf_counter() - began, 1)
        save(result)
        progress(f"{row['line']}: {row.get('accuracy', 'diverged')}", len(rows) - len(known), len(wanted))
    result["total_seconds"] = round(spent + time.perf_counter() - began, 1)
    result["left_out"] = len(wanted) - (len(rows) - len(known))
    save(result)
    return result


def chance(setup: Setup) -> float:
    """What a guess among all possible answers gets."""
    from recollect.benchmarks.stories import KINDS

    return {
        "mqar": 1 / (max(128, 4 * setup.num_pairs) / 2),
        "selective-copying": 1 / 16,
        "induction": 1 / 16,
        "listops": 1 / 10,
        **{name: 1 / kind.num_answers for name, kind in KINDS.items()},
    }[setup.task]


def best(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each layer with its settings the rate with the highest accuracy, in the order of the lines and of bytes."""
    found: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        key = f"{row['line']} {row['settings']}"
        if "accuracy" in row and row["accuracy"] > found.get(key, {"accuracy": -1.0})["accuracy"]:
            found[key] = row
    order = list(entries(Setup(**{**result["setup"], "rates": tuple(result["setup"]["rates"])})))
    return sorted(found.values(), key=lambda row: (order.index(row["line"]), row["state_bytes"]))


def show(result: Mapping[str, Any], console: Any) -> None:
    """Print a table: a line for each layer and size, at its best learning rate."""
    from rich.table import Table

    setup = result["setup"]
    table = Table("layer", "settings", "state bytes", "accuracy", "rate", "parameters", "steps", "s")
    for row in best(result):
        settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
        table.add_row(
            row["line"],
            settings,
            f"{row['state_bytes']:,}",
            f"{row['accuracy']:.3f}",
            f"{row['rate']:g}",
            f"{row['parameters']:,}",
            f"{row.get('steps', setup['num_steps']):,}",
            f"{row['seconds']:.0f}",
        )
    console.print(table)
    for row in result["rows"]:
        if "why_not" in row:
            console.print(f"{row['line']} at {row['rate']:g}: {row['why_not']}")
    console.print(
        f"{setup['task']}, {setup['length']} tokens, {setup['num_pairs']} pairs; {BLOCKS} blocks of width {setup['dim']}, "
        f"up to {setup['num_steps']} steps of {setup['batch_rows']} rows on {result['device']}; chance {result['chance']:.3f}. "
        f"{result['left_out']} runs left out, {result['total_seconds']:.0f} s."
    )


def plot(result: Mapping[str, Any], folder: Path, name: str = "state-recall") -> Path:
    """Draw accuracy against bytes of state as `<name>.svg` in `folder`. Raises Unavailable without matplotlib."""
    pyplot = plots.plotter()
    figure, axes = pyplot.subplots(figsize=(8.5, 5))
    rows, colors = best(result), pyplot.get_cmap("tab20")
    for number, line in enumerate(dict.fromkeys(row["line"] for row in rows)):
        points = [(row["state_bytes"], row["accuracy"]) for row in rows if row["line"] == line]
        style = {"color": "black", "linestyle": "--"} if line == "attention" else {"color": colors(number % 20)}
        axes.plot(*zip(*points, strict=True), marker="o", markersize=5, label=line, **style)
    axes.axhline(result["chance"], color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    setup = result["setup"]
    axes.set(
        xlabel="bytes of state a row",
        ylabel="accuracy",
        ylim=(-0.03, 1.03),
        title=f"{setup['task']}, {setup['length']} tokens",
    )
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8, bbox_to_anchor=(1.01, 1.0), loc="upper left")
    return plots.save(figure, folder, name)
