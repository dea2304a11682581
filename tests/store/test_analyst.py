"""The built-in analyst: keywords, tags, gist, summary."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.store.analyst import entities, gist, keywords, summary, tags, triples

NOW = datetime(2024, 8, 1, 10, tzinfo=UTC)
TEXT = "Hey Tom! I adopted a shelter dog in Porto yesterday. The shelter dog is called Rex."


def test_keywords_name_what_the_text_is_about() -> None:
    found = keywords(TEXT)
    assert {"Porto", "Rex"} <= set(found)
    assert any("shelter dog" in word for word in found)
    assert "Tom" not in found
    assert len(keywords(TEXT, 2)) == 2
    assert keywords("and so on") == []


def test_rare_words_come_first_when_counts_are_known() -> None:
    counts = {"tea": 900, "saxophon": 2}
    found = keywords(
        "tea, saxophone", 2, frequency=lambda stems: {stem: counts.get(stem, 0) for stem in stems}, num_documents=1000
    )
    assert found == ["saxophone", "tea"]


def test_tags_give_domain_and_form() -> None:
    assert tags("I'm going to run a marathon next month") == ["sport", "plan"]
    assert "question" in tags("Which restaurant has good pasta?")
    assert tags("hm") == []
    assert len(tags("My mother cooks dinner at the office, and I love music and travel", 2)) == 2


def test_gist_stands_alone() -> None:
    assert gist("Wow! I moved to Porto last May. Great.", speaker="Ana", at=NOW) == "Ana moved to Porto in May 2024."
    assert gist("It rains.", speaker="Ana").startswith("Ana: ")
    assert gist("") == ""


def test_summary_is_central_different_and_in_order() -> None:
    texts = [
        "The bridge over the river was built in 1890. The bridge over the river was built in 1890.",
        "Engineers closed the bridge for repairs. Lunch was late.",
        "Repairs of the bridge will take a year.",
    ]
    found = summary(texts, 20)
    assert found.count("built in 1890") == 1
    assert "Lunch" not in found
    assert len(found.split()) <= 20
    assert found.index("built") < found.index("Repairs" if "Repairs" in found else "repairs")
    assert len(summary(["one two three four five six seven"], 3).split()) == 3
    assert summary([], 10) == summary(texts, 0) == ""


def test_summary_reads_vectors() -> None:
    vectors = np.eye(3)
    assert summary(["Alpha beta.", "Gamma delta.", "Epsilon zeta."], 4, vectors=vectors)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    for outcome in (keywords(text), tags(text), [gist(text, speaker="Ana", at=NOW)], [summary([text], 10)]):
        assert all("\0" not in word for word in outcome)
    assert keywords(text) == keywords(text)
    assert entities(text) == entities(text)
    assert triples(text) == triples(text)
