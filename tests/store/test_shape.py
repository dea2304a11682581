"""The shape of a text: each flag by example, its kept form, and databases that keep none yet."""

import pytest

from recollect.store import fusion, shape


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("", 0),
        ("What will you do?", shape.ASKS),
        ('He asked "why?" [laughs]', shape.ASKS),
        ("What? Nothing.", 0),
        ("OUR house", shape.FIRST_PERSON),
        ("home by friday", shape.TIME),
        ("It was in 1987", shape.TIME | shape.NUMBER),
        ("Twice", shape.NUMBER),
        ("they met in Lisbon", shape.NAME),
        ("Lisbon", 0),
        (" " * 4000 + "my two cats", 0),
        ("x" * 10_000 + "?", shape.ASKS),
    ],
)
def test_flags(text, flags):
    assert shape.flags(text) == flags
    assert shape.read(None, text) == flags
    assert shape.shape(text) == shape.VERSION << shape.BITS | flags


def _recalled(memory):
    return [(hit.text, hit.score, hit.why) for hit in memory.recall("When did I buy two bicycles, and where?")]


def test_a_shape_is_kept_with_the_episode_and_made_anew_when_it_is_missing_or_old(open_memory, monkeypatch):
    memory = open_memory()
    texts = ["I bought two bicycles in Porto last May.", "Which ones?", "bicycles are bought", "A red one, said Ana"]
    memory.add_many({"text": text, "session": "s", "at": "2024-06-01"} for text in texts)
    kept = memory.engine.db.rows("SELECT shape FROM episodes ORDER BY seq")
    assert kept == [(shape.shape(text),) for text in texts]
    expected = _recalled(memory)

    with monkeypatch.context() as patched:
        patched.setattr(shape, "flags", lambda text: pytest.fail("the text was read"))
        assert _recalled(memory) == expected
    for other in (None, (shape.VERSION + 1) << shape.BITS | 31):
        memory.engine.db.run("UPDATE episodes SET shape = ?", (other,))
        assert _recalled(memory) == expected
    memory.reindex()
    assert memory.engine.db.rows("SELECT shape FROM episodes ORDER BY seq") == kept
    assert _recalled(memory) == expected


def test_every_flag_has_its_signal():
    assert {"asks", "first person", "a time, asked when", "a number, asked how many"} <= fusion.FLAGS
    assert len({shape.ASKS, shape.FIRST_PERSON, shape.TIME, shape.NUMBER, shape.NAME}) == 5
    assert shape.ASKS | shape.FIRST_PERSON | shape.TIME | shape.NUMBER | shape.NAME < 1 << shape.BITS
