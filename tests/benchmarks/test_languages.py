"""Made languages and topics: what they share, that answers follow from words, and losses measured by hand."""

from __future__ import annotations

import math

import pytest
import torch

from recollect.benchmarks.facts import tiny_decoder
from recollect.benchmarks.languages import START, Language, Topics, minus_loss, text_loss
from recollect.weights.learner import Learner


def test_a_shifted_language_shares_the_other_rows():
    one = Language.made(40, 0)
    two = one.shifted(0.5, 1)
    same = (one.table == two.table).all(1)
    assert 8 < int(same.sum()) < 32
    assert torch.equal(one.table, Language.made(40, 0).table)
    rows = one.rows(16, 12, 3).tensors["input_ids"]
    assert rows.shape == (16, 12)
    assert int(rows.min()) >= START


def test_the_loss_of_a_model_that_knows_nothing_is_that_of_guessing():
    language = Language.made(40, 0)
    model = tiny_decoder(40, width=16, inner=16, heads=2, tokens=16)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    task = language.task("one", 8, 12, 0, held_out=8)
    assert text_loss(model, task.test) == pytest.approx(math.log(40), abs=1e-4)
    assert minus_loss(Learner(model), task) == pytest.approx(-math.log(40), abs=1e-4)


def test_topics_have_words_of_their_own_and_answers_that_follow_from_them():
    topics = Topics(num_topics=2)
    texts, labels = topics.texts(1, 500, 3)
    own = texts >= START + 1 + topics.num_labels + topics.num_shared
    assert int(texts.max()) < topics.vocabulary
    assert 0.4 < float(own.float().mean()) < 0.8
    assert set(labels.tolist()) == set(range(topics.num_labels))
    other = topics.texts(0, 500, 3)[0]
    first = START + 1 + topics.num_labels + topics.num_shared
    assert not set(texts[texts >= first].tolist()) & set(other[other >= first].tolist())
    counts = torch.zeros(topics.vocabulary, topics.num_labels)
    for row, label in zip(*topics.texts(1, 2000, 9), strict=True):
        counts[row, label] += 1
    shares = (counts + 0.1) / (counts + 0.1).sum(1, keepdim=True)
    guessed = shares.log()[texts].sum(1).argmax(1)
    assert float((guessed == labels).float().mean()) > 0.9
    rows = topics.task(1, 10, 0).train.tensors
    assert (rows["labels"] != -100).sum(1).tolist() == [1] * 10
