"""Speed of layers with a state as the sequence grows: training and decoding, as ratios to attention of the same width.

One layer each, on random inputs. Training is forward and backward of [rows, T, width] with about the same number of tokens at
every T; decoding is a step of one token after T were read. Attention is PyTorch's fused one. Where flash-linear-attention is
installed, layers that use its kernels are measured without them too, as `MoM (plain)`, and its own layers of the same kinds
stand beside ours: `fla:linear-attention`, `fla:gated-delta-rule`, `fla:mom`.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
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
PLAIN = " (plain)"  # behind the name of a layer: without kernels
FUSED = ("linear attention", "gated delta rule", "MoM", "JRT-RNN")  # layers that have kernels
PEERS = {  # flash-linear-attention's classes, and settings by width and heads
    "fla:linear-attention": (
        "LinearAttention",
        lambda dim, heads: {"hidden_size": dim, "num_heads": heads, "feature_map": "elu", "layer_idx": 0},
    ),
    "fla:gated-delta-rule": (
        "GatedDeltaNet",
        lambda dim, heads: {
            "hidden_size": dim,
            "num_heads": heads,
            "head_dim": dim // heads,
            "expand_v": 1,
            "layer_idx": 0,
        },
    ),
    "fla:mom": (
        "MomAttention",
        lambda dim, heads: {
            "hidden_size": dim,
            "num_heads": heads,
            "head_dim": dim // heads,
            "expand_v": 1,
            "num_memories": 4,
            "shared_mem": True,
            "layer_idx": 0,
        },
    ),
}
STEPS, SPEND_S = 8, 1.0  # calls that are timed, at most, and the seconds after which no further one is begun
Progress = Callable[[str], None]


def layers() -> list[str]:
    """Names of what can be measured here, what would be missed least last."""
    if _library() is None:
        return list(LAYERS)
    others = [name for name in LAYERS if name not in (FULL, *FUSED)]
    return [FULL, *FUSED, *PEERS, *others, *(name + PLAIN for name in FUSED)]


def _library() -> str | None:
    """The version of flash-linear-attention, None where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what else could be installed
        try:
            import fla.layers  # pyright: ignore
        except ImportError:
            return None
    return fla.__version__


def make(name: str, dim: int, num_heads: int) -> Any:
    """A layer by its name in `layers`."""
    from recollect.state.layers import make_layer

    if name in PEERS:
        import fla.layers  # pyright: ignore

        kind, settings = PEERS[name]
        return getattr(fla.layers, kind)(**settings(dim, num_heads))
    layer, settings = LAYERS[name.removesuffix(PLAIN)]
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
    limit_s: float = 2.0,
    total_s: float = 240.0,
    num_configs: int = 3,
    seed: int = 0,
    progress: Progress = lambda what: None,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measure attention and the layers `names` at `lengths`; one plain JSON object.

    `num_tokens` a training step: num_tokens / T rows, at least one. A layer stops growing when it fails, as for want of
    memory, or when a step at a length takes more than `limit_s` seconds, tuning apart; after `total_s` seconds nothing more
    is begun. What was not reached has a row that says why. Fused kernels are tuned among `num_configs` configurations. `save`
    is given what there is after each row. Raises InvalidInput for unknown names or no lengths, Unavailable without the device.
    """
    import torch

    from recollect.state import kernels

    known = layers()
    for name in names:
        if name not in known:
            raise InvalidInput(f"layers: {name!r:.40} is not known or not installed; use some of {', '.join(known)}.")
    if not lengths:
        raise InvalidInput("lengths: give at least one, as 1k,8k.")
    on_gpu = device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise Unavailable("device: this machine has no CUDA device that PyTorch can use; give --device cpu.")
    began, rows = time.perf_counter(), []
    result: dict[str, Any] = {
        "benchmark": "state-speed",
        "layer": {"width": dim, "heads": num_heads, "dtype": dtype, "tokens_a_step": num_tokens},
        "kernels": {"flash-linear-attention": _library() if on_gpu else None, "configurations": num_configs},
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "rows": rows,
        **provenance(),
    }
    for name in dict.fromkeys([FULL, *names]):
        torch.manual_seed(seed)
        layer, why = make(name, dim, num_heads).to(device, getattr(torch, dtype)), ""
        for length in sorted(set(lengths)):
            if not why and time.perf_counter() - began > total_s:
                why = f"{total_s:.0f} s were over"
            if why:
                rows.append({"layer": name, "length": length, "why_not": why})
                continue
            progress(f"{name}, {length:,} tokens")
            try:
                with kernels.tuned_among(num_configs), kernels.off() if name.endswith(PLAIN) else nullcontext():
                    found = _measure(layer, dim, length, num_tokens)
                rows.append({"layer": name, "length": length, **found})
                trained = found["rows"] * length / found["train_tokens_s"] if "train_tokens_s" in found else 0.0
                if trained > limit_s or found["decode_tokens_s"] * limit_s < 1:
                    why = f"a step at {length:,} tokens took more than {limit_s:g} s"
            except Exception as error:  # a kernel may raise anything
                why = _reason(error)
                rows.append({"layer": name, "length": length, "why_not": why})
            gc.collect()
            if on_gpu:
                with suppress(RuntimeError):  # of a device that failed before
                    torch.cuda.empty_cache()
            _ratios(rows)
            result["total_seconds"] = round(time.perf_counter() - began, 1)
            save(result)
    return result


def _reason(error: Exception) -> str:
    """Why there is no figure, in one line."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def _measure(layer: Any, dim: int, length: int, num_tokens: int) -> dict[str, Any]:
    import torch

    weight = next(layer.parameters())
    rows = max(1, num_tokens // length)
    x = torch.randn(rows, length, dim, device=weight.device, dtype=weight.dtype, requires_grad=True)

    def train() -> None:
        y = layer(x)[0]
        y.float().mean().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    found: dict[str, Any] = {"rows": rows}
    layer.train()
    try:
        found["train_tokens_s"] = round(rows * length / _seconds(train, weight.is_cuda))
    except Exception as error:  # what cannot be trained may yet decode
        found["train_why_not"] = _reason(error)
        layer.zero_grad(set_to_none=True)
    with torch.no_grad():
        step, state_bytes = _decoder(layer.eval(), x[:1].detach())
        return found | {"decode_tokens_s": round(1 / _seconds(step, weight.is_cuda), 1), "state_bytes": state_bytes}


def _decoder(layer: Any, x: Any) -> tuple[Callable[[], object], int]:
    """What reads one token more after x [1, T, D], and the bytes of the state that it goes on from."""
    import torch

    from recollect.state.layer import StateLayer, size_bytes

    token = x[:, :1]
    if isinstance(layer, StateLayer):
        _, state = layer(x)
        return lambda: layer(token, state), size_bytes(state)
    from fla.models.utils import Cache  # pyright: ignore
    from torch.utils._pytree import tree_leaves

    cache = Cache()
    layer(x, past_key_values=cache, use_cache=True)
    kept = [each for each in tree_leaves(cache[0]) if isinstance(each, torch.Tensor)]
    num_bytes = sum(each.numel() * each.element_size() for each in kept)
    return lambda: layer(token, past_key_values=cache, use_cache=True), num_bytes


def _seconds(call: Callable[[], object], on_gpu: bool) -> float:
    """Median seconds of a call after a first one, which may compile; of as many calls as `STEPS` and `SPEND_S` allow."""
    import torch

    def once() -> float:
        start = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    began, found = time.perf_counter(), []
    while len(found) < STEPS and (not found or time.perf_counter() - began < SPEND_S):
        found.append(once())
    return sorted(found)[len(found) // 2]


def _ratios(rows: list[dict[str, Any]]) -> None:
    """To each row, how many times as fast as attention at the same length."""
    full = {row["length"]: row for row in rows if row["layer"] == FULL and "why_not" not in row}
    for row in rows:
        base = full.get(row["length"])
        for name, ratio in (("train_tokens_s", "train_times"), ("decode_tokens_s", "decode_times")):
            if base and name in base and name in row:
                row[ratio] = round(row[name] / base[name], 3)


def show(result: Mapping[str, Any], console: Any) -> None:
    """Print a table: a line for each layer and length."""
    from rich.table import Table

    table = Table("layer", "tokens", "training tokens/s", "x", "decoding tokens/s", "x", "state bytes")
    for row in result["rows"]:
        if "why_not" in row:
            table.add_row(row["layer"], f"{row['length']:,}", row["why_not"])
            continue
        trained = f"{row['train_tokens_s']:,}" if "train_tokens_s" in row else row["train_why_not"]
        decoded = [f"{row['decode_tokens_s']:,}", f"{row.get('decode_times', '')}", f"{row['state_bytes']:,}"]
        table.add_row(row["layer"], f"{row['length']:,}", trained, f"{row.get('train_times', '')}", *decoded)
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
