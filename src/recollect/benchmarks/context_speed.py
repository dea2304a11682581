"""Speed and memory of context policies as the input grows, beside full attention, in one run on one device.

Where kvpress is installed, its presses of the same methods can stand beside them: `kvpress:streaming-llm`, `kvpress:think`. It
asks for an older transformers than recollect does; `pip install --no-deps kvpress` and what it imports is enough.

The model is a Llama of random weights; speed does not depend on them, but for what block memories copy: their look-ups can be
made to copy as much as those of a trained model (look_ups.py). Every policy reads one stream, and is stopped at each
length for a few steps of decoding, after which the stream goes on as if they had not been. Full attention is transformers
with PyTorch's fused attention: it reads each length anew in one piece, and decodes both with the cache that transformers
takes by default, which copies all keys at every token, and with a static one, which does not. Ratios are to the better
of the two; `decode_times_default` is to the first. Of several rows that are read side by side full attention gets as many
as fit, halved until they do; times as fast are of tokens a second, times smaller of bytes a row.

Full attention and kvpress are measured in full_speed.py, RAPID, which is no policy, in rapid_speed.py.

Shapes: `layers` of a Llama 7B: width 4,096, 32 heads of 128, inner width 11,008, 32,000 tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from recollect.benchmarks import plots
from recollect.benchmarks.clock import clean, peak, start_peak, timed
from recollect.benchmarks.full_speed import FULL, PEERS, full_rows, peer_rows, step_seconds
from recollect.benchmarks.look_ups import repeating
from recollect.benchmarks.provenance import provenance
from recollect.benchmarks.rapid_speed import RAPID, rapid_rows
from recollect.catalogue import SYSTEMS, system
from recollect.errors import InvalidInput, Unavailable

PIECE_TOKENS = 8192  # that a policy is given at once; it cuts them into its own chunks
Progress = Callable[[str], None]


def policies() -> list[str]:
    """The keys of the policies in the catalogue, of RAPID, and of peers that may stand beside them."""
    keys = [entry.key for entry in SYSTEMS if entry.home == "context" and hasattr(_class(entry.key), "attach")]
    return [*keys, RAPID, *PEERS]


def _class(key: str) -> Any:
    module, name = system(key).target.split(":")
    return getattr(import_module(module), name)


def looks_up(key: str) -> bool:
    """Whether this is a policy that looks up in what is old."""
    return key not in PEERS and hasattr(_class(key), "look_up_tokens")


def parse_settings(texts: Sequence[str], keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings of the policies `keys` from texts as "infllm.num_blocks=32". Raises InvalidInput for any other text."""
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, _, value = text.partition("=")
        key, _, name = place.strip().partition(".")
        if key not in keys or key in (RAPID, *PEERS):
            raise InvalidInput(f"set: {text!r:.60} names no policy that is measured; give it as infllm.num_blocks=32.")
        known = {each.name: each.default for each in fields(_class(key)) if isinstance(each.default, int | float | str)}
        if name not in known:
            raise InvalidInput(f"set: {key} has no setting {name!r:.40}; it has {', '.join(known)}.")
        try:
            settings.setdefault(key, {})[name] = type(known[name])(value)
        except ValueError:
            kind = type(known[name]).__name__
            raise InvalidInput(f"set: {key}.{name} is {value!r:.40}; give a number ({kind}).") from None
    return settings


def llama(num_layers: int, device: str, dtype: str, width: int = 4096) -> Any:
    """A Llama of random weights; a width below 4,096 keeps the number of heads and shrinks them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=num_layers,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    return model


def run(
    keys: Sequence[str],
    lengths: Sequence[int],
    num_layers: int = 32,
    device: str = "cuda",
    dtype: str = "bfloat16",
    width: int = 4096,
    limits: dict[str, int] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    copied: float | None = None,
    limit_s: float = 120.0,
    num_rows: int = 1,
    seed: int = 0,
    progress: Progress = lambda what: None,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measure full attention and the policies `keys` on `num_rows` streams of `lengths` tokens; one plain JSON object.

    A method stops growing when it runs out of memory, when it has taken `limit_s` seconds, or at its length in `limits`;
    what it did not reach has a row that says why. `settings` are those of policies that shall not have their defaults.
    With `copied`, only this share of what a look-up of a block memory finds has to be copied from host memory (`repeating`).
    `save` is given what there is after each method. Raises InvalidInput without lengths, Unavailable without the device.
    """
    import torch

    if not lengths:
        raise InvalidInput("lengths: give at least one, as 8k,32k.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable("device: this machine has no CUDA device that PyTorch can use; give --device cpu.")
    began, lengths = time.perf_counter(), sorted(set(lengths))
    made = {key: _class(key)(**(settings or {}).get(key, {})) for key in keys if key not in (RAPID, *PEERS)}
    progress("making the model")
    torch.manual_seed(seed)
    model = llama(num_layers, device, dtype, width)
    ids = torch.randint(3, model.config.vocab_size, (num_rows, lengths[-1]), device=device)
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "benchmark": "context-speed",
        "model": {"type": "llama", "layers": num_layers, "width": width, "dtype": dtype},
        **({} if copied is None else {"copied": copied}),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        **provenance(),
    }
    with torch.inference_mode():
        model(ids[:, :PIECE_TOKENS], logits_to_keep=1)  # so that kernels are loaded
        for key in dict.fromkeys([FULL, *keys]):
            reached = [length for length in lengths if length <= (limits or {}).get(key, lengths[-1])]
            if key == FULL:
                own = full_rows(model, ids, reached, limit_s, progress)
            elif key in PEERS:
                own = peer_rows(model, key, ids, reached, progress)
            elif key == RAPID:
                own = rapid_rows(model, ids, reached, seed, progress)
            else:
                policy = made[key]
                if copied is not None and hasattr(policy, "look_up_tokens"):
                    policy = repeating(policy, copied)
                own = _policy(model, key, policy, ids, reached, limit_s, progress)
            rows += own + [
                {"method": key, "length": length, "why_not": "not asked for"} for length in lengths[len(reached) :]
            ]
            clean(device.startswith("cuda"))
            _ratios(rows)
            result |= {"rows": rows, "total_seconds": round(time.perf_counter() - began, 1)}
            save(result)
    return result


def _policy(
    model: Any, key: str, policy: Any, ids: Any, lengths: Sequence[int], limit_s: float, progress: Progress
) -> list[dict[str, Any]]:
    """One row for each length of streams that are read once."""
    import torch

    rows, seconds, read, why = [], 0.0, 0, ""
    told, known, steps, most = {}, {}, 0.0, None
    settings = {name: value for name, value in vars(policy).items() if not name.startswith("_")}
    with policy.attach(model) as memory:
        memory.read(ids[:, :PIECE_TOKENS])  # so that kernels are compiled and loaded
        memory.forget()
        start_peak(ids.is_cuda)
        for length in lengths:
            if not why:
                progress(f"{key}, {length:,} tokens")
                try:
                    while read < length and seconds < limit_s:
                        piece = ids[:, read : min(length, read + PIECE_TOKENS)]
                        seconds += timed(lambda piece=piece: memory.read(piece), ids.is_cuda)
                        read += piece.shape[1]
                    if read < length:
                        why = f"stopped at {read:,} tokens after {seconds:.0f} s"
                    else:
                        most = peak(ids.is_cuda)
                        before, known = memory.memory.checkpoint(), memory.stats()
                        steps = step_seconds(lambda at: model(ids[:, at : at + 1], cache=memory.memory), ids)
                        told = memory.stats()
                        memory.memory.restore(before)
                except torch.OutOfMemoryError:
                    why = "out of device memory"
            if why:
                rows.append({"method": key, "length": length, "why_not": why})
                continue
            size = memory.size_bytes()
            moved = {name: told.get(name, 0) - known.get(name, 0) for name in ("tokens_chosen", "tokens_copied")}
            rows.append(
                {
                    "method": key,
                    "length": length,
                    "rows": len(ids),
                    "prefill_s": round(seconds, 3),
                    "decode_ms": round(1000 * steps, 3),
                    "device_bytes": size.device,
                    "host_bytes": size.host,
                    "peak_bytes": most,
                    "attended_tokens": memory.stats()["attended_tokens"],
                    **{f"decode_{name}": count for name, count in moved.items() if moved["tokens_chosen"]},
                    "settings": settings,
                }
            )
    return rows


def _ratios(rows: list[dict[str, Any]]) -> None:
    """To each row, how many times faster and smaller than full attention of the same length; None where that is unknown."""
    full = {row["length"]: row for row in rows if row["method"] == FULL and "why_not" not in row}
    for row in rows:
        if "why_not" in row or row["method"] == FULL:
            continue
        base = full.get(row["length"])
        for name, theirs, ratio in (
            ("prefill_s", "prefill_s", "prefill_times"),
            ("decode_ms", "decode_ms", "decode_times"),
            ("device_bytes", "device_bytes", "smaller_times"),
            ("decode_ms", "decode_copying_ms", "decode_times_default"),
        ):
            row[ratio] = None
            if base and row[name]:
                row[ratio] = round(base[theirs] / base["rows"] / (row[name] / row["rows"]), 2)


def show(result: dict[str, Any], console: Any) -> None:
    """Print a table: methods down, one line for each length."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("method", overflow="fold", min_width=14)
    for name in ("tokens", "rows", "read s", "step ms", "GB", "host GB", "read x", "decode x", "default x"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["rows"]:
        if "why_not" in row:
            table.add_row(f"{row['method']}: {row['why_not']}", f"{row['length']:,}")
            continue
        sizes = [f"{row[name] / 1e9:,.1f}" for name in ("device_bytes", "host_bytes")]
        ratios = [
            f"{row[name]:.2f}" if row.get(name) else ""
            for name in ("prefill_times", "decode_times", "decode_times_default")
        ]
        times = [f"{row['prefill_s']:.1f}", f"{row['decode_ms']:.1f}"]
        table.add_row(row["method"], f"{row['length']:,}", str(row["rows"]), *times, *sizes, *ratios)
    console.print(table)
    model = result["model"]
    console.print(
        f"{model['layers']} layers of a Llama of width {model['width']:,} with random weights in {model['dtype']}, on "
        f"{result['device']}. GB: on the device. x: times as many tokens a second as full attention with a static cache or the "
        f"default one, whichever is faster; default x: with the default one. {result['total_seconds']:.0f} s."
    )


def plot(result: dict[str, Any], folder: Path, name: str = "context-speed") -> Path:
    """Draw prefill, decoding and device memory against length as `name`.svg in `folder`, all logarithmic.

    Raises Unavailable without matplotlib.
    """
    pyplot = plots.plotter()
    figure, panels = pyplot.subplots(1, 3, figsize=(13.5, 4))
    rows = [row for row in result["rows"] if "why_not" not in row]
    for axes, (figure_of, label) in zip(
        panels,
        (
            ("prefill_s", "s to read"),
            ("decode_ms", "ms for a token"),
            ("device_bytes", "bytes of memory on the device"),
        ),
        strict=True,
    ):
        for key in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == key]
            style = {"color": "black", "linestyle": "--"} if key == FULL else {}
            axes.plot(
                [row["length"] for row in own],
                [row[figure_of] for row in own],
                marker="o",
                markersize=4,
                label=key,
                **style,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel="tokens of input", ylabel=label)
        axes.grid(True, alpha=0.3)
    panels[0].legend(fontsize=8)
    return plots.save(figure, folder, name)
