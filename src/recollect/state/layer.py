"""What a layer with a state is: `y, state = layer(x, state)`; and what can be done with any state.

A state is a tree: a dict from names to tensors or to further dicts. Every tensor has the rows of the batch first, so that
a state can be selected by row (beam search), reset by row, saved, loaded and detached without knowing its layer. A name
holds no full stop.

A sequence at once, in pieces with the state carried, and token by token give the same outputs and gradients, except where
a layer says that it looks ahead (`causal`, `prefix_tokens`).

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recollect.errors import InvalidInput, NotFound

State = dict[str, Any]  # names to tensors [B, ...] or to further states
FORMAT = "recollect state 1"


class StateLayer(nn.Module):
    """Base of the layers: what one must have is `initial_state` and `mix`; what it gets is the rest.

    A layer is made with its width first, `Layer(dim, ...)`, and every setting after it has a default that plain JSON
    can hold. Buffers, if any, are persistent.
    """

    auxiliary_loss: Tensor | None = None  # what the last call in training mode wants added to the loss
    causal = True  # False: an output depends on later tokens of the same call, so that streams are read whole
    prefix_tokens = 0  # the first tokens of a stream that look at each other, and so come in one call

    def __init__(self, dim: int):
        super().__init__()
        if dim < 1:
            raise InvalidInput(f"dim: {dim} is too small; use 1 or more.")
        self.dim = dim

    def initial_state(self, num_rows: int = 1) -> State:
        """The state before the first token, on the layer's device; may depend on parameters, and then carries gradient."""
        raise NotImplementedError

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs [B, T, D] for inputs [B, T, D] read from `state`, and the state after them; `state` is left as it was."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State | None = None, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """(y, state): outputs [B, T, D] for inputs x [B, T, D], and the state after the last of them.

        `state`: where to go on; None begins anew. `reset` [B, T], boolean: rows that forget everything before they read
        the token at this place, such as the first of a document. Raises InvalidInput for inputs that do not fit.
        """
        self.check(x, state, reset)
        now = self.initial_state(x.shape[0]) if state is None else state
        if reset is None:
            return self.mix(x, now)
        places = reset.any(0).nonzero()[:, 0].tolist()
        outputs = []
        for start, end in zip([0, *places], [*places, x.shape[1]], strict=True):
            if start in places and start != end:
                now = self.reset(now, reset[:, start])
            if start != end:
                y, now = self.mix(x[:, start:end], now)
                outputs.append(y)
        return torch.cat(outputs, 1), now

    def rate_factors(self) -> dict[str, float]:
        """Parameters, by name, that learn at a rate of their own: factors on the learning rate, without weight decay."""
        return {}

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(y, state) for one token x [B, D]."""
        y, after = self(x[:, None], state)
        return y[:, 0], after

    def reset(self, state: State, rows: Tensor) -> State:
        """The state with those rows as at the beginning that are set in `rows` [B]; others as they were."""
        return where(rows, self.initial_state(len(rows)), state)

    def state_bytes(self, num_tokens: int = 0) -> int:
        """Bytes of one row's state after `num_tokens` tokens; the same at any number unless the layer's state grows."""
        with torch.no_grad():
            return size_bytes(self.initial_state(1))

    def zeros(self, *shape: int, dtype: torch.dtype | None = torch.float32) -> Tensor:
        """Zeros on the layer's device, float32 unless told; `dtype` None: as the parameters."""
        parameter = next(self.parameters())
        return parameter.new_zeros(shape, dtype=dtype)

    def check(self, x: Tensor, state: State | None, reset: Tensor | None) -> None:
        """Raises InvalidInput, naming the argument, for inputs that do not fit the layer or each other."""
        if x.ndim != 3 or x.shape[-1] != self.dim or not x.shape[1]:
            raise InvalidInput(f"x: has shape {list(x.shape)}; give [rows, tokens, {self.dim}], one token or more.")
        if state is not None and (rows := num_rows(state)) not in (None, x.shape[0]):
            raise InvalidInput(f"state: has {rows} rows, x {x.shape[0]}; give the state of these rows.")
        if reset is not None and (reset.shape != x.shape[:2] or reset.dtype != torch.bool):
            raise InvalidInput(f"reset: give booleans of shape {list(x.shape[:2])}.")


def tensors(state: State, under: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each tensor in a state; the names on the way are joined by full stops."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield under + name, value
        else:
            yield from tensors(value, f"{under}{name}.")


def map_state(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """A state of the same shape; each tensor is what `function` makes of the tensors in its place."""
    return {
        name: function(value, *(other[name] for other in others))
        if isinstance(value, Tensor)
        else map_state(function, value, *(other[name] for other in others))
        for name, value in state.items()
    }


def detach(state: State) -> State:
    """The same values without gradient: where truncated back-propagation through time stops."""
    return map_state(Tensor.detach, state)


def select(state: State, rows: Tensor) -> State:
    """Row r of the new state is row `rows[r]` of the old one; rows may repeat."""
    return map_state(lambda tensor: tensor.index_select(0, rows.to(tensor.device)), state)


def where(rows: Tensor, chosen: State, other: State) -> State:
    """Rows set in `rows` [B] from `chosen`, the others from `other`; both of one shape."""

    def pick(one: Tensor, two: Tensor) -> Tensor:
        return torch.where(rows.to(one.device).view(-1, *[1] * (one.ndim - 1)), one, two)

    return map_state(pick, chosen, other)


def grouped(
    mix: Callable[[Tensor, State, int], tuple[Tensor, State]], x: Tensor, state: State, places: Tensor
) -> tuple[Tensor, State]:
    """What `mix(x, state, place)` gives, called once for all rows that are at the same of the `places` [B].

    For layers that work in chunks: rows that were reset stand elsewhere in their chunk. All states have one shape.
    """
    distinct = places.unique().tolist()
    if len(distinct) == 1:
        return mix(x, state, distinct[0])
    chosen = [(places == place).nonzero()[:, 0] for place in distinct]
    parts = [mix(x[rows.to(x.device)], select(state, rows), at) for rows, at in zip(chosen, distinct, strict=True)]
    back = torch.cat(chosen).argsort()
    y = torch.cat([part for part, _ in parts])[back.to(x.device)]
    joined = map_state(lambda *each: torch.cat(each), *(part for _, part in parts))
    return y, select(joined, back)


def num_rows(state: State) -> int | None:
    """Rows of a state; None for one without tensors."""
    return next((tensor.shape[0] for _, tensor in tensors(state)), None)


def size_bytes(state: State) -> int:
    """Bytes of all tensors of a state, over all rows."""
    return sum(tensor.numel() * tensor.element_size() for _, tensor in tensors(state))


def save_state(state: State, path: str | Path) -> None:
    """Write a state to a safetensors file."""
    from safetensors.torch import save_file

    kept = {name: tensor.detach().contiguous().clone() for name, tensor in tensors(state)}
    about = {"format": FORMAT, "names": list(_names(state))}
    save_file(kept, Path(path), {"recollect": json.dumps(about)})


def load_state(path: str | Path, device: str | torch.device = "cpu") -> State:
    """The state in a file that `save_state` wrote.

    Raises NotFound when there is no such file, InvalidInput when it holds no state.
    """
    from safetensors import safe_open

    if not Path(path).is_file():
        raise NotFound(f"path: there is no file {path}; `save_state` writes one.")
    try:
        with safe_open(str(path), "pt", str(device)) as file:
            about = json.loads((file.metadata() or {}).get("recollect", "{}"))
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises an error class of its own
        raise InvalidInput(f"path: {path} is not a safetensors file ({error}).") from None
    if about.get("format") != FORMAT:
        raise InvalidInput(f"path: {path} holds no state; name a file that `save_state` wrote.")
    state: State = {}
    for name in about["names"]:  # the order, too, is as it was
        *way, last = name.split(".")
        part = state
        for each in way:
            part = part[each]
        part[last] = found.get(name, {})
    return state


def _names(state: State, under: str = "") -> Iterator[str]:
    """The name of every tensor and of every state within a state, the outer ones first."""
    for name, value in state.items():
        yield under + name
        if isinstance(value, dict):
            yield from _names(value, f"{under}{name}.")
