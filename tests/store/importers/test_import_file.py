"""Formats are told apart, and importing again adds nothing."""

from __future__ import annotations

import json
import zipfile

import pytest

from recollect.errors import InvalidInput, NotFound
from recollect.store import importers

CHATGPT = {"conversation_id": "c1", "mapping": {}}
CLAUDE = {
    "uuid": "c1",
    "chat_messages": [
        {"uuid": f"m{n}", "sender": "human", "text": f"message {n}", "created_at": f"2024-05-12T09:{n:02}:00Z"}
        for n in range(30)
    ],
}


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def zipped(folder, name, member, content):
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr(member, content if isinstance(content, str) else json.dumps(content))
    return folder / name


def test_formats_are_told_apart(tmp_path):
    chat = "12/05/2024, 09:30 - Ana: Hello\n"
    assert importers.detect(put(tmp_path, "a/conversations.json", [CHATGPT])) == "chatgpt"
    assert importers.detect(tmp_path / "a") == "chatgpt"
    assert importers.detect(put(tmp_path, "b/conversations.json", [CLAUDE])) == "claude"
    assert importers.detect(zipped(tmp_path, "c.zip", "conversations.json", [CLAUDE])) == "claude"
    assert importers.detect(zipped(tmp_path, "w.zip", "_chat.txt", chat)) == "whatsapp"
    assert importers.detect(put(tmp_path, "WhatsApp Chat with Ana.txt", chat)) == "whatsapp"
    assert importers.detect(put(tmp_path, "d/2024-05-12.md", "Rain")) == "diary"
    assert importers.detect(tmp_path / "d") == "diary"
    assert importers.detect(put(tmp_path, "t.csv", "text\nhello\n")) == "table"
    assert importers.detect(put(tmp_path, "t.jsonl", '{"text": "hello"}\n')) == "table"
    assert importers.detect(put(tmp_path, "l.json", [{"sample_id": "x", "conversation": {}}])) == "locomo"
    assert importers.detect(put(tmp_path, "m.json", {"haystack_sessions": []})) == "longmemeval"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "no date, no chat"),
        ("data.json", [{"a": 1}]),
        ("list.json", [1, 2]),
        ("broken.json", "{"),
        ("photo.jpg", "x"),
        ("empty.json", ""),
    ],
)
def test_what_is_not_known_lists_the_formats(tmp_path, name, content):
    with pytest.raises(InvalidInput, match="chatgpt, claude, table, diary, whatsapp, locomo, longmemeval"):
        importers.detect(put(tmp_path, name, content))


def test_every_format_has_a_reader_with_its_options(tmp_path):
    for name, entry in importers.FORMATS.items():
        with pytest.raises(NotFound):
            list(importers.read(tmp_path / "nothing", name, **dict.fromkeys(entry.options)))
        with pytest.raises(InvalidInput, match=f"colour: the format {name} has no such option"):
            importers.read(tmp_path / "nothing", name, colour="red")
    with pytest.raises(InvalidInput, match="format: there is no 'signal'"):
        importers.read(tmp_path / "nothing", "signal")


def test_importing_again_adds_nothing_and_what_is_new_is_added(tmp_path, open_memory):
    path = put(tmp_path, "conversations.json", [CLAUDE])
    memory = open_memory()
    done = []
    first = importers.import_file(memory, path, progress=done.append)
    assert (first.format, first.read, first.added, first.existing, first.skipped) == ("claude", 30, 30, 0, 0)
    assert sum(done) == 30
    again = importers.import_file(memory, path)
    assert (again.read, again.added, again.existing) == (30, 0, 30)
    put(tmp_path, "conversations.json", [CLAUDE, CLAUDE | {"uuid": "c2"}, {"uuid": "c3"}])
    third = importers.import_file(memory, path, format="claude")
    assert (third.read, third.added, third.existing, third.damaged) == (60, 30, 30, 1)
    assert third.problems == ("conversations.json: record 3: chat_messages should be a list, not missing or null.",)
    assert third.to_json()["problems"] == list(third.problems)


def test_an_import_that_was_cut_off_is_resumed(tmp_path, open_memory):
    path = put(tmp_path, "conversations.json", [CLAUDE | {"uuid": f"c{n}"} for n in range(20)])
    memory = open_memory()

    class CutOff(Exception):
        pass

    def stop(count):
        raise CutOff

    with pytest.raises(CutOff):
        importers.import_file(memory, path, progress=stop)
    report = importers.import_file(memory, path)
    assert report.existing > 0
    assert report.added + report.existing == report.read == 600


def test_texts_of_every_kind_arrive_in_the_memory(tmp_path, open_memory):
    rows = [
        {"text": text, "id": n} for n, text in enumerate(["cut \ud83d", "nul \x00 inside", "x" * 100_000, "'; DROP --"])
    ]
    path = put(tmp_path, "log.jsonl", "\n".join(json.dumps(row) for row in rows))
    memory = open_memory()
    report = importers.import_file(memory, path, columns="source_id=id")
    assert (report.added, report.damaged) == (4, 0)
    assert memory.stats().num_episodes == 4
