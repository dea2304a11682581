"""CMT's claim: matched, few memories answer questions about new documents better than all of them, the more so in a large bank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from recollect.benchmarks.continual import over_seeds
from recollect.benchmarks.facts import Fact, FactWorld, teach_reading, tiny_decoder
from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.weights.cmt import CMT, Example, MemoryBank

SYSTEM, UNMATCHED, MEAN, NOTHING, ORACLE = (
    "CMT",
    "without self-matching, all memories",
    "mean of all memories",
    "no memory",
    "document in the text",
)
SIZES = (10, 50, 200)


def measure(setting: Setting, progress: Progress, num_steps: int = 0, sizes: Sequence[int] = SIZES) -> Iterator[Row]:
    """Right answers about documents that were never trained on, with 10, 50 and 200 of them in the bank; over three seeds."""
    steps = num_steps or (4000 if setting.scale == "full" else 400)
    seeds, found = range(setting.seed, setting.seed + 3), {}
    for seed in seeds:
        tell = lambda line, seed=seed: progress(f"seed {seed}, {line}")  # noqa: E731
        for name, values in _figures(seed, setting.device, steps, sizes, tell):
            found.setdefault(name, []).append(values)
            if seed == seeds[-1]:
                spread_of = f"right@{sizes[-1]}"
                yield Row(name, "system" if name == SYSTEM else "baseline", over_seeds(found[name], spread_of))


def _figures(
    seed: int, device: str, steps: int, sizes: Sequence[int], progress: Progress
) -> Iterator[tuple[str, dict[str, float]]]:
    """(name, right answers by the number of documents) of each way, for one seed."""
    world = FactWorld(num_entities=300, num_relations=4, num_values=20, seed=seed)
    tokenizer = world.tokenizer()
    model = tiny_decoder(len(tokenizer), seed=seed).to(device)
    teach_reading(model, tokenizer, world, steps // 2, seed, ending=False, progress=progress)
    last = len(world.entities) - 50
    known = set(world.entities[:last])
    trained = [fact for fact in world.facts if fact[0] in known]
    asked = Random(f"asked {seed}").sample([fact for fact in world.facts if fact[0] not in known], max(sizes))
    rng = Random(f"examples {seed}")
    examples = [_example(world, fact, world.other_value(fact, rng)) for fact in trained for _ in range(4)]
    tests = [_example(world, fact, world.facts[fact]) for fact in asked]
    for name, settings in ((SYSTEM, {}), (UNMATCHED, {"matching": False, "top_k": None})):
        memory = CMT(model, tokenizer, num_vectors=4, match=1.0, learning_rate=3e-3, seed=seed, **settings)
        memory.train(examples, steps, 32, lambda line, name=name: progress(f"{name}, {line}"))
        ways = ("read",) if name == UNMATCHED else ("read", "mean", "nothing", "oracle")
        found: dict[str, dict[str, float]] = {way: {} for way in ways}
        for size in sizes:
            memory.bank = _empty(memory)
            memory.write([each.document for each in tests[:size]])
            for way in ways:
                found[way][f"right@{size}"] = _right(memory, tests[:size], way)
        memory.close()
        for way, values in found.items():
            yield {"read": name, "mean": MEAN, "nothing": NOTHING, "oracle": ORACLE}[way], values


def _example(world: FactWorld, fact: Fact, value: str) -> Example:
    document, question = world.told(fact, value)
    return Example(document, question.prompt, question.answer)


def _empty(memory: CMT) -> MemoryBank:
    _, vectors, width = memory.bank.memories.shape
    return MemoryBank(vectors, width, memory.bank.memories.device)


def _right(memory: CMT, tests: Sequence[Example], way: str) -> float:
    """Share of the questions whose continuation is the answer, with the prefix that this way makes."""
    questions = [each.question for each in tests]
    if way == "read":
        said = memory.say(questions, 1)
    elif way == "mean":
        mean = _empty(memory)
        mean.add(memory.bank.memories.mean(0, keepdim=True), memory.bank.keys.mean(0, keepdim=True))
        kept, memory.bank = memory.bank, mean
        said = memory.say(questions, 1)
        memory.bank = kept
    else:
        texts = [f"{each.document} {each.question}" for each in tests] if way == "oracle" else questions
        said = memory.say_after(None, texts, 1)
    return sum(one.strip() == each.answer.strip() for one, each in zip(said, tests, strict=True)) / len(tests)


def decide(rows: Mapping[str, Row]) -> bool:
    """With 200 documents 5 points above every baseline without the document's text, and a smaller loss from 10 to 200."""
    ours = rows[SYSTEM].values
    ahead = all(ours["right@200"] >= rows[name].values["right@200"] + 0.05 for name in (UNMATCHED, MEAN, NOTHING))
    lost = {name: rows[name].values["right@10"] - rows[name].values["right@200"] for name in (SYSTEM, UNMATCHED)}
    return ahead and lost[SYSTEM] < lost[UNMATCHED]


CLAIM = Claim(
    key="cmt",
    sentence="Documents compressed into a few vectors, matched with the question by the same compressor and gathered from the best "
    "few, let a frozen model answer about new documents better than reading all memories, and lose less as the bank grows.",
    figure="Llama-2-7b on StreamingQA: 4.07 points of exact match and 4.19 of F1 above the strongest baseline (abstract).",
    experiment="A tiny decoder (2 layers, width 64) is taught to answer from a fact in its text and frozen. Each memory is trained on "
    "facts of 250 entities with values that are not theirs, then given one document a fact of 50 other entities. Three seeds. "
    "`right@N`: share of the questions about N documents in the bank whose continuation is the answer, one value in 20 by chance; "
    "`sd`: of the last of them over seeds.",
    rule="With 200 documents CMT is 5 points above reading all memories without matching, the mean of all memories and no memory, "
    "and it loses less from 10 to 200 documents than reading all does.",
    measure=measure,
    decide=decide,
)
