"""ChatGPT exports, in small samples of the same form."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime

import pytest

from recollect.errors import InvalidInput
from recollect.store.importers import chatgpt
from recollect.store.importers.files import Tally

START = 1715506200.0  # 2024-05-12T09:30 UTC


def node(name, parent, children, role=None, parts=(), kind="text", **more):
    message = None
    if role is not None:
        message = {
            "id": f"m-{name}",
            "author": {"role": role, "name": None, "metadata": {}},
            "create_time": more.pop("create_time", START),
            "content": {"content_type": kind, "parts": list(parts)},
            "status": "finished_successfully",
            "weight": more.pop("weight", 1.0),
            "metadata": more.pop("metadata", {}),
            "recipient": more.pop("recipient", "all"),
        }
    return name, {"id": name, "message": message, "parent": parent, "children": children}


def conversation(**changes):
    mapping = dict(
        [
            node("root", None, ["sys"]),
            node("sys", "root", ["ctx"], "system", [""], create_time=None, weight=0.0),
            node("ctx", "sys", ["q1", "q2"], "user", ["custom instructions"], "user_editable_context"),
            node("q1", "ctx", ["a1"], "user", ["Plan a trip to Rome"]),
            node("a1", "q1", [], "assistant", ["Rome it is."], create_time=START + 900),
            node("q2", "ctx", ["t1"], "user", ["Plan a trip to Porto"], create_time=START + 60),
            node("t1", "q2", ["t2"], "assistant", ["search('Porto')"], "code", recipient="browser"),
            node("t2", "t1", ["h"], "tool", ["results"], recipient="all"),
            node("h", "t2", ["a2"], "assistant", ["hidden"], metadata={"is_visually_hidden_from_conversation": True}),
            node("a2", "h", ["q3"], "assistant", ["Porto has\ntwo days of sights."], create_time=START + 120.5),
            node(
                "q3",
                "a2",
                [],
                "user",
                [{"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}, "Is this it?"],
                "multimodal_text",
                create_time=START + 180,
            ),
        ]
    )
    base = {"title": "Trip", "create_time": START, "mapping": mapping, "current_node": "q3", "conversation_id": "c1"}
    return base | changes


def write(tmp_path, conversations):
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps(conversations), encoding="utf-8")
    return path


def test_only_the_branch_on_screen_is_kept_in_order(tmp_path):
    tally = Tally()
    items = list(chatgpt.read(write(tmp_path, [conversation()]), tally=tally))
    assert [item["text"] for item in items] == [
        "Plan a trip to Porto",
        "Porto has\ntwo days of sights.",
        "[shares an image]\nIs this it?",
    ]
    assert [item["speaker"] for item in items] == ["user", "assistant", "user"]
    assert items[1]["at"] == datetime(2024, 5, 12, 9, 32, 0, 500_000, tzinfo=UTC)
    assert items[0]["source_id"] == "chatgpt:c1/m-q2"
    assert items[0]["session"] == "chatgpt:c1"
    assert items[0]["meta"] == {"title": "Trip"}
    assert (tally.kept, tally.skipped, tally.damaged) == (3, 5, 0)


def test_without_a_current_node_the_newest_leaf_counts(tmp_path):
    items = list(chatgpt.read(write(tmp_path, [conversation(current_node=None)]), me="Ana"))
    assert [item["text"] for item in items] == ["Plan a trip to Rome", "Rome it is."]
    assert items[0]["speaker"] == "Ana"


def test_a_message_without_time_takes_that_of_the_one_before(tmp_path):
    record = conversation()
    record["mapping"]["a2"]["message"]["create_time"] = None
    items = list(chatgpt.read(write(tmp_path, [record])))
    assert items[1]["at"] == items[0]["at"]


def test_a_loop_of_parents_ends(tmp_path):
    record = conversation()
    record["mapping"]["root"]["parent"] = "q3"
    assert len(list(chatgpt.read(write(tmp_path, [record])))) == 3


def test_a_damaged_conversation_is_left_out_and_named(tmp_path):
    tally = Tally()
    broken = conversation(conversation_id="c2", mapping=["not", "a", "tree"])
    late = conversation(conversation_id="c3")
    late["mapping"]["a2"]["message"]["create_time"] = "yesterday"
    items = list(chatgpt.read(write(tmp_path, [conversation(), broken, late]), tally=tally))
    assert {item["session"] for item in items} == {"chatgpt:c1"}
    assert tally.damaged == 2
    assert tally.problems[0] == "conversations.json: record 2: mapping should be an object, not a list."
    assert "record 3: create_time of message a2: 'yesterday'" in tally.problems[1]


def test_another_file_is_refused_with_place_and_field(tmp_path):
    with pytest.raises(InvalidInput, match=r"conversations\.json: record 1: mapping should be an object, not missing"):
        list(chatgpt.read(write(tmp_path, [{"text": "hello"}] * 3)))


def test_zip_and_split_exports_and_folders_are_read(tmp_path):
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("user.json", "{}")
        archive.writestr("conversations-000.json", json.dumps([conversation()]))
        archive.writestr("conversations-001.json", json.dumps([conversation(conversation_id="c2")]))
    assert {item["session"] for item in chatgpt.read(path)} == {"chatgpt:c1", "chatgpt:c2"}
    folder = tmp_path / "export"
    folder.mkdir()
    write(folder, [conversation()])
    assert len(list(chatgpt.read(folder))) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"holds no conversations\.json"):
        list(chatgpt.read(tmp_path / "empty"))
