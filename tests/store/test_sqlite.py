"""The database: lists of any length in a statement, what is kept between reads, and older files."""

import sqlite3
import threading
from contextlib import closing

import numpy as np
import pytest

from recollect.errors import StorageFailed
from recollect.store import sqlite
from recollect.store.database import Growing


def test_lists_of_any_length_and_kind(open_memory):
    db = open_memory().engine.db
    db.run("CREATE TABLE things (number INTEGER PRIMARY KEY, name TEXT, key BLOB)")
    rows = [(number, f'"{number}', bytes([number % 256, 0, 255]) + str(number).encode()) for number in range(1, 1300)]
    db.run_many("INSERT INTO things VALUES (?, ?, ?)", rows)
    for place, column in enumerate(("number", "name", "key")):
        wanted = [row[place] for row in rows[::-1]]
        sql = f"SELECT number FROM things WHERE number > ? AND {column} IN ({{}})"
        assert sorted(db.rows_in(sql, wanted, (200,))) == [(number,) for number in range(201, 1300)]
        assert db.rows_in(sql, [], (0,)) == []


def test_growing_arrays_are_read_once_until_something_is_deleted():
    numbers, asked = [3, 5], []

    def read(last):
        asked.append(last)
        return np.array([number for number in numbers if number > last], np.int64)

    kept = Growing(2)
    assert kept.get("a", 0, read).tolist() == [3, 5]
    numbers.append(9)
    assert kept.get("a", 0, read).tolist() == [3, 5, 9]
    numbers.remove(5)
    assert kept.get("a", 1, read).tolist() == [3, 9]
    assert asked == [0, 5, 0]
    for key in "bc":
        kept.get(key, 1, read)
    assert kept.get("a", 1, read).tolist() == [3, 9]
    assert asked[3:] == [0, 0, 0]


def test_a_file_from_before_shapes_were_kept(open_memory):
    memory = open_memory()
    first = memory.add("I moved to Lisbon last May.")
    gone = memory.add("My password is swordfish.")
    expected = memory.recall("When did I move?")
    db = memory.engine.db
    chunks = [row[0] for row in db.rows("SELECT c.id FROM chunks c JOIN episodes e ON e.seq = c.episode")]
    db.run("ALTER TABLE episodes DROP COLUMN shape")
    db.run("DROP TABLE erasing")
    db.set_state("erase", f"[{chunks[1]}]")
    db.run("PRAGMA user_version = 2")
    memory.close()

    again = open_memory()
    assert again.engine.db.get_state("erase") is None
    assert again.engine.db.rows("SELECT * FROM erasing") == []  # done at opening
    assert not again.engine.index.get([chunks[1]]).any()
    found = again.recall("When did I move?")
    assert [hit.text for hit in found] == [hit.text for hit in expected]
    assert {signal.value for signal in found[0].why if signal.name == "a time, asked when"} == {1.0}
    assert again.get(first.id).text == "I moved to Lisbon last May."
    again.forget(gone.id)
    assert len(again.recall("swordfish")) == 1


def test_a_writer_looks_often_whether_another_is_done(tmp_path, monkeypatch):
    """Else it starves beside processes that write without a pause."""
    with closing(sqlite.SqliteDatabase(tmp_path / "a.db")) as ours, closing(connect(tmp_path / "a.db")) as other:
        looked = []
        ours._connection.set_trace_callback(looked.append)
        other.execute("BEGIN IMMEDIATE")
        end = threading.Timer(0.5, other.execute, ["COMMIT"])
        end.start()
        with ours.transaction():
            ours.set_state("name", "value")
        end.join()
        assert looked.count("BEGIN IMMEDIATE") > 20
        monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.1)
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(StorageFailed, match=r"another process kept it locked for 0 s; try again"),
            ours.transaction(),
        ):
            pass
        other.execute("COMMIT")
        with ours.transaction():
            assert ours.get_state("name") == "value"


def connect(path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)
