"""Terms, safe full-text queries, and BM25 against a computation by hand."""

import sqlite3
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.store.lexical import BM25, STOP_WORDS, fts_query, term_id, term_ids, terms

HOSTILE = [
    'a" OR b*',
    "NEAR(a b)",
    "text:secret",
    "-minus ^caret",
    "AND OR NOT",
    "nul\x00inside",
    "\ud800lone\udfff",
    "'; DROP TABLE episodes; --",
    "{}[]()*:^+\\",
    "\u0915\u093f\u0924\u093e\u092c",
    "\U0001e922 newer letters",
]


@pytest.fixture(scope="module")
def index():
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE texts USING fts5(text, tokenize='porter unicode61')")
    database.execute("INSERT INTO texts VALUES ('I moved to Lisbon in May'), ('the cafe is closed'), ('who are you')")
    yield database
    database.close()


def matches(index, text):
    query = fts_query(text)
    found = index.execute("SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY bm25(texts)", (query,)) if query else []
    return [row[0] for row in found]


def test_terms_are_stems_in_order_without_common_words():
    assert terms("Where did she MOVE the paintings, and the painting?") == ["move", "paint", "paint"]


def test_terms_fold_width_ligatures_case_and_accents():
    assert terms("\uff2c\uff29\uff33\uff22\uff2f\uff2e") == terms("lisbon")
    assert terms("\ufb01nance") == terms("finance")
    assert terms("Stra\u00dfe caf\u00e9 cafe\u0301") == ["strass", "cafe", "cafe"]


@pytest.mark.parametrize("text", ["don't you've she'll", "", "\x00", "\ud800", "?!"])
def test_terms_of_a_text_without_content_are_empty(text):
    assert terms(text) == []
    assert term_ids(text).shape == (0,)


def test_term_ids_are_the_same_on_every_machine():
    assert term_ids("lisbon").tolist() == [term_id("lisbon")] == [543183029]
    assert term_ids("Lisbon Lisbon").dtype == np.dtype("<u4")


def test_very_long_words_are_left_out():
    assert terms("x" * 201 + " lisbon") == ["lisbon"]
    assert fts_query("x" * 10_000_000) == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_a_valid_expression(index, text):
    matches(index, text)


@given(st.text(st.characters()))
def test_any_text_is_a_valid_expression(text):
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE texts USING fts5(text, tokenize='porter unicode61')")
    assert matches(database, text) == []
    database.close()
    terms(text)


def test_expression_finds_by_stem_and_ignores_common_words(index):
    assert matches(index, "When was she moving to Lisbon?") == [1]
    assert matches(index, "is the caf\u00e9 open") == [2]


def test_common_words_are_kept_when_there_are_no_others(index):
    assert fts_query("Who are you?") == '"who" OR "are" OR "you"'
    assert matches(index, "Who are you?") == [3]


def test_expression_keeps_the_first_distinct_words():
    assert fts_query("red green red blue", max_terms=2) == '"red" OR "green"'


def test_stop_words_are_folded_words():
    assert all(word == word.casefold() and word.isalpha() for word in STOP_WORDS)


def test_bm25_by_hand():
    ranked = BM25(["red apple", "green apple apple pie", "blue sky"]).scores("apples")
    weight = log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    mean = (2 + 4 + 2) / 3
    expected = [
        weight * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / mean)),
        weight * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 4 / mean)),
        0.0,
    ]
    assert ranked == pytest.approx(expected)


def test_bm25_without_documents():
    assert BM25([]).scores("apple").shape == (0,)
