"""One LongMemEval history as items to remember."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from recollect.errors import InvalidInput
from recollect.store.importers import longmemeval


def record(name="q1", **changes):
    turns = [{"role": "user", "content": "I moved."}, {"role": "assistant", "content": "Where to?", "has_answer": True}]
    base = {
        "question_id": name,
        "haystack_session_ids": ["s2", "s1", "s1"],
        "haystack_dates": ["2023/05/30 (Tue) 23:40", "2023/05/29 (Mon) 08:05", "2023/05/31 (Wed) 10:00"],
        "haystack_sessions": [turns, [{"role": "user", "content": "Hello"}], [{"role": "user", "content": "Hello"}]],
    }
    return base | changes


def write(tmp_path, *records):
    path = tmp_path / "lme.json"
    path.write_text(json.dumps(list(records)), encoding="utf-8")
    return path


def test_sessions_come_by_time_and_repeated_ids_are_told_apart(tmp_path):
    items = list(longmemeval.read(write(tmp_path, record())))
    assert [(item["source_id"], item["speaker"]) for item in items] == [
        ("longmemeval:s1_1", "user"),
        ("longmemeval:s2_1", "user"),
        ("longmemeval:s2_2", "assistant"),
        ("longmemeval:s1#2_1", "user"),
    ]
    assert items[1]["at"] == datetime(2023, 5, 30, 23, 40, tzinfo=UTC)
    assert items[3]["session"] == "longmemeval:s1#2"


def test_one_history_of_several_must_be_named(tmp_path):
    path = write(tmp_path, record("q1"), record("q2", haystack_session_ids=["a", "b", "c"]))
    with pytest.raises(InvalidInput, match=r"question: lme\.json holds several histories; name one .* such as q1"):
        list(longmemeval.read(path))
    assert next(iter(longmemeval.read(path, question="q2")))["session"] == "longmemeval:b"
    with pytest.raises(InvalidInput, match="no question with the id 'q3'"):
        list(longmemeval.read(path, question="q3"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"haystack_sessions": None}, "record 1: haystack_sessions should be a list, not missing or null"),
        ({"haystack_dates": ["2023/05/30"]}, "should be equally long, not 3, 3 and 1"),
        ({"haystack_dates": ["May", "May", "May"]}, r"haystack_dates\[0\]: 'May' is not a date"),
        ({"haystack_sessions": [[{"role": "user"}], [], []]}, r"haystack_sessions\[0\]\[0\]\.content should be a text"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=message):
        list(longmemeval.read(write(tmp_path, record(**changes))))
