"""Decoding in place: the window of a policy as a ring, in which each new token takes the place of the oldest.

`sink_window` says what is attended to, and turns the whole window anew for every token. As soon as the window is full, its
shape never changes again, and the same scores come far cheaper: rotary scores depend on distances alone, so a key is turned
once, to its place in the stream, by the model itself, and stays; only the few sinks, which keep their distance, are turned
for every token. A step then overwrites one slot, runs the same kernels on the same memory each time, and is recorded on a
GPU as a CUDA graph, which is replayed without Python.

A ring is begun at the first single token after the window has filled (in_place.py); its output equals that of `sink_window`
up to rounding.

Cost: the window's keys and values once more, beside the state that `sink_window` keeps.

Shapes: B rows, H query heads, G key-value heads, N sinks, W window, L layers, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from recollect.context.attention import Window
from recollect.context.cache import note_attended
from recollect.context.in_place import Room
from recollect.context.rotary import Rotary

if TYPE_CHECKING:
    from recollect.context.cache import Unit

RUN_TOKENS = 1 << 15  # after so many the places are counted anew, so that angles stay exact


class Ring(Room):
    """The window of all layers of one unit."""

    def __init__(self, window: Window, unit: Unit, rotary: Rotary, layer_type: str | None):
        super().__init__(rotary, layer_type)
        state, L = unit.layers[0], len(unit.layers)
        B, G, W, D = state["window_keys"].shape
        self.window = window
        self.num_sinks = N = state["sink_keys"].shape[2] if window.place_sinks is not None and window.num_sinks else 0
        with torch.inference_mode(False):  # else they could not be overwritten outside of that mode
            options = {"dtype": state["window_keys"].dtype, "device": state["window_keys"].device}
            self.keys, self.values = (torch.empty(L, B, G, N + W, D, **options) for _ in range(2))  # keys are turned
            self.sinks = torch.empty(L, B, G, N, D, **options)  # as they came
            self.place = torch.zeros(1, dtype=torch.long, device=options["device"])  # of the token of this step
            self.slot = torch.zeros_like(self.place)  # where its key goes: the oldest one's
            self.distance = self.place.new_zeros(N)  # of each sink, whatever the query
        if N:
            assert window.place_sinks is not None
            query, sinks, _ = window.place_sinks(self.place + (1 << 30), torch.arange(N, device=self.place.device))
            self.distance = query - sinks
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    @property
    def length(self) -> int:
        """A bound above all places of a run."""
        return self.num_sinks + self.window.tokens + RUN_TOKENS

    def fits(self, unit: Unit) -> bool:
        """Whether the unit's window is full, and its rows are as many as the ring's."""
        return self.full(unit, self.window) and unit.layers[0]["window_keys"].shape[0] == self.keys.shape[1]

    @staticmethod
    def full(unit: Unit, window: Window) -> bool:
        """Whether a unit's window is full and all of its sinks have left it, so that nothing about its shape changes more."""
        return unit.num_read >= window.tokens + (window.num_sinks if window.place_sinks is not None else 0)

    def enter(self, unit: Unit) -> None:
        """Take over a unit's full window."""
        N, W = self.num_sinks, self.window.tokens
        for index, state in enumerate(unit.layers):
            turned = self.rotary.rotate(state["window_keys"], slice(N, N + W), self.length, self.layer_type)
            self.keys[index, :, :, N:], self.values[index, :, :, N:] = turned, state["window_values"]
            if N:
                self.sinks[index], self.values[index, :, :, :N] = state["sink_keys"], state["sink_values"]
        self.place.fill_(N + W)
        self.slot.zero_()
        self.num_steps = 0

    def leave(self, unit: Unit) -> None:
        """Write the window back."""
        N, W = self.num_sinks, self.window.tokens
        new = torch.arange(max(self.num_steps - W, 0), self.num_steps, device=self.place.device)
        for index, state in enumerate(unit.layers):
            keys = self.keys[index, :, :, N + new % W]
            keys = self.rotary.rotate_back(keys, N + W + new, self.length, self.layer_type)
            for name, added in (("window_keys", keys), ("window_values", self.values[index, :, :, N + new % W])):
                state[name] = torch.cat([state[name][:, :, len(new) :], added], dim=2)
        unit.num_read += self.num_steps
        note_attended(unit.counts, N + W)

    def turn(self) -> tuple[Tensor, Tensor]:
        """Turn the sinks of all layers to their distance from this step's token; returns its angles, [1, 1, R] twice."""
        if self.num_sinks:
            places = self.place - self.distance
            turned = self.rotary.rotate(self.sinks.flatten(0, 1), places, self.length, self.layer_type)
            self.keys[:, :, :, : self.num_sinks] = turned.view_as(self.sinks)
        return self.rotary.angles(self.keys, self.place, self.length, self.layer_type)

    def step(self, forward: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """Logits [B, 1, V] after one more token of each row, `ids` [B, 1]; `forward` runs the model on them.

        A step that fails leaves the ring as it was before.
        """
        if self.num_steps == RUN_TOKENS and self.held is not None:
            self.begin(*self.held)
        self._overwritten = []
        try:
            logits = self.recorded(forward, ids)
        except BaseException:
            for room, old in reversed(self._overwritten):
                room.index_copy_(2, self.slot + self.num_sinks, old)
            raise
        self.num_steps += 1
        self.place += 1
        self.slot.add_(1).remainder_(self.window.tokens)
        return logits

    def attend(self, index: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of one token of each row in layer `index`, [B, H, 1, D]; queries and keys were turned by `turn`."""
        at = self.slot + self.num_sinks
        for room, new in ((self.keys[index], keys), (self.values[index], values)):
            if not (room.is_cuda and torch.cuda.is_current_stream_capturing()):
                self._overwritten.append((room, room.index_select(2, at)))
            room.index_copy_(2, at, new)
        return scaled_dot_product_attention(
            queries,
            self.keys[index],
            self.values[index],
            scale=scaling,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )

    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(each.nbytes for each in (self.keys, self.values, self.sinks))
