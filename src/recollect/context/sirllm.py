"""SirLLM: spend the cache on the tokens that surprised the model, and let their importance fade turn by turn.

Remembers the first `num_sink_tokens`, the last `num_recent_tokens` and, of all the rest, the `num_entropy_tokens` with the
greatest surprise -log P(token | past), one score a token for all layers and heads. Each turn multiplies the kept scores
by `decay`: 1 keeps by salience alone, towards 0 by recency. Positions are those in the cache.

Paper: SirLLM: Streaming Infinite Retentive LLM, arXiv:2405.12528 (2024), section 3; it calls the surprise "token entropy".
Differs: the score is the paper's formula, where the authors' code shifts it by one token. The first token of a turn is
judged by the logits before it, so that a template's first token is not kept for ever. Tokens are evicted before every
chunk and every generated token, not once a turn, so that the budget holds within long turns too.
Cost: (sinks + recent + entropy tokens) * layers * key-value heads * head size * 2 values, and the last logits; O(kept) a
token, and the logits of every token that is read.

Shapes: B rows, H query heads, G key-value heads, T new tokens, S kept tokens, D head size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from recollect.context.attention import Band, Part, attend_fused
from recollect.context.cache import Layer, Unit
from recollect.context.policy import ContextMemory
from recollect.context.surprise import surprise
from recollect.errors import InvalidInput


@dataclass
class SirLLM(ContextMemory):
    """Surprise with decay (the paper's settings for its grocery task)."""

    needs_logits: ClassVar[bool] = True

    num_sink_tokens: int = 4
    num_recent_tokens: int = 0
    num_entropy_tokens: int = 1020
    decay: float = 1.0  # a turn; the paper: 1.0 for one fact, 0.9 for a player's habit, 0.7 for small talk

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(num_sink_tokens=0, num_recent_tokens=0, num_entropy_tokens=1, decay=0.0)
        if self.chunk_tokens > self.num_entropy_tokens:
            most = self.num_entropy_tokens
            raise InvalidInput(
                f"chunk_tokens: {self.chunk_tokens} would evict everything; use {most} (num_entropy_tokens) or fewer."
            )

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Self:
        """Up to 4 sinks, a quarter recent, the rest by surprise."""
        num_sinks, num_recent = min(4, attended_tokens // 4), attended_tokens // 4
        salient = attended_tokens - num_sinks - num_recent
        return cls(
            chunk_tokens=max(1, salient // 4),
            num_sink_tokens=num_sinks,
            num_recent_tokens=num_recent,
            num_entropy_tokens=salient,
        )

    def begin_turn(self, unit: Unit) -> None:
        """Scores fade."""
        if "scores" in unit.shared:
            unit.shared["scores"] = unit.shared["scores"] * self.decay

    def before_chunk(self, unit: Unit, num_tokens: int) -> None:
        """Evict until the chunk fits, the same tokens in every layer."""
        scores = unit.shared.get("scores")
        budget = self.num_sink_tokens + self.num_recent_tokens + self.num_entropy_tokens
        if scores is None or scores.shape[1] + num_tokens <= budget:
            return
        keep = self.choose(scores, budget - num_tokens, self.num_entropy_tokens - num_tokens)
        unit.shared["scores"] = scores.gather(1, keep)
        for state in unit.layers:
            for name in ("keys", "values"):
                if name in state:  # a layer with a window of its own looks after itself
                    state[name] = _gather(state[name], keep)

    def choose(self, scores: Tensor, room: int, num_salient: int) -> Tensor:
        """Which `room` of the tokens with these scores [B, S] stay, in order: [B, room].

        The sinks, the recent ones and the `num_salient` with the greatest scores; as many of these may be the same
        token, what room is left goes to the newest.
        """
        B, S = scores.shape
        chosen = torch.zeros(B, S, dtype=torch.bool, device=scores.device)
        chosen.scatter_(1, scores.topk(min(num_salient, S), dim=1).indices, True)
        chosen[:, : self.num_sink_tokens] = True
        chosen[:, S - self.num_recent_tokens :] = True
        order = chosen * S + torch.arange(S, device=scores.device)
        return order.topk(room, dim=1).indices.sort(dim=1).values

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Everything that is kept, at its place in the cache."""
        state, T = layer.state, keys.shape[2]
        if "keys" in state:
            keys = torch.cat([state["keys"], keys], dim=2)
            values = torch.cat([state["values"], values], dim=2)
        state["keys"], state["values"] = keys, values
        S = keys.shape[2]
        turned = layer.rotate(queries, slice(S - T, S), S)
        return attend_fused([Part(turned, layer.rotate(keys, slice(S), S), values, Band(S - T))], layer)

    def after_chunk(self, unit: Unit, input_ids: Tensor, logits: Tensor) -> None:
        """Score the tokens that were read."""
        new = surprise(unit.shared, input_ids, logits.detach())
        known = unit.shared.get("scores")
        unit.shared["scores"] = new if known is None else torch.cat([known, new], dim=1)


def _gather(x: Tensor, keep: Tensor) -> Tensor:
    """Tokens `keep` [B, K] of `x` [B, G, S, D]."""
    return x.gather(2, keep[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
