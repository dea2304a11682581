"""Shared by the tests: where measuring data may lie, and memories that are quick to open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

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


@pytest.fixture
def open_memory(tmp_path: Path) -> Iterator[Callable[..., recollect.Memory]]:
    """Open memories on `tmp_path/memory.db` with the hashing embedder; all are closed at the end."""
    opened: list[recollect.Memory] = []

    def make(**options: object) -> recollect.Memory:
        path = options.pop("path", tmp_path / "memory.db")
        memory = recollect.open(path, **{"embedder": "hashing", **options})  # type: ignore[arg-type]
        opened.append(memory)
        return memory

    yield make
    for memory in opened:
        memory.close()
