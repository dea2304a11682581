"""LoCoMo conversations as items to remember."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from recollect.errors import InvalidInput
from recollect.store.importers import locomo
from recollect.store.importers.files import Tally


def sample(name="conv-1", **changes):
    conversation = {
        "speaker_a": "Ana",
        "speaker_b": "Bob",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ana", "dia_id": "D1:1", "text": "I moved."},
            {"speaker": "Bob", "dia_id": "D1:2", "text": "Look!", "blip_caption": "a dog on a beach"},
        ],
        "session_2_date_time": "12:09 am on 13 September, 2023",
        "session_2": [{"speaker": "Bob", "dia_id": "D2:1", "text": "Hello again."}],
        "session_3_date_time": "9:00 am on 1 October, 2023",
    }
    return {"sample_id": name, "conversation": conversation | changes, "qa": []}


def write(tmp_path, *samples):
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps(list(samples)), encoding="utf-8")
    return path


def test_turns_with_captions_and_dates(tmp_path):
    items = list(locomo.read(write(tmp_path, sample())))
    assert [item["text"] for item in items] == ["I moved.", "Look! [shares a photo: a dog on a beach]", "Hello again."]
    assert items[0] | {} == {
        "text": "I moved.",
        "speaker": "Ana",
        "session": "conv-1/session_1",
        "at": datetime(2023, 5, 8, 13, 56, tzinfo=UTC),
        "source_id": "conv-1/D1:1",
    }
    assert items[2]["at"] == datetime(2023, 9, 13, 0, 9, tzinfo=UTC)


def test_one_conversation_can_be_named(tmp_path):
    path = write(tmp_path, sample(), sample("conv-2"))
    assert {item["session"].split("/")[0] for item in locomo.read(path)} == {"conv-1", "conv-2"}
    assert {item["session"].split("/")[0] for item in locomo.read(path, sample="conv-2")} == {"conv-2"}
    with pytest.raises(InvalidInput, match="sample: there is no conversation 'conv-3', only conv-1, conv-2"):
        list(locomo.read(path, sample="conv-3"))


def test_a_damaged_sample_is_left_out_and_named(tmp_path):
    tally = Tally()
    bad_time = sample("conv-2", session_1_date_time="noon")
    bad_turn = sample("conv-3", session_2=[{"speaker": "Bob", "text": "?"}])
    assert len(list(locomo.read(write(tmp_path, sample(), bad_time, bad_turn), tally=tally))) == 3
    assert "record 2: conversation.session_1_date_time is 'noon', not a time such as" in tally.problems[0]
    assert "record 3: conversation.session_2[0]: dia_id should be a text, not missing or null" in tally.problems[1]


def test_another_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="record 1: sample_id should be a text"):
        list(locomo.read(write(tmp_path, {"text": "hello"})))
