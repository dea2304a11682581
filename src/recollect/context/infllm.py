"""InfLLM: old tokens lie in blocks in host memory, and each chunk fetches the few whose keys match its queries.

Remembers everything. The last `window_tokens` are attended to as usual. What leaves the window is cut into blocks of
`block_tokens` and moved to host memory; on the device stays one vector a block, made of the keys that got most attention
while they were recent. Each chunk (one token when decoding) ranks all blocks by those vectors, once a layer, and attends
to the best `num_blocks`, which a device cache of `num_cached_blocks` slots keeps from being copied again and again.

Paper: InfLLM: Training-Free Long-Context Extrapolation for LLMs with an Efficient Context Memory, arXiv:2402.04617 (2024),
section 3.
Differs: a token that leaves the window within a chunk is seen once, by its true distance; the authors' code counts it
twice for some queries. One look-up may serve several decoded tokens. Scaled rotary positions stay scaled. Rows of a batch
may be padded.
Cost: device: (first + window + cached) tokens and one key a head and block, a layer; host: every key and value. A token:
O(window + num_blocks * block_tokens), and one product of heads * head size a block.

Shapes: B rows, H query heads, G key-value heads, T new tokens, L tokens a block, N blocks, K chosen, M slots, D head size.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from recollect.context.cache import Layer, State, Unit, append
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
from recollect.errors import InvalidInput

if TYPE_CHECKING:
    from recollect.context.far_ring import Shelf


@dataclass
class InfLLM(BlockMemory):
    """Block memory with look-up (the paper's settings for Mistral 7B)."""

    num_first_tokens: int = 128  # never leave the device: sinks, and room for a system prompt
    window_tokens: int = 4096
    block_tokens: int = 128
    num_representatives: int = 4  # keys a head that stand for a block
    num_blocks: int = 96  # fetched a chunk
    num_cached_blocks: int = 128  # slots on the device
    look_up_tokens: int = 1  # tokens decoded with one look-up
    replacement: Literal["lru", "lru-s"] = "lru-s"  # evict the least recently used, or the least attended to
    decay: float = 0.1  # of a slot's score at each look-up, for lru-s

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(num_first_tokens=0, window_tokens=1, block_tokens=1, num_representatives=1, num_blocks=0)
        self.check(look_up_tokens=1)
        self.check(num_cached_blocks=self.num_blocks)
        if self.replacement not in ("lru", "lru-s"):
            raise InvalidInput(f"replacement: {self.replacement!r:.20} is not known; use lru or lru-s.")
        if self.chunk_tokens > self.window_tokens:
            raise InvalidInput(
                f"chunk_tokens: {self.chunk_tokens} is above window_tokens; use {self.window_tokens} or fewer."
            )

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Self:
        """Half window; first tokens, what waits to be packed, and retrieved blocks share the rest."""
        block, window, first = (
            min(128, max(2, attended_tokens // 16)),
            max(1, attended_tokens // 2),
            attended_tokens // 16,
        )
        chunk = max(1, attended_tokens // 16)
        num_blocks = max(0, attended_tokens - window - first - chunk - block) // block
        return cls(
            chunk_tokens=chunk,
            num_first_tokens=first,
            window_tokens=window,
            block_tokens=block,
            num_blocks=num_blocks,
            num_cached_blocks=2 * num_blocks,
        )

    @property
    def run_tokens(self) -> int:
        """A block."""
        return self.block_tokens

    @property
    def shelf_tokens(self) -> int:
        """The slots; none if nothing is fetched."""
        return self.num_cached_blocks * self.block_tokens if self.num_blocks else 0

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Look up, attend to near and far, then pack what has left the window."""
        chosen, anew = self.recall(layer, queries)
        slots = self._bring(layer, chosen, keys) if chosen is not None else None
        output, mass = near_and_far(
            layer, queries, keys, values, self.window_tokens, lambda: self._fetched(layer, slots)
        )
        if anew and mass is not None and slots is not None and self.replacement == "lru-s":
            layer.state["slot_score"] = self._credited(layer.state["slot_score"], slots, mass())
        self._pack(layer.state)
        return output

    @property
    def least_known(self) -> int:
        """As many as are fetched."""
        return self.num_blocks

    def choose(self, layer: Layer, queries: Tensor, before: Tensor | None) -> Tensor | None:
        """The blocks [B, K] whose representatives have the largest products with the queries, summed over all heads."""
        similarity = self.similarity(layer, queries) if self.num_blocks else None
        if similarity is None:
            return None
        chosen = similarity.topk(min(self.num_blocks, similarity.shape[1]), dim=1).indices
        layer.add(tokens_chosen=chosen.numel() * self.block_tokens)
        return chosen

    def sizes(self, layer: Layer) -> Tensor:
        """All blocks are alike."""
        vectors = layer.state["representatives"]
        if layer.known is None:
            return torch.full((vectors.tensor.shape[1],), self.block_tokens, device=vectors.room.device)
        sizes = torch.full((vectors.room.shape[1],), self.block_tokens, device=vectors.room.device)
        return sizes.masked_fill(beyond(layer.known, sizes), 0)

    def _assigned(self, layer: Layer, held: Tensor, score: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slots [B, K] for chosen blocks [B, K], the tokens to copy into all slots [B, M * L] or -1, and the scores [B, M] then.

        Blocks that are in no slot come into the slots with the least scores, of which none is chosen now.
        """
        slots, missing = assign(held, score, chosen)
        score = score.scatter(1, slots, score.gather(1, slots).masked_fill(missing, 0.0))
        if self.replacement == "lru":
            score = score.scatter(1, slots, (score.amax(dim=1, keepdim=True) + 1).expand_as(slots))
        layer.add(tokens_copied=missing.sum() * self.block_tokens)
        block = torch.full_like(held, -1).scatter(1, slots, chosen.masked_fill(~missing, -1))[..., None]
        tokens = block * self.block_tokens + torch.arange(self.block_tokens, device=block.device)
        return slots, tokens.masked_fill(block < 0, -1).flatten(1), score

    def _bring(self, layer: Layer, chosen: Tensor, like: Tensor) -> Tensor:
        """Copy chosen blocks that are in no slot into one, on the device and in the type of `like`; returns slots [B, K].

        On a GPU the copies run on a stream of their own; `_fetched` waits for them.
        """
        state, (B, G, _, D) = layer.state, like.shape
        keys, values = state.get("slot_keys"), state.get("slot_values")  # [B, G, M * L, D], keys turned
        if keys is None or values is None or (keys.dtype, keys.device) != (like.dtype, like.device):
            M = self.num_cached_blocks  # nothing is there yet, or the model was moved
            keys, values = like.new_zeros(2, B, G, M * self.block_tokens, D)
            state["slot_block"] = torch.full((B, M), -1, device=like.device)
            state["slot_score"] = torch.zeros(B, M, device=like.device)
        chosen = chosen.to(like.device)
        slots, tokens, score = self._assigned(layer, state["slot_block"], state["slot_score"], chosen)
        stretch, stream = stretch_at_zero(layer, like, self.window_tokens), _copy_stream(keys.device)
        if stream:
            stream.wait_stream(torch.cuda.current_stream(keys.device))
            for each in (keys, values, tokens, stretch):
                each.record_stream(stream)
        with torch.cuda.stream(stream) if stream else nullcontext():
            keys, values = keys.clone(), values.clone()
            copy_tokens(state["host_tokens"], tokens, keys, values, stretch)
        state["slot_keys"], state["slot_values"], state["slot_score"] = keys, values, score
        state["slot_block"] = state["slot_block"].scatter(1, slots, chosen)
        return slots

    def _fetched(self, layer: Layer, slots: Tensor | None) -> Far | None:
        """Keys, turned, and values [B, G, M * L, D] of all slots, and which of them are these [B, K]."""
        if slots is None:
            return None
        keys, values = layer.state["slot_keys"], layer.state["slot_values"]
        if stream := _copy_stream(keys.device):
            now = torch.cuda.current_stream(keys.device)
            now.wait_stream(stream)
            for each in (keys, values):
                each.record_stream(now)
        return keys, values, self._seen(slots)[:, None, None]

    def _seen(self, slots: Tensor) -> Tensor:
        """Which tokens of all slots lie in these [B, K], [B, M * L]."""
        seen = torch.zeros(len(slots), self.num_cached_blocks, dtype=torch.bool, device=slots.device)
        return seen.scatter(1, slots, True).repeat_interleave(self.block_tokens, dim=1)

    def _credited(self, score: Tensor, slots: Tensor, mass: Tensor) -> Tensor:
        """LRU-S: scores [B, M] fade, and those of chosen slots [B, K] gain what their blocks got of the mass [B, H, M * L]."""
        gained = mass.unflatten(-1, (-1, self.block_tokens)).sum(dim=(1, 3))
        return (self.decay * score).scatter_add(1, slots, gained.gather(1, slots))

    def fetch_into(self, layer: Layer, shelf: Shelf, chosen: Tensor) -> None:
        """As `_bring` does, but onto the shelf, which is the slots side by side; takes over what they held.

        All is written in place, so that it can be recorded.
        """
        state, notes, device = layer.state, shelf.notes, shelf.keys.device
        if not notes:
            shape = (len(chosen), self.num_cached_blocks)
            with torch.inference_mode(False):  # else they could not be overwritten outside of that mode
                notes.update(block=torch.full(shape, -1, device=device), score=torch.zeros(shape, device=device))
            if "slot_keys" in state:
                for ours, name in (
                    (shelf.keys, "slot_keys"),
                    (shelf.values, "slot_values"),
                    (notes["block"], "slot_block"),
                    (notes["score"], "slot_score"),
                ):
                    ours.copy_(state[name])
        for name in ("slot_keys", "slot_values", "slot_block", "slot_score"):
            state.pop(name, None)
        chosen = chosen.to(device)
        slots, tokens, score = self._assigned(layer, notes["block"], notes["score"], chosen)
        notes["block"].scatter_(1, slots, -1)  # nothing is known of a slot whose copy breaks off
        stretch = stretch_at_zero(layer, shelf.keys, self.window_tokens)
        copy_tokens(state["host_tokens"], tokens, shelf.keys, shelf.values, stretch)
        notes["block"].scatter_(1, slots, chosen)
        notes["score"].copy_(score)
        shelf.seen.copy_(self._seen(slots))
        notes["slots"] = slots

    def credit(self, layer: Layer, shelf: Shelf, mass: Tensor) -> None:
        """See `_credited`."""
        if self.replacement == "lru-s":
            shelf.notes["score"].copy_(self._credited(shelf.notes["score"], shelf.notes["slots"], mass))

    def after_run(self, unit: Unit) -> None:
        """Pack a block in every layer, if there is one."""
        for state in unit.layers:
            self._pack(state)

    def _pack(self, state: State) -> None:
        """Move tokens that have left the window into the first tokens, and then block by block to host memory."""
        keep_first(state, self.num_first_tokens, self.window_tokens)
        num = (state["keys"].shape[2] - self.window_tokens) // self.block_tokens
        if num <= 0:
            return
        keys, values, mass = leave(state, num * self.block_tokens)
        store_far(state, keys, values)
        rows = [x.detach().unflatten(2, (num, -1)).transpose(1, 2).flatten(0, 1) for x in (keys, mass)]
        vectors = representative(rows[0], rows[1], self.num_representatives)  # [B * N, H * D]
        append(state, "representatives", vectors.unflatten(0, (-1, num)))

    def report(self, unit: Unit) -> dict[str, Any]:
        """Blocks in host memory, over rows and layers."""
        stores = [state["representatives"].tensor for state in unit.layers if "representatives" in state]
        return {"blocks": sum(store.shape[0] * store.shape[1] for store in stores)}


def assign(held: Tensor, score: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(slots [B, K] for the chosen blocks [B, K], which of them are missing [B, K]).

    `held` [B, M] says which block is in each slot (-1: none). Missing blocks get empty slots first, then those with the
    least `score` [B, M], never that of a chosen one.
    """
    here = chosen[:, :, None] == held[:, None]  # [B, K, M]
    missing, needed = ~here.any(dim=2), here.any(dim=1)
    free = score.masked_fill(held < 0, -torch.inf).masked_fill(needed, torch.inf).argsort(dim=1, stable=True)
    nth = (missing.cumsum(dim=1) - 1).clamp(min=0)
    return torch.where(missing, free.gather(1, nth), here.int().argmax(dim=2)), missing


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """The stream on which blocks are copied to this device; None on a CPU, where a copy is done when it returns."""
    if device.type != "cuda":
        return None
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]
