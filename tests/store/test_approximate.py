"""The graph files: never opened when stale or cut short, extended by what is missing, at peace with the encoder's engine."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.store import approximate
from recollect.store.approximate import Graph, available

pytestmark = pytest.mark.skipif(not available(), reason="needs usearch")
DIM = 16


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so few rows some would be missed where two threads begin a graph; in use it has a thousand times as many."""
    make = approximate.make_index

    def make_index(*given: Any, **options: Any) -> Any:
        index = make(*given, **options)
        index.add = partial(index.add, threads=1)
        return index

    monkeypatch.setattr(approximate, "make_index", make_index)


def rows(num: int) -> np.ndarray:
    chance = np.random.default_rng(0)
    made = np.zeros(num, [("values", "i1", (DIM,)), ("step", "<f4")])
    made["values"] = chance.integers(-127, 128, (num, DIM))
    made["step"] = 0.01
    return made


def query_of(id_: int) -> np.ndarray:
    values = rows(id_)["values"][-1].astype(np.float32)
    return values / np.linalg.norm(values)


def published(folder: Path, num: int) -> Graph:
    graph = Graph(folder, DIM)
    graph.open(5, 0)
    graph.publish(graph.build(rows(num), None), 5, 0, num)
    return graph


def test_a_graph_finds_its_rows_and_names_those_after_it(tmp_path: Path) -> None:
    published(tmp_path, 300)
    reader = Graph(tmp_path, DIM)
    assert reader.open(5, 0)
    assert reader.num_rows == 300
    assert reader.candidates(query_of(42), 5, 303)[5:].tolist() == [301, 302, 303]
    assert all(id_ in reader.candidates(query_of(id_), 5, 303)[:5] for id_ in range(1, 301))


def test_it_is_extended_by_the_rows_that_are_missing(tmp_path: Path) -> None:
    published(tmp_path, 200)
    graph = Graph(tmp_path, DIM)
    assert graph.open(5, 0)
    told: list[int] = []
    graph.publish(graph.build(rows(260), told.append), 5, 0, 260)
    assert told == [60]
    assert graph.open(5, 0)
    assert graph.num_rows == 260
    assert all(id_ in graph.candidates(query_of(id_), 5, 260) for id_ in range(1, 261))  # the old rows and the new ones
    assert len(graph.files()) == 1


def test_a_stale_or_cut_graph_is_not_opened_and_all_can_be_removed(tmp_path: Path) -> None:
    graph = published(tmp_path, 50)
    assert not Graph(tmp_path, DIM).open(6, 0)
    assert not Graph(tmp_path, DIM).open(5, 1)
    (path,) = graph.files()
    path.write_bytes(path.read_bytes()[:-1])
    assert not Graph(tmp_path, DIM).open(5, 0)
    (tmp_path / "graph-0a.tmp").write_bytes(b"left behind")
    assert len(graph.remove()) == 2
    assert graph.files() == []


def test_the_encoder_can_be_loaded_after_a_graph_was_made() -> None:
    if find_spec("onnxruntime") is None:
        pytest.skip("needs onnxruntime")
    code = (
        "from recollect.store.approximate import make_index; make_index(8, 'cos', 'i8'); import onnxruntime; print(1)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "1\n", run.stderr[:2000]
