"""Speed of layers with a state as the sequence grows: training and decoding, as ratios to attention of the same width.

One layer each, on random inputs. Training is forward and backward of [rows, T, width] with about the same number of tokens at
every T; decoding is a step of one token after T were read. Attention is PyTorch's fused one. Where flash-linear-attention is
installed, its own layers of the same kinds stand beside ours: `fla:linear-attention`, `fla:gated-delta-rule`, `fla:mom`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recollect.benchmarks import plots
from recollect.benchmarks.provenance import provenance
from recollect.errors import InvalidInput, Unavailable

FULL = "attention"
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    FULL: ("attention", {}),
    "window attention": ("attention", {"window_tokens": 256}),
    "linear attention": ("linear-attention", {}),
    "gated delta rule": ("mom", {"num_memories": 0}),
    "MoM": ("mom", {}),
    "JRT-RNN": ("jrt-rnn", {}),
    "LSTM": ("lstm", {}),
    "S4D": ("s4d", {}),
    "S5": ("s5", {"state_size": 256}),
    "Titans (LMM)": ("titans-lmm", {"chunk_tokens": 64}),
    "Titans (MAC)": ("titans", {"segment_tokens": 64}),
    "Titans (MAG)": ("titans-mag", {"chunk_tokens": 64, "window_tokens": 256}),
}
PEERS = {  # flash-linear-attention's classes, and settings by width and heads
    "fla:linear-attention": ("LinearAttention", lambda dim, heads: {"hidden_size": dim, "num_heads": heads}),
    "fla:gated-delta-rule": (
        "GatedDeltaNet",
        lambda dim, heads: {"hidden_size": dim, "num_heads": heads, "head_dim": dim // heads, "expand_v": 1},
    ),
    "fla:mom": (
        "MomAttention",
        lambda dim, heads: {"hidden_size": dim, "num_heads": heads, "head_dim": dim // heads, "expand_v": 1},
    ),
}
WARM, STEPS = 2, 8
Progress = Callable[[str], None]


def layers() -> list[str]:
    """Names of what can be measured here."""
    try:
        import fla.layers  # noqa: F401  # pyright: ignore
    except ImportError:
        return list(LAYERS)
    return [*LAYERS, *PEERS]


def make(name: str, dim: int, num_heads: int) -> Any:
    """A layer by its name in `layers`."""
    from recollect.state.layers import make_layer

    if name in PEERS:
        import fla.layers  # pyright: ignore

        kind, settings = PEERS[name]
        return getattr(fla.layers, kind)(**settings(dim, num_heads))
    layer, settings = LAYERS[name]
    heads = {} if layer in ("lstm", "s4d", "s5") else {"num_heads": num_heads}
    return make_layer(layer, dim, **settings, **heads)


def run(
    names: Sequence[str],
    lengths: Sequence[int],
    dim: int = 512,
    num_heads: int = 8,
    num_tokens: int = 65_536,
    device: str = "cuda",
    dtype: str = "bfloat16",
    limit_s: float = 20.0,
    seed: int = 0,
    progress: Progress = lambda what: None,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measure attention and the layers `names` at `lengths`; one plain JSON object.

    `num_tokens` a training step: num_tokens / T rows, at least one. A layer stops growing when it runs out of memory or a
    length has taken `limit_s` seconds; what it did not reach has a row that says why. `save` is given what there is after
    each layer. Raises InvalidInput for unknown names or no lengths, Unavailable without the device.
    """
    import torch

    known = layers()
    for name in names:
        if name not in known:
            raise InvalidInput(f"layers: {name!r:.40} is not known or not installed; use some of {', '.join(known)}.")
    if not lengths:
        raise InvalidInput("lengths: give at least one, as 1k,8k.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable("device: this machine has no CUDA device that PyTorch can use; give --device cpu.")
    began, rows = time.perf_counter(), []
    result: dict[str, Any] = {
        "benchmark": "state-speed",
        "layer": {"width": dim, "heads": num_heads, "dtype": dtype, "tokens_a_step": num_tokens},
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "rows": rows,
        **provenance(),
    }
    for name in dict.fromkeys([FULL, *names]):
        torch.manual_seed(seed)
        layer, why = make(name, dim, num_heads).to(device, getattr(torch, dtype)), ""
        for length in sorted(set(lengths)):
            if why:
                rows.append({"layer": name, "length": length, "why_not": why})
                continue
            progress(f"{name}, {length:,} tokens")
            start = time.perf_counter()
            try:
                rows.append({"layer": name, "length": length, **_measure(layer, dim, length, num_tokens)})
            except torch.OutOfMemoryError:
                why = "out of device memory"
                rows.append({"layer": name, "length": length, "why_not": why})
            gc.collect()
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
            if time.perf_counter() - start > limit_s:
                why = f"{length:,} tokens took more than {limit_s:.0f} s"
        _ratios(rows)
        result["total_seconds"] = round(time.perf_counter() - began, 1)
        save(result)
    return result


def _measure(layer: Any, dim: int, length: int, num_tokens: int) -> dict[str, Any]:
    import torch

    from recollect.state.layer import StateLayer, size_bytes

    weight = next(layer.parameters())
    rows = max(1, num_tokens // length)
    x = torch.randn(rows, length, dim, device=weight.device, dtype=weight.dtype, requires_grad=True)

    def train() -> None:
        y = layer(x)[0]
        y.float().mean().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    found: dict[str, Any] = {"rows": rows, "train_tokens_s": round(rows * length / _seconds(train, weight.is_cuda))}
    if not isinstance(layer, StateLayer):
        return found  # a peer: its cache is a whole model's
    with torch.no_grad():
        _, state = layer(x[:1])
        token = x[:1, :1].detach()

        def step() -> None:
            layer(token, state)

        found |= {"decode_tokens_s": round(1 / _seconds(step, weight.is_cuda), 1), "state_bytes": size_bytes(state)}
    return found


def _seconds(call: Callable[[], None], on_gpu: bool) -> float:
    """Median seconds of a call; one call where it takes more than 2 s."""
    import torch

    def once() -> float:
        start = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    first = once()
    if first > 2.0:
        return min(first, once())
    for _ in range(WARM - 1):
        once()
    return sorted(once() for _ in range(STEPS))[STEPS // 2]


def _ratios(rows: list[dict[str, Any]]) -> None:
    """To each row, how many times as fast as attention at the same length."""
    full = {row["length"]: row for row in rows if row["layer"] == FULL and "why_not" not in row}
    for row in rows:
        base = full.get(row["length"])
        for name, ratio in (("train_tokens_s", "train_times"), ("decode_tokens_s", "decode_times")):
            if base and name in row:
                row[ratio] = round(row[name] / base[name], 3)


def show(result: Mapping[str, Any], console: Any) -> None:
    """Print a table: a line for each layer and length."""
    from rich.table import Table

    table = Table("layer", "tokens", "training tokens/s", "x", "decoding tokens/s", "x", "state bytes")
    for row in result["rows"]:
        if "why_not" in row:
            table.add_row(row["layer"], f"{row['length']:,}", row["why_not"])
            continue
        cells = [f"{row['train_tokens_s']:,}", f"{row.get('train_times', '')}"]
        if "decode_tokens_s" in row:
            cells += [f"{row['decode_tokens_s']:,}", f"{row.get('decode_times', '')}", f"{row['state_bytes']:,}"]
        table.add_row(row["layer"], f"{row['length']:,}", *cells)
    console.print(table)
    layer = result["layer"]
    console.print(
        f"One layer of width {layer['width']:,} with {layer['heads']} heads in {layer['dtype']}, {layer['tokens_a_step']:,} tokens "
        f"a training step, on {result['device']}. x: times as fast as attention. {result['total_seconds']:.0f} s."
    )


def plot(result: Mapping[str, Any], folder: Path, name: str = "state-speed") -> Path:
    """Draw both ratios against length as `<name>.svg` in `folder`. Raises Unavailable without matplotlib."""
    pyplot = plots.plotter()
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2))
    colors = pyplot.get_cmap("tab20")
    names = list(dict.fromkeys(row["layer"] for row in result["rows"]))
    for axes, (ratio, label) in zip(
        panels,
        (("train_times", "training, times attention"), ("decode_times", "decoding, times attention")),
        strict=True,
    ):
        for number, layer in enumerate(names):
            points = [(row["length"], row[ratio]) for row in result["rows"] if row["layer"] == layer and ratio in row]
            style = {"color": "black", "linestyle": "--"} if layer == FULL else {"color": colors(number % 20)}
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=layer, **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel="tokens", ylabel=label)
        axes.grid(True, alpha=0.3)
    panels[1].legend(fontsize=8, bbox_to_anchor=(1.01, 1.0), loc="upper left")
    return plots.save(figure, folder, name)
