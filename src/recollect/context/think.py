"""ThinK: keys that have left the recent tokens lose the channels that matter least to the queries.

Remembers every key and value, or the `num_kept_tokens` that got most attention (as H2O does, which the paper builds on).
The last `recent_tokens` keep whole keys. When tokens leave them for the first time, each key-value head chooses the
channels to keep: channel j of queries and keys adds a matrix of rank one to the scores, of norm |Q_j| |K_j|, and the
channels with the greatest norms stay. Old keys are stored without the others; values stay whole.

Paper: ThinK: Thinner Key Cache by Query-Driven Pruning, arXiv:2407.21018 (2024), section 3.2.
Differs: one choice a key-value head, where the authors' code repeats keys for every query head first. Tokens that leave the
recent ones later are thinned by the same choice, where theirs keep whole keys. An input longer than `chunk_tokens` is
thinned while it is read, so that its later chunks meet thin keys. With `far_distance_tokens`, old keys stand at one distance.
Cost: an old token: (1 - ratio) * D + D values a head and layer; D numbers a head once. O(kept + recent) a token.

Shapes: B rows, H query heads, G key-value heads, T new tokens, R recent tokens, S old tokens, D head size, K channels kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from recollect.context.attention import Band, Part, attend, attend_in_pieces, tail
from recollect.context.cache import Layer
from recollect.context.far import place_keys, place_queries
from recollect.context.policy import ContextMemory
from recollect.errors import InvalidInput


@dataclass
class ThinK(ContextMemory):
    """Key channels pruned by the queries (the paper's 40%)."""

    ratio: float = 0.4  # share of the channels that is dropped
    num_observed_queries: int = 32  # the last ones, which choose the channels
    recent_tokens: int = 32  # whose keys stay whole
    batch_tokens: int = 32  # that many leave the recent ones together, so that the cache is seldom rewritten
    num_kept_tokens: int | None = None  # old tokens kept a head, by the attention that they got; None: all
    far_distance_tokens: int | None = None  # old keys stand this far from every query; None: at their true distance

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(num_observed_queries=1, recent_tokens=1, batch_tokens=1)
        for name in ("num_kept_tokens", "far_distance_tokens"):
            if getattr(self, name) is not None:
                self.check(**{name: 1})
        if not 0 <= self.ratio < 1:
            raise InvalidInput(f"ratio: {self.ratio} is no share that can be dropped; use 0 or more, and less than 1.")

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Self:
        """Half old tokens, by the attention that they got; they stand at the far end of what is recent."""
        chunk, recent = max(1, attended_tokens // 16), max(1, attended_tokens // 4)
        batch = max(1, attended_tokens // 8)
        kept = max(1, attended_tokens - recent - batch - 2 * chunk)
        return cls(
            chunk_tokens=chunk,
            recent_tokens=recent,
            batch_tokens=batch,
            num_kept_tokens=kept,
            far_distance_tokens=recent + batch,
        )

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Whole recent keys at their true distances and thin old ones under one softmax; then thin what became old."""
        state, T, H = layer.state, queries.shape[2], queries.shape[1]
        known = state["keys"].shape[2] if "keys" in state else 0
        if known:
            keys = torch.cat([state["keys"], keys], dim=2)
            values = torch.cat([state["values"], values], dim=2)
        R = keys.shape[2]
        turned = layer.rotate(queries, slice(R - T, R), R)
        parts = [Part(turned, layer.rotate(keys, slice(R), R), values, Band(R - T))]
        if "thin_keys" in state:
            placed = place_queries(layer, queries, layer.num_read, self.far_distance_tokens)
            thin = _channels(placed, state["channels"].repeat_interleave(H // keys.shape[1], dim=1))
            parts.append(Part(thin, state["thin_keys"], state["thin_values"]))
        state["keys"], state["values"] = keys, values
        if self.num_kept_tokens is None:
            output = attend_in_pieces(parts, layer)
        else:
            output, weights = attend(parts, layer)
            self._credit(layer, weights, known)
        if "channels" not in state:
            seen = torch.cat([state["queries"], queries], dim=2) if "queries" in state else queries
            state["queries"] = tail(seen.detach(), self.num_observed_queries)
        if self.recent_tokens + self.batch_tokens <= R:
            self._thin(layer, layer.num_read + T)
        return output

    def score(self, queries: Tensor, keys: Tensor) -> Tensor:
        """What each channel adds to the scores, |Q_j| |K_j| squared, [B, G, D] in float32, over the query heads of a group.

        Queries [B, H, O, D] that were observed, keys [B, G, S, D], turned to where they meet.
        """
        B, G, _, D = keys.shape
        of_queries = queries.float().square().mean(dim=2).view(B, G, -1, D).mean(dim=2)
        return of_queries * keys.float().square().mean(dim=2)

    def _thin(self, layer: Layer, num_read: int) -> None:
        """Move all but the `recent_tokens` of the recent tokens among the old ones, without the channels dropped."""
        state, distance = layer.state, self.far_distance_tokens
        R = state["keys"].shape[2]
        split, start = R - self.recent_tokens, num_read - R
        placed = place_keys(layer, state["keys"].detach(), start, distance)
        values = state["values"][:, :, :split].detach()
        if "channels" not in state:
            observed = state.pop("queries")
            turned = place_queries(layer, observed, num_read - observed.shape[2], distance)
            num = int((1 - self.ratio) * placed.shape[-1])
            state["channels"] = self.score(turned, placed).topk(max(1, num), dim=-1).indices.sort(dim=-1).values
        thin = _channels(placed[:, :, :split], state["channels"])
        new = {"thin_keys": thin, "thin_values": values}
        if self.num_kept_tokens is not None:
            new["thin_mass"] = state["mass"][:, :, :split]
            state["mass"] = state["mass"][:, :, split:].clone()
        for name, each in new.items():
            state[name] = torch.cat([state[name], each], dim=2) if name in state else each.clone()
        state["keys"], state["values"] = tail(state["keys"], R - split), tail(state["values"], R - split)
        if self.num_kept_tokens is not None and state["thin_keys"].shape[2] > self.num_kept_tokens:
            best = state["thin_mass"].topk(self.num_kept_tokens, dim=2).indices.sort(dim=2).values
            for name in ("thin_keys", "thin_values"):
                state[name] = state[name].gather(2, best[..., None].expand(-1, -1, -1, state[name].shape[-1]))
            state["thin_mass"] = state["thin_mass"].gather(2, best)

    def _credit(self, layer: Layer, weights: list[Tensor], known: int) -> None:
        """Add the attention of this chunk, weights [B, H, T, .] of recent and old tokens, to what each token got so far."""
        state, G = layer.state, layer.state["keys"].shape[1]
        got = [each.detach().unflatten(1, (G, -1)).sum(dim=(2, 3)) for each in weights]  # [B, G, .]
        if known:
            got[0][..., :known] += state["mass"]
        state["mass"] = got[0]
        if "thin_mass" in state:
            state["thin_mass"] = state["thin_mass"] + got[1]


def _channels(x: Tensor, channels: Tensor) -> Tensor:
    """The channels [B, G, K] of `x` [B, G, S, D], as [B, G, S, K]."""
    return x.gather(-1, channels[:, :, None].expand(-1, -1, x.shape[2], -1))
