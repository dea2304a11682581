"""JSONL and CSV tables with a column mapping."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from recollect.errors import InvalidInput
from recollect.store.importers import table
from recollect.store.importers.files import Tally


def test_jsonl_with_a_mapping_and_what_is_left_over(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"message": {"body": "Hello"}, "author": "Ana", "date": "2024-05-12T09:30Z", "id": 7, "likes": 3, "x": [1]}\n'
        "\n"
        '{"message": {"body": "Bye"}, "author": "Bob", "date": 1715506200, "id": 8, "score": NaN}\n',
        encoding="utf-8",
    )
    items = list(table.read(path, columns="text=message.body, speaker=author,at=date,source_id=id"))
    when = datetime(2024, 5, 12, 9, 30, tzinfo=UTC)
    assert items == [
        {"text": "Hello", "speaker": "Ana", "source_id": "7", "at": when, "meta": {"likes": 3}},
        {"text": "Bye", "speaker": "Bob", "source_id": "8", "at": when},
    ]


def test_csv_with_semicolons_quotes_and_lines_in_a_field(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        'text;speaker;at\n"one; ""two""\nthree";Ana;12.05.2024 09:30\n;Bob;12.05.2024 09:31\n', encoding="utf-8"
    )
    tally = Tally()
    (item,) = table.read(path, tally=tally, time_format="%d.%m.%Y %H:%M")
    assert item["text"] == 'one; "two"\nthree'
    assert item["at"].replace(tzinfo=None) == datetime(2024, 5, 12, 9, 30)
    assert item["at"].tzinfo is not None
    assert tally.skipped == 1


def test_source_ids_are_stable_and_differ_between_rows(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("text,at\nok,2024-05-12\nok,2024-05-13\n", encoding="utf-8")
    first = [item["source_id"] for item in table.read(path)]
    with path.open("a", encoding="utf-8") as stream:
        stream.write("more,2024-05-14\n")
    second = [item["source_id"] for item in table.read(path)]
    assert second[:2] == first
    assert len(set(second)) == 3


def test_rows_without_time_or_id_are_told_apart_by_their_line(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("text\tspeaker\nok\tAna\nok\tAna\n", encoding="utf-8")
    ids = [item["source_id"] for item in table.read(path)]
    assert len(set(ids)) == 2
    assert ids == [item["source_id"] for item in table.read(path)]


def test_damaged_rows_are_left_out_with_line_and_field(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"text": "a"}\n{"text": \n[1]\n{"text": 5}\n{"text": "b", "at": "soon"}\n{"text": "c", "speaker": {"x": 1}}\n'
        + '{"text": "d", "speaker": "'
        + "x" * 1001
        + '"}\n',
        encoding="utf-8",
    )
    tally = Tally()
    assert [item["text"] for item in table.read(path, tally=tally)] == ["a"]
    assert tally.damaged == 6
    assert tally.problems[5] == "log.jsonl: line 7: speaker has more than 1000 characters."
    assert tally.problems[0].startswith("log.jsonl: line 2 is not a JSON object")
    assert tally.problems[1] == "log.jsonl: line 3 is not a JSON object but list."
    assert tally.problems[2] == "log.jsonl: line 4: text should be a text, not 5."
    assert tally.problems[3].startswith("log.jsonl: line 5: at: 'soon' is not a time")
    assert tally.problems[4].startswith("log.jsonl: line 6: speaker should be a text or a number")


def test_a_row_with_too_few_columns_is_left_out(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("text,speaker\nhello,Ana\nlonely\n", encoding="utf-8")
    tally = Tally()
    assert len(list(table.read(path, tally=tally))) == 1
    assert tally.problems == ["log.csv: line 3 has 1 columns, the header names 2."]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "has no column text, only body, who; say which it is, as in text=body"),
        ("text=nothing", "has no column 'nothing' for text, only body, who"),
        ("text", "'text' cannot be read; write text=body"),
        ("words=body", "there is no field 'words'; the fields are text"),
    ],
)
def test_a_wrong_mapping_says_what_there_is(tmp_path, columns, message):
    path = tmp_path / "log.csv"
    path.write_text("body,who\nhello,Ana\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=message):
        list(table.read(path, columns=columns))


def test_a_file_in_which_every_time_is_unreadable_is_refused(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("text,at\nhello,5th moon\nbye,6th moon\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"log\.csv: line 2: at: '5th moon' is not a time"):
        list(table.read(path))


@pytest.mark.parametrize("value", ["1715506200", "1715506200000", "1715506200000000", "1715506200.0"])
def test_seconds_milliseconds_and_microseconds_are_told_apart(tmp_path, value):
    path = tmp_path / "log.csv"
    path.write_text(f"text,at\nhello,{value}\n", encoding="utf-8")
    (item,) = table.read(path)
    assert item["at"] == datetime(2024, 5, 12, 9, 30, tzinfo=UTC)
