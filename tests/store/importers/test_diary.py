"""Diaries: folders of dated text files."""

from __future__ import annotations

from datetime import date

import pytest

from recollect.errors import InvalidInput
from recollect.store.importers import diary
from recollect.store.importers.dates import find_date
from recollect.store.importers.files import Tally


@pytest.mark.parametrize(
    "name",
    [
        "2024-05-12",
        "20240512",
        "2024_05_12 Lisbon",
        "2024/05/12",
        "2024/5/12",
        "May 12 2024",
        "may 12, 2024",
        "12 May 2024",
        "12th of may 2024".replace("of ", ""),
        "Sunday, 12-May-2024",
    ],
)
def test_dates_in_names(name):
    assert find_date(name) == date(2024, 5, 12)


@pytest.mark.parametrize("name", ["notes", "2024-13-45", "version 1.2.3", "12345678", "Maya 12 2024x"])
def test_names_without_a_date(name):
    assert find_date(name) is None


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_files_and_folders_with_dates_are_read_day_by_day(tmp_path):
    write(tmp_path, "2024/05/13.txt", "Rain.")
    write(tmp_path, "May 12 2024.md", "Moved to Lisbon.")
    write(tmp_path, "2024-05-14 Market.md", "Bought figs.")
    write(tmp_path, ".trash/2024-05-15.md", "gone")
    write(tmp_path, "ideas.md", "A list")
    write(tmp_path, "2024-05-16.md", " \n")
    tally = Tally()
    items = list(diary.read(tmp_path, tally=tally, me="Ana"))
    assert [(item["session"], item["text"]) for item in items] == [
        ("2024-05-12", "Moved to Lisbon."),
        ("2024-05-13", "Rain."),
        ("2024-05-14", "Bought figs."),
    ]
    assert items[0]["at"].isoformat().startswith("2024-05-12T12:00:00")
    assert items[0]["speaker"] == "Ana"
    assert tally.skipped == 2
    assert tally.problems == ["ideas.md: no date in the name, left out; name it 2024-05-12.md."]


LONG = "\n\n".join(
    [
        "---\ntags: diary\n---\n# Sunday",
        "## Morning",
        "We carried boxes up four floors. " * 8,
        "Same words.",
        "Evening\n-------",
        "Fado in the street. " * 10,
        "Same words.",
    ]
)


def test_a_long_entry_is_split_at_blank_lines_and_headings_stay_with_their_text(tmp_path):
    write(tmp_path, "2024-05-12.md", LONG)
    texts = [item["text"] for item in diary.read(tmp_path)]
    assert len(texts) == 4
    assert texts[0].startswith("# Sunday\n## Morning\nWe carried")
    assert texts[2].startswith("Evening\n-------\nFado")


def test_paragraphs_keep_their_source_ids_when_the_entry_grows(tmp_path):
    write(tmp_path, "2024-05-12.md", LONG)
    before = [item["source_id"] for item in diary.read(tmp_path)]
    write(tmp_path, "2024-05-12.md", LONG + "\n\nLate call from Bob.")
    after = [item["source_id"] for item in diary.read(tmp_path)]
    assert after[:-1] == before
    assert len(set(after)) == 5


def test_a_single_file_and_a_file_that_is_no_text(tmp_path):
    write(tmp_path, "2024/05/12.md", "Moved.")
    (item,) = diary.read(tmp_path / "2024/05/12.md")
    assert item["session"] == "2024-05-12"
    (tmp_path / "2024/05/13.md").write_bytes(b"\xff\xfa\x80")
    tally = Tally()
    assert len(list(diary.read(tmp_path, tally=tally))) == 1
    assert tally.problems[0].startswith("13.md: not UTF-8 text")


def test_a_folder_without_dates_is_refused(tmp_path):
    write(tmp_path, "ideas.md", "A list")
    with pytest.raises(InvalidInput, match="holds no text file with a date in its name"):
        list(diary.read(tmp_path))
