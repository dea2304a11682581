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
    far_queries,
    keep_first,
    leave,
    near_and_far,
    place_keys,
    representative,
)
from recollect.errors import InvalidInput

if TYPE_CHECKING:
    from recollect.context.far_ring import Shelf

Copy = tuple[int, int, int]  # row, slot, block


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
        output, weights = near_and_far(
            layer, queries, keys, values, self.window_tokens, lambda: self._fetched(layer, slots)
        )
        if anew and weights is not None and slots is not None:
            gained = weights.detach().unflatten(-1, (slots.shape[1], self.block_tokens)).sum(dim=(1, 2, 4))
            self._credit(layer.state, slots, gained)
        self._pack(layer.state)
        return output

    def choose(self, layer: Layer, queries: Tensor) -> Tensor | None:
        """The blocks [B, K] whose representatives have the largest products with the queries, summed over all heads."""
        vectors = layer.state.get("representatives")
        if vectors is None or not self.num_blocks:
            return None
        mean = far_queries(layer, queries, self.window_tokens).mean(dim=2).flatten(1)  # [B, H * D]
        similarity = (vectors.tensor.to(mean) @ mean[..., None])[..., 0]  # [B, N]
        chosen = similarity.topk(min(self.num_blocks, similarity.shape[1]), dim=1).indices
        layer.add(tokens_chosen=chosen.numel() * self.block_tokens)
        return chosen

    def sizes(self, layer: Layer) -> Tensor:
        """All blocks are alike."""
        return torch.full((layer.state["representatives"].tensor.shape[1],), self.block_tokens)

    def _assigned(self, layer: Layer, table: State, chosen: Tensor, like: Tensor) -> tuple[Tensor, list[Copy], State]:
        """Slots [B, K] for chosen blocks [B, K], what must be copied, and what `table` has to say when it is.

        Blocks that are in no slot come into the slots with the least scores, of which none is chosen now.
        """
        B, device = len(chosen), like.device
        chosen = chosen.to(device)
        held, score = table.get("slot_block"), table.get("slot_score")
        if held is None or score is None:
            held = torch.full((B, self.num_cached_blocks), -1, device=device)
            score = torch.zeros(B, self.num_cached_blocks, device=device)
        slots, missing = assign(held, score, chosen)
        score = score.scatter(1, slots, score.gather(1, slots).masked_fill(missing, 0.0))
        if self.replacement == "lru":
            score = score.scatter(1, slots, layer.num_read + 1.0)
        told = torch.stack([slots, chosen, missing.long()], dim=-1).tolist()  # the one wait of a look-up
        copies = [(row, slot, block) for row, each in enumerate(told) for slot, block, copied in each if copied]
        layer.add(tokens_copied=len(copies) * self.block_tokens)
        return slots, copies, {"slot_block": held.scatter(1, slots, chosen), "slot_score": score}

    def _copied(self, layer: Layer, copies: list[Copy], like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, turned to where far queries meet them, and values [n, G, L, D] of blocks, on the device of `like`."""
        blocks = layer.state["host_blocks"].tensor  # [B, N, 2, G, L, D], in pinned memory on a GPU
        copied = like.new_empty(len(copies), *blocks.shape[2:])
        for to, (row, _, block) in zip(copied, copies, strict=True):
            to.copy_(blocks[row, block], non_blocking=True)
        keys, values = copied.unbind(1)
        turned = place_keys(layer, keys.flatten(0, 1)[None], 0, self.window_tokens - 1)
        return turned[0].unflatten(0, (len(copies), -1)), values

    def _bring(self, layer: Layer, chosen: Tensor, like: Tensor) -> Tensor:
        """Copy chosen blocks that are in no slot into one, on the device and in the type of `like`; returns slots [B, K].

        On a GPU the copies run on a stream of their own; `_fetched` waits for them.
        """
        state, shape = layer.state, layer.state["host_blocks"].tensor.shape
        room = state.get("slots")
        if room is None or (room.dtype, room.device) != (like.dtype, like.device):  # none yet, or the model was moved
            room = like.new_zeros(shape[0], self.num_cached_blocks, *shape[2:])
            for name in ("slot_block", "slot_score"):
                state.pop(name, None)
        slots, copies, table = self._assigned(layer, state, chosen, like)
        if copies:
            stream = _copy_stream(room.device)
            if stream:
                stream.wait_stream(torch.cuda.current_stream(room.device))
            with torch.cuda.stream(stream) if stream else nullcontext():
                rows, places, _ = torch.tensor(copies, device=room.device).T
                room = room.clone()
                room[rows, places, 0], room[rows, places, 1] = self._copied(layer, copies, room)
        state["slots"] = room
        state.update(table)
        return slots

    def _fetched(self, layer: Layer, slots: Tensor | None) -> Far | None:
        """Keys, turned, and values [B, G, K * L, D] in these slots [B, K]."""
        if slots is None:
            return None
        room = layer.state["slots"]  # [B, M, 2, G, L, D]
        if stream := _copy_stream(room.device):
            torch.cuda.current_stream(room.device).wait_stream(stream)
            room.record_stream(torch.cuda.current_stream(room.device))
        rows = torch.arange(len(slots), device=room.device)[:, None]
        keys, values = room[rows, slots.to(room.device)].permute(2, 0, 3, 1, 4, 5).flatten(3, 4)
        return keys, values, None

    def _credit(self, table: State, slots: Tensor, gained: Tensor) -> None:
        """LRU-S: scores fade, and chosen slots [B, K] gain the attention that their blocks got, [B, K]."""
        if self.replacement == "lru-s":
            table["slot_score"] = (self.decay * table["slot_score"]).scatter_add(1, slots, gained)

    def fetch_into(self, layer: Layer, shelf: Shelf, chosen: Tensor) -> None:
        """As `_bring` does, but onto the shelf, which is the slots side by side; takes over what they held."""
        state, table, shape = layer.state, shelf.notes, (self.num_cached_blocks, self.block_tokens)
        keys, values = (x.unflatten(2, shape) for x in (shelf.keys, shelf.values))  # [B, G, M, L, D]
        if "slots" in state:
            if not table:
                slots = state["slots"].permute(2, 0, 3, 1, 4, 5)
                keys.copy_(slots[0])
                values.copy_(slots[1])
                table.update(slot_block=state["slot_block"], slot_score=state["slot_score"])
            for name in ("slots", "slot_block", "slot_score"):
                del state[name]
        slots, copies, known = self._assigned(layer, table, chosen, keys)
        table.clear()  # what breaks off here leaves slots of which nothing is known
        if copies:
            rows, places, _ = torch.tensor(copies, device=keys.device).T
            keys[rows, :, places], values[rows, :, places] = self._copied(layer, copies, keys)
        shelf.seen.unflatten(1, shape)[:] = (
            known["slot_block"].new_zeros(len(slots), shape[0]).scatter(1, slots, 1) > 0
        )[..., None]
        table.update(known)
        table["chosen_slots"] = slots

    def credit(self, layer: Layer, shelf: Shelf, weights: Tensor) -> None:
        """See `_credit`."""
        slots = shelf.notes["chosen_slots"]
        gained = weights.unflatten(-1, (-1, self.block_tokens)).sum(dim=(1, 2, 4))  # [B, M]
        self._credit(shelf.notes, slots, gained.gather(1, slots))

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
        blocks = torch.stack([keys, values], dim=1).detach().unflatten(3, (num, -1))  # [B, 2, G, N, L, D]
        append(state, "host_blocks", blocks.permute(0, 3, 1, 2, 4, 5).contiguous().cpu())
        rows = [x.detach().unflatten(2, (num, -1)).transpose(1, 2).flatten(0, 1) for x in (keys, mass)]
        vectors = representative(rows[0], rows[1], self.num_representatives)  # [B * N, H * D]
        append(state, "representatives", vectors.unflatten(0, (-1, num)))

    def report(self, unit: Unit) -> dict[str, Any]:
        """Blocks in host memory, over rows and layers."""
        stores = [state["host_blocks"].tensor for state in unit.layers if "host_blocks" in state]
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
