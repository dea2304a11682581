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
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recollect.context.cache import Layer, State, Unit, append
from recollect.context.events import Metric, adjacency, pieces, refine, surprising
from recollect.context.far import (
    BlockMemory,
    Far,
    far_queries,
    keep_first,
    leave,
    near_and_far,
    place_keys,
    representative,
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

    def choose(self, layer: Layer, queries: Tensor) -> Tensor | None:
        """The events to fetch [1, n], in host memory: the most similar ones, and their neighbours from the queue."""
        state = layer.state
        if "representatives" not in state or not self.memory_tokens:
            return None
        mean = far_queries(layer, queries, self.window_tokens).mean(dim=2).flatten()  # [H * D]
        ranked = (state["representatives"].tensor[0].to(mean) @ mean).argsort(descending=True).tolist()
        lengths = state["host_events"].tensor[0].tolist()
        room = round(self.memory_tokens * self.contiguity)
        similar = fill(ranked, lengths, self.memory_tokens - room)
        beside = [place for event in similar for place in (event + 1, event - 1) if 0 <= place < len(lengths)]
        queue = state["host_queue"][0].tolist() if "host_queue" in state else []
        known = set(similar)
        fresh = [event for event in dict.fromkeys([*beside, *queue]) if event not in known]
        kept: list[int] = []
        for event in fresh:
            if lengths[event] > room:
                break
            room -= lengths[event]
            kept.append(event)
        state["host_queue"] = torch.tensor([kept], dtype=torch.long)
        chosen = [*similar, *kept]
        layer.add(events_recalled=len(chosen), tokens_chosen=sum(lengths[event] for event in chosen))
        return torch.tensor([chosen])

    def sizes(self, layer: Layer) -> Tensor:
        """The lengths of the events."""
        return layer.state["host_events"].tensor[0]

    def _fetch(self, layer: Layer, events: Tensor | None, like: Tensor) -> Far | None:
        """Keys, turned, and values [1, G, F, D] of these events [1, n]."""
        if events is None or not events.numel():
            return None
        keys, values = self._copied(layer, sorted(events[0].tolist()), like)
        return keys, values, None

    def _copied(self, layer: Layer, events: list[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, turned to where far queries meet them, and values [1, G, F, D] of events, on the device of `like`."""
        stored, ends = layer.state["host_tokens"].tensor, self._ends(layer)  # [1, S, 2, G, D], pinned on a GPU
        lengths = [ends[event + 1] - ends[event] for event in events]
        room = like.new_empty(1, sum(lengths), *stored.shape[2:])
        for part, event in zip(room.split(lengths, dim=1), events, strict=True):
            part.copy_(stored[:, ends[event] : ends[event + 1]], non_blocking=True)
        layer.add(tokens_copied=sum(lengths))
        keys, values = room.permute(2, 0, 3, 1, 4)
        return place_keys(layer, keys, 0, self.window_tokens - 1), values

    @staticmethod
    def _ends(layer: Layer) -> list[int]:
        """Where each event begins, and the last ends, among the stored tokens."""
        return [0, *accumulate(layer.state["host_events"].tensor[0].tolist())]

    def fetch_into(self, layer: Layer, shelf: Shelf, chosen: Tensor) -> None:
        """Put the events side by side; those that lie there already are moved, the others copied from host memory."""
        ends, wanted = self._ends(layer), chosen[0].tolist()
        held: dict[int, int] = shelf.notes.get("held", {})  # event to where it begins on the shelf
        shelf.notes.clear()  # what breaks off here leaves a shelf of which nothing is known
        missing = [event for event in wanted if event not in held]
        begins = accumulate((ends[event + 1] - ends[event] for event in missing), initial=shelf.keys.shape[2])
        start = held | dict(zip(missing, begins, strict=False))
        lengths = [ends[event + 1] - ends[event] for event in wanted]
        spans = [range(start[event], start[event] + num) for event, num in zip(wanted, lengths, strict=True)]
        places = [place for span in spans for place in span]
        source, num = torch.tensor(places, device=shelf.keys.device, dtype=torch.long), len(places)
        for room, new in zip((shelf.keys, shelf.values), self._copied(layer, missing, shelf.keys), strict=True):
            room[:, :, :num] = torch.cat([room, new], dim=2).index_select(2, source)
        shelf.seen[:, :num], shelf.seen[:, num:] = True, False
        shelf.notes["held"] = dict(zip(wanted, accumulate(lengths, initial=0), strict=False))

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
        packed = sum(lengths)
        for state in full if packed else ():
            keys, values, mass = (x.detach() for x in leave(state, packed))
            append(state, "host_tokens", torch.stack([keys, values], dim=1).permute(0, 3, 1, 2, 4).contiguous().cpu())
            append(state, "host_events", torch.tensor([lengths]))
            vectors = representative(
                _rows(keys, lengths, 0.0), _rows(mass, lengths, -torch.inf), self.num_representatives
            )
            append(state, "representatives", vectors[None])
        shared["host_surprise"], shared["host_opens"] = known[packed:][None], opens[packed:][None]

    def report(self, unit: Unit) -> dict[str, Any]:
        """Events in host memory, in each layer alike."""
        stores = [state["host_events"].tensor for state in unit.layers if "host_events" in state]
        return {"events": stores[0].shape[1] if stores else 0}


def fill(ranked: list[int], lengths: list[int], budget: int) -> list[int]:
    """Events in their order until `budget` tokens are reached; the last only if that ends nearer to the budget."""
    chosen: list[int] = []
    total = 0
    for event in ranked:
        if total >= budget:
            break
        if total + lengths[event] - budget > budget - total:
            break
        chosen.append(event)
        total += lengths[event]
    return chosen


def _rows(x: Tensor, lengths: list[int], padding: float) -> Tensor:
    """The events of `x` [1, G, S, ...] as rows [N, G, L, ...], padded to the longest."""
    parts = [part.transpose(0, 1) for part in x[0].split(lengths, dim=1)]
    return pad_sequence(parts, batch_first=True, padding_value=padding).transpose(1, 2)
