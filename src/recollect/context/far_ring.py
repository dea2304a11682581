"""Decoding in place for block memories: what a token attends to lies in one buffer, and between look-ups a step is a graph.

`near_and_far` joins and turns anew, for every token, what is near, what was fetched and what waits to be packed away. For as
many tokens as pass until the next packing, a *run*, all of that is known when the run begins. So it is laid out once, turned
once, and a step writes one key and one value and moves the borders of what may be seen:

    far:  first tokens | what was fetched | what is, or in this run will be, beyond the window
    near: the window, and behind it room for the tokens of the run

Far keys stand at 0, as in far.py. Near ones stand at their place in the run, so that distances are the true ones. When a
look-up is due (`look_up_tokens` in far.py), the policy fetches into its part of the buffer, layer by layer, within the step; all
other steps are the same kernels on the same memory, and on a GPU a recorded graph. Where look-ups happen on the GPU alone, they are
recorded, too, among all that there is room for, and anew when that has grown. The output equals that of the readable way.

Cost: first tokens, fetched tokens, two runs and the window, keys and values, a layer; the window lies in the memory, too.

Shapes: B rows, H query heads, G key-value heads, L layers, F fetched tokens, R tokens of a run, W window, D head size;
S = first + F + R + W + R.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recollect.context.attention import mass_kernel
from recollect.context.cache import Layer, Unit, note_attended
from recollect.context.far import BlockMemory, looked_up_at, note_look_up, place_keys
from recollect.context.growing import Growing
from recollect.context.in_place import Room
from recollect.context.recorded import Recorded
from recollect.context.rotary import Rotary

COUNTED = ("events_recalled", "tokens_chosen", "tokens_copied")  # by look-ups, which may happen without Python


@dataclass
class Shelf:
    """The part of a layer's buffer that a policy fetches into; tensors are views that it overwrites.

    keys [B, G, F, D], turned, values [B, G, F, D], seen [B, F]: which of them is attended to.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor
    notes: dict[str, Any] = field(default_factory=dict)  # the policy's own, of what lies where


class FarRing(Room):
    """The buffers of all layers of one unit of a block memory."""

    def __init__(self, policy: BlockMemory, unit: Unit, rotary: Rotary, layer_type: str | None):
        super().__init__(rotary, layer_type)
        self.policy = policy
        state, L = unit.layers[0], len(unit.layers)
        B, G, _, D = state["keys"].shape
        self.first, self.run, self.window = policy.num_first_tokens, policy.run_tokens, policy.window_tokens
        self.far = self.first + policy.shelf_tokens + self.run  # where near keys begin
        S = self.far + self.window + self.run
        with torch.inference_mode(False):  # else they could not be overwritten outside of that mode
            options = {"dtype": state["keys"].dtype, "device": state["keys"].device}
            self.keys, self.values = (torch.zeros(L, B, G, S, D, **options) for _ in range(2))
            self.new = torch.empty(L, B, G, self.run, D, **options)  # keys of the run, as they came
            H = state["mass"].shape[1]
            self.mass = torch.empty(L, B, H, S - self.far, device=options["device"])
            self.gained = torch.empty(L, B, H, S, device=options["device"])  # in this step
            self.seen = torch.zeros(L, B, 1, 1, S, dtype=torch.bool, device=options["device"])
            self.place = torch.zeros(1, dtype=torch.long, device=options["device"])  # steps of the run before this one
            self.waiting = torch.zeros_like(self.place)  # tokens beyond the window when the run began
            self.num_known = torch.zeros_like(self.place)  # things to look among
            self.tally = {name: torch.zeros_like(self.place[0]) for name in COUNTED}
        self.at = self.place  # where this step's key goes
        self.angles = (self.keys, self.keys)  # of this step
        shelf = slice(self.first, self.far - self.run)
        self.shelves = [
            Shelf(keys[:, :, shelf], values[:, :, shelf], seen[:, 0, 0, shelf])
            for keys, values, seen in zip(self.keys, self.values, self.seen, strict=True)
        ]
        self.num_waiting = 0  # the same as `waiting`
        self.looking = False  # whether this step looks up
        self.looked_up, self.can_record = Recorded(), False  # steps that do
        self.known: Tensor | None = None  # `num_known` if there are enough to record look-ups
        self.rooms: list[
            tuple[int, int]
        ] = []  # where what is looked among lies, and its length, as the recorded steps know them
        self.chosen: list[Tensor | None] = [None] * L
        self.looked_at: int | None = None  # tokens read before the last look-up
        self._left: tuple[weakref.ref[Unit], int] | None = (
            None  # what the shelves hold is of this unit, when it had read so much
        )

    def fits(self, unit: Unit) -> bool:
        """Whether the unit can be decoded in place, and has as many rows."""
        return self.policy.can_run(unit) and unit.layers[0]["keys"].shape[0] == self.keys.shape[1]

    def _layer(self, unit: Unit, index: int) -> Layer:
        """What the policy's methods are given."""
        rotate = partial(self.rotary.rotate, layer_type=self.layer_type)
        read = unit.num_read + self.num_steps
        about = {"scaling": 1.0, "softcap": None, "dropout": 0.0, "counts": unit.counts}
        about |= {"tally": self.tally, "known": self.known}
        return Layer(index, len(unit.layers), unit.layers[index], unit.shared, read, rotate, **about)

    def _count(self, unit: Unit) -> None:
        """Learn how much there is to look among, and whether it lies where recorded steps look."""
        states = [unit.shared, *unit.layers]
        grown = [each for state in states for each in state.values() if isinstance(each, Growing)]
        number = unit.layers[0]["representatives"].tensor.shape[1]
        self.num_known.fill_(number)
        self.known = self.num_known if number >= self.policy.least_known else None
        self.can_record = self.known is not None and self.policy.on_gpu_alone(unit)
        before, self.rooms = self.rooms, [(each.room.data_ptr(), each.room.shape[1]) for each in grown]
        if before != self.rooms:
            self.looked_up.forget()

    def enter(self, unit: Unit) -> None:
        """Lay out a run."""
        self._count(unit)
        if self._left is None or self._left[0]() is not unit or self._left[1] != unit.num_read:
            for shelf in self.shelves:
                shelf.notes.clear()
            self.looked_up.forget()  # it overwrites the notes
        self.looked_at = looked_up_at(unit.layers[0])
        if self.looked_at is not None and unit.num_read - self.looked_at >= self.policy.look_up_tokens:
            self.looked_at = None
        self._left, self.num_steps, self.num_waiting = None, 0, unit.layers[0]["keys"].shape[2] - self.window
        self.waiting.fill_(self.num_waiting)
        near = slice(self.far, self.far + self.window)
        for index, state in enumerate(unit.layers):
            layer, keys, values = self._layer(unit, index), self.keys[index], self.values[index]
            if self.first:
                keys[:, :, : self.first] = place_keys(layer, state["first_keys"], 0, self.window - 1)
                values[:, :, : self.first] = state["first_values"]
            leaving = slice(self.far - self.run, self.far)
            keys[:, :, leaving] = place_keys(layer, state["keys"][:, :, : self.run], 0, self.window - 1)
            values[:, :, leaving] = state["values"][:, :, : self.run]
            keys[:, :, near] = layer.rotate(
                state["keys"][:, :, self.num_waiting :], slice(self.window), self.window + self.run
            )
            values[:, :, near] = state["values"][:, :, self.num_waiting :]
            self.mass[index, ..., : self.window] = state["mass"][..., self.num_waiting :]
            self._keep_chosen(index, state.get("chosen"))
            known = self.chosen[index]
            if self.looked_at is not None and known is not None:
                self.policy.fetch_into(layer, self.shelves[index], known)
        self.mass[..., self.window :] = 0
        self.seen[..., : self.first] = True
        self.place.zero_()

    def leave(self, unit: Unit) -> None:
        """Give the run back to the memory, and let the policy pack what is ready."""
        n = self.num_steps
        for index, state in enumerate(unit.layers):
            values = self.values[index, :, :, self.far + self.window :][:, :, :n]
            state["keys"] = torch.cat([state["keys"], self.new[index, :, :, :n]], dim=2)
            state["values"] = torch.cat([state["values"], values], dim=2)
            mass = self.mass[index, ..., : self.window + n]
            state["mass"] = torch.cat([state["mass"][..., : self.num_waiting], mass], dim=2)
            chosen = self.chosen[index]  # which the next run overwrites
            at = self.looked_at if self.policy.look_up_tokens > 1 else None
            note_look_up(state, None if chosen is None else chosen.clone(), at)
        for name, number in self.tally.items():
            if count := int(number):
                unit.counts[name] = unit.counts.get(name, 0) + count
                number.zero_()
        unit.num_read += n
        self.num_steps = 0
        self.policy.after_run(unit)
        self._left = weakref.ref(unit), unit.num_read

    def turn(self) -> None:
        """Move the borders of what this step may see; its queries and keys are turned in `attend`."""
        self.at = self.far + self.window + self.place
        places = torch.arange(self.far - self.run, self.seen.shape[-1], device=self.place.device)
        gone = (places < self.far) & (places <= self.far - self.run + self.waiting + self.place)
        self.seen[..., self.far - self.run :] = gone | ((places > self.far + self.place) & (places <= self.at))
        stands = torch.cat([self.place + self.window, torch.full_like(self.place, self.window - 1)])  # near, and far
        self.angles = self.rotary.angles(self.keys, stands, self.window + self.run + 1, self.layer_type)

    def step(self, forward: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """Logits [B, 1, V] after one more token of each row, `ids` [B, 1]; `forward` runs the model on them.

        A step that fails is as if it had not been: what it wrote is written again by the next one.
        """
        assert self.held is not None
        _, unit = self.held
        read = unit.num_read + self.num_steps
        due = self.looked_at is None or read - self.looked_at >= self.policy.look_up_tokens
        if due:
            self.looking = True
            try:
                output = self.looked_up(forward, ids) if self.can_record else forward(ids)
            finally:
                self.looking = False
            self.looked_at = read
        else:
            output = self.recorded(forward, ids)
        self.mass += self.gained[..., self.far :]
        note_attended(unit.counts, self.seen.sum(dim=-1).max())
        self.policy.after_step(unit, ids, output)
        self.num_steps += 1
        self.place += 1
        if self.num_waiting + self.num_steps == self.run:
            self.settle()
        return output

    def attend(self, index: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of one token of each row in layer `index`, [B, H, 1, D]; queries and keys are not turned yet."""
        assert self.held is not None
        layer, shelf = self._layer(self.held[1], index), self.shelves[index]
        if self.looking:
            chosen = self.policy.choose(layer, queries, self.chosen[index])
            assert chosen is not None  # as `can_run` said
            self.policy.fetch_into(layer, shelf, chosen)
            self._keep_chosen(index, chosen)
        H, cut, keys_here, values_here = queries.shape[1], self.far, self.keys[index], self.values[index]
        both = torch.cat([queries, keys], dim=1).expand(-1, -1, 2, -1)
        turned = self.rotary.turned(both, *self.angles)  # near, and far
        near, far = turned[:, :H, :1], turned[:, :H, 1:]
        for room, at, new in (
            (keys_here, self.at, turned[:, H:, :1]),
            (values_here, self.at, values),
            (self.new[index], self.place, keys),
        ):
            room.index_copy_(2, at, new)
        kernel = mass_kernel(queries, layer)
        if kernel:
            seen, gained = self.seen[index, :, 0, 0], self.gained[index]
            output = kernel.step_attention(far, near, keys_here, values_here, seen, cut, scaling, gained)
        else:
            G = keys.shape[1]
            scores = [
                (part * scaling).unflatten(1, (G, -1)).squeeze(3) @ keys_here[:, :, side].transpose(-1, -2)
                for part, side in ((far, slice(cut)), (near, slice(cut, None)))
            ]  # [B, G, H / G, S]
            hidden = torch.cat(scores, dim=-1).masked_fill(~self.seen[index], -torch.inf)
            weights = torch.softmax(hidden, dim=-1, dtype=torch.float32)
            output = (weights.to(values.dtype) @ values_here).flatten(1, 2)[:, :, None]
            self.gained[index] = weights.flatten(1, 2)
        if self.looking:
            self.policy.credit(layer, shelf, self.gained[index, ..., self.first : cut - self.run])
        return output

    def _keep_chosen(self, index: int, chosen: Tensor | None) -> None:
        """Note what layer `index` found, [B, n], where a recorded look-up reads it."""
        before = self.chosen[index]
        if before is not None and chosen is not None and before.shape == chosen.shape:
            before.copy_(chosen)
        elif before is not None or chosen is not None:
            with torch.inference_mode(False):  # else it could not be overwritten outside of that mode
                self.chosen[index] = None if chosen is None else chosen.clone()
            self.looked_up.forget()

    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(each.nbytes for each in (self.keys, self.values, self.new, self.mass, self.gained, self.seen))
