"""Full-text search on common words, against its readable twin."""

import math
import random

import numpy as np
import pytest

import recollect
from recollect.store import fulltext, lexical
from recollect.store.views import Filter

WORDS = "kiln mug rye cello ferry garden chess honey choir raincoat".split()


def twin(texts, query, limit):
    """Rows (from 1) by the summed inverse document frequency of the query's words that they hold, newer ones first."""
    wanted = set(lexical.terms(query))
    held = {row: wanted & set(lexical.terms(text)) for row, text in texts.items()}
    frequency = {word: sum(word in words for words in held.values()) for word in wanted}
    weight = {word: math.log1p(max(texts) / (1 + frequency[word])) for word in wanted}
    scores = {row: sum(weight[word] for word in words) for row, words in held.items() if words}
    return sorted(scores, key=lambda row: (-round(scores[row], 5), -row))[:limit]


@pytest.mark.parametrize("limit", [5, 1000])
def test_common_words_are_found_by_coverage(open_memory, monkeypatch, limit):
    monkeypatch.setattr(fulltext, "EXACT_POSTINGS", 0)
    draw = random.Random(3)
    texts = {row: " ".join(draw.choices(WORDS, k=draw.randint(1, 4))) for row in range(1, 301)}
    memory, whole = open_memory(), Filter("default")
    episodes = []
    for start in (0, 200):  # the second time over, the rows of the first are kept
        part = {row: text for row, text in texts.items() if row <= 200 or start}
        episodes += [memory.add(text, at=f"{1000 + row}-01-01") for row, text in part.items() if row > start]
        for query in ("kiln and cello", "rye", "garden chess honey mug", "absent kiln"):
            assert memory.engine.db.texts.search(query, whole, limit) == twin(part, query, limit), query
    memory.forget([episode.id for episode in episodes[:150]])
    left = {row: text for row, text in texts.items() if row > 150}
    assert memory.engine.db.texts.search("kiln and cello", whole, limit) == twin(left, "kiln and cello", limit)


def test_words_that_are_too_common_together_are_left_out(open_memory, monkeypatch):
    monkeypatch.setattr(fulltext, "EXACT_POSTINGS", 0)
    monkeypatch.setattr(fulltext, "MAX_POSTINGS", 12)
    memory = open_memory()
    memory.add_many({"text": "kiln" if row % 10 else "kiln rare", "at": f"{1000 + row}-01-01"} for row in range(100))
    assert len(memory.engine.db.texts.search("rare kiln", Filter("default"), 50)) == 10


def test_rows_that_only_a_later_snapshot_holds_are_passed_over():
    with recollect.open(embedder="hashing") as memory:
        memory.add("green tea")
        memory.add("black tea")
        read_on = np.array([1, 2, 3, 900])
        assert fulltext.by_coverage(memory.engine.db, {"tea": 4}, lambda word: read_on, 10) == [2, 1]
