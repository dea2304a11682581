"""The open memories of a server: one for each (user, agent, method), a few at a time, the longest unused closed first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recollect.config import Settings
from recollect.errors import InvalidInput
from recollect.lm import LanguageModel
from recollect.store.database import exists
from recollect.store.embedders import embedder_from_settings
from recollect.store.memory import Memory
from recollect.store.method import make_method

Place = tuple[str, str | None, str | None]  # user, agent, method


@dataclass(slots=True)
class _Entry:
    memory: Memory
    users: int = 0  # that hold it now


class Memories:
    """Memories on one database that share an embedder. Safe to use from several threads.

    num_open: how many may lie open unused; more are opened while more are in use at a time.
    """

    def __init__(self, settings: Settings, lm: LanguageModel | None, num_open: int = 16):
        if settings.db == ":memory:":
            raise InvalidInput("db: ':memory:' ends with the process; name a file for the server.")
        self.keeper = open_as_set(settings, lm)
        self._db, self._lm, self._num_open = settings.db, lm, num_open
        self._lock = threading.Lock()
        self._entries: OrderedDict[Place, _Entry] = OrderedDict()

    @contextmanager
    def lease(self, user: str, agent: str | None = None, method: str | None = None) -> Iterator[Memory]:
        """The memory of a user, open for as long as the block lasts. Raises as `recollect.open` does.

        method: None is the one that the database remembers; a name here does not change what it remembers.
        """
        place = (user, agent, method)
        with self._lock:
            entry = self._entries.get(place)
            if entry is None:
                entry = self._entries[place] = _Entry(self._open(*place))
            entry.users += 1
            self._entries.move_to_end(place)
        try:
            yield entry.memory
        finally:
            with self._lock:
                entry.users -= 1
                idle = [key for key, kept in self._entries.items() if not kept.users]
                for key in idle[: max(0, len(self._entries) - self._num_open)]:
                    self._entries.pop(key).memory.close()

    def _open(self, user: str, agent: str | None, method: str | None) -> Memory:
        engine = self.keeper.engine
        engine.follow_embedder()
        chosen = make_method(method) if method is not None else None
        return Memory(self._db, user=user, agent=agent, embedder=engine.embedder, method=chosen, lm=self._lm)

    def close(self) -> None:
        """Close them all; none may be in use."""
        with self._lock:
            for entry in self._entries.values():
                entry.memory.close()
            self._entries.clear()
            self.keeper.close()


def open_as_set(settings: Settings, lm: LanguageModel | None) -> Memory:
    """The memory that the settings name, made if there is none. Raises as `recollect.open` does."""
    if settings.origins.get("db") == "default":
        Path(settings.db).parent.mkdir(parents=True, exist_ok=True)
    new = settings.embedder is not None and not exists(settings.db)  # a database that is there remembers its own
    embedder = embedder_from_settings(settings) if new else None
    return Memory(
        settings.db, user=settings.user, agent=settings.agent, embedder=embedder, method=settings.method, lm=lm
    )
