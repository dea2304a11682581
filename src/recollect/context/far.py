"""Recent tokens at their true distances and far ones all at one distance: the attention of block memories.

Keys are kept unrotated. The recent tokens stand at positions counted from the left edge of what is still recent; every
far key stands at 0 and every query that looks far at one constant distance, so that the order of far keys has no meaning
and no angle is larger than the window. A token is near for a query within `window` of it and far beyond that, never both.

The layer's state holds `keys`, `values` [B, G, R, D] of the recent tokens, `mass` [B, H, R], the attention that each got
from the queries in whose window it was, in float32, and `first_keys`, `first_values`, the first tokens of the stream.

`BlockMemory` is the base of policies that attend so, and fetch what is far by look-ups; `near_and_far` is their attention, and
far_ring.py does the same for single tokens in place.

`place_keys` and `place_queries` are the same thing for policies that keep far keys turned, with true distances as a choice.

Shapes: B rows, H query heads, G key-value heads, T new tokens, R recent tokens, F far tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recollect.context.attention import Band, Part, attend_with_mass, kernels
from recollect.context.cache import Layer, State, Unit, append
from recollect.context.growing import Growing
from recollect.context.policy import ContextMemory

if TYPE_CHECKING:
    from recollect.context.far_ring import FarRing, Shelf
    from recollect.context.rotary import Rotary

Far = tuple[Tensor, Tensor, Tensor | None]  # keys [B, G, F, D], turned, values [B, G, F, D], mask [B, 1, 1, F] or None


class BlockMemory(ContextMemory):
    """Base of policies that keep a window and the first tokens, pack away what is older, and fetch some of it by look-ups."""

    num_first_tokens: int
    window_tokens: int
    look_up_tokens: int  # tokens that are decoded with what one look-up chose
    run_tokens: int  # as many beyond the window are packed away while decoding
    shelf_tokens: int  # room for what is fetched
    least_known: int  # things that there must be to choose among before look-ups can be recorded

    def choose(self, layer: Layer, queries: Tensor, before: Tensor | None) -> Tensor | None:
        """What a look-up with queries [B, H, T, D], not turned, finds [B, n], with -1 for none, on their device.

        `before` is what the look-up before it found, if there was one. None where there is nothing to look among yet.
        """
        raise NotImplementedError

    def sizes(self, layer: Layer) -> Tensor:
        """Tokens of each thing that can be chosen [N], on the device; 0 behind those that `layer.known` counts."""
        raise NotImplementedError

    def similarity(self, layer: Layer, queries: Tensor) -> Tensor | None:
        """How well each thing [B, N] matches queries [B, H, T, D], not turned: products summed over heads, means over tokens.

        Minus infinity behind what `layer.known` counts; None where there is nothing yet.
        """
        vectors = layer.state.get("representatives")
        if vectors is None:
            return None
        mean = far_queries(layer, queries.mean(dim=2, keepdim=True), self.window_tokens).flatten(1)  # [B, H * D]
        held = vectors.tensor if layer.known is None else vectors.room
        found = (held.to(mean) @ mean[..., None])[..., 0]
        return found if layer.known is None else found.masked_fill(beyond(layer.known, found), -torch.inf)

    def recall(self, layer: Layer, queries: Tensor) -> tuple[Tensor | None, bool]:
        """(what to attend to [B, n] or None, whether it was looked up for this chunk)."""
        state, alone = layer.state, queries.shape[2] == 1
        at, before = looked_up_at(state), state.get("chosen")
        if alone and at is not None and layer.num_read - at < self.look_up_tokens:
            return before, False
        chosen = self.choose(layer, queries, before)
        note_look_up(state, chosen, layer.num_read if alone and self.look_up_tokens > 1 else None)
        return chosen, True

    def fetch_into(self, layer: Layer, shelf: Shelf, chosen: Tensor) -> None:
        """Bring what was chosen [B, n] onto the shelf, and say there what is seen."""
        raise NotImplementedError

    @staticmethod
    def on_gpu_alone(unit: Unit) -> bool:
        """Whether a look-up needs nothing of the host but its memory, so that it can be recorded as a graph."""
        stores = [state["host_tokens"].room for state in unit.layers]
        found = kernels("mass_kernel", unit.layers[0]["keys"].device) is not None
        return found and all(store.is_pinned() for store in stores)

    def credit(self, layer: Layer, shelf: Shelf, mass: Tensor) -> None:
        """Note the attention [B, H, F] that the shelf got from the token that looked up."""

    def after_step(self, unit: Unit, input_ids: Tensor, logits: Tensor) -> None:
        """Note a token that was decoded in place; what to do with it can wait until the run ends."""

    def after_run(self, unit: Unit) -> None:
        """Take up what `after_step` noted, and pack away what is ready, when the state of the unit is whole again."""
        raise NotImplementedError

    def can_run(self, unit: Unit) -> bool:
        """Whether the unit's tokens can be decoded in place: its window is full, and there is something to look up."""
        least = self.window_tokens
        return self.run_tokens <= least and all(
            "representatives" in state
            and least <= state["keys"].shape[2] < least + self.run_tokens
            and ("first_keys" in state or not self.num_first_tokens)
            for state in unit.layers
        )

    def room(self, unit: Unit, rotary: Rotary, layer_type: str | None) -> FarRing | None:
        """Buffers in which the unit's next tokens are decoded in place (far_ring.py)."""
        from recollect.context.far_ring import FarRing

        return FarRing(self, unit, rotary, layer_type) if self.shelf_tokens and self.can_run(unit) else None


def beyond(known: Tensor, things: Tensor) -> Tensor:
    """Which of `things` [..., N] are behind the first `known`, [N]."""
    return torch.arange(things.shape[-1], device=things.device) >= known


def looked_up_at(state: State) -> int | None:
    """How many tokens were read before the look-up whose choice serves further tokens; None where the next token looks up."""
    at = state.get("host_chosen_at")
    return None if at is None else int(at[0])


def note_look_up(state: State, chosen: Tensor | None, at: int | None) -> None:
    """Keep what was chosen [B, n], and with `at` for the tokens that follow on as many that were read."""
    state.pop("host_chosen_at", None)
    if chosen is not None:
        state["chosen"] = chosen
        if at is not None:
            state["host_chosen_at"] = torch.full((len(chosen),), at)


def near_and_far(
    layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, window: int, fetch: Callable[[], Far | None]
) -> tuple[Tensor, Callable[[], Tensor] | None]:
    """(output [B, H, T, D], what the fetched tokens got if there are any: a function that works it out, [B, H, F]) of a chunk.

    `fetch` hands over what was retrieved, its keys turned by `place_keys` with a distance of `window` - 1; it is called when
    the near part has been launched, so that a copy that is under way on a GPU may overlap with it. The first tokens and those
    that left the window, not yet packed away, are far too.
    """
    state, T = layer.state, queries.shape[2]
    known = state["keys"].shape[2] if "keys" in state else 0
    if known:
        keys = torch.cat([state["keys"].to(keys), keys], dim=2)  # the model may have been moved
        values = torch.cat([state["values"].to(values), values], dim=2)
    R = keys.shape[2]
    any_fetched = False

    def parts() -> Iterator[Part]:
        turned, far = layer.rotate(queries, slice(R - T, R), R), far_queries(layer, queries, window)
        yield Part(turned, layer.rotate(keys, slice(R), R), values, Band(R - T, most=window))

        def placed(far_keys: Tensor, far_values: Tensor, mask: Band | None) -> Part:
            return Part(far, place_keys(layer, far_keys.to(keys), 0, window - 1), far_values.to(keys), mask)

        if window < R:  # recent, but beyond the window of some query of the chunk
            left = slice(R - window)
            yield placed(keys[:, :, left], values[:, :, left], Band(R - T, least=window))
        if "first_keys" in state:
            yield placed(state["first_keys"], state["first_values"], None)
        fetched = fetch()
        if fetched is not None:
            nonlocal any_fetched
            any_fetched = True
            yield Part(far, *fetched)

    output, mass_of = attend_with_mass(parts(), layer)
    mass = mass_of(0)
    if known:
        mass[..., :known] += state["mass"].to(mass.device)
    state["keys"], state["values"], state["mass"] = keys, values, mass
    return output, (lambda: mass_of(-1)) if any_fetched else None


def far_queries(layer: Layer, queries: Tensor, window: int) -> Tensor:
    """Queries [B, H, T, D] turned to the one distance at which far keys stand: the far end of the window."""
    return layer.rotate(queries, slice(window - 1, window), window)


def place_keys(layer: Layer, keys: Tensor, start: int, distance: int | None) -> Tensor:
    """Keys [B, G, S, D] of the tokens from `start` on, turned to where far queries meet them.

    That is their true position, or with a `distance` 0, and `distance` is how far away all of them seem to be.
    """
    if distance is None:
        end = start + keys.shape[2]
        return layer.rotate(keys, slice(start, end), end)
    return layer.rotate(keys, slice(1), distance + 1)


def place_queries(layer: Layer, queries: Tensor, start: int, distance: int | None) -> Tensor:
    """Queries [B, H, T, D] of the tokens from `start` on, turned to meet what `place_keys` placed."""
    if distance is None:
        end = start + queries.shape[2]
        return layer.rotate(queries, slice(start, end), end)
    return layer.rotate(queries, slice(distance, distance + 1), distance + 1)


def leave(state: State, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take the oldest `length` recent tokens out of the state: keys, values [B, G, length, D], mass [B, H, length]."""
    left = state["keys"][:, :, :length], state["values"][:, :, :length], state["mass"][..., :length]
    state["keys"] = state["keys"][:, :, length:].clone()
    state["values"] = state["values"][:, :, length:].clone()
    state["mass"] = state["mass"][..., length:].clone()
    return left


def keep_first(state: State, num_first: int, window: int) -> None:
    """Let the first `num_first` tokens of the stream become far for good, as soon as they have left the window."""
    missing = num_first - (state["first_keys"].shape[2] if "first_keys" in state else 0)
    ready = min(missing, state["keys"].shape[2] - window)
    if ready > 0:
        keys, values, _ = leave(state, ready)
        for name, new in (("first_keys", keys), ("first_values", values)):
            state[name] = torch.cat([state[name], new], dim=2) if name in state else new.clone()


def store_far(state: State, keys: Tensor, values: Tensor) -> None:
    """Append keys and values [B, G, S, D] to `host_tokens` [B, all, 2, G, D], in host memory."""
    append(state, "host_tokens", torch.stack([keys, values], dim=1).detach().permute(0, 3, 1, 2, 4).contiguous())


def copy_tokens(stored: Growing, tokens: Tensor, keys: Tensor, values: Tensor, stretch: Tensor) -> None:
    """Copy tokens of `stored` [B, S, 2, G, D] from host memory into keys and values [B, G, F, D].

    Token `tokens` [B, F] comes to its place among the F, if it is not negative, its key multiplied by `stretch` [D]. On a GPU a
    kernel reads the host's memory, so that nothing has to wait for the choice.
    """
    kernel = kernels("mass_kernel", keys.device) if stored.room.is_pinned() else None
    if kernel:
        kernel.copy_tokens(stored.room, tokens, keys, values, stretch)
    else:
        row, place = (tokens >= 0).nonzero(as_tuple=True)
        found = stored.tensor[row.cpu(), tokens[row, place].cpu()].to(keys)
        keys[row, :, place], values[row, :, place] = found[:, 0] * stretch, found[:, 1]


def stretch_at_zero(layer: Layer, like: Tensor, window: int) -> Tensor:
    """What a far key [D] is multiplied with in place of `place_keys`: 1, or the factor of a scaling that stretches vectors."""
    return place_keys(layer, like.new_ones(1, 1, 1, like.shape[-1]), 0, window - 1)[0, 0, 0]


def representative(keys: Tensor, mass: Tensor, num: int) -> Tensor:
    """What stands for a block at look-up, [B, H * D]: for each head the mean of the `num` keys with the greatest mass.

    keys [B, G, S, D] unrotated, mass [B, H, S], -inf at padding; blocks shorter than `num` are averaged whole.
    """
    B, H, S = mass.shape
    found = mass.topk(min(num, S), dim=-1)
    real = (found.values > -torch.inf)[..., None].to(keys.dtype)
    best = found.indices[..., None].expand(-1, -1, -1, keys.shape[-1])
    heads = keys[:, :, None].expand(-1, -1, H // keys.shape[1], -1, -1).flatten(1, 2)
    chosen = heads.gather(2, best)
    return ((chosen * real).sum(dim=2) / real.sum(dim=2)).reshape(B, -1)
