"""What a policy keeps: named tensors for each layer of each unit, in a cache that transformers' `generate` understands.

A *unit* is those rows of a batch that carry the same left padding (one row each for a policy that says `per_row`), so
that padding never enters a memory and a policy sees aligned rows only. Its state is a plain mapping from names to
tensors, rows first. Tensors whose name starts with `host_` lie in host memory, all others on the model's device.

Sizes, beam search, copies, saving and loading work on these mappings alone; a policy writes none of that.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from recollect.context.growing import Growing
from recollect.errors import Conflict, InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from recollect.context.attention import Part
    from recollect.context.in_place import Room
    from recollect.context.policy import ContextMemory
    from recollect.context.rotary import Rotate

HOST = "host_"  # prefix of the names of tensors that lie in host memory
FORMAT = 1


class Size(NamedTuple):
    """Bytes that a memory holds, spare room included."""

    device: int
    host: int


State = dict[str, Any]  # names to tensors [B, ...] or growing ones


def append(state: State, name: str, more: Tensor) -> None:
    """Append `more` [B, m, ...] to the growing tensor `name`, which need not exist yet; it lies where its name says."""
    known = state.get(name)
    if isinstance(known, Growing):
        known.append(more)
    else:
        state[name] = Growing(more, on_host=name.startswith(HOST))


def _map(state: State, function: Callable[[Tensor], Tensor]) -> State:
    return {name: function(each) if isinstance(each, Tensor) else each.map(function) for name, each in state.items()}


def _lengths(state: State) -> dict[str, int]:
    return {name: each.tensor.shape[1] for name, each in state.items() if isinstance(each, Growing)}


@dataclass
class Layer:
    """One attention layer of one unit while a chunk passes through it; what `ContextMemory.attend` is given."""

    index: int  # from 0
    num_layers: int
    state: State  # of this layer
    shared: State  # of all layers of the unit
    num_read: int  # tokens of the stream before this chunk
    rotate: Rotate  # (x [B, H, S, D], positions [S], length) -> x turned to its positions
    scaling: float  # of the scores
    softcap: float | None
    dropout: float
    counts: dict[str, Any]  # what `stats` reports
    tally: dict[str, Tensor] = field(default_factory=dict)  # counts that are kept on the device, and added to in place
    known: Tensor | None = None  # [1], on the device: how many rows growing tensors hold; None: see their length

    def count(self, parts: Sequence[Part]) -> None:
        """Note how many keys the chunk's last query may look at; the greatest number is reported by `stats`."""
        num: int | Tensor = 0
        for part in parts:
            if isinstance(part.mask, Tensor):
                num = num + part.mask[..., -1, :].sum(-1).max()
            elif part.mask is None:
                num = num + part.keys.shape[2]
            else:
                num = num + part.mask.count(part.queries.shape[2] - 1, part.keys.shape[2])
        note_attended(self.counts, num)

    def add(self, **numbers: int | Tensor) -> None:
        """Add to what `stats` reports under these names; tensors have no dimensions."""
        for name, number in numbers.items():
            if name in self.tally:
                self.tally[name] += number
            else:
                self.counts[name] = self.counts.get(name, 0) + number


def note_attended(counts: dict[str, Any], num: int | Tensor) -> None:
    """Note that a query may look at `num` keys; a tensor, which stays where it is, has no dimensions."""
    known = counts.get("attended_tokens", 0)
    if isinstance(known, Tensor) and isinstance(num, Tensor):
        known = torch.maximum(known.to(num.device), num)
    elif isinstance(known, Tensor):
        known = known.clamp(min=num)
    else:
        known = num.clamp(min=known) if isinstance(num, Tensor) else max(known, num)
    counts["attended_tokens"] = known


@dataclass
class Unit:
    """Rows of a batch that are padded alike, and what is kept of them."""

    rows: list[int]
    num_layers: int
    num_read: int = 0  # tokens read, padding not counted
    shared: State = field(default_factory=dict)
    layers: list[State] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layers = self.layers or [{} for _ in range(self.num_layers)]

    def mapped(self, rows: list[int], function: Callable[[Tensor], Tensor]) -> Unit:
        """A unit of `rows` whose tensors are `function` of those here."""
        layers = [_map(state, function) for state in self.layers]
        return Unit(rows, self.num_layers, self.num_read, _map(self.shared, function), layers, dict(self.counts))

    def states(self) -> Iterable[tuple[str, State]]:
        """(name, state) of what all layers share and of each layer."""
        yield "shared", self.shared
        yield from ((f"layer.{index}", state) for index, state in enumerate(self.layers))


class MemoryCache(Cache):
    """The memory of one batch of streams, in the place of transformers' key-value cache (`cache`)."""

    def __init__(self, policy: ContextMemory, num_layers: int, shape: tuple[int, ...]):
        super().__init__(layers=[])
        self.policy = policy
        self.num_layers = num_layers
        self.shape = shape  # (key-value heads, head size) of the model that wrote it
        self.room: Room | None = None  # which holds the newest state while tokens are decoded one by one
        self._units: list[Unit] = []
        self.num_seen = 0  # columns, padding included
        self.num_rows = 0
        self.unread: Tensor | None = None  # [B, n] tokens that were generated and not yet read

    @property
    def units(self) -> list[Unit]:
        """The units; a look at them ends decoding in place, so that they are what was read."""
        if self.room is not None:
            self.room.settle()
        return self._units

    @units.setter
    def units(self, units: list[Unit]) -> None:
        if self.room is not None:
            self.room.settle()
        self._units = units

    def open(self, num_rows: int) -> None:
        """Make room for a batch of `num_rows` streams."""
        groups = [[row] for row in range(num_rows)] if self.policy.per_row else [list(range(num_rows))]
        self.num_rows, self.units = num_rows, [Unit(rows, self.num_layers) for rows in groups]

    def split(self, starts: Tensor) -> None:
        """Split units until each holds rows with the same number of padding columns, `starts` [rows]."""
        apart: list[Unit] = []
        for unit in self.units:
            here = [int(starts[row]) for row in unit.rows]
            if len(set(here)) == 1:
                apart.append(unit)
                continue
            for start in dict.fromkeys(here):
                places = torch.tensor([place for place, each in enumerate(here) if each == start])
                rows = [unit.rows[place] for place in places.tolist()]
                apart.append(unit.mapped(rows, lambda x, places=places: x.index_select(0, places.to(x.device))))
        self.units = apart

    def checkpoint(self) -> tuple[Any, ...]:
        """What `restore` needs to undo a call; cheap, since states are replaced or appended to, never overwritten."""
        units = [
            (
                unit,
                unit.num_read,
                dict(unit.counts),
                [(state, dict(state), _lengths(state)) for _, state in unit.states()],
            )
            for unit in self.units
        ]
        return self.num_rows, self.num_seen, self.unread, units

    def restore(self, before: tuple[Any, ...]) -> None:
        """Make the memory what it was at `checkpoint`."""
        self.num_rows, self.num_seen, self.unread, units = before
        self.units = [unit for unit, *_ in units]
        for unit, num_read, counts, states in units:
            unit.num_read, unit.counts = num_read, counts
            for state, tensors, lengths in states:
                state.clear()
                state.update(tensors)
                for name, length in lengths.items():
                    state[name].shorten(length)

    def size_bytes(self) -> Size:
        """Bytes held on the model's device and in host memory."""
        device = host = 0
        for unit in self.units:
            for _, state in unit.states():
                for name, each in state.items():
                    num = each.untyped_storage().nbytes() if isinstance(each, Tensor) else each.nbytes()
                    device, host = (device, host + num) if name.startswith(HOST) else (device + num, host)
        return Size(device, host)

    def stats(self) -> dict[str, Any]:
        """What was read, kept and attended to: `num_read` and `attended_tokens` are the greatest over the rows."""
        size = self.size_bytes()
        found: dict[str, Any] = {
            "rows": self.num_rows,
            "num_read": max((unit.num_read for unit in self.units), default=0),
            "device_bytes": size.device,
            "host_bytes": size.host,
        }
        for unit in self.units:
            for name, value in (unit.counts | self.policy.report(unit)).items():
                number = value.item() if isinstance(value, Tensor) else value
                greatest = name == "attended_tokens"
                found[name] = max(found.get(name, 0), number) if greatest else found.get(name, 0) + number
        return found

    def copy(self) -> MemoryCache:
        """A copy that shares nothing with this one."""
        units = [unit.mapped(list(unit.rows), Tensor.clone) for unit in self.units]
        other = copy.copy(self)
        other.units = units
        return other

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file: every tensor, and the policy's name and settings beside them."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {} if self.unread is None else {"unread": self.unread.contiguous()}
        growing: list[str] = []
        for number, unit in enumerate(self.units):
            for place, state in unit.states():
                for name, each in state.items():
                    key = f"{number}.{place}.{name}"
                    growing += [key] if isinstance(each, Growing) else []
                    tensors[key] = (each.tensor if isinstance(each, Growing) else each).contiguous().clone()
        about = {
            "format": FORMAT,
            "policy": type(self.policy).__name__,
            "settings": asdict(self.policy),
            "num_layers": self.num_layers,
            "shape": list(self.shape),
            "num_seen": self.num_seen,
            "num_rows": self.num_rows,
            "units": [{"rows": unit.rows, "num_read": unit.num_read} for unit in self.units],
            "growing": growing,
        }
        save_file(tensors, Path(path), {"recollect": json.dumps(about)})

    def load(self, path: str | Path, device: torch.device) -> None:
        """Take over the memory in a file that `save` wrote.

        Raises NotFound when there is no such file, InvalidInput when it holds no memory, and Conflict when another
        policy, other settings or a model of another shape wrote it; then nothing is changed.
        """
        from safetensors import safe_open

        if not Path(path).is_file():
            raise NotFound(f"path: there is no file {path}; `save` writes one.")
        try:
            with safe_open(str(path), "pt") as file:
                about = json.loads((file.metadata() or {})["recollect"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (KeyError, ValueError) as error:
            raise InvalidInput(
                f"path: {path} holds no memory ({type(error).__name__}); name one that `save` wrote."
            ) from None
        except Exception as error:  # safetensors raises an error class of its own
            raise InvalidInput(f"path: {path} is not a safetensors file ({error}).") from None
        ours = {
            "format": FORMAT,
            "policy": type(self.policy).__name__,
            "settings": json.loads(json.dumps(asdict(self.policy))),
            "num_layers": self.num_layers,
            "shape": list(self.shape),
        }
        for name, value in ours.items():
            if about.get(name) != value:
                raise Conflict(
                    f"{name}: the memory in {path} was written with {about.get(name)}, not {value}; "
                    "attach the policy and the model that wrote it."
                )
        self.num_seen, self.num_rows = about["num_seen"], about["num_rows"]
        self.unread = tensors.pop("unread").to(device) if "unread" in tensors else None
        self.units = [Unit(unit["rows"], self.num_layers, unit["num_read"]) for unit in about["units"]]
        for key, tensor in tensors.items():
            number, place, name = key.split(".", 1)[0], *key.split(".", 1)[1].rsplit(".", 1)
            state = dict(self.units[int(number)].states())[place]
            tensor = tensor if name.startswith(HOST) else tensor.to(device)
            state[name] = Growing(tensor, name.startswith(HOST)) if key in about["growing"] else tensor

    # What transformers asks of a cache.

    def __len__(self) -> int:
        return self.num_layers

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any):
        """Pass the new keys and values on to the attention function, which keeps of them what the policy says."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read so far, padding included."""
        return self.num_seen

    @property
    def is_linear(self) -> list[bool]:
        """No layer is one whose tokens cannot be counted: `generate` may leave out what was read."""
        return [False] * self.num_layers

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(columns with the next ones, offset); masks are the policy's own."""
        return self.num_seen + query_length, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row r becomes what row `beam_idx[r]` is (beam search)."""
        self._take(beam_idx.tolist(), keep_groups=True)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        self._take(indices.tolist(), keep_groups=False)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times."""
        self._take([row for row in range(self.num_rows) for _ in range(repeats)], keep_groups=False)

    def crop(self, tokens_to_remove: int) -> None:
        """Raises Unavailable: what a bounded memory dropped does not come back."""
        raise Unavailable("crop: a bounded memory cannot be wound back; generate without an assistant model.")

    def reset(self) -> None:
        """Forget everything."""
        self.units, self.num_seen, self.num_rows, self.unread = [], 0, 0, None

    @property
    def is_croppable(self) -> bool:
        """False: see `crop`."""
        return False

    @property
    def batch_size(self) -> int:
        """Rows, or -1 before the first call."""
        return self.num_rows or -1

    def _take(self, sources: list[int], keep_groups: bool) -> None:
        """Make new row r of old row `sources[r]`; rows of one old unit stay one unit unless the policy is per row."""
        home = {row: (unit, place) for unit in self.units for place, row in enumerate(unit.rows)}
        if keep_groups:
            groups = [list(unit.rows) for unit in self.units]
        elif self.policy.per_row:
            groups = [[row] for row in range(len(sources))]
        else:
            groups = [[new for new, old in enumerate(sources) if home[old][0] is unit] for unit in self.units]
        taken = []
        for rows in filter(None, groups):
            units = {id(home[sources[row]][0]): home[sources[row]][0] for row in rows}
            if len(units) != 1:
                raise InvalidInput("beam_idx: a beam may only come from a row with the same padding.")
            (unit,) = units.values()
            places = torch.tensor([home[sources[row]][1] for row in rows])
            taken.append(unit.mapped(rows, lambda x, places=places: x.index_select(0, places.to(x.device))))
        self.units, self.num_rows = taken, len(sources)
