"""What a decoder says: prompts of several lengths in one batch say what each says alone, and answers are compared exactly."""

from __future__ import annotations

import pytest

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput
from recollect.weights.editing import Unchanged, made_edits, measure_edits
from recollect.weights.generation import answers, continuations, left_padded, right, say
from recollect.weights.streams import Question
from recollect.weights.texts import Edit
from words import tokenizer as make_tokenizer

TOKENIZER = make_tokenizer()
PROMPTS = ["ana", "the home of bo is in the", "cara likes"]


@pytest.fixture
def model():
    return tiny_decoder(len(TOKENIZER), width=16, inner=16, heads=2)


def test_rows_are_filled_up_at_the_left():
    ids, mask = left_padded([[5], [6, 7]], 2)
    assert ids.tolist() == [[2, 5], [6, 7]]
    assert mask.tolist() == [[0, 1], [1, 1]]


def test_a_batch_says_what_each_prompt_says_alone_and_the_mode_comes_back(model):
    model.train()
    together = continuations(model, TOKENIZER, PROMPTS, [3, 1, 2])
    assert together == [continuations(model, TOKENIZER, [p], n)[0] for p, n in zip(PROMPTS, [3, 1, 2], strict=True)]
    assert [len(each) for each in together] == [3, 1, 2]
    assert model.training


def test_an_answer_counts_when_every_token_of_it_is_said(model):
    said = say(model, TOKENIZER, PROMPTS, 2)
    questions = [Question(prompt, answer) for prompt, answer in zip(PROMPTS, said, strict=True)]
    assert answers(model, TOKENIZER, questions) == [True] * 3
    wrong = Question(PROMPTS[0], "sea sea" if said[0] != "sea sea" else "tea tea")
    assert right(model, TOKENIZER, [*questions, wrong]) == 0.75


def test_an_empty_prompt_needs_a_first_token(model):
    assert say(model, TOKENIZER, [""], 1)
    with pytest.raises(InvalidInput, match="prompts: one is empty"):
        say(model, make_tokenizer(ends=False), [""], 1)


def test_edits_are_measured_by_what_is_said(model):
    prompts = ["the rain", "dan is in the"]
    unchanged = Unchanged.of(model, TOKENIZER, prompts, 2)
    said = say(model, TOKENIZER, PROMPTS, 1)
    edits = [Edit(PROMPTS[0], said[0], (PROMPTS[1],)), Edit(PROMPTS[2], "<unk>")]
    found = measure_edits(model, TOKENIZER, edits, unchanged)
    assert found["reliability"] == 0.5
    assert found["generalisation"] == float(said[0] == said[1])
    assert found["locality"] == 1.0
    changed = Unchanged(unchanged.prompts, (unchanged.said[0], (3, 3)))
    assert changed.locality(model, TOKENIZER) == 0.5
    assert Unchanged.of(model, TOKENIZER, []).locality(model, TOKENIZER) == 1.0


def test_made_edits_are_about_other_people_each():
    edits = made_edits(1000)
    assert len({edit.prompt for edit in edits}) == 1000
    assert made_edits(10) == made_edits(10) != made_edits(10, seed=1)
