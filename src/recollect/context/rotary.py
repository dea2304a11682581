"""Rotary positions, applied when attention is computed, so that a policy may place a cached key wherever it likes.

While a policy is attached, the model's own `rotary_emb` is replaced by `Unrotated`, whose cosines are 1 and whose sines
are 0: the model hands out queries and keys as they were before rotation. `Rotary` turns them later, with a copy of the
original module and as the family's own `apply_rotary_pos_emb` does, so that scaling (linear, dynamic, YaRN, Llama 3,
LongRoPE), partial rotation and the layout of the pairs are the model's. That function is called only where it pairs other
channels than nearly all families do, who pair the first half of the turned ones with the second.

Shapes: B batch, H heads, S tokens, D head size, R rotated part of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Places = Tensor | slice  # positions [S], or a slice of positions; a single one is that of all tokens
Rotate = Callable[[Tensor, Places, int], Tensor]


class Unrotated(nn.Module):
    """Stands for a model's `rotary_emb`: cosines of 1 and sines of 0, [1, S, R], or the `angles` that were set."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.angles: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, position_ids: Tensor | None = None, layer_type: str | None = None):
        """(cosines, sines) that leave queries and keys as they are, unless others were set."""
        if self.angles is not None:
            return self.angles
        shape = (1, x.shape[1], self.width)
        return x.new_ones(shape), x.new_zeros(shape)


class _Table(NamedTuple):
    """Cosines and sines of places from 0 on, [rows, R]."""

    cos: Tensor
    sin: Tensor
    is_still: bool  # at place 0 nothing is changed: no scaling stretches the vectors


class Rotary:
    """Turns queries and keys to positions. One for a model; `of(layer_type)` gives the function for a kind of layer."""

    def __init__(self, module: nn.Module, apply: Callable[..., tuple[Tensor, Tensor]]):
        self.module = copy.deepcopy(module)
        self.apply = apply
        self._tables: dict[Any, _Table] = {}
        self._by_halves: bool | None = None  # whether `apply` pairs channel j with j + R / 2; None: not yet known

    def of(self, layer_type: str | None) -> Rotate:
        """The function `rotate(x, positions, length)` for layers of this type (None: the model knows only one)."""
        return partial(self.rotate, layer_type=layer_type)

    def is_fixed(self, layer_type: str | None) -> bool:
        """Whether the angles are those of the place alone, however long the input is."""
        return self._trained_length(layer_type) is None

    def width(self, layer_type: str | None = None) -> int:
        """R: how much of the head is turned."""
        return self._compute(torch.zeros(1), 1, layer_type)[0].shape[-1]

    def rotate(self, x: Tensor, positions: Places, length: int, layer_type: str | None = None) -> Tensor:
        """`x` [B, H, S, D] turned to `positions` [S], each from 0 to `length` - 1.

        Scalings that depend on the length of the input (dynamic, LongRoPE) see `length`, so queries and keys that meet
        must be given the same one.
        """
        if isinstance(positions, slice) and positions.stop == 1 and self._table(x, length, layer_type).is_still:
            return x
        return self.turned(x, *self.angles(x, positions, length, layer_type))

    def rotate_back(self, x: Tensor, positions: Places, length: int, layer_type: str | None = None) -> Tensor:
        """What `rotate` made `x` [B, H, S, D] of, up to rounding."""
        cos, sin = self.angles(x, positions, length, layer_type)
        scale = cos * cos + sin * sin  # not 1 where a scaling stretches the vectors too
        return self.turned(x, cos / scale, -sin / scale)

    def angles(self, x: Tensor, positions: Places, length: int, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        """(cosines, sines) [1, S, R] of `positions` [S], each from 0 to `length` - 1, in the type of `x`."""
        table = self._table(x, length, layer_type)
        return table.cos[positions][None], table.sin[positions][None]

    def turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` [B, H, S, D] turned by angles that `angles` gave."""
        width = cos.shape[-1]
        if self._by_halves is None:
            sample = torch.linspace(-1.0, 1.0, 2 * width).view(1, 1, 2, width)
            angles = sample[0, :, :, : width // 2].repeat(1, 1, 2)  # both channels of a pair turn alike
            ours = _turned_by_halves(sample, angles.cos(), angles.sin())
            self._by_halves = torch.allclose(ours, self.apply(sample, sample, angles.cos(), angles.sin())[0])
        if self._by_halves:
            turned = _turned_by_halves(x[..., :width], cos, sin)
        else:
            turned, _ = self.apply(x[..., :width], x[:, :0, :, :width], cos, sin)
        return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], dim=-1)

    def _table(self, x: Tensor, length: int, layer_type: str | None) -> _Table:
        """Cosines and sines [at least `length`, R] in the type of `x`, kept for the layers and calls that follow."""
        trained = self._trained_length(layer_type)
        if trained is None:
            rows = 1 << max(length - 1, 63).bit_length()  # grown by doubling
        else:
            rows = max(length, trained)
        key = (layer_type, x.dtype, x.device)
        known = self._tables.get(key)
        if known is None or (len(known.cos) < rows if trained is None else len(known.cos) != rows):
            cos, sin = self._compute(x, rows, layer_type)
            is_still = bool((cos[0, 0] == 1).all() and (sin[0, 0] == 0).all())
            known = self._tables[key] = _Table(cos[0], sin[0], is_still)
        return known

    def _compute(self, x: Tensor, rows: int, layer_type: str | None) -> tuple[Tensor, Tensor]:
        module = copy.deepcopy(self.module)  # one that no earlier length has changed
        positions = torch.arange(rows, device=x.device)[None]
        with torch.no_grad():
            return module(x, positions) if layer_type is None else module(x, positions, layer_type)

    def _trained_length(self, layer_type: str | None) -> int | None:
        """For a scaling whose frequencies depend on the length: the length up to which they do not; else None."""
        kind = getattr(self.module, "rope_type", "default")
        parameters = getattr(getattr(self.module, "config", None), "rope_parameters", None) or {}
        if isinstance(kind, dict):
            kind, parameters = kind.get(layer_type), parameters.get(layer_type) or {}
        if kind == "longrope":
            return parameters["original_max_position_embeddings"]
        if "dynamic" in str(kind):
            return int(self.module.original_max_seq_len)  # type: ignore[arg-type]
        return None


def _turned_by_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [B, H, S, R] turned by angles [1, S, R], channel j together with j + R / 2."""
    half, cos, sin = x.shape[-1] // 2, cos[:, None], sin[:, None]
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return turned
