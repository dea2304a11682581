"""Servers for the tests of this folder; all are stopped at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving import Served


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the tests that write nothing."""
    server = Served(tmp_path_factory.mktemp("standing") / "memory.db")
    yield server
    server.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start servers, on `tmp_path/memory.db` unless told otherwise."""
    started: list[Served] = []

    def start(**options) -> Served:
        started.append(Served(options.pop("db", tmp_path / "memory.db"), **options))
        return started[-1]

    yield start
    for server in started:
        server.close()
