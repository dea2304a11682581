"""Multi-hop sets: the forms of their files, the made set, and the scores."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from recollect.benchmarks.multihop import GIVEN, run, show
from recollect.benchmarks.multihop_sets import MultihopSet, Question, generate, generate_with_triples, load
from recollect.errors import InvalidInput, NotFound
from recollect.store.openie import OpenIECache


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")


def test_musique_has_paragraphs_and_says_its_hops(tmp_path):
    write(
        tmp_path,
        musique_corpus=[{"title": "A", "text": "one"}, {"title": "A", "text": "two"}, {"title": "B", "text": "three"}],
        musique=[
            {
                "id": "3hop1__1_2",
                "question": "Which?",
                "paragraphs": [
                    {"title": "A", "paragraph_text": "two", "is_supporting": True},
                    {"title": "B", "paragraph_text": "three", "is_supporting": False},
                    {"title": "B", "text": "three ", "is_supporting": True},
                ],
            }
        ],
    )
    (data,) = load(tmp_path)
    assert data.questions == (Question("Which?", ("p1",), 3),)
    assert (data.name, data.num_unmatched, data.num_left_out) == ("musique", 1, 0)  # one space more is another text


@pytest.mark.parametrize("joint", ["", " "])
def test_hotpot_has_sentences_that_are_joined_as_the_corpus_has_them(tmp_path, joint):
    sentences = ["First.", "Second."]
    corpus = [{"title": "A", "text": joint.join(sentences)}, {"title": "B", "text": "other"}]
    question = {
        "question": "Which?",
        "supporting_facts": [["A", 0], ["A", 1], ["C", 0]],
        "context": [["A", sentences], ["B", ["other"]]],
    }
    write(tmp_path, hotpot_corpus=corpus, hotpot=[question])
    (data,) = load(tmp_path / "hotpot_corpus.json")
    assert data.questions[0].gold == ("p0",)
    assert data.num_unmatched == 1
    write(tmp_path, hotpot_corpus={"A": sentences, "B": ["other"]})
    assert load(tmp_path)[0].passages["p0"] == "A\nFirst.Second."


def test_titles_can_be_gold_and_several_question_files_lie_beside_a_corpus(tmp_path):
    corpus = [{"title": "A", "text": "one"}, {"title": "B", "text": "two"}]
    asked = [{"question": "Which?", "ground_truth": ["B", "C"]}, {"question": "What?", "ground_truth": ["C"]}]
    write(tmp_path, wiki_corpus=corpus, wiki_questions_2=asked, wiki_questions_1=asked[:1])
    small, large = load(tmp_path)
    assert (small.name, large.name) == ("wiki_questions_1", "wiki_questions_2")
    assert large.questions == (Question("Which?", ("p1",), None),)
    assert (large.num_unmatched, large.num_left_out) == (2, 1)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(NotFound, match="give a folder with <name>_corpus"):
        load(tmp_path)
    write(tmp_path, x_corpus=[{"title": "A", "text": "one"}])
    with pytest.raises(NotFound, match=r"no question file x\.json"):
        load(tmp_path)
    write(tmp_path, x=[{"question": "Which?"}])
    with pytest.raises(InvalidInput, match=r"x\.json\[0\]: has none of paragraphs"):
        load(tmp_path)
    write(tmp_path, x_corpus=[{"title": "A"}])
    with pytest.raises(InvalidInput, match=r"x_corpus\.json\[0\].*text"):
        load(tmp_path)


def test_the_real_files_are_read(data):
    folder = data / "multihop"
    if not folder.is_dir():
        pytest.skip("no multi-hop data")
    sets = {part.name: part for part in load(folder)}
    sizes = {name: (len(part.passages), len(part.questions), part.num_unmatched) for name, part in sets.items()}
    assert sizes == {
        "2wiki_questions_101": (6119, 101, 0),
        "hotpotqa_train": (994, 100, 0),
        "musique_train": (1890, 100, 0),
    }
    hops = [question.num_hops for question in sets["musique_train"].questions]
    assert (hops.count(2), hops.count(3), hops.count(4)) == (68, 27, 5)


def test_the_made_set_is_decided_by_its_seed_and_its_chains_hold():
    data, triples = generate_with_triples(30, seed=1)
    assert generate(30, seed=1) == data != generate(30, seed=2)
    assert len(data.passages) == 30 + 30 + 7
    assert len(data.questions) == 90
    for question in data.questions:
        texts = [data.passages[id_] for id_ in question.gold]
        assert len(texts) == question.num_hops
        for one, other in pairwise(texts):
            title = other.partition("\n")[0]
            assert title in one
            assert any(title in triple for triple in triples[one])


def test_every_method_is_scored_beside_bm25_and_cosine(tmp_path):
    made, triples = generate_with_triples(8, seed=0)
    docs = [{"passage": text, "extracted_triples": said} for text, said in triples.items()]
    (tmp_path / "openie.json").write_text(json.dumps({"docs": docs}), "utf-8")
    steps: list[str] = []
    result = run(
        [made],
        ["episodic", "hipporag2"],
        openie=OpenIECache(tmp_path / "openie.json"),
        embedder="hashing",
        limit=9,
        progress=lambda label, done, total: steps.append(label),
    )
    (part,) = result["sets"]
    assert list(part["methods"]) == ["episodic", "hipporag2", GIVEN]
    assert len(steps) == 27
    for row in part["methods"].values():
        assert set(row["recall"]) == {"1", "2", "5", "10"}
        low, high = row["intervals"]["recall"]["5"]
        assert low <= row["recall"]["5"] <= high
        assert [row["by_hops"][count]["num_questions"] for count in "123"] == [3, 3, 3]
        assert row["gain_over_cosine"]["recall"]["5"] == pytest.approx(
            row["recall"]["5"] - part["baselines"]["cosine"]["recall"]["5"]
        )
        assert row["ingest"]["num_episodes"] == len(made.passages)
        assert row["recall_ms"]["p50"] > 0
    assert part["methods"][GIVEN]["ingest"]["notes_per_episode"] > 1
    assert json.loads(json.dumps(result)) == result


def test_a_perfect_ranking_scores_one_and_the_table_shows_it(capsys):
    from rich.console import Console

    passages = {"p0": "Tea\nTea is green.", "p1": "Rain\nRain is wet."}
    data = MultihopSet("two", passages, (Question("What is green tea?", ("p0",)), Question("Is rain wet?", ("p1",))))
    result = run([data], ["episodic"], embedder="hashing")
    assert result["sets"][0]["methods"]["episodic"]["recall"]["1"] == 1.0
    assert "by_hops" not in result["sets"][0]["methods"]["episodic"]
    show(result, Console(width=150))
    assert "100.0" in capsys.readouterr().out
