"""The generators: exact lengths, what is asked for stands where it should, and an oracle answers everything."""

from __future__ import annotations

import itertools
import re
from random import Random

import numpy as np
import pytest

from recollect.benchmarks.haystack import TASKS, Haystacks, mqar, number, parse_lengths, parse_names, prose
from recollect.errors import InvalidInput


class Characters:
    """A tokenizer that takes each character for a token."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, token_ids) -> str:
        return "".join(map(chr, token_ids))


def oracle(text: str) -> str:
    """What a reader who searches the text would answer."""
    for said, asked in (
        (r"pass key is (\d+)\. Remember", r"What is the pass key\?"),
        (r"(\w+'s favourite \w+) is (\w+)\.", r"What is (\w+'s favourite \w+)\?"),
        (r"key (\w{3}): (\d+)", r"value of key (\w{3})\?"),
    ):
        question = re.search(asked, text)
        if question:
            found = {match.groups()[0]: match.groups()[-1] for match in re.finditer(said, text)}
            return found[question.group(1)] if question.groups() else next(iter(found.values()))
    raise AssertionError(text)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0, None])
def test_an_oracle_answers_and_lengths_are_exact(task, depth):
    haystacks, rng = Haystacks(Characters(), first=1, seed=3), Random(0)
    for length in (400, 2000):
        prompt = haystacks.prompt(task, length, rng, depth)
        text = Characters().decode(prompt.tokens)
        assert len(prompt.tokens) == length
        assert prompt.tokens[0] == 1
        assert prompt.correct(f" {oracle(text)}. And so on")
        assert not prompt.correct(" nothing")
        if depth is not None:
            place = text.index(prompt.answer) / length
            assert abs(place - depth) < 0.3
            assert prompt.depth == depth


def test_depth_moves_the_statement_through_the_prompt():
    haystacks = Haystacks(Characters())
    places = [
        Characters().decode(haystacks.prompt("passkey", 3000, Random(1), depth).tokens).index("The pass key")
        for depth in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert places[0] == 1
    steps = [later - earlier for earlier, later in itertools.pairwise(places)]
    assert max(steps) - min(steps) <= 1


def test_a_given_text_is_what_things_are_hidden_in():
    prompt = Haystacks(Characters(), text="abc").prompt("needle", 500, Random(0), 0.5)
    filler = re.sub(r"\n[^\n]*", "", Characters().decode(prompt.tokens))
    assert set(filler) == set("abc")
    with pytest.raises(InvalidInput, match=r"haystack: the text is empty\."):
        Haystacks(Characters(), text="")


def test_the_same_seed_gives_the_same_prompts():
    one, other = (Haystacks(Characters(), seed=5).prompt("key-value", 600, Random(2)) for _ in range(2))
    assert one == other
    assert next(prose(Random(1))) == next(prose(Random(1)))


def test_ten_digits_of_which_neighbours_repeat():
    for seed in range(20):
        said, _, _, key = number(Random(seed), 0)
        assert re.fullmatch(r"\d{10}", key)
        assert sum(one == other for one, other in itertools.pairwise(key)) >= 5
        assert said[0].count(key) == 2


def test_what_does_not_fit_is_refused():
    haystacks = Haystacks(Characters())
    with pytest.raises(InvalidInput, match=r"length: 20 tokens cannot hold the statements of passkey; use \d+ or more"):
        haystacks.prompt("passkey", 20, Random(0))
    with pytest.raises(InvalidInput, match="task: 'poem' is not known; use one of passkey, "):
        haystacks.prompt("poem", 500, Random(0))


@pytest.mark.parametrize("fill", [False, True])
def test_mqar_is_as_zoology_defines_it(fill):
    tokens, labels = mqar(40, 64, 8, 128, seed=1, first=3, fill=fill)
    assert tokens.shape == labels.shape == (40, 64)
    for row, label in zip(tokens, labels, strict=True):
        keys, values = row[0:16:2] - 3, row[1:16:2] - 3
        assert len(set(keys)) == len(set(values)) == 8
        assert ((keys >= 1) & (keys < 64)).all()
        assert ((values >= 64) & (values < 128)).all()
        at = np.flatnonzero(label != -100)
        assert len(at) == 8
        assert (at >= 16).all()
        assert (at % 2 == 0).all()
        assert {int(row[place]): int(label[place]) for place in at} == dict(
            zip((keys + 3).tolist(), (values + 3).tolist(), strict=True)
        )
        if not fill:
            assert (np.delete(row, [*range(16), *at]) == 3).all()


def test_mqar_gaps_are_short_under_the_power_law_and_even_without_it():
    gaps = {
        power: np.argwhere(mqar(300, 128, 4, 64, seed=2, power=power)[1] != -100)[:, 1].mean() for power in (0.01, 1.0)
    }
    assert gaps[0.01] < 40
    assert 62 < gaps[1.0] < 74  # slots 8 to 126 have 67 in the middle
    with pytest.raises(InvalidInput, match="num_pairs: 17 does not fit; use at most 16"):
        mqar(1, 64, 17, 128)


def test_lengths_and_names_are_read():
    assert parse_lengths("1k, 512,2M") == [512, 1024, 2 * 1024 * 1024]
    assert parse_names("b, a,b", ("a", "b"), "task") == ["b", "a"]
    for wrong in ("", "k", "-1k", "1.5k", "0"):
        with pytest.raises(InvalidInput, match="lengths: "):
            parse_lengths(wrong)
    with pytest.raises(InvalidInput, match="task: 'c' is not known; use some of a, b"):
        parse_names("c", ("a", "b"), "task")
