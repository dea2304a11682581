"""The default method: reading the time of a query, borrowing from the turns around, explaining every hit."""

from __future__ import annotations

import pytest

from recollect.store.episodic import Episodic


def test_a_time_in_the_query_is_read_from_when_it_is_asked(open_memory):
    memory = open_memory()
    memory.add("Swam in the lake.", at="2024-05-20")
    memory.add("Swam in the sea.", at="2024-08-20")
    memory.add("Swam in the pool.", at="2023-05-20")
    assert memory.recall("What did I do last May?", at="2024-12-01")[0].text == "Swam in the lake."
    assert memory.recall("Where did I swim in August 2024?", at="2024-12-01")[0].text == "Swam in the sea."
    assert "in the time asked about" in {signal.name for signal in memory.recall("last May", at="2024-12-01")[0].why}


def test_an_event_in_the_query_bounds_the_time(open_memory):
    memory = open_memory()
    memory.add("Today I moved to Porto.", at="2024-09-01")
    memory.add("Worked as a cook.", at="2024-03-01")
    memory.add("Worked as a teacher.", at="2024-11-01")
    assert memory.recall("What was my work before I moved to Porto?", at="2024-12-01")[0].text == "Worked as a cook."
    after = [hit.text for hit in memory.recall("What was my work after I moved to Porto?", at="2024-12-01")]
    assert after.index("Worked as a teacher.") < after.index("Worked as a cook.")


def test_the_time_can_be_left_unread(open_memory):
    memory = open_memory(method=Episodic(reads_time=False))
    memory.add("Swam in the lake.", at="2024-05-20")
    memory.add("Swam in the sea, as I did last May.", at="2024-08-20")
    assert memory.recall("last May", at="2024-12-01")[0].text.startswith("Swam in the sea")
    assert all(signal.value == 0 for signal in memory.recall("last May")[0].why if "time asked about" in signal.name)


def test_a_reply_is_found_by_the_words_of_the_question_before_it(open_memory):
    memory = open_memory()
    for number in range(30):
        memory.add(f"Small talk number {number} about the weather.", session="s", speaker="Ben", at="2024-01-01")
    memory.add("Which instrument does your sister play in the orchestra?", session="s", speaker="Ben", at="2024-01-01")
    memory.add("The bassoon, since she was nine.", session="s", speaker="Ana", at="2024-01-01")
    for number in range(30, 60):
        memory.add(f"Small talk number {number} about the weather.", session="s", speaker="Ana", at="2024-01-01")
    hits = memory.recall("What instrument does the sister play in the orchestra?", k=3)
    assert "The bassoon, since she was nine." in {hit.text for hit in hits}


def test_every_hit_explains_its_score(open_memory):
    memory = open_memory()
    for number, text in enumerate(("tea in the garden", "coffee in town", "the garden gate", "a letter from Oslo")):
        memory.add(text, at=f"2024-01-0{number + 1}")
    for hit in memory.recall("the garden", k=4):
        assert hit.score == pytest.approx(sum(signal.value * signal.weight for signal in hit.why))
        assert [signal.share for signal in hit.why] == sorted((signal.share for signal in hit.why), reverse=True)


def test_a_benchmark_conversation_is_ranked_by_weights_fitted_without_it():
    from recollect.store.fusion import fitted_on

    assert fitted_on()
    for name in fitted_on():
        assert Episodic(without=name).fusion != Episodic().fusion
    assert Episodic(without="somebody else's").fusion == Episodic().fusion
