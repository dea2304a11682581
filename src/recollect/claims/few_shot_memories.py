"""The claim on few-shot memories: one exposure is recognised, recall needs more, and it fades at once where recognition stays."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from statistics import mean, pstdev
from typing import Any

from recollect.benchmarks.haystack import prose
from recollect.benchmarks.real_data import checkpoint, find, novels, with_ends
from recollect.benchmarks.testbed import load_or_train
from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.weights.few_shot_memories import FewShotMemories, WeightsMemory, gibberish, random_words, read_experiment

BEFORE, AFTER = "before studying", "after {0} updates"
SENTENCES, WORDS, LETTERS = "sentences", "random words", "shuffled letters"
FOILS = ("other", "one word", "paraphrase", "synonym", "real sentence")


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """Recognition and recall by exposures and by updates afterwards, over seeds."""
    full = setting.scale == "full"
    model, tokenizer, stream = (_real if full else _made)(setting, progress)
    seeds = range(setting.seed, setting.seed + (2 if full else 3))
    for kind in (SENTENCES, WORDS, LETTERS):
        runs = []
        for seed in seeds:
            progress(f"{kind}, seed {seed}")
            bench = (_real_bench if full else _made_bench)(setting, tokenizer, kind, seed)
            runs.append(_run(copy.deepcopy(model), tokenizer, bench, stream, kind, seed, full))
        for rows in zip(*runs, strict=True):
            name = rows[0][0]
            system = SENTENCES in name and "updates" not in name
            yield Row(name, "system" if system else "baseline", _over([values for _, values in rows]))


def _run(
    model: Any, tokenizer: Any, bench: FewShotMemories, stream: Sequence[str], kind: str, seed: int, full: bool
) -> Iterator[tuple[str, dict[str, float]]]:
    memory = WeightsMemory(model, tokenizer, 3e-4 if full else 1e-3)
    yield f"{kind}, {BEFORE}", _told(bench.recognition(memory.score) | bench.recall(memory.complete))
    for exposures in (1, 2, 3):
        memory.study(bench.study, 1, seed=seed * 10 + exposures)
        values = bench.recognition(memory.score) | bench.recall(memory.complete)
        yield f"{kind}, seen {exposures}x", _told(values)
    if kind != SENTENCES:
        return
    rows = (stream[at : at + 4] for at in range(0, len(stream) - 4, 4))
    checkpoints = (1, 3, 10, 30, 100, *((300, 1000) if full else ()))
    for row in bench.retention(memory.score, memory.complete, memory.write, rows, checkpoints):
        if row["updates"]:
            yield f"{kind}, {AFTER.format(int(row['updates']))}", _told(row)


def _told(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name in (*FOILS, "exact", "rouge-L")}


def _over(runs: list[dict[str, float]]) -> dict[str, float]:
    values = {name: mean(run[name] for run in runs) for name in runs[0]}
    return values | {"spread": pstdev([run["rouge-L"] for run in runs])}


def _made(setting: Setting, progress: Progress) -> tuple[Any, Any, list[str]]:
    model, tokenizer = load_or_train(
        device=setting.device,
        progress=lambda step, total, what: progress(f"training the testbed, {step} of {total}: {what}"),
    )
    return *with_ends(model, tokenizer), list(islice(prose(Random("afterwards")), 500))


def _real(setting: Setting, progress: Progress) -> tuple[Any, Any, list[str]]:
    model, tokenizer = checkpoint(setting, "float32")
    lines = [line.strip() for text in novels(setting, "valid") for line in text.split("\n") if len(line) > 100]
    Random("afterwards").shuffle(lines)
    return model, tokenizer, [line[:400] for line in lines[:4200]]


def _made_bench(setting: Setting, tokenizer: Any, kind: str, seed: int) -> FewShotMemories:
    """Made texts to study with two foils of each: another one of the kind, and the same with one word exchanged."""
    rng = Random(f"{kind} {seed}")
    drawn = list(dict.fromkeys(islice(prose(rng), 400)))
    sentences, others = drawn[:60], drawn[60:120]
    words = [word for text in sentences for word in text.split()]
    if kind == WORDS:
        sentences, others = (random_words(len(sentences), words, rng, 10) for _ in range(2))
    if kind == LETTERS:
        sentences, others = ([gibberish(text, rng) for text in texts] for texts in (sentences, others))
    return FewShotMemories(
        sentences, {"other": others, "one word": [_exchanged(text, words, rng) for text in sentences]}, tokenizer
    )


def _real_bench(setting: Setting, tokenizer: Any, kind: str, seed: int) -> FewShotMemories:
    """The paper's texts and foils: experiments 1 to 3 for sentences, 4 and 5 for words, 6 for letters; and one word exchanged."""
    rng = Random(f"{kind} {seed}")
    archive = find(setting, "few-shot-memories/llm-experiment-data.tar.xz")
    if kind == SENTENCES:
        studied, synonyms = read_experiment(archive, 3, seed)  # some of the sentences of the others
        foils = {"synonym": synonyms}
        for name, number in (("other", 1), ("paraphrase", 2)):
            foil_of = dict(zip(*read_experiment(archive, number, seed), strict=True))
            foils[name] = [foil_of[text] for text in studied]
    elif kind == WORDS:
        studied, others = read_experiment(archive, 4, seed)
        foils = {"other": others, "real sentence": read_experiment(archive, 5, seed)[1]}
    else:
        studied, real = read_experiment(archive, 6, seed)
        others = [gibberish(text, rng) for text in read_experiment(archive, 1, seed)[1]]
        foils = {"other": others, "real sentence": real}
    words = [word for text in studied for word in text.split()]
    return FewShotMemories(studied, foils | {"one word": [_exchanged(text, words, rng) for text in studied]}, tokenizer)


def _exchanged(text: str, words: Sequence[str], rng: Random) -> str:
    parts = text.split()
    place = rng.randrange(len(parts))
    parts[place] = rng.choice([word for word in words if word != parts[place]])
    return " ".join(parts)


def decide(rows: Mapping[str, Row]) -> bool:
    """See the rule."""
    of = {name: row.values for name, row in rows.items()}
    once, thrice = (of[f"{SENTENCES}, seen {number}x"] for number in (1, 3))
    recognised = once["other"] >= 0.9 and once["other"] > once["exact"]
    rises = of[f"{SENTENCES}, {BEFORE}"]["rouge-L"] < once["rouge-L"] < thrice["rouge-L"]
    ten, hundred = (of[f"{SENTENCES}, {AFTER.format(number)}"] for number in (10, 100))
    at_once = thrice["rouge-L"] - ten["rouge-L"] > ten["rouge-L"] - hundred["rouge-L"]
    structure = thrice["rouge-L"] > of[f"{WORDS}, seen 3x"]["rouge-L"]
    return recognised and rises and at_once and hundred["other"] >= 0.7 and structure


CLAIM = Claim(
    key="few-shot-memories",
    sentence="A language model recognises nearly every sentence that it saw once in training, recalls it after a few exposures, "
    "forgets how to recall it within the first updates on other text while still recognising it, and keeps sentences better than "
    "words without structure.",
    figure="in words and figures of the paper: one exposure nearly always suffices for near-perfect recognition, three for "
    "near-perfect recall in most models; recall falls steeply within ten updates (sections 3 and 4).",
    experiment="The testbed that `recollect testbed train` makes studies 60 made sentences, texts of random words, or the sentences "
    "with shuffled letters, one to three times, then reads up to 400 other sentences, four an update; three seeds. `other`, "
    "`one word`: recognition against another text of the kind and against the same with one word exchanged (chance 0.5); "
    "`exact`, `rouge-L`: the second half, given the first; spread: of rouge-L. At full scale the model given by --data studies "
    "the paper's sentences, random words and shuffled letters, two seeds, and reads up to 4,000 lines of novels; `synonym`, "
    "`paraphrase`, `real sentence`: the paper's foils.",
    rule="Recognition after one exposure is at least 0.9; recall (rouge-L) rises with exposures, falls more within 10 updates than "
    "from 10 to 100, and is higher for sentences than for random words; recognition after 100 updates is at least 0.7.",
    measure=measure,
    decide=decide,
)
