"""EM-LLM: the stream is kept as events that begin where the model is surprised, and recall brings their neighbours along.

Remembers everything, as InfLLM does, but in events of varying length. A token whose surprise exceeds the mean of the
recent ones by `gamma` deviations opens an event; cuts may then move to where the keys are best told apart. Each chunk
fetches, once a layer, the events whose representatives match its queries, and the events next to them in time, which stay
in a queue for a while: recalling an episode makes it likelier to recall what followed.

Paper: Human-like Episodic Memory for Infinite Context LLMs, arXiv:2407.09450 (2024), section 3.
Differs: the surprising token opens the event (the authors' code cuts one token before it), a cut may stay where it is when
refined, and likeness is a cosine, so that modularity is defined. Generated tokens are cut by surprise too, and packed when the
longest event is ready. Fetched events are copied from host memory at each look-up; when decoding, those that the look-up before
fetched are not. One look-up may serve several decoded tokens. There is no disk tier.
Cost: as InfLLM, with one vector an event; the logits of every token that is read.

Shapes: one row; H query heads, G key-value heads, T new tokens, N events, S stored tokens, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from recollect.context.cache import Layer, State, Unit, append
from recollect.context.events import Metric, adjacency, pieces, refine, surprising
from recollect.context.far import (
    BlockMemory,
    Far,
    beyond,
    copy_tokens,
    keep_first,
    leave,
    near_and_far,
    representative,
    store_far,
    stretch_at_zero,
)
from recollect.context.surprise import surprise
from recollect.errors import InvalidInput

if TYPE_CHECKING:
    from recollect.context.far_ring import Shelf


@dataclass
class EMLLM(BlockMemory):
    """Events with similarity and contiguity (the paper's settings for Mistral 7B; SM+C in its tables)."""

    per_row: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True
    least_known: ClassVar[int] = 1

    num_first_tokens: int = 128
    window_tokens: int = 4096
    memory_tokens: int = 2048  # fetched a chunk, neighbours included
    contiguity: float = 0.3  # share of memory_tokens for neighbours in time
    gamma: float = 1.0  # deviations above the mean; math.inf cuts at max_event_tokens only
    min_event_tokens: int = 8
    max_event_tokens: int = 128
    num_representatives: int = 4
    look_up_tokens: int = 1  # tokens decoded with one look-up
    refinement: Metric | None = "modularity"
    refine_from_layer: int = 0  # layers whose keys say what is alike; the paper: 20 of 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(num_first_tokens=0, window_tokens=1, memory_tokens=0, contiguity=0.0, min_event_tokens=1)
        self.check(max_event_tokens=self.min_event_tokens, num_representatives=1)
        self.check(look_up_tokens=1)
        if self.refinement not in ("modularity", "conductance", None):
            raise InvalidInput(
                f"refinement: {self.refinement!r:.20} is not known; use modularity, conductance or None."
            )
        if self.chunk_tokens > self.window_tokens:
            raise InvalidInput(
                f"chunk_tokens: {self.chunk_tokens} is above window_tokens; use {self.window_tokens} or fewer."
            )

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Self:
        """Half window; first tokens, what waits to be packed, and fetched events share the rest."""
        window, first = max(1, attended_tokens // 2), attended_tokens // 16
        chunk, longest = max(1, attended_tokens // 16), min(128, max(2, attended_tokens // 16))
        return cls(
            chunk_tokens=chunk,
            num_first_tokens=first,
            window_tokens=window,
            memory_tokens=max(0, attended_tokens - window - first - chunk - 2 * longest),
            min_event_tokens=max(1, longest // 4),
            max_event_tokens=longest,
        )

    @property
    def run_tokens(self) -> int:
        """The longest event."""
        return self.max_event_tokens

    @property
    def shelf_tokens(self) -> int:
        """The budget, with room for what the last event may have above it."""
        return self.memory_tokens + self.max_event_tokens if self.memory_tokens else 0

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend to near tokens and to recalled events; events are formed when the chunk is through all layers."""
        events, _ = self.recall(layer, queries)
        return near_and_far(layer, queries, keys, values, self.window_tokens, lambda: self._fetch(layer, events, keys))[
            0
        ]

    @property
    def _most(self) -> tuple[int, int]:
        """How many events can be chosen: by similarity, and as neighbours."""
        room = round(self.memory_tokens * self.contiguity)
        similar = self.memory_tokens - room + self.max_event_tokens
        return similar // self.min_event_tokens + 1, room // self.min_event_tokens + 1

    def choose(self, layer: Layer, queries: Tensor, before: Tensor | None) -> Tensor | None:
        """The events to fetch [1, n]: the most similar ones, and their neighbours and those that were neighbours before."""
        similarity = self.similarity(layer, queries) if self.memory_tokens else None
        if similarity is None:
            return None
        lengths, (num, num_beside) = self.sizes(layer), self._most
        ranked = similarity[0].topk(min(num, len(lengths)))
        room = round(self.memory_tokens * self.contiguity)
        taken = fill(lengths[ranked.indices], self.memory_tokens - room) & (ranked.values > -torch.inf)
        similar = _padded(ranked.indices.masked_fill(~taken, -1), num)
        end = len(lengths) if layer.known is None else layer.known
        sides = [similar + 1, similar - 1]
        beside = torch.stack([each.masked_fill((similar < 0) | (each >= end), -1) for each in sides], dim=1)
        wanted = beside.flatten() if before is None else torch.cat([beside.flatten(), before[0, num:].to(similar)])
        fresh = first_new(wanted, similar, len(lengths))
        fits = fresh & (lengths[wanted.clamp(min=0)].masked_fill(~fresh, 0).cumsum(0) <= room)
        kept = wanted.masked_fill(~fits, -1)[fits.long().argsort(descending=True, stable=True)]
        chosen = torch.cat([similar, _padded(kept, num_beside)])[None]
        layer.add(events_recalled=(chosen >= 0).sum(), tokens_chosen=self._sizes(layer, chosen).sum())
        return chosen

    def sizes(self, layer: Layer) -> Tensor:
        """The lengths of the events."""
        events = layer.shared["events"]
        if layer.known is None:
            return events.tensor[0]
        return events.room[0].masked_fill(beyond(layer.known, events.room), 0)

    def _sizes(self, layer: Layer, chosen: Tensor) -> Tensor:
        """The lengths of chosen events [1, n], 0 for none."""
        return self.sizes(layer)[chosen.clamp(min=0)].masked_fill(chosen < 0, 0)

    def _tokens(self, layer: Layer, chosen: Tensor) -> Tensor:
        """The tokens of chosen events [1, n], one event behind the other, filled up with -1 to what the shelf holds, [1, F]."""
        lengths, sizes = self.sizes(layer), self._sizes(layer, chosen)[0]
        begins, ends = lengths.cumsum(0) - lengths, sizes.cumsum(0)
        place = torch.arange(self.shelf_tokens, device=ends.device)
        number = torch.searchsorted(ends, place, right=True).clamp(max=len(ends) - 1)  # of the event at a place
        tokens = begins[chosen[0, number].clamp(min=0)] + place - (ends - sizes)[number]
        return tokens.masked_fill(place >= ends[-1], -1)[None]

    def _fetch(self, layer: Layer, chosen: Tensor | None, like: Tensor) -> Far | None:
        """Keys, turned, and values [1, G, F, D] of chosen events [1, n], and which of them are there."""
        if chosen is None:
            return None
        tokens = self._tokens(layer, chosen.to(like.device))
        keys, values = like.new_zeros(2, 1, like.shape[1], tokens.shape[1], like.shape[3])
        copy_tokens(layer.state["host_tokens"], tokens, keys, values, self._stretch(layer, like))
        layer.add(tokens_copied=(tokens >= 0).sum())
        return keys, values, (tokens >= 0)[:, None, None]

    def _stretch(self, layer: Layer, like: Tensor) -> Tensor:
        return stretch_at_zero(layer, like, self.window_tokens)

    def fetch_into(self, layer: Layer, shelf: Shelf, chosen: Tensor) -> None:
        """Put the events side by side; tokens that lie there already are moved, the others copied from host memory.

        All is written in place, so that it can be recorded.
        """
        stored, tokens = layer.state["host_tokens"], self._tokens(layer, chosen.to(shelf.keys.device))
        if "tokens" not in shelf.notes:
            with torch.inference_mode(False):  # else they could not be overwritten outside of that mode
                shelf.notes["tokens"] = torch.full(tokens.shape, -1, device=tokens.device)
        held = shelf.notes["tokens"]  # which lie there
        place = torch.full((stored.room.shape[1] + 1,), -1, device=tokens.device)  # of each token, if it lies there
        place.scatter_(0, held[0].remainder(len(place)), torch.arange(held.shape[1], device=tokens.device))
        source = place[tokens[0]].masked_fill(tokens[0] < 0, -1)
        held.fill_(-1)  # nothing is known of a shelf where this breaks off
        for room in (shelf.keys, shelf.values):
            room.copy_(room.index_select(2, source.clamp(min=0)))
        fresh = tokens.masked_fill(source >= 0, -1)
        copy_tokens(stored, fresh, shelf.keys, shelf.values, self._stretch(layer, shelf.keys))
        layer.add(tokens_copied=(fresh >= 0).sum())
        held.copy_(tokens)
        shelf.seen.copy_(tokens >= 0)

    def after_step(self, unit: Unit, input_ids: Tensor, logits: Tensor) -> None:
        """Keep the token's surprise, on the device."""
        new = surprise(unit.shared, input_ids, logits)
        known = unit.shared.get("run_surprise")
        unit.shared["run_surprise"] = new if known is None else torch.cat([known, new], dim=1)

    def after_run(self, unit: Unit) -> None:
        """Cut where the tokens of the run would have been cut one by one, then pack."""
        new = unit.shared.pop("run_surprise", None)
        if new is not None:
            surprises = new[0].cpu().split(1)
            for later, each in zip(reversed(range(len(surprises))), surprises, strict=True):
                self._cut(unit, each, later)
        self._pack_when_ready(unit)

    def after_chunk(self, unit: Unit, input_ids: Tensor, logits: Tensor) -> None:
        """Cut the chunk, then pack the events that have left the window, in every layer alike.

        A single token waits with packing until the longest event is ready, so that decoding packs seldom.
        """
        self._cut(unit, surprise(unit.shared, input_ids, logits.detach())[0].cpu(), 0)
        if input_ids.shape[1] > 1:
            self._pack(unit)
        else:
            self._pack_when_ready(unit)

    def _pack_when_ready(self, unit: Unit) -> None:
        """Pack if what has left the window makes the longest event."""
        if unit.shared["host_opens"].shape[1] - self.window_tokens >= self.max_event_tokens:
            self._pack(unit)

    def _kept(self, unit: Unit) -> list[State]:
        """The states of layers that keep events; those with a window of their own do not."""
        return [state for state in unit.layers if "keys" in state]

    def _cut(self, unit: Unit, new: Tensor, later: int) -> None:
        """Cut where tokens are surprising, `new` [T]; `later` tokens behind them have been read too."""
        shared = unit.shared
        known = shared["host_surprise"][0] if "host_surprise" in shared else new[:0]
        opens = shared["host_opens"][0] if "host_opens" in shared else torch.zeros(0, dtype=torch.bool)
        before = known[-self.window_tokens :] if len(known) else new
        cuts = surprising(new, before, self.gamma)
        if self.refinement is not None and cuts.any():
            cuts = self._refined(self._kept(unit), opens, cuts, later)
        shared["host_surprise"], shared["host_opens"] = torch.cat([known, new])[None], torch.cat([opens, cuts])[None]

    def _refined(self, full: list[State], opens: Tensor, cuts: Tensor, later: int) -> Tensor:
        """The chunk's cuts [T], moved; the last event before the chunk takes part, its opening stays."""
        T = len(cuts)
        last = opens.nonzero().flatten()[-1:].tolist()
        extra = min(len(opens) - last[0] if last else 0, self.max_event_tokens)
        end = full[0]["keys"].shape[2] - later
        start = max(end - T - extra, 0)
        keys = torch.stack([state["keys"][0, :, start:end] for state in full[self.refine_from_layer :] or full[-1:]])
        places = [int(place) + extra for place in cuts.nonzero().flatten()]
        moved = [
            place - extra
            for place in refine(places, adjacency(keys).cpu(), self.refinement or "modularity", self.min_event_tokens)
        ]
        found = torch.zeros(T, dtype=torch.bool)
        found[[place for place in moved if 0 <= place < T]] = True
        return found

    def _pack(self, unit: Unit) -> None:
        """Move tokens beyond the window into the first tokens, and then event by event to host memory."""
        full, shared = self._kept(unit), unit.shared
        known, opens = shared["host_surprise"][0], shared["host_opens"][0]
        for state in full:
            keep_first(state, self.num_first_tokens, self.window_tokens)
        left = known.shape[0] - full[0]["keys"].shape[2]
        known, opens = known[left:], opens[left:]
        lengths = pieces(
            opens.nonzero().flatten().tolist(),
            len(known) - self.window_tokens,
            self.min_event_tokens,
            self.max_event_tokens,
        )
        packed, device = sum(lengths), full[0]["keys"].device
        if packed:
            append(shared, "events", torch.tensor([lengths], dtype=torch.int32, device=device))
            tokens, padding = (each.to(device) for each in _rows(lengths))
            for state in full:
                keys, values, mass = (x.detach() for x in leave(state, packed))
                store_far(state, keys, values)
                rows = keys[0][:, tokens].transpose(0, 1)  # [N, G, L, D]
                got = mass[0][:, tokens].masked_fill(padding, -torch.inf).transpose(0, 1)
                append(state, "representatives", representative(rows, got, self.num_representatives)[None])
        shared["host_surprise"], shared["host_opens"] = known[packed:][None], opens[packed:][None]

    def report(self, unit: Unit) -> dict[str, Any]:
        """Events in host memory, in each layer alike."""
        return {"events": unit.shared["events"].tensor.shape[1] if "events" in unit.shared else 0}


def fill(lengths: Tensor, budget: int) -> Tensor:
    """Which events are taken [n], of these lengths [n], in their order until `budget` tokens are reached.

    The last one only if that ends nearer to the budget.
    """
    return 2 * lengths.cumsum(0) - lengths <= 2 * budget


def first_new(events: Tensor, known: Tensor, num: int) -> Tensor:
    """Where in `events` [n] one stands for the first time that is not in `known` [m]; both of `num` events, or -1 for none."""
    order, all_events = torch.arange(len(events), device=events.device), events.remainder(num + 1)  # -1 comes to num
    first = torch.full((num + 1,), len(events), device=events.device)
    first = first.scatter_reduce(0, all_events, order, "amin").scatter(0, known.remainder(num + 1), -1)
    return (events >= 0) & (first[all_events] == order)


def _padded(events: Tensor, num: int) -> Tensor:
    """The first `num` of `events` [n], filled up with -1."""
    return pad(events[:num], (0, max(0, num - len(events))), value=-1)


def _rows(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """(tokens of N events that lie one behind the other, [N, L], which of them are padding), as long as the longest."""
    sizes, place = torch.tensor(lengths), torch.arange(max(lengths))
    tokens = (sizes.cumsum(0) - sizes)[:, None] + place
    return tokens.clamp(max=sum(lengths) - 1), place >= sizes[:, None]
