"""Streams of records: large JSON arrays, archives, encodings."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.errors import InvalidInput, NotFound
from recollect.store.importers import files
from recollect.store.importers.files import Tally, existing, json_array, members, open_text


class Dripping(io.StringIO):
    """A stream that gives at most three characters at a time, so that every place is once a border."""

    def read(self, size: int | None = -1) -> str:
        return super().read(3)


def elements(text: str, tally: Tally | None = None, stream: type[io.StringIO] = io.StringIO) -> list:
    return [value for _, value in json_array(stream(text), "data.json", tally)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_any_array_is_read_as_json_reads_it_wherever_the_stream_is_cut(values, indent, ascii_only):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    assert elements(text, stream=Dripping) == values


def test_a_single_object_counts_as_an_array_of_one():
    assert elements(' {"a": [1, 2]} ') == [{"a": [1, 2]}]


def test_a_damaged_element_is_left_out_and_noted():
    tally = Tally()
    text = '[{"a": 1}, {"b": tru, "c": "} ] \\" {"' + ' "x": 1' * 20 + '}, {"d": 4}]'
    assert elements(text, tally) == [{"a": 1}, {"d": 4}]
    assert tally.damaged == 1
    assert "data.json: record 2 is damaged" in tally.problems[0]


def test_a_damaged_element_raises_without_a_tally():
    with pytest.raises(InvalidInput, match=r"data\.json: record 1 is damaged"):
        elements('[{"b": tru, "c": 1, "dddddddddddddddddddddd": 2}]')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("hello", "starts with 'h'"),
        ('[{"a": 1}, {"b": [1, 2', "record 2 is damaged"),
        ('[{"a": 1}', "ends after record 1"),
        ('[{"a": 1} {"b": 2}]', "after record 1 there should be a comma"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_array_says_so(text, message):
    with pytest.raises(InvalidInput, match=message):
        elements(text, Tally())


def test_a_record_of_absurd_size_is_refused(monkeypatch):
    monkeypatch.setattr(files, "MAX_RECORD_CHARS", 1000)
    with pytest.raises(InvalidInput, match="one record is larger"):
        elements('["' + "x" * 300_000 + '"]')


def test_memory_stays_constant_over_many_records():
    import tracemalloc

    text = json.dumps([{"text": "x" * 1000}] * 5000)
    stream = io.StringIO(text)
    tracemalloc.start()
    count = sum(1 for _ in json_array(stream, "data.json"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5000
    assert peak < 2_000_000 < len(text)


def test_text_in_utf_8_with_mark_and_utf_16_is_read(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / f"{encoding}.txt"
        path.write_text("caf\u00e9", encoding=encoding)
        with open_text(path) as stream:
            assert stream.read() == "caf\u00e9"


def test_other_bytes_are_refused_by_name(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(InvalidInput, match=r"latin\.txt: not UTF-8 text"), open_text(path) as stream:
        stream.read()


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"nothing\.json does not exist"):
        existing(tmp_path / "nothing.json")


def test_members_are_read_in_place_whatever_their_names(tmp_path):
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../conversations.json", "[]")
    (name,) = members(path, r"conversations\.json")
    with open_text(path, name) as stream:
        assert stream.read() == "[]"
    assert not (tmp_path.parent.parent / "conversations.json").exists()


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RATIO_FLOOR_BYTES", 1 << 20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", b"[" + b" " * (8 << 20))
    with pytest.raises(InvalidInput, match=r"bomb\.zip: conversations\.json unpacks from"):
        members(path, r"conversations\.json")


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", json.dumps([{"n": n} for n in range(20_000)]))
    data = bytearray(path.read_bytes())
    data[3000:3010] = b"\x00" * 10
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match="damaged"), open_text(path, "conversations.json") as stream:
        list(json_array(stream, "conversations.json"))


def test_halves_of_surrogate_pairs_are_replaced():
    assert Tally().keep({"text": "cut \ud83d", "meta": {"title": "\ude00"}}) == {
        "text": "cut \ufffd",
        "meta": {"title": "\ufffd"},
    }


def test_nothing_but_damage_raises_the_first_problem():
    tally = Tally()
    for number in range(19):
        tally.damage(f"problem {number}")
    with pytest.raises(InvalidInput, match="problem 0"):
        tally.damage("problem 19")
    with pytest.raises(InvalidInput, match="problem 0"):
        tally.finish()
