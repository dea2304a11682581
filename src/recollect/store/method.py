"""What a method of the store is: what it derives at write, how it reads, and what it does in quiet hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from recollect.store.records import Episode, Hit
from recollect.store.sqlite import Filter

if TYPE_CHECKING:
    from recollect.store.engine import Engine


@dataclass(frozen=True, slots=True)
class Request:
    """One call of `recall`."""

    text: str
    k: int
    asked_at: datetime  # relative expressions in the text are read from here
    filter: Filter
    kinds: frozenset[str] | None = None  # None: every kind


class Method(Protocol):
    """A way of remembering, chosen by `recollect.open(path, method=...)`. Its class is the paper's or the field's name."""

    name: str
    version: str

    def encode(self, engine: Engine, episodes: Sequence[Episode]) -> None:
        """Derive notes and links from episodes that have just been written; nothing, for a method that keeps them only."""
        ...

    def recall(self, engine: Engine, request: Request) -> list[Hit]:
        """The k best records for a request, best first, each with its explanation."""
        ...


def make_method(spec: str | Method | None) -> Method:
    """A method by its name (None: `episodic`), or the given instance.

    Raises InvalidInput for an unknown name.
    """
    from recollect.errors import InvalidInput

    if spec is None or spec == "episodic":
        from recollect.store.episodic import Episodic

        return Episodic()
    if isinstance(spec, str):
        raise InvalidInput(f"method: {spec!r:.60} is not known; choose one of: episodic.")
    return spec
