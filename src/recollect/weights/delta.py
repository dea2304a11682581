"""A delta: what learning changed in a model's parameters, with an id, so that it can be undone, redone, saved and weighed.

It holds the tensors that changed, as they were and as they became. `undo` puts back the old ones bit for bit, and refuses
when something else has changed them since; `subtract` then takes the difference out of what is there.

Cost: two copies of each changed tensor. `Deltas` is a method that makes one of every task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task


class Delta:
    """The change of some named tensors of a model (parameters and buffers), by name as they were and as they became."""

    def __init__(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor], label: str = "") -> None:
        self.before, self.after, self.label = dict(before), dict(after), label
        digest = hashlib.sha256()
        for name in sorted(self.after):
            digest.update(name.encode())
            for tensor in (self.before[name], self.after[name]):
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        self.id = digest.hexdigest()[:12]  # of the content: the same change has the same id

    @classmethod
    def between(cls, before: Mapping[str, Tensor], model: nn.Module, label: str = "") -> Self:
        """What has changed in the model since `snapshot(model)` gave `before`; tensors that came since are left out."""
        changed = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in model.state_dict().items()
            if name in before and not torch.equal(tensor.cpu(), before[name])
        }
        return cls({name: before[name] for name in changed}, changed, label)

    @property
    def size_bytes(self) -> int:
        """Bytes of what it holds: old and new values of each changed tensor."""
        return sum(x.numel() * x.element_size() for part in (self.before, self.after) for x in part.values())

    def undo(self, model: nn.Module) -> None:
        """Put the old values back, bit for bit. Raises Conflict when they have been changed since, and changes nothing."""
        self._replace(model, self.after, self.before, "undo")

    def redo(self, model: nn.Module) -> None:
        """Put the new values back, bit for bit. Raises Conflict unless the model holds the old ones."""
        self._replace(model, self.before, self.after, "redo")

    def subtract(self, model: nn.Module) -> None:
        """Take the difference out of what the model holds now, exact up to rounding; for use after later learning."""
        state = self._tensors(model)
        with torch.no_grad():
            for name, old in self.before.items():
                here = state[name]
                if here.is_floating_point():
                    here.sub_((self.after[name].double() - old.double()).to(here))
                else:
                    here.copy_(old)

    def save(self, path: Path | str) -> None:
        """Write the delta to one safetensors file."""
        from safetensors.torch import save_file

        tensors = {f"before/{name}": x.contiguous() for name, x in self.before.items()}
        tensors |= {f"after/{name}": x.contiguous() for name, x in self.after.items()}
        save_file(tensors, path, metadata={"id": self.id, "label": self.label})

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote. Raises NotFound without a file, InvalidInput when it is no delta or was changed."""
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise NotFound(f"path: there is no file {path}; name one that a delta was saved to.")
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                said = file.metadata() or {}
            parts = [{n[len(p) :]: x for n, x in tensors.items() if n.startswith(p)} for p in ("before/", "after/")]
            delta = cls(parts[0], parts[1], said.get("label", ""))
        except (SafetensorError, KeyError) as error:
            raise InvalidInput(f"path: {path} holds no delta ({error!s:.80}); save one there first.") from None
        if delta.id != said.get("id"):
            raise InvalidInput(f"path: {path} was changed after it was saved; use an unchanged copy.")
        return delta

    def _tensors(self, model: nn.Module) -> dict[str, Tensor]:
        state = model.state_dict()
        for name, tensor in self.after.items():
            if name not in state or state[name].shape != tensor.shape:
                raise InvalidInput(f"model: has no tensor {name!r:.60} of that shape; use the model that was changed.")
        return state

    def _replace(self, model: nn.Module, expected: dict[str, Tensor], wanted: dict[str, Tensor], verb: str) -> None:
        state = self._tensors(model)
        for name, tensor in expected.items():
            if not torch.equal(state[name].cpu(), tensor):
                raise Conflict(
                    f"delta: {name!r:.60} has been changed by something else, so {verb} would not be exact; {verb} the "
                    "later change first, or use `subtract`."
                )
        with torch.no_grad():
            for name, tensor in wanted.items():
                state[name].copy_(tensor)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of the model's state, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


@contextmanager
def recording(model: nn.Module, label: str = "") -> Iterator[list[Delta]]:
    """What the body changes in the model is appended, as one delta, to the list that this gives."""
    before, found = snapshot(model), []
    yield found
    found.append(Delta.between(before, model, label))


@dataclass
class Deltas(Method):
    """Keeps a delta of every task that is learned; the last one is undone first."""

    @property
    def deltas(self) -> list[Delta]:
        """The deltas of the tasks, in the order of learning."""
        return [Delta(*parts) for parts in self.state.get("deltas", [])]

    def before_task(self, learner: Learner, task: Task) -> None:
        """Note the weights."""
        self.state["before"] = snapshot(learner.model)

    def after_task(self, learner: Learner, task: Task) -> None:
        """Keep what has changed, labelled with the task's name."""
        delta = Delta.between(self.state.pop("before"), learner.model, task.name)
        self.state.setdefault("deltas", []).append((delta.before, delta.after, delta.label))

    def undo(self, model: nn.Module) -> Delta:
        """Undo the last task's change of the weights and return it. Raises NotFound when there is none.

        Other methods keep what they remember of the task; a replay memory has a `forget` of its own.
        """
        if not self.state.get("deltas"):
            raise NotFound("task: none has been learned that could be undone; learn one first.")
        last = self.deltas[-1]
        last.undo(model)
        self.state["deltas"].pop()
        return last
