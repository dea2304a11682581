"""PromptTPP: a model of events in continuous time with a pool of small prompts that the history retrieves.

Remembers, in pools beside a frozen-size model, keys and structural prompts. What has happened so far retrieves the nearest
keys; their prompts, joined with the code of an estimated next time, stand beside the events as keys and values of
attention. A stream that changes, and changes back, finds its old prompts again: no rows are kept, no task is told.

Paper: Prompt-augmented Temporal Point Process for Streaming Event Sequence, arXiv:2310.04993 (2023), sections 3 and 4; the
base model is the attentive neural Hawkes process.
Differs: every position retrieves by the mean of what came before it, where the authors' program takes the mean of the whole
sequence and lets the batch vote, so that events see their future and their neighbours; one set of keys retrieves the prompts
of attention's keys and values; the key loss is a mean; integrals use midpoints; next times are expectations on a grid
instead of samples.
Cost: M (1 + 2 Lp) numbers of width d for each head and layer; attention over M Lp more keys.

Legend: B sequences, T events, Q times that are asked about, K types, d width of types, z width of times, H heads, M entries
of a pool, Lp prompts of an entry, N entries retrieved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.errors import InvalidInput
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner


@dataclass(frozen=True)
class PoolSettings:
    """A pool of temporal prompts; the paper's program has these values."""

    num_entries: int = 10
    prompt_length: int = 5
    num_retrieved: int = 5
    key_loss: float = 0.1
    with_time: bool = True  # the code of the estimated next time is joined to the prompts


class TemporalPromptPool(nn.Module):
    """Keys [M, d + z] and the structural prompts of attention's keys and of its values [M Lp, d] each."""

    def __init__(self, settings: PoolSettings, dim: int, time_dim: int) -> None:
        super().__init__()
        M, Lp = settings.num_entries, settings.prompt_length
        self.settings = settings
        self.keys = nn.Parameter(torch.empty(M, dim + time_dim).uniform_(-1, 1))
        self.for_keys, self.for_values = (nn.Parameter(torch.empty(M * Lp, dim).uniform_(-1, 1)) for _ in range(2))

    def retrieve(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """(which entries [B, Q, M], their mean cosine with the history [B, Q]) for summaries of it [B, Q, d + z]."""
        cosines = F.normalize(history, dim=-1) @ F.normalize(self.keys, dim=-1).T
        found = cosines.topk(self.settings.num_retrieved, dim=-1)
        chosen = torch.zeros_like(cosines, dtype=torch.bool).scatter_(-1, found.indices, True)
        return chosen, found.values.mean(-1)


class _Attention(nn.Module):
    """One head of one layer: what has been seen, oneself and the retrieved prompts are attended to."""

    def __init__(self, dim: int, time_dim: int, settings: PoolSettings | None) -> None:
        super().__init__()
        width = dim + time_dim
        self.dim = dim
        self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.value = nn.Linear(width, dim, bias=False)
        self.pool = TemporalPromptPool(settings, dim, time_dim) if settings else None
        self.likeness = torch.zeros(())  # of the last forward pass: mean cosine of retrieved keys
        self.chosen: Tensor | None = None  # and which entries were retrieved [B, Q, M]

    def forward(self, asked: Tensor, events: Tensor, sees: Tensor, next_code: Tensor) -> Tensor:
        """[B, Q, d] for asked positions [B, Q, d + z], events [B, T, d + z] and a mask [B, Q, T] of what each sees.

        `next_code` [B, Q, z] is that of the estimated next time, the temporal half of every prompt.
        """
        q, values = self.query(asked), self.value(events)
        scores = [
            (q @ self.key(events).transpose(1, 2)).masked_fill(~sees, -torch.inf),
            (q * self.key(asked)).sum(-1, True),
        ]
        if self.pool is not None:
            self.chosen, likeness = self.pool.retrieve(_mean(events, sees))
            self.likeness = likeness.mean()
            prompts = self.pool.for_keys @ self.key.weight[:, : self.dim].T  # [M Lp, d + z]
            of_time = (q * (next_code @ self.key.weight[:, self.dim :].T)).sum(-1, True)
            length = self.pool.settings.prompt_length
            scores.append((q @ prompts.T + of_time).masked_fill(~self.chosen.repeat_interleave(length, -1), -torch.inf))
        weights = (torch.cat(scores, -1) * asked.shape[-1] ** -0.5).softmax(-1)
        T = events.shape[1]
        out = weights[..., :T] @ values + weights[..., T : T + 1] * self.value(asked)
        if self.pool is not None:
            given = weights[..., T + 1 :]
            out = out + given @ (self.pool.for_values @ self.value.weight[:, : self.dim].T)
            out = out + given.sum(-1, True) * (next_code @ self.value.weight[:, self.dim :].T)
        return out


class PromptTPP(nn.Module):
    """The point process. Without `pool` it is the attentive neural Hawkes process alone.

    Called with a batch of `times` [B, T] (growing, from 0) and `types` [B, T], and a `mask` of true events where sequences
    are padded, it returns an output with `loss`: the negative log-likelihood an event, with the pool's key loss.
    """

    def __init__(
        self,
        num_types: int,
        dim: int = 32,
        time_dim: int = 16,
        num_layers: int = 2,
        num_heads: int = 2,
        pool: PoolSettings | None = PoolSettings(),
        num_points: int = 20,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if time_dim % 2:
            raise InvalidInput(f"time_dim: {time_dim} is odd; use an even number, a sine and a cosine each.")
        self.num_points, self.time_scale, self.dim, self.pool = num_points, time_scale, dim, pool
        self.embedding = nn.ModuleList([nn.Embedding(num_types, dim) for _ in range(num_heads)])
        self.heads = nn.ModuleList(
            [nn.ModuleList([_Attention(dim, time_dim, pool) for _ in range(num_layers)]) for _ in range(num_heads)]
        )
        self.rates = nn.Linear(num_heads * dim, num_types)
        self.register_buffer("frequencies", 10000.0 ** (-torch.arange(0, time_dim, 2) / time_dim))

    def forward(self, times: Tensor, types: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        """An output with `loss`, `nll` (nats an event) and `likeness` (mean cosine of retrieved keys)."""
        from transformers.utils.generic import ModelOutput

        nll = self.nll(times, types, mask)
        parts = [layer.likeness for head in self.heads for layer in head]  # type: ignore[union-attr]
        likeness = torch.stack(parts).mean()
        loss = nll - self.pool.key_loss * likeness if self.pool else nll
        return ModelOutput(loss=loss, nll=nll.detach(), likeness=likeness.detach())

    def nll(self, times: Tensor, types: Tensor, mask: Tensor | None = None) -> Tensor:
        """-(sum of log lambda_{e_j}(t_j) - integral of all rates up to the last event), an event."""
        B, T = times.shape
        mask = torch.ones_like(types, dtype=torch.bool) if mask is None else mask.bool()
        before = F.pad(times[:, :-1], (1, 0))
        gaps = ((times - before) * mask).clamp(min=0)  # [B, T]
        middles = (torch.arange(self.num_points, device=times.device) + 0.5) / self.num_points
        points = (before[..., None] + gaps[..., None] * middles).flatten(1)  # [B, T points]
        rates = self.intensity(times, types, torch.cat([times, points], 1), mask)  # [B, T + T points, K]
        at_events = rates[:, :T].gather(-1, types[..., None])[..., 0].clamp(min=1e-9).log()
        total = rates[:, T:].sum(-1).view(B, T, self.num_points).mean(-1) * gaps
        return ((total - at_events) * mask).sum() / mask.sum()

    def intensity(self, times: Tensor, types: Tensor, asked: Tensor, mask: Tensor | None = None) -> Tensor:
        """lambda_e(t) [B, Q, K] at times [B, Q], each by the events strictly before it."""
        mask = torch.ones_like(types, dtype=torch.bool) if mask is None else mask.bool()
        event_code, asked_code = self._code(times), self._code(asked)
        past = (times[:, None, :] < asked[:, :, None]) & mask[:, None, :]
        own = torch.ones_like(past[:, :1]).expand(-1, times.shape[1], -1).tril() & mask[:, None, :]
        next_past, next_own = (self._code(self._next_time(times, seen)) for seen in (past, own))
        if self.pool and not self.pool.with_time:
            next_past, next_own = torch.zeros_like(next_past), torch.zeros_like(next_own)
        states = []
        for embedding, layers in zip(self.embedding, self.heads, strict=True):
            event, state = embedding(types).tanh(), asked_code.new_zeros(*asked.shape, self.dim)
            for layer in layers:  # type: ignore[union-attr]
                events, positions = torch.cat([event, event_code], -1), torch.cat([state, asked_code], -1)
                event_new = event + layer(events, events, own, next_own).tanh()
                state = state + layer(positions, events, past, next_past).tanh()
                event = event_new
            states.append(state)
        return F.softplus(self.rates(torch.cat(states, -1)))

    @torch.no_grad()
    def predict_next(self, times: Tensor, types: Tensor, num_points: int = 200) -> tuple[Tensor, Tensor]:
        """(time [B], type [B]) of the event after the last: the expected time, and the likeliest type at it."""
        gap = (times[:, -1] - times[:, 0]) / max(1, times.shape[1] - 1)
        steps = (torch.arange(num_points, device=times.device) + 0.5) / num_points * 10
        ahead = gap[:, None] * steps
        rates = self.intensity(times, types, times[:, -1:] + ahead).sum(-1)
        width = gap[:, None] * 10 / num_points
        survived = (-(rates * width).cumsum(1)).exp()
        density = rates * survived * width
        when = times[:, -1] + (density * ahead).sum(1) / density.sum(1).clamp(min=1e-9)
        return when, self.intensity(times, types, when[:, None])[:, 0].argmax(-1)

    @torch.no_grad()
    def usage(self, times: Tensor, types: Tensor) -> Tensor:
        """Which entries of each pool are retrieved by whole sequences [heads, layers, B, M], 1 or 0."""
        if not self.pool:
            raise InvalidInput("pool: this model has none; make it with PoolSettings().")
        self.intensity(times, types, times[:, -1:] + 1e-3)
        return torch.stack([torch.stack([layer.chosen[:, 0] for layer in head]) for head in self.heads]).float()  # type: ignore[union-attr]

    def prompt_parameters(self) -> list[nn.Parameter]:
        """The parameters of all pools."""
        return [each for name, each in self.named_parameters() if ".pool." in name]

    def _code(self, times: Tensor) -> Tensor:
        """Sines and cosines of times [..., z]."""
        angle = (times / self.time_scale)[..., None] * self.frequencies  # type: ignore[operator]
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)

    def _next_time(self, times: Tensor, seen: Tensor) -> Tensor:
        """The estimated time to the next event [B, Q]: the first gap plus the mean gap of what each has seen."""
        count = seen.sum(-1)
        last = (times[:, None, :] * seen).amax(-1)
        first = times[:, :1]
        return (first + last / count.clamp(min=1)) * (count > 0)


def _mean(events: Tensor, seen: Tensor) -> Tensor:
    """The mean of the seen events of each position [B, Q, width]; zeros where nothing has been seen."""
    seen = seen.to(events)
    return seen @ events / seen.sum(-1, True).clamp(min=1)


@dataclass
class Asynchronous(Method):
    """Prompts learn in every `period`-th step only, the rest of the model in all; for models with `prompt_parameters`."""

    period: int = 2

    @classmethod
    def idle(cls) -> Self:
        """Prompts learn in every step."""
        return cls(period=1)

    def after_backward(self, learner: Learner) -> None:
        """Drop the prompts' gradients in the steps between."""
        prompts = getattr(learner.model, "prompt_parameters", list)
        if learner.total_steps % self.period:
            for each in prompts():
                each.grad = None
