"""Texts that hang on what is far: what is marked was said a window before, names by hand, choices among later chapters."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from random import Random

import pytest

from recollect.benchmarks.far_text import chapter_choices, far_names, has_novels, lesson, made_document, novels
from recollect.benchmarks.haystack import Haystacks
from recollect.errors import NotFound


class Words:
    """A tokenizer that gives each word, with its mark, a number."""

    def __init__(self):
        self.words: list[str] = []

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        self.words += [word for word in text.split() if word not in self.words]
        return [1000 + self.words.index(word) for word in text.split()]

    def decode(self, token_ids) -> str:
        return " ".join(self.words[each - 1000] for each in token_ids)


@pytest.mark.parametrize("window", [32, 64, 128])
def test_what_is_marked_in_a_made_document_was_said_a_window_before(window):
    words = Words()
    haystacks = Haystacks(words, 0)
    for seed in range(5):
        tokens, marks = made_document(haystacks, Random(seed), window, 500)
        assert len(tokens) == len(marks) == 6 * window
        assert tokens[0] == 0
        assert not any(marks[: 3 * window])
        assert any(marks)
        random = [place for place in range(3 * window, 6 * window) if marks[place] and tokens[place] < 500]
        for place in random:
            cue = tokens[place - 3 : place + 1]
            places = [start for start in range(2 * window) if tokens[start : start + 4] == cue]
            assert places
            assert place - places[0] >= window
        answers = [place for place in range(3 * window, 6 * window) if marks[place] and tokens[place] >= 500]
        assert answers
        for place in answers:
            asked = words.decode(tokens[place - 4 : place + 1])  # "favourite colour is red."
            assert asked.split(maxsplit=1)[1] in words.decode([each for each in tokens[: 2 * window] if each >= 500])


def test_a_lesson_has_each_word_once_and_its_labels_evenly():
    made = lesson(Random(1), 12, 4, 100)
    assert sorted(each[0] for each in made.demonstrations) == sorted(made.words)
    answers = dict(zip(made.words, made.answers, strict=True))
    assert all(answers[word] == label for word, label, _ in made.demonstrations)
    assert {made.answers.count(label) for label in made.labels} == {3}
    every = {*made.words, *made.labels, made.demonstrations[0][2]}
    assert len(every) == 17
    assert min(every) >= 3
    assert max(every) < 100


def test_names_are_marked_by_when_they_were_last_seen():
    text = "and Anna came. Ben saw Anna, and a long while later saw Anna again, with Ben."
    offsets = [(match, match + 1) for match in range(len(text))]  # a token for each character

    def marked(near: int, far: int) -> str:
        return "".join(char for char, mark in zip(text, far_names(text, offsets, near, far), strict=True) if mark)

    assert marked(10, 25) == "Anna"  # the second; the third is 33 behind it
    assert marked(10, 40) == "AnnaAnna"
    assert marked(0, 10) == ""
    assert marked(1, 1000) == "AnnaAnna"  # the first Ben begins a sentence, and so the second is new


def test_a_choice_holds_the_true_next_chapter_first_and_later_ones_beside_it():
    words = Words()
    text = "".join(f"\nCHAPTER {number}. Of this\n" + f"w{number} " * 20 for number in range(9)) + "\nCHAPTER X\nend"
    made = list(chapter_choices(text, words, prefix_tokens=30, opening_tokens=5, num_choices=4, rng=Random(0)))
    assert len(made) == 4  # two chapters are before the first, three behind the last
    for number, choice in enumerate(made, start=2):
        assert words.decode(choice.prefix).split()[-1] == f"w{number - 1}"
        assert len(choice.prefix) == 30
        assert words.decode(choice.openings[0]) == " ".join([f"w{number}"] * 5)
        later = [int(words.decode(opening).split()[0][1:]) for opening in choice.openings[1:]]
        assert len(set(later)) == 3
        assert min(later) > number
        assert all("CHAPTER" not in words.decode(opening) for opening in choice.openings)


def test_novels_are_read_from_a_data_folder_or_from_data_in_it(tmp_path: Path):
    assert not has_novels(None)
    assert not has_novels(tmp_path)
    with pytest.raises(NotFound, match="there is no novels/test"):
        list(novels(tmp_path, "test"))
    folder = tmp_path / "data" / "novels"
    folder.mkdir(parents=True)
    with lzma.open(folder / "train.jsonl.xz", "wt") as file:
        file.write(json.dumps({"title": "A", "text": "Once."}) + "\n")
    assert has_novels(tmp_path)
    assert has_novels(tmp_path / "data")
    assert list(novels(tmp_path, "train")) == [("A", "Once.")]
