"""When the next token of an attached model is decoded in place, and the call of the model that does it.

The readable way keeps its state by replacing tensors, and works out anew what a token attends to. A `Room`
holds the same in memory that is overwritten, so that each step is the same kernels on the same addresses. It is begun at a
single token, and gives its content back to the memory before anything else is done with that (a longer input, saving, beams, a
look at the state). ring.py is the room of windows, far_ring.py that of block memories.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recollect.context.recorded import Recorded, Weights
from recollect.context.rotary import Rotary

if TYPE_CHECKING:
    from recollect.context.cache import MemoryCache, Unit
    from recollect.context.policy import ContextMemory


class Room:
    """Memory in which the tokens of one unit are decoded; lives as long as the policy is attached, for one unit at a time.

    `rotary` is the room's own, so that a graph may go on reading its tables; `layer_type` is that of all layers.
    """

    def __init__(self, rotary: Rotary, layer_type: str | None):
        self.rotary, self.layer_type = rotary, layer_type
        self.held: tuple[MemoryCache, Unit] | None = None  # whose newest state this is
        self.num_steps = 0  # since it was begun
        self.recorded = Recorded()

    def begin(self, memory: MemoryCache, unit: Unit) -> None:
        """Take over a unit's state; what another memory had here is given back to it."""
        self.settle()
        self.enter(unit)
        self.held, memory.room = (memory, unit), self

    def settle(self) -> None:
        """Give the state back to the memory that it belongs to, and let go of it."""
        if self.held is not None:
            memory, unit = self.held
            self.held = memory.room = None
            self.leave(unit)

    def fits(self, unit: Unit) -> bool:
        """Whether the unit can be taken over as it is now."""
        raise NotImplementedError

    def enter(self, unit: Unit) -> None:
        """Lay out what the unit keeps."""
        raise NotImplementedError

    def leave(self, unit: Unit) -> None:
        """Write the unit's state as the readable way would have left it."""
        raise NotImplementedError

    def turn(self) -> tuple[Tensor, Tensor] | None:
        """Prepare what all layers share in a step; returns the angles by which the model shall rotate, if it shall."""
        raise NotImplementedError

    def step(self, forward: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """Logits [B, 1, V] after one more token of each row, `ids` [B, 1]; `forward` runs the model on them.

        A step that fails is as if it had not been.
        """
        raise NotImplementedError

    def attend(self, index: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of one token of each row in layer `index`, [B, H, 1, D]; turned as `turn` said."""
        raise NotImplementedError

    def nbytes(self) -> int:
        """Bytes on the device."""
        raise NotImplementedError


class InPlace:
    """Decodes single tokens of an attached model in place, where its policy and its memory allow that.

    `forward` is the model's own; `rotary` and `layer_type` are those of all layers. `plain` says whether these take angles
    of the place alone and scores without a cap, as such a step needs.
    """

    def __init__(
        self,
        policy: ContextMemory,
        model: Any,
        decoder: Any,
        forward: Callable[..., Any],
        rotary: Rotary,
        layer_type: str | None,
        plain: bool,
    ):
        self._model, self._decoder, self._forward = model, decoder, forward
        self._rotary, self._layer_type = rotary, layer_type
        self._policy, self._plain = policy, plain
        self._room: Room | None = None  # made when tokens are first decoded one by one
        self._weights: Weights | None = None  # as the room's graph knows them
        self._output_class: Any = None  # of the model, as a step found it
        self.stepping: Room | None = None  # during a step

    def takes(self, memory: MemoryCache, padded: bool) -> bool:
        """Whether the next token of this memory can be decoded in place; if it can, the room holds the memory.

        When the weights have moved, room and graph are let go of, and the token is read the readable way, by which the
        memory follows the model to another type or device.
        """
        if not self._plain or torch.is_grad_enabled() or self._model.training:
            return False
        if self._room is not None and self._weights is not None and self._weights.moved():
            self.forget()
            return False
        if memory.room is not None:
            return True
        if len(memory.units) != 1 or padded:
            return False
        (unit,) = memory.units
        if self._room is None or not self._room.fits(unit):
            room = self._policy.room(unit, Rotary(self._rotary.module, self._rotary.apply), self._layer_type)
            if room is None:
                return False
            self.forget()
            self._room, self._weights = room, Weights(self._model)
        self._room.begin(memory, unit)
        return True

    def step(self, memory: MemoryCache, ids: Tensor, use_cache: bool | None, return_dict: bool | None) -> Any:
        """What the model returns for one token of each row, `ids` [B, 1], decoded in the room that holds the memory."""
        room = memory.room
        assert room is not None

        def forward(ids: Tensor) -> Tensor:
            self._decoder.rotary_emb.angles = room.turn()
            try:
                outputs = self._forward(input_ids=ids, cache=memory, use_cache=True, return_dict=True)
            finally:
                self._decoder.rotary_emb.angles = None
            self._output_class = type(outputs)
            return outputs.logits

        try:
            self.stepping = room
            logits = room.step(forward, ids)
        finally:
            self.stepping = None
        memory.num_seen += 1
        outputs = self._output_class(logits=logits, cache=None if use_cache is False else memory)
        return outputs.to_tuple() if return_dict is False else outputs

    def forget(self) -> None:
        """Give back what the room holds, and let go of it."""
        if self._room is not None:
            self._room.settle()
        self._room = None

    def nbytes(self) -> int:
        """Bytes on the device, beside those of the memory."""
        return 0 if self._room is None else self._room.nbytes()
