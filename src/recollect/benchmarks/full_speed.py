"""Speed of full attention, and of kvpress, which reads as it does, for context_speed.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recollect.benchmarks.clock import clean, peak, start_peak, timed

FULL = "full"
PEERS = ("kvpress:streaming-llm", "kvpress:think")
KEPT_TOKENS = 1024  # by kvpress's StreamingLLM, as by ours
DECODE_STEPS = 128  # the length of a block: in so many, what has left the window is packed away once
WARM_STEPS = 8


def peer_rows(
    model: Any, key: str, ids: Any, lengths: Sequence[int], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row for each length: kvpress reads it in one piece and prunes what was kept."""
    import torch
    from transformers import DynamicCache

    try:
        import kvpress  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return [{"method": key, "length": length, "why_not": f"{error.name} is not installed"} for length in lengths]
    rows = []
    for length in lengths:
        progress(f"{key}, {length:,} tokens")
        if key == "kvpress:think":
            press = kvpress.ThinKPress(key_channel_compression_ratio=0.4)
        else:
            press = kvpress.StreamingLLMPress(compression_ratio=max(0.0, 1 - KEPT_TOKENS / length))
        try:
            start_peak(ids.is_cuda)
            cache = DynamicCache()
            with press(model):
                places = torch.arange(length, device=ids.device)  # told as older transformers told it
                options = {"cache": cache, "cache_position": places, "logits_to_keep": 1}
                read = timed(lambda length=length, options=options: model(ids[:, :length], **options), ids.is_cuda)
            most = peak(ids.is_cuda)
            layers: Any = cache.layers
            row = {
                "rows": len(ids),
                "prefill_s": round(read, 3),
                "device_bytes": sum(layer.keys.nbytes + layer.values.nbytes for layer in layers),
                "host_bytes": 0,
                "peak_bytes": most,
                "attended_tokens": layers[0].keys.shape[2],
            }
            steps = step_seconds(lambda at, cache=cache: model(ids[:, at : at + 1], cache=cache), ids)
            rows.append({"method": key, "length": length, "decode_ms": round(1000 * steps, 3), **row})
        except torch.OutOfMemoryError:
            rows.append({"method": key, "length": length, "why_not": "out of device memory"})
        finally:
            cache = layers = None
            clean(ids.is_cuda)
    return rows


def full_rows(
    model: Any, ids: Any, lengths: Sequence[int], limit_s: float, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row for each length, read anew."""
    import torch

    rows, why = [], ""
    for length in lengths:
        num, found = len(ids), None
        while not why and not found:
            progress(f"{FULL}, {length:,} tokens" + (f", {num} rows" if num > 1 else ""))
            try:
                found = _full_row(model, ids[:num, :length])
            except torch.OutOfMemoryError:
                num //= 2
                why = "" if num else "out of device memory"
            clean(ids.is_cuda)
        rows.append({"method": FULL, "length": length, **(found or {"why_not": why})})
        if found and found["prefill_s"] > limit_s:
            why = f"{length:,} tokens took {found['prefill_s']:.0f} s"
    return rows


def _full_row(model: Any, ids: Any) -> dict[str, Any]:
    """What reading and decoding take. Raises torch.OutOfMemoryError."""
    import torch
    from transformers import DynamicCache, StaticCache

    num, length = ids.shape
    start_peak(ids.is_cuda)
    cache = DynamicCache()
    read = timed(lambda: model(ids, cache=cache, logits_to_keep=1), ids.is_cuda)
    most = peak(ids.is_cuda)
    layers: Any = cache.layers
    size = sum(2 * layer.keys.nbytes for layer in layers)
    copying = step_seconds(lambda at: model(ids[:, at : at + 1], cache=cache), ids)
    fixed = StaticCache(model.config, max_cache_len=length + WARM_STEPS + DECODE_STEPS)
    for number, layer in enumerate(layers):  # moved layer by layer, so that both never lie there whole
        fixed.update(
            layer.keys[:, :, :length],
            layer.values[:, :, :length],
            number,
            {"cache_position": torch.arange(length, device=ids.device)},
        )
        layer.keys = layer.values = None
    static = _static_steps(model, fixed, ids, length)
    return {
        "rows": num,
        "prefill_s": round(read, 3),
        "decode_ms": round(1000 * min(copying, static), 3),
        "decode_copying_ms": round(1000 * copying, 3),
        "decode_static_ms": round(1000 * static, 3),
        "device_bytes": size,
        "host_bytes": 0,
        "peak_bytes": most,
        "attended_tokens": length,
    }


def _static_steps(model: Any, cache: Any, ids: Any, length: int) -> float:
    import torch

    def step(at: int) -> None:
        position = torch.full((len(ids), 1), length + at, device=ids.device)
        model(ids[:, at : at + 1], cache=cache, position_ids=position)

    return step_seconds(step, ids)


def step_seconds(step: Callable[[int], Any], ids: Any) -> float:
    """Mean seconds of a step of decoding; `step(n)` decodes the n-th token, or goes on at the first after the last."""
    steps = [at % ids.shape[1] for at in range(WARM_STEPS + DECODE_STEPS)]
    for at in steps[:WARM_STEPS]:
        step(at)
    return timed(lambda: [step(at) for at in steps[WARM_STEPS:]], ids.is_cuda) / DECODE_STEPS
