"""A bank of memories: a tensor a document, under a handle made from the document, that can be taken out and put back.

Shapes: N documents, V vectors each, D values each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recollect.errors import Conflict, NotFound
from recollect.weights.checkpoint import read_tensors

FORMAT = "recollect bank"


@dataclass(frozen=True)
class Removal:
    """Memories that were taken out of a bank: `handles`, `size_bytes` that they held, and `undo`."""

    handles: tuple[str, ...]
    size_bytes: int
    undo: Callable[[], None]


class Bank:
    """Memories [N, V, D] with their handles, in the order in which they were added."""

    def __init__(self, num_vectors: int, width: int, device: Any = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.memories = torch.empty(0, num_vectors, width, device=device, dtype=dtype)
        self.handles: list[str] = []

    def __len__(self) -> int:
        return len(self.handles)

    def size_bytes(self) -> int:
        """What the memories hold."""
        return self.memories.nbytes

    def places(self, handles: Sequence[str]) -> list[int]:
        """Where these handles stand. Raises NotFound for an unknown one."""
        at = {handle: place for place, handle in enumerate(self.handles)}
        for handle in handles:
            if handle not in at:
                raise NotFound(f"handle: there is no memory {handle!r:.40}; see `handles`.")
        return [at[handle] for handle in handles]

    def add(self, handles: Sequence[str], memories: Tensor) -> None:
        """Append memories [n, V, D]. Raises Conflict for a handle that is there or comes twice; nothing is added then."""
        taken = [handle for at, handle in enumerate(handles) if handle in self.handles or handle in handles[:at]]
        if taken:
            raise Conflict(f"handle: {taken[0]!r:.40} is there already; remove it first.")
        self.memories = torch.cat([self.memories, memories.detach().to(self.memories)])
        self.handles = [*self.handles, *handles]

    def remove(self, handles: Sequence[str]) -> Removal:
        """Take memories out; the removal can be undone as long as the bank has not changed otherwise.

        Raises NotFound for an unknown handle, and takes none out then; `undo` raises Conflict when the bank has changed.
        """
        gone, before = set(self.places(handles)), (self.memories, self.handles)
        kept = [at for at in range(len(self)) if at not in gone]
        self.memories, self.handles = self.memories[kept], [self.handles[at] for at in kept]
        after = self.memories

        def undo() -> None:
            if self.memories is not after:
                raise Conflict("bank: it has changed since the removal; write the documents again.")
            self.memories, self.handles = before

        return Removal(tuple(before[1][at] for at in sorted(gone)), before[0].nbytes - after.nbytes, undo)

    def save(self, path: str | Path) -> None:
        """Write the bank to a safetensors file."""
        from safetensors.torch import save_file

        save_file({"memories": self.memories.cpu().contiguous()}, path, {FORMAT: json.dumps(self.handles)})

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote, in place of what is there.

        Raises NotFound without the file, InvalidInput when it holds no bank, Conflict when its vectors have another shape.
        """
        tensors, handles = read_tensors(path, "a bank", FORMAT)
        memories = tensors["memories"]
        if memories.shape[1:] != self.memories.shape[1:] or len(memories) != len(handles):
            raise Conflict(f"path: its memories are {tuple(memories.shape)}; load it with the settings that made it.")
        self.memories, self.handles = memories.to(self.memories), handles


def handle_of(text: str) -> str:
    """The handle of a document: the same text has the same one."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
