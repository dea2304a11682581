"""Signals on a small conversation, names in queries, and rankings that explain themselves."""

from dataclasses import replace

import numpy as np
import pytest

from recollect.store import late, lexical, shape
from recollect.store.fusion import (
    FLAGS,
    Candidates,
    Fusion,
    Query,
    asked_about,
    fitted_on,
    signals,
    standardise,
    without_names,
)

TURNS = [
    (1, 0, "Ana", "Hi Ben, how are you?"),
    (1, 1, "Ben", "Fine! Which city did you choose?"),
    (1, 2, "Ana", "Lisbon. I moved there last May."),
    (1, 3, "Ben", "Lovely, Ana."),
    (2, 0, "Ben", "I bought 3 old bicycles in Porto."),
    (2, 1, "Ana", "What will you do with the bicycles?"),
]
DAY = 86400.0


def vector(text, dim=64):
    made = np.zeros(dim, np.float32)
    for term in lexical.term_ids(text):
        made[int(term) % dim] += 1
    return made / max(float(np.linalg.norm(made)), 1e-9)


def token_vectors(text):
    made = [np.random.default_rng(int(term)).normal(size=late.TOKEN_DIM) for term in lexical.term_ids(text)]
    made = np.array(made, np.float32).reshape(-1, late.TOKEN_DIM)
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)


def make(text, turns=TURNS, tokens=True, window=None):
    texts = [turn[3] for turn in turns]
    terms = [lexical.term_ids(text) for text in texts]
    bare, _ = without_names(text, ["Ana", "Ben"])
    vectors = np.array([vector(text) for text in texts]).reshape(-1, 64)
    query = Query(
        text=text,
        at=100 * DAY,
        vector=vector(bare),
        tokens=token_vectors(bare) if tokens else None,
        document_frequency={int(i): sum(i in ids for ids in terms) for ids in terms for i in ids},
        num_documents=len(texts),
        speakers=["Ana", "Ben"],
        window=window,
    )
    candidates = Candidates(
        seq=np.arange(len(texts)),
        session=np.array([turn[0] for turn in turns], np.int64),
        position=np.array([turn[1] for turn in turns], np.int64),
        at=np.array([turn[0] * DAY for turn in turns]),
        speaker=[turn[2] for turn in turns],
        shape=np.array([shape.flags(text) for text in texts], np.uint8),
        dense=vectors @ query.vector,
        vectors=vectors,
        first_stage=np.ones(len(texts), bool),
        tokens=[late.compress(token_vectors(text)) if tokens else None for text in texts],
        terms=[ids.tobytes() for ids in terms],
    )
    return query, candidates


@pytest.mark.parametrize(
    ("text", "bare", "named"),
    [
        ("When did Ana move?", "When did move?", ["Ana"]),
        ("What is BEN's bicycle, ana?", "What is bicycle, ?", ["Ana", "Ben"]),
        ("A banana for benjamin", "A banana for benjamin", []),
        ("Ana?", "Ana?", ["Ana"]),
        ("", "", []),
    ],
)
def test_names_are_taken_out_of_the_query(text, bare, named):
    assert without_names(text, ["Ana", "Ben"]) == (bare, named)


def test_any_word_of_a_long_name_counts_and_odd_names_are_harmless():
    assert without_names("where did Silva go", ["Ana (Silva)", "(", "", "x"]) == ("where did go", ["Ana (Silva)"])


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("What did Ana cook?", ["Ana"]),
        ("What did Ben tell Ana?", ["Ben"]),
        ("What do Ana and Ben share?", ["Ana", "Ben"]),
        ("What was cooked?", []),
    ],
)
def test_who_is_asked_about(text, about):
    assert asked_about(text, ["Ana", "Ben"]) == about


def test_words_count_for_the_turn_and_at_a_discount_for_its_neighbours():
    found = signals(*make("Which city is it?"))
    assert found["words with the turns before"].tolist() == pytest.approx([0, 1, 0.8, 0.64, 0, 0])
    assert found["words with the turns around"].tolist() == pytest.approx([0.8, 1, 0.8, 0.64, 0, 0])
    assert (found["words of the session"] > 0).tolist() == [True] * 4 + [False] * 2


def test_neighbours_lend_token_matches_within_their_session_only():
    found = signals(*make("city"))
    own = found["tokens"]
    assert own.argmax() == 1
    assert found["tokens with the turns before"][2] == pytest.approx(0.9 * own[1], rel=1e-5)
    assert found["tokens with the turns around"][0] == pytest.approx(0.9 * own[1], rel=1e-5)
    assert found["tokens with the turns before"][0] == pytest.approx(max(own[0], 0), abs=1e-6)
    assert found["tokens with the turns around"][4] < 0.9 * own[1] / 2


def test_meaning_with_the_turns_around_is_the_cosine_of_the_weighted_sum():
    query, candidates = make("city")
    v = candidates.vectors
    around = v[1] + 0.5 * v[0] + 0.5 * v[2] + 0.3 * v[3]
    expected = around @ query.vector / np.linalg.norm(around)
    assert signals(query, candidates)["meaning with the turns around"][1] == pytest.approx(expected, rel=1e-5)


def test_flags_of_the_turns():
    found = signals(*make("When did Ana buy how many things, and what?"))
    assert found["asks"].tolist() == [1, 1, 0, 0, 0, 1]
    assert found["follows a question"].tolist() == [0, 1, 1, 0, 0, 0]
    assert found["said by the one asked about"].tolist() == [1, -1, 1, -1, -1, 1]
    assert found["a time, asked when"].tolist() == [0, 0, 1, 0, 0, 0]
    assert found["a number, asked how many"].tolist() == [0, 0, 0, 0, 1, 0]
    assert found["first person"].tolist() == [0, 0, 1, 0, 1, 0]
    assert not signals(*make("Why?"))["a time, asked when"].any()


def test_a_question_before_a_remark_in_brackets_still_asks():
    turns = [(1, 0, "Ana", "Is it yours? [shares a photo: a cat]"), (1, 1, "Ben", "Mine? No.")]
    assert signals(*make("cat", turns))["asks"].tolist() == [1, 0]


def test_time_asked_about():
    found = signals(*make("What happened?", window=(1 * DAY, 2 * DAY)))
    assert found["in the time asked about"].tolist() == [1, 1, 1, 1, 0, 0]
    assert found["soon after that time"].tolist() == [0, 0, 0, 0, 1, 1]
    assert not signals(*make("What happened?"))["in the time asked about"].any()
    assert signals(*make("What happened?", window=(-np.inf, np.inf)))["in the time asked about"].all()


def test_signals_do_not_depend_on_the_order_of_candidates():
    query, candidates = make("Where did Ana move in May?")
    order = np.array([4, 2, 0, 5, 1, 3])
    mixed = replace(
        candidates,
        **{
            name: getattr(candidates, name)[order]
            for name in ("seq", "session", "position", "at", "shape", "dense", "vectors")
        },
        **{name: [getattr(candidates, name)[row] for row in order] for name in ("speaker", "tokens", "terms")},
    )
    straight, other = signals(query, candidates), signals(query, mixed)
    for name, values in straight.items():
        assert np.allclose(values[order], other[name], atol=1e-6), name


def test_every_weight_has_a_signal_and_every_flag_exists():
    with_tokens, without_tokens = signals(*make("city")), signals(*make("city", tokens=False))
    for name in ("all", *fitted_on()):
        fusion = Fusion.load(without=name)
        assert set(fusion.with_tokens) == set(with_tokens)
        assert set(fusion.without_tokens) == set(without_tokens)
    assert set(with_tokens) >= FLAGS


def test_each_conversation_has_weights_of_its_own():
    sets = [tuple(Fusion.load(without=name).with_tokens.values()) for name in (*fitted_on(), "all")]
    assert len(fitted_on()) >= 2
    assert len(set(sets)) == len(sets)
    assert Fusion.load() == Fusion.load(without="never seen")


@pytest.mark.parametrize("tokens", [True, False])
def test_ranking_finds_the_reply_to_the_question_that_matches(tokens):
    ranking = Fusion.load().rank(*make("Which city did Ana choose?", tokens=tokens))
    assert ranking.scores.argmax() == 2


@pytest.mark.parametrize("tokens", [True, False])
def test_explanation_adds_up(tokens):
    ranking = Fusion.load().rank(*make("Which city did Ana choose?", tokens=tokens))
    assert np.allclose(sum(ranking.contributions.values()), ranking.scores)
    why = ranking.explain(2)
    assert sum(signal.share for signal in why) == pytest.approx(1)
    assert [signal.share for signal in why] == sorted((signal.share for signal in why), reverse=True)
    assert sum(signal.value * signal.weight for signal in why) == pytest.approx(ranking.scores[2])


@pytest.mark.parametrize("text", ["", "the", "\ud800\x00", "Ana", "(" * 500, "?" * 10_000])
def test_odd_queries_rank_without_failing(text):
    assert np.isfinite(Fusion.load().rank(*make(text)).scores).all()


def test_one_candidate_and_none():
    query, candidates = make("city", TURNS[:1])
    ranking = Fusion.load().rank(query, candidates)
    assert ranking.scores.tolist() == [0.0]
    assert sum(signal.share for signal in ranking.explain(0)) == 0
    query, candidates = make("city", [])
    assert Fusion.load().rank(query, candidates).scores.shape == (0,)


def test_candidates_without_any_vectors_or_terms_are_ranked():
    query, candidates = make("city")
    n = len(candidates.seq)
    bare = replace(
        candidates,
        dense=np.zeros(n, np.float32),
        vectors=np.zeros_like(candidates.vectors),
        tokens=[None] * n,
        terms=[b""] * n,
    )
    assert np.isfinite(Fusion.load().rank(query, bare).scores).all()


def test_standardise():
    assert standardise("length", np.array([1.0, 3.0])).tolist() == [-1, 1]
    assert standardise("length", np.full(3, 7.0)).tolist() == [0, 0, 0]
    rare = standardise("asks", np.eye(100)[0])
    assert rare.max() == pytest.approx(0.99 / 0.25)
