"""Claude exports, in small samples of the same form."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from recollect.errors import InvalidInput
from recollect.store.importers import claude
from recollect.store.importers.files import Tally


def message(uuid, sender, text, **more):
    return {"uuid": uuid, "sender": sender, "text": text, "created_at": "2024-05-12T09:30:00.123456Z"} | more


def write(tmp_path, *conversations):
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps(list(conversations)), encoding="utf-8")
    return path


def test_messages_blocks_files_and_attachments(tmp_path):
    blocks = [
        {"type": "thinking", "thinking": "private"},
        {"type": "text", "text": "It says"},
        {"type": "tool_use", "name": "search"},
        {"type": "text", "text": "rain."},
    ]
    record = {
        "uuid": "c1",
        "name": "Weather",
        "chat_messages": [
            message("m1", "human", "See this", attachments=[{"file_name": "", "extracted_content": "Rain on Monday"}]),
            message("m2", "assistant", "ignored", content=blocks),
            message("m3", "human", "", files=[{"file_name": "sky.jpg"}]),
            message("m4", "human", "", attachments=[{"file_name": "a.pdf", "extracted_content": "Page one"}]),
            message("m5", "assistant", "", content=[]),
        ],
    }
    tally = Tally()
    items = list(claude.read(write(tmp_path, record), tally=tally))
    assert [(item["text"], item["speaker"], item["source_id"]) for item in items] == [
        ("See this", "user", "claude:c1/m1"),
        ("Rain on Monday", "user", "claude:c1/m1/attachment-1"),
        ("It says\nrain.", "assistant", "claude:c1/m2"),
        ("[shares a file: sky.jpg]", "user", "claude:c1/m3"),
        ("Page one", "user", "claude:c1/m4/attachment-1"),
    ]
    assert items[0]["at"] == datetime(2024, 5, 12, 9, 30, 0, 123456, tzinfo=UTC)
    assert items[1]["meta"] == {"title": "Weather", "attachment": "pasted text"}
    assert items[4]["meta"]["attachment"] == "a.pdf"
    assert (tally.kept, tally.skipped) == (5, 1)


def test_damaged_conversations_are_left_out_and_named(tmp_path):
    good = {"uuid": "c1", "name": "", "chat_messages": [message("m1", "human", "Hello")]}
    bad_sender = {"uuid": "c2", "chat_messages": [message("m1", "robot", "Hello")]}
    bad_time = {"uuid": "c3", "chat_messages": [message("m1", "human", "Hello", created_at="noon")]}
    tally = Tally()
    assert [item["session"] for item in claude.read(write(tmp_path, good, bad_sender, bad_time), tally=tally)] == [
        "claude:c1"
    ]
    assert tally.problems[0].startswith("conversations.json: record 2: message 1: sender should be")
    assert tally.problems[1].startswith("conversations.json: record 3: message 1: created_at: 'noon'")


def test_another_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="record 1: chat_messages should be a list, not missing or null"):
        list(claude.read(write(tmp_path, {"uuid": "c1"})))
