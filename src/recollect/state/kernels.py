"""Fused kernels for the matrix memories of `scan.recurrence`, on a GPU where flash-linear-attention is installed.

Remembers nothing: `recurrence` gives what its readable twin `scan.recurrence` specifies, or None where it takes no part.
It takes values in bfloat16 and float16; values in float32 too once PyTorch may round factors to TF32
(`torch.set_float32_matmul_precision("high")`), because these kernels do. Products are of the values' type, sums and the
memory in float32. A few tokens without gradient, as in decoding, are exact in float32 and need no such permission. Double
precision, a CPU, decay without the delta rule in float32, and keys of more than `MAX_KEY_SIZE` with decay or the delta rule
stay with the twin.

Papers: Gated Linear Attention, arXiv:2312.06635 (2023), and Kimi Linear, arXiv:2510.26692 (2025), whose kernels decay each
column of the keys by itself; here all columns alike. Those with one decay a head are wrong backwards on Hopper GPUs before
Triton 3.7.1, and refuse.
Cost: sizes are padded to multiples of 16, without decay of 64; decay is written out for each column.

Shapes: B rows, T tokens, H heads, K key size, V value size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_KEY_SIZE = 256
FEW_TOKENS = 16
SIZE, LINEAR_SIZE = (
    16,
    64,
)  # whole multiples of which keys and values have; without decay 48 and 32 came out wrong on an H100
NARROW = (torch.bfloat16, torch.float16)
_on: ContextVar[bool] = ContextVar("kernels", default=True)


class Kernels(NamedTuple):
    """Functions of flash-linear-attention: whole sequences, and token by token without gradient."""

    linear: Callable[..., Any]  # no decay
    decayed: Callable[..., Any]  # decay of each key column
    delta: Callable[..., Any]  # the delta rule, with decay of each key column
    linear_steps: Callable[..., Any]
    delta_steps: Callable[..., Any]


@contextmanager
def off() -> Iterator[None]:
    """No kernels within the block: what is computed there, plain PyTorch computes."""
    token = _on.set(False)
    try:
        yield
    finally:
        _on.reset(token)


@contextmanager
def tuned_among(num_configs: int) -> Iterator[None]:
    """Kernels tuned within the block try their first configuration and others drawn at chance, so many in all: ready sooner,
    perhaps slower.

    A kernel is tuned when it first meets a size, which takes minutes for a layer where all are tried.
    """
    try:
        from triton.runtime.autotuner import Autotuner  # pyright: ignore
    except ImportError:
        yield
        return
    before = Autotuner.prune_configs

    def few(self: Any, given: dict[str, Any]) -> list[Any]:
        first, *others = before(self, given)
        return [first, *Random(0).sample(others, min(num_configs - 1, len(others)))]

    Autotuner.prune_configs = few
    try:
        yield
    finally:
        Autotuner.prune_configs = before


def kernels(device: torch.device) -> Kernels | None:
    """The kernels for a device; None where there are none, or within `off`."""
    return _load() if _on.get() and device.type == "cuda" else None


@cache
def _load() -> Kernels | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what else could be installed
        try:
            from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule  # pyright: ignore
            from fla.ops.gla import chunk_gla  # pyright: ignore
            from fla.ops.kda import chunk_kda  # pyright: ignore
            from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla  # pyright: ignore
        except ImportError:
            return None
    return Kernels(chunk_simple_gla, chunk_gla, chunk_kda, fused_recurrent_simple_gla, fused_recurrent_gated_delta_rule)


def recurrence(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    memory: Tensor,
    log_decay: Tensor | None = None,
    rate: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """([B, T, H, V], memory after the last token) as `scan.recurrence` has it, or None where no kernel fits."""
    found, kind = kernels(values.device), values.dtype
    if found is None or kind not in (*NARROW, torch.float32):
        return None
    given = (queries, keys, values, memory, log_decay, rate)
    learns = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in given)
    log_decay = None if log_decay is None else log_decay.float()
    rate = None if rate is None else rate.float()
    state: dict[str, Any] = {"scale": 1.0, "initial_state": memory.float(), "output_final_state": True}
    if not learns and values.shape[1] < FEW_TOKENS:
        if rate is None:
            return found.linear_steps(queries, keys, values, g=log_decay, **state)
        return found.delta_steps(queries, keys, values, g=log_decay, beta=rate, **state)
    K, V = keys.shape[-1], values.shape[-1]
    if kind not in NARROW and torch.get_float32_matmul_precision() == "highest":
        return None
    if kind not in NARROW and rate is None and log_decay is not None:
        return None  # some configurations of that kernel read misaligned addresses in float32
    if K > MAX_KEY_SIZE and (log_decay is not None or rate is not None):
        return None
    size = LINEAR_SIZE if log_decay is None and rate is None else SIZE
    q, k, v = (F.pad(each, (0, -each.shape[-1] % size)) for each in (queries.to(kind), keys.to(kind), values))
    state["initial_state"] = F.pad(state["initial_state"], (0, -V % size, 0, -K % size))
    columns = None if log_decay is None else log_decay[..., None].expand(q.shape)
    if rate is not None:
        columns = torch.zeros_like(q, dtype=torch.float32) if columns is None else columns
        y, after = found.delta(q, k, v, columns, rate, **state)
    elif columns is not None:
        y, after = found.decayed(q, k, v, columns, **state)
    else:
        y, after = found.linear(q, k, v, **state)
    return y[..., :V], after[..., :K, :V]
