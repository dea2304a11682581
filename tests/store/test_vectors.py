"""The vector index: equal to plain numpy, shared by processes, safe against crashes, and clean after erasing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recollect.errors import StorageFailed
from recollect.store import approximate
from recollect.store import vectors as module
from recollect.store.vectors import VectorIndex

DIM = 32


def rows(first: int, last: int, dim: int = DIM) -> np.ndarray:
    """Unit vectors of the ids first..last, the same in every process."""
    made = np.random.default_rng(7).standard_normal((last, dim), np.float32)[first - 1 :]
    return made / np.linalg.norm(made, axis=1, keepdims=True)


class Table:
    """What the database holds: a vector for each id but for holes."""

    def __init__(self, num: int, holes: tuple[int, ...] = (), slice_rows: int = 100):
        self.vectors = rows(1, num) if num else np.zeros((0, DIM), np.float32)
        self.holes = set(holes)
        self.slice_rows = slice_rows
        self.asked: list[tuple[int, int]] = []

    def fetch(self, first: int, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.asked.append((first, last))
        ids = np.array(
            [id_ for id_ in range(first, min(last, len(self.vectors)) + 1) if id_ not in self.holes], np.int64
        )
        for start in range(0, len(ids), self.slice_rows):
            part = ids[start : start + self.slice_rows]
            yield part, self.vectors[part - 1]


def make(folder: Path, **changes: object) -> VectorIndex:
    return VectorIndex(folder, **{"database_uuid": "u", "embedder_name": "e", "dim": DIM, **changes})  # type: ignore[arg-type]


def exact(vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """The specification: the best ids by cosine, ties by id."""
    ids = np.arange(1, len(vectors) + 1) if allowed is None else allowed
    return ids[np.lexsort((ids, -(vectors[ids - 1] @ query)))[:k]]


@pytest.mark.parametrize("num", [1, 999, 1024, 1025, 40_000])
def test_search_is_what_numpy_says(tmp_path: Path, num: int) -> None:
    table = Table(num, slice_rows=4096)
    index = make(tmp_path)
    assert index.sync(num, table.fetch) == num
    held = index.get(range(1, num + 1))
    assert np.abs(held - table.vectors).max() < 0.004
    chance = np.random.default_rng(0)
    for _ in range(5):
        query = rows(1, 1)[0] + 0.3 * chance.standard_normal(DIM, np.float32)
        query /= np.linalg.norm(query)
        for share in (None, 0.01, 0.2, 0.9):
            allowed = None if share is None else 1 + np.flatnonzero(chance.random(num) < share)
            ids, scores = index.search(query, 20, allowed=allowed)
            assert ids.dtype == np.int64
            assert scores.dtype == np.float32
            assert np.allclose(scores, held[ids - 1] @ query, atol=1e-5)
            wanted = exact(held, query, 20, allowed)
            assert len(ids) == len(wanted)
            assert np.allclose(scores, held[wanted - 1] @ query, atol=1e-5)
            assert set(ids[scores > scores.min() + 1e-5]) <= set(wanted) if len(ids) else True
            assert (np.diff(scores) <= 0).all()


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    index = make(tmp_path / "folder")
    assert [len(part) for part in index.search(np.ones(DIM, np.float32), 5)] == [0, 0]
    assert index.get([1, 2]).tolist() == np.zeros((2, DIM)).tolist()
    assert (index.size_bytes(), index.approximate, index.note, index.erase([1])) == (0, False, None, [])
    assert not (tmp_path / "folder").exists()
    index.drop()


def test_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    table = Table(250)
    index, other = make(tmp_path), make(tmp_path)
    assert index.sync(100, table.fetch) == 100
    assert other.search(table.vectors[41], 1)[0].tolist() == [42]
    assert index.sync(250, table.fetch) == 150
    assert index.sync(250, table.fetch) == index.sync(7, table.fetch) == 0
    assert table.asked == [(1, 100), (101, 250)]
    assert other.search(table.vectors[249], 1)[0].tolist() == [250]


def test_holes_are_never_found(tmp_path: Path) -> None:
    table = Table(60, holes=(1, 7, 8, 59, 60))
    index = make(tmp_path)
    assert index.sync(60, table.fetch) == 60
    for allowed in (None, np.arange(1, 61), np.array([7, 8, 9])):
        found = index.search(-table.vectors[6], 100, allowed=allowed)[0]
        assert set(found) == (set(range(1, 61)) if allowed is None else set(allowed)) - table.holes
    assert len(index.verify(60, table.fetch)) == 0


def test_allowed_ids_beyond_the_index_are_passed_over(tmp_path: Path) -> None:
    table = Table(50)
    index = make(tmp_path)
    index.sync(50, table.fetch)
    assert index.search(table.vectors[0], 5, allowed=np.array([-3, 0, 4, 50, 51, 900]))[0].tolist() in (
        [4, 50],
        [50, 4],
    )
    assert len(index.search(table.vectors[0], 5, allowed=np.empty(0, np.int64))[0]) == 0
    assert len(index.search(table.vectors[0], 0)[0]) == 0


def test_erased_rows_are_gone_from_every_file(tmp_path: Path) -> None:
    table = Table(300)
    index, reader = make(tmp_path), make(tmp_path)
    index.sync(300, table.fetch)
    kept = index.get([4, 5, 6])
    stored = [row["values"].tobytes() for row in index._encode(table.vectors[[2, 3, 299]])]
    assert reader.search(table.vectors[3], 1)[0].tolist() == [4]
    assert index.erase([3, 4, 300, 300]) == [str(tmp_path / "vectors.i8")]
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(values in everything for values in stored)
    assert reader.search(table.vectors[3], 1)[0].tolist() != [4]
    assert np.array_equal(reader.get([4, 5, 6])[1:], kept[1:])
    assert not reader.get([4]).any()
    assert index.verify(300, table.fetch).tolist() == [3, 4, 300]


def test_an_erased_row_is_not_added_by_a_reader_with_an_older_view(tmp_path: Path) -> None:
    table = Table(20)
    index = make(tmp_path)
    index.sync(10, table.fetch)
    index.erase([15])
    make(tmp_path).sync(20, table.fetch)
    assert not index.get([15]).any()
    assert index.get([14, 16]).any(1).all()


@pytest.mark.parametrize("change", [{"database_uuid": "v"}, {"embedder_name": "f"}, {"dim": 16}])
def test_files_of_another_database_or_embedder_are_replaced(tmp_path: Path, change: dict[str, object]) -> None:
    table = Table(30)
    first = make(tmp_path)
    first.sync(30, table.fetch)
    other = make(tmp_path, **change)
    dim = int(change.get("dim", DIM))  # type: ignore[call-overload]
    mine = rows(1, 5, dim)
    assert len(other.search(mine[0], 3)[0]) == 0
    assert other.sync(5, lambda first, last: [(np.arange(first, last + 1), mine[first - 1 : last])]) == 5
    assert other.search(mine[2], 1)[0].tolist() == [3]
    assert len(first.search(table.vectors[0], 3)[0]) == 0


def test_dropping_starts_anew_under_a_reader(tmp_path: Path) -> None:
    table = Table(40)
    index, reader = make(tmp_path), make(tmp_path)
    index.sync(40, table.fetch)
    assert len(reader.search(table.vectors[0], 50)[0]) == 40
    index.drop()
    assert len(reader.search(table.vectors[0], 50)[0]) == 0
    table.vectors = -table.vectors
    index.sync(30, table.fetch)
    assert reader.search(table.vectors[4], 1)[0].tolist() == [5]
    assert len(reader.search(table.vectors[0], 50)[0]) == 30


def test_damage_is_detected_and_repaired(tmp_path: Path) -> None:
    table = Table(100)
    index = make(tmp_path)
    index.sync(100, table.fetch)
    file = tmp_path / "vectors.i8"
    whole = file.read_bytes()
    for damaged in (b"", whole[:20], b"\xff" + whole[1:], whole[:40] + b"\x7f" + whole[41:], whole[:-10]):
        file.write_bytes(damaged)
        fresh = make(tmp_path)
        assert len(fresh.search(table.vectors[0], 3)[0]) == 0
        assert len(fresh.verify(100, table.fetch)) == 100
        fresh.sync(100, table.fetch)
        assert len(fresh.verify(100, table.fetch)) == 0
    file.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    assert make(tmp_path).verify(100, table.fetch).tolist() == [(5000 - 4096) // (DIM + 4) + 1]


def test_verify_names_what_the_database_does_not_have(tmp_path: Path) -> None:
    table = Table(50)
    index = make(tmp_path)
    index.sync(50, table.fetch)
    table.holes = {9, 48, 49, 50}
    table.vectors[20] = -table.vectors[20]
    assert index.verify(47, table.fetch).tolist() == [9, 21, 48, 49, 50]


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed, match=r"index .*file"):
        make(tmp_path / "file").sync(3, Table(3).fetch)


def test_an_interrupted_fetch_leaves_whole_rows(tmp_path: Path) -> None:
    table = Table(95, slice_rows=10)
    index = make(tmp_path)

    def broken(first: int, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, part in enumerate(table.fetch(first, last)):
            if number == 4:
                raise RuntimeError("no more")
            yield part

    with pytest.raises(RuntimeError, match="no more"):
        index.sync(95, broken)
    assert len(index.search(table.vectors[0], 100)[0]) == 40
    assert index.sync(95, table.fetch) == 55
    assert len(index.verify(95, table.fetch)) == 0


def _work(folder: str, worker: int) -> None:
    table, index = Table(600), make(Path(folder))
    for last in range(10 + worker, 601, 30):
        index.sync(last, table.fetch)
        ids, scores = index.search(table.vectors[last - 1], 1)
        assert ids[0] == last
        assert scores[0] > 0.99


def test_many_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(str(tmp_path), worker)) for worker in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    table = Table(600)
    make(tmp_path).sync(600, table.fetch)
    assert len(make(tmp_path).verify(600, table.fetch)) == 0


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_vectors import Table, make
table, index = Table(20_000, slice_rows=50), make(Path(sys.argv[2]))
print("ready", flush=True)
while True:
    index.sync(20_000, table.fetch)
    index.erase([5, 19_000])
    index.drop()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform has no SIGKILL")
def test_kill_at_any_moment_leaves_a_sound_index(tmp_path: Path) -> None:
    table = Table(20_000, slice_rows=5000)
    allowed = {5, 19_000}
    for number in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.02 + 0.11 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        index = make(tmp_path)
        header = index._read_header()
        count = header.count if header else 0
        wrong = index.verify(20_000, table.fetch)
        assert set(wrong[wrong <= count]) <= allowed
        index.sync(20_000, table.fetch)
        assert set(index.verify(20_000, table.fetch)) <= allowed


def test_the_approximate_index_agrees_with_the_exact_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not approximate.available():
        pytest.skip("needs usearch")
    table = Table(3000, holes=(17,))
    index, reader = make(tmp_path), make(tmp_path)
    index.sync(2500, table.fetch)
    assert index.build_approximate() is False
    monkeypatch.setattr(module, "APPROXIMATE_FROM", 2000)
    assert index.note is not None
    assert "recollect reindex" in index.note
    told: list[int] = []
    assert index.num_unlinked(2500) == 2500
    assert index.build_approximate(told.append)
    assert sum(told) == 2500
    index.sync(3000, table.fetch)  # rows after the graph are scanned beside it
    assert (reader.approximate, reader.note, reader.num_unlinked(3000)) == (True, None, 0)
    chance = np.random.default_rng(1)
    mostly = 1 + np.flatnonzero(chance.random(3000) < 0.9)
    found = wanted = 0
    for query in rows(1, 40) + 0.2 * chance.standard_normal((40, DIM), np.float32):
        query /= np.linalg.norm(query)
        for allowed in (None, mostly):
            ids, scores = reader.search(query, 10, allowed=allowed)
            best = exact(index.get(range(1, 3001)), query, 10, allowed)
            assert len(ids) == 10
            assert np.allclose(scores, index.get(ids) @ query, atol=1e-5)
            assert allowed is None or set(ids) <= set(allowed)
            found, wanted = found + len(set(ids) & set(best)), wanted + 10
    assert found / wanted > 0.97
    assert reader.search(table.vectors[2899], 1)[0].tolist() == [2900]
    table.vectors = rows(1, 3200)
    index.sync(3200, table.fetch)
    assert index.num_unlinked(3200) == 700
    assert index.build_approximate(told.append)  # extends the graph by what is missing
    assert (sum(told), reader.num_unlinked(3200)) == (3200, 0)
    assert reader.search(table.vectors[3199], 1)[0].tolist() == [3200]
    assert len(list(tmp_path.glob("*.usearch"))) == 1

    changed = index.erase([100])
    assert [Path(path).suffix for path in changed] == [".usearch", ".i8"]
    assert list(tmp_path.glob("*.usearch")) == []
    assert reader.search(table.vectors[99], 1)[0].tolist() != [100]
    assert (reader.approximate, reader.note is not None) == (False, True)


def test_without_usearch_the_note_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make(tmp_path)
    index.sync(200, Table(200).fetch)
    monkeypatch.setattr(module, "APPROXIMATE_FROM", 100)
    monkeypatch.setattr(approximate, "find_spec", lambda name: None)
    assert (index.build_approximate(), index.num_unlinked(200)) == (False, 0)
    assert index.note == '200 vectors are scanned exactly; `pip install "recollect[scale]"`, then `recollect reindex`.'
    assert len(index.search(rows(1, 1)[0], 5)[0]) == 5
