"""Real data are found by name under the folder that is named, and what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from recollect.benchmarks.real_data import classification_stream, corpora, cut, find, labelled, novels
from recollect.claims.claim import Setting
from recollect.errors import InvalidInput, NotFound
from words import tokenizer


def test_files_are_found_at_any_depth_and_missing_ones_are_named(tmp_path: Path):
    deep = tmp_path / "data" / "novels"
    deep.mkdir(parents=True)
    (deep / "test.jsonl.xz").touch()
    assert find(Setting(data=tmp_path), "novels/test.jsonl.xz") == deep / "test.jsonl.xz"
    with pytest.raises(NotFound, match=r"data: there is no config\.json in"):
        find(Setting(data=tmp_path), "config.json")
    with pytest.raises(InvalidInput, match="data: this scale needs real data"):
        find(Setting(), "config.json")


def test_novels_and_labelled_tasks_are_read(data: Path):
    setting = Setting(data=data)
    if not (data / "novels").is_dir() or not (data / "cl-benchmark").is_dir():
        pytest.skip("no novels or cl-benchmark in the measuring data")
    assert len(novels(setting, "test")) == 7
    words = tokenizer()
    short = [cut(each, 5, words) for each in labelled(setting, "cb", "train")]
    assert all(len(words.encode(each.prompt.removesuffix("\nAnswer:"))) <= 5 for each in short)
    tasks = classification_stream(setting, words, 0, names=["cb", "wic"], train=6, test=3)
    assert {task.name for task in tasks} == {"cb", "wic"}
    assert [len(task.train) for task in tasks] == [6, 6]  # type: ignore[arg-type]


def test_corpora_are_cut_to_size(data: Path, monkeypatch: pytest.MonkeyPatch):
    from recollect.benchmarks import real_data

    monkeypatch.setattr(real_data, "novels", lambda where, split: ["the sea is blue. " * 300] * 3)
    monkeypatch.setattr(real_data, "labelled", lambda where, name, split: real_data.read_questions(_written(data)))
    if not (data / "cl-benchmark").is_dir():
        pytest.skip("no cl-benchmark in the measuring data")
    old, new = corpora(Setting(data=data), tokenizer(), rows=4, tokens=8)
    assert (old.name, len(old.train), new.name, len(new.train)) == ("old", 4, "new", 4)  # type: ignore[arg-type]


def _written(data: Path) -> Path:
    return data / "cl-benchmark" / "cb.jsonl.xz"
