"""The blocks of a decoder: where they are kept, and how not to run those that learning does not reach again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recollect.errors import InvalidInput


def decoder_blocks(model: nn.Module) -> tuple[nn.ModuleList, tuple[nn.Module, str]]:
    """The decoder's list of blocks, and the module and attribute that hold it.

    Raises InvalidInput when there is none by a name that is known.
    """
    for parent in model.modules():
        for name in ("layers", "h", "blocks"):
            found = getattr(parent, name, None)
            if isinstance(found, nn.ModuleList) and len(found):
                return found, (parent, name)
    raise InvalidInput(f"model: {type(model).__name__} has no list of blocks that is known; use a decoder.")


@contextmanager
def run_once_below(model: nn.Module, module: nn.Module) -> Iterator[None]:
    """In the body, the blocks below the one that holds `module` run once, without gradients.

    Every pass in the body must be of the same rows, in the same mode: the later ones get what the blocks gave in the first.
    """
    blocks, _ = decoder_blocks(model)
    below = next(at for at, block in enumerate(blocks) if any(each is module for each in block.modules()))
    own = list(blocks)[:below]
    for at, block in enumerate(own):
        blocks[at] = _Once(block)
    try:
        yield
    finally:
        for at, block in enumerate(own):
            blocks[at] = block


class _Once(nn.Module):
    """A block that runs once; then it gives what it gave."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.given: Any = None

    def __getattr__(self, name: str) -> Any:
        """What is not its own is the block's, as the kind of its attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.given is None:
            with torch.no_grad():
                self.given = self.block(*args, **kwargs)
        return self.given
