"""InfLLM: old tokens lie in blocks in host memory, and each chunk fetches the few whose keys match its queries.

Remembers everything. The last `window_tokens` are attended to as usual. What leaves the window is cut into blocks of
`block_tokens` and moved to host memory; on the device stays one vector a block, made of the keys that got most attention
while they were recent. Each chunk (one token when decoding) ranks all blocks by those vectors, once a layer, and attends
to the best `num_blocks`, which a device cache of `num_cached_blocks` slots keeps from being copied again and again.

Paper: InfLLM: Training-Free Long-Context Extrapolation for LLMs with an Efficient Context Memory, arXiv:2402.04617 (2024),
section 3.
Differs: a token that leaves the window within a chunk is seen once, by its true distance; the authors' code counts it
twice for some queries. Scaled rotary positions stay scaled. Rows of a batch may be padded.
Cost: device: (first + window + cached) tokens and one key a head and block, a layer; host: every key and value. A token:
O(window + num_blocks * block_tokens), and one product of heads * head size a block.

Shapes: B rows, H query heads, G key-value heads, T new tokens, L tokens a block, N blocks, K chosen, M slots, D head size.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from recollect.context.cache import Layer, Unit, append
from recollect.context.far import Far, far_queries, keep_first, leave, near_and_far, place_keys, representative
from recollect.context.policy import ContextMemory
from recollect.errors import InvalidInput


@dataclass
class InfLLM(ContextMemory):
    """Block memory with look-up (the paper's settings for Mistral 7B)."""

    num_first_tokens: int = 128  # never leave the device: sinks, and room for a system prompt
    window_tokens: int = 4096
    block_tokens: int = 128
    num_representatives: int = 4  # keys a head that stand for a block
    num_blocks: int = 96  # fetched a chunk
    num_cached_blocks: int = 128  # slots on the device
    replacement: Literal["lru", "lru-s"] = "lru-s"  # evict the least recently used, or the least attended to
    decay: float = 0.1  # of a slot's score at each look-up, for lru-s

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(num_first_tokens=0, window_tokens=1, block_tokens=1, num_representatives=1, num_blocks=0)
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

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Look up, attend to near and far, then pack what has left the window."""
        chosen = self._look_up(layer, queries)
        slots = self._bring(layer, chosen) if chosen is not None else None
        output, weights = near_and_far(
            layer, queries, keys, values, self.window_tokens, lambda: self._fetched(layer, slots)
        )
        if weights is not None and slots is not None and self.replacement == "lru-s":
            self._credit(layer, slots, weights)
        self._pack(layer)
        return output

    def _look_up(self, layer: Layer, queries: Tensor) -> Tensor | None:
        """The blocks [B, K] whose representatives have the largest products with the queries, summed over all heads."""
        vectors = layer.state.get("representatives")
        if vectors is None or not self.num_blocks:
            return None
        mean = far_queries(layer, queries, self.window_tokens).mean(dim=2).flatten(1)  # [B, H * D]
        similarity = (vectors.tensor @ mean[..., None])[..., 0]  # [B, N]
        return similarity.topk(min(self.num_blocks, similarity.shape[1]), dim=1).indices

    def _bring(self, layer: Layer, chosen: Tensor) -> Tensor:
        """Copy chosen blocks that are in no slot into the slots with the least scores; returns their slots [B, K].

        On a GPU the copies run on a stream of their own, from pinned memory; `_fetched` waits for them.
        """
        state, counts, device = layer.state, layer.counts, chosen.device
        blocks = state["host_blocks"].tensor  # [B, N, 2, G, L, D]
        if "slots" not in state:
            B, _, *shape = blocks.shape
            state["slots"] = torch.zeros(B, self.num_cached_blocks, *shape, dtype=blocks.dtype, device=device)
            state["host_slot_block"] = torch.full((B, self.num_cached_blocks), -1)
            state["host_slot_score"] = torch.zeros(B, self.num_cached_blocks)
        held: list[list[int]] = state["host_slot_block"].tolist()
        score: list[list[float]] = state["host_slot_score"].tolist()
        copies: list[tuple[int, int, int]] = []  # row, slot, block
        places: list[list[int]] = []
        for row, wanted in enumerate(chosen.tolist()):
            want, slot_of = set(wanted), {}
            free: list[tuple[bool, float, int]] = []  # empty slots first, then those with the least scores
            for slot, block in enumerate(held[row]):
                if block in want:
                    slot_of[block] = slot
                else:
                    free.append((block >= 0, score[row][slot], slot))
            missing = [block for block in wanted if block not in slot_of]
            for block, (_, _, slot) in zip(missing, sorted(free), strict=False):
                slot_of[block] = slot
                held[row][slot], score[row][slot] = block, 0.0
                copies.append((row, slot, block))
            places.append([slot_of[block] for block in wanted])
        counts["look_ups"] = counts.get("look_ups", 0) + sum(map(len, places))
        counts["blocks_copied"] = counts.get("blocks_copied", 0) + len(copies)
        if self.replacement == "lru":
            for row, slots in enumerate(places):
                for slot in slots:
                    score[row][slot] = float(layer.num_read + 1)
        if copies:
            state["slots"] = self._copied(layer, blocks, state["slots"], copies)
        state["host_slot_block"], state["host_slot_score"] = torch.tensor(held), torch.tensor(score)
        return torch.tensor(places)

    def _copied(self, layer: Layer, blocks: Tensor, slots: Tensor, copies: list[tuple[int, int, int]]) -> Tensor:
        """The slots [B, M, 2, G, L, D] with blocks copied into them, their keys turned to where far queries meet them."""
        stream = _copy_stream(slots.device)
        if stream:
            stream.wait_stream(torch.cuda.current_stream(slots.device))
        with torch.cuda.stream(stream) if stream else nullcontext():
            room = slots.clone()
            for row, slot, block in copies:
                room[row, slot].copy_(blocks[row, block], non_blocking=True)
            rows, places, _ = torch.tensor(copies, device=room.device).T
            keys = place_keys(layer, room[rows, places, 0].flatten(0, 1)[None], 0, self.window_tokens - 1)
            room[rows, places, 0] = keys[0].unflatten(0, (len(copies), -1))
        return room

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

    def _credit(self, layer: Layer, slots: Tensor, weights: Tensor) -> None:
        """LRU-S: scores fade, and chosen slots gain the attention that their blocks got, weights [B, H, T, K * L]."""
        gained = weights.detach().unflatten(-1, (slots.shape[1], self.block_tokens)).sum(dim=(1, 2, 4)).cpu()
        layer.state["host_slot_score"] = (self.decay * layer.state["host_slot_score"]).scatter_add(1, slots, gained)

    def _pack(self, layer: Layer) -> None:
        """Move tokens that have left the window into the first tokens, and then block by block to host memory."""
        keep_first(layer.state, self.num_first_tokens, self.window_tokens)
        num = (layer.state["keys"].shape[2] - self.window_tokens) // self.block_tokens
        if num <= 0:
            return
        keys, values, mass = leave(layer.state, num * self.block_tokens)
        blocks = torch.stack([keys, values], dim=1).detach().unflatten(3, (num, -1))  # [B, 2, G, N, L, D]
        append(layer.state, "host_blocks", blocks.permute(0, 3, 1, 2, 4, 5).contiguous().cpu())
        rows = [x.detach().unflatten(2, (num, -1)).transpose(1, 2).flatten(0, 1) for x in (keys, mass)]
        vectors = representative(rows[0], rows[1], self.num_representatives)  # [B * N, H * D]
        append(layer.state, "representatives", vectors.unflatten(0, (-1, num)))

    def report(self, unit: Unit) -> dict[str, Any]:
        """Blocks in host memory, over rows and layers."""
        stores = [state["host_blocks"].tensor for state in unit.layers if "host_blocks" in state]
        return {"blocks": sum(store.shape[0] * store.shape[1] for store in stores)}


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """The stream on which blocks are copied to this device; None on a CPU, where a copy is done when it returns."""
    if device.type != "cuda":
        return None
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]
