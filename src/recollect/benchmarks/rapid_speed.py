"""Speed of RAPID on a model of random weights, for context_speed.py.

The model drafts for itself, drawing from what it says, without transfer. How many drafts stay is not that of a trained model; a row
tells the share, and what a drafted token and a check cost, from which the time at any other share follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recollect.benchmarks.clock import clean, peak, start_peak

RAPID = "rapid"
REPLY_TOKENS, QUESTION_TOKENS = 96, 64


class _Numbers:
    """Tokens as their numbers, for a model that knows no text."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, token_ids: Any) -> str:
        return " ".join(str(token) for token in token_ids)


def rapid_rows(
    model: Any, ids: Any, lengths: Sequence[int], seed: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row for each length, the context read anew; what is decoded is what is said, by its mean time."""
    import torch

    from recollect.context.rapid import RAPID as Rapid

    policy, config, rows = Rapid(transfer=0.0, least_confidence=0.0), model.config, []
    bytes_a_token = 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
    for length in lengths:
        progress(f"{RAPID}, {length:,} tokens")
        tokens = ids[0, :length].tolist()
        context, question = tokens[:-QUESTION_TOKENS], tokens[-QUESTION_TOKENS:]
        generator = torch.Generator(ids.device).manual_seed(seed)
        try:
            start_peak(ids.is_cuda)
            found = policy.generate(model, _Numbers(), context, question, REPLY_TOKENS, generator=generator).stats
        except torch.OutOfMemoryError:
            rows.append({"method": RAPID, "length": length, "why_not": "out of device memory"})
            continue
        finally:
            most = peak(ids.is_cuda)
            clean(ids.is_cuda)
        seconds = found["draft_seconds"] + found["target_seconds"]
        rows.append(
            {
                "method": RAPID,
                "length": length,
                "rows": 1,
                "prefill_s": round(found["prefill_seconds"], 3),
                "decode_ms": round(1000 * seconds / found["tokens"], 3),
                "device_bytes": int((length + found["draft_tokens"] + found["tokens"]) * bytes_a_token),
                "host_bytes": 0,
                "peak_bytes": most,
                "attended_tokens": length,
                "acceptance": round(found["acceptance"], 4),
                "tokens_a_check": round(found["tokens_per_call"], 2),
                "draft_ms": round(1000 * found["draft_seconds"] / found["drafted"], 3),
                "check_ms": round(1000 * found["target_seconds"] / found["target_calls"], 3),
            }
        )
    return rows
