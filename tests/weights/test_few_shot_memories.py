"""Few-shot memories: what a perfect memory and one that knows nothing score, and what studying does to weights."""

from __future__ import annotations

import io
import json
import tarfile
from random import Random

import pytest

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput, NotFound
from recollect.weights.few_shot_memories import (
    FewShotMemories,
    WeightsMemory,
    gibberish,
    random_words,
    read_experiment,
    rouge,
    rouge_longest,
)
from words import tokenizer as make_tokenizer

TOKENIZER = make_tokenizer()
STUDY = ["ana lives in the red town", "bo likes tea in the rain", "cara is in the blue sea"]
OTHER = ["dan lives in the green town", "ana likes the sun", "the home of bo is red"]


@pytest.fixture
def bench():
    return FewShotMemories(STUDY, {"other": OTHER}, TOKENIZER)


def test_a_memory_that_knows_all_and_one_that_knows_nothing(bench):
    assert bench.recognition(lambda texts: [0.0 if text in STUDY else 1.0 for text in texts]) == {"other": 1.0}
    assert bench.recognition(lambda texts: [1.0] * len(texts)) == {"other": 0.5}
    assert bench.recognition(lambda texts: [float(text in STUDY) for text in texts]) == {"other": 0.0}
    rest = {tuple(TOKENIZER.encode(text)[:3]): TOKENIZER.encode(text)[3:] for text in STUDY}
    perfect = bench.recall(lambda prompts, numbers: [rest[tuple(prompt)] for prompt in prompts])
    assert set(perfect.values()) == {1.0}
    nothing = bench.recall(lambda prompts, numbers: [[3] * number for number in numbers])
    assert nothing["exact"] == nothing["rouge-L"] == 0
    assert nothing["whole"] == pytest.approx(0.5)  # the given half alone: why it does not count


def test_retention_probes_before_and_after_the_wanted_updates_and_ends_with_the_stream(bench):
    written = []
    rows = bench.retention(
        lambda texts: [0.0] * len(texts),
        lambda prompts, numbers: [[3] * number for number in numbers],
        written.append,
        iter([["a"], ["b"], ["c"]]),
        (1, 3, 9),
    )
    assert [(row["updates"], row["other"]) for row in rows] == [(0, 0.5), (1, 0.5), (3, 0.5)]
    assert written == [["a"], ["b"], ["c"]]


def test_weights_that_study_recognise_recall_and_fade(bench):
    model = tiny_decoder(len(TOKENIZER), width=32, inner=64, heads=2)
    memory = WeightsMemory(model, TOKENIZER, learning_rate=0.01)
    before = bench.recall(memory.complete)["exact"]
    memory.study(STUDY, exposures=25)
    assert bench.recognition(memory.score) == {"other": 1.0}
    assert bench.recall(memory.complete)["exact"] == 1.0 > before
    assert memory.score(STUDY)[0] == pytest.approx(memory.score([STUDY[0]])[0], abs=1e-5)  # padding does not count
    stream = (OTHER for _ in range(20))
    last = list(bench.retention(memory.score, memory.complete, memory.write, stream, (20,)))[-1]
    assert last["exact"] < 1.0


def test_rouge_is_that_computed_by_hand():
    assert rouge([1, 2, 3], [1, 3, 4, 5], 1) == pytest.approx(4 / 7)
    assert rouge([1, 2, 3], [1, 2, 4], 2) == pytest.approx(0.5)
    assert rouge([1], [1], 2) == 0
    assert rouge_longest([1, 2, 3, 4], [1, 3, 4, 2]) == pytest.approx(0.75)


def test_stimuli_without_structure_keep_the_words_or_letters():
    rng = Random(0)
    assert all(set(text.split()) <= {"a", "b"} and len(text.split()) == 25 for text in random_words(3, "ab", rng))
    assert sorted(gibberish("red town", rng).replace(" ", "")) == sorted("redtown")


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(InvalidInput, match="foils: 1 of 'other' for 3 texts"):
        FewShotMemories(STUDY, {"other": OTHER[:1]}, TOKENIZER)
    with pytest.raises(InvalidInput, match="study: 'ana' is a single token"):
        FewShotMemories(["ana"], {}, TOKENIZER)


def test_experiments_are_read_from_a_folder_and_from_an_archive(tmp_path):
    folder = tmp_path / "data" / "expt3"
    folder.mkdir(parents=True)
    for kind in ("seen", "unseen"):
        (folder / f"{kind}_data_1.json").write_text(json.dumps({"sent": f"{kind} text"}) + "\n", "utf-8")
    expected = (["seen text"], ["unseen text"])
    assert read_experiment(tmp_path / "data", 3, 1) == expected
    with tarfile.open(tmp_path / "data.tar.xz", "w:xz") as archive:
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            member = tarfile.TarInfo(f"deep/expt3/{path.name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert read_experiment(tmp_path / "data.tar.xz", 3, 1) == expected
    for place in (tmp_path / "data", tmp_path / "data.tar.xz"):
        with pytest.raises(NotFound, match=r"path: there is no expt1/seen_data_0\.json"):
            read_experiment(place, 1)


def test_the_papers_sentences_are_read(data):
    archive = data / "few-shot-memories" / "llm-experiment-data.tar.xz"
    if not archive.is_file():
        pytest.skip("no few-shot-memories in the measuring data")
    seen, unseen = read_experiment(archive, 1, 0)
    assert len(seen) == len(unseen) == 600
