"""Surprise: how little the model expected a token, -log P(token | what it had read), in nats."""

from __future__ import annotations

from torch import Tensor, cat
from torch.nn.functional import cross_entropy

from recollect.context.cache import State


def surprise(state: State, input_ids: Tensor, logits: Tensor) -> Tensor:
    """Surprise [B, T] of tokens [B, T] under logits [B, T, V], computed in float32.

    The first token of a chunk is judged by the last logits of the chunk before, which `state` keeps as `last_logits`
    [B, V]; the very first token of a stream, which nothing predicts, gets the greatest surprise of its chunk (0 when it
    is alone).
    """
    first = state.get("last_logits")
    state["last_logits"] = logits[:, -1].float().clone()
    before, tokens = (
        (logits[:, :-1], input_ids[:, 1:])
        if first is None
        else (cat([first[:, None].to(logits.dtype), logits[:, :-1]], 1), input_ids)
    )
    scores = cross_entropy(before.flatten(0, 1).float(), tokens.flatten(), reduction="none").view(tokens.shape)
    if first is not None:
        return scores
    most = scores.amax(dim=1, keepdim=True) if scores.shape[1] else scores.new_zeros(len(scores), 1)
    return cat([most, scores], dim=1)
