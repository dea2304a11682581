"""EM-LLM's claim: events cut by surprise, with their neighbours in time, serve recall better than fixed blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from random import Random
from statistics import mean
from typing import TYPE_CHECKING, Any

from recollect.benchmarks.haystack import Haystacks
from recollect.benchmarks.needle import answer, make_policy, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting

if TYPE_CHECKING:
    from recollect.context.policy import ContextMemory

SYSTEM, BLOCKS, FIXED, SURPRISE = "em-llm", "infllm", "events of fixed length", "surprise alone"
TASKS = ("passkey", "key-value")


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Accuracy at twice (full: up to 16 times) the trained length, all policies with the same budget."""
    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    trained = model.config.max_position_embeddings
    times, samples = ((2,), 6) if setting.scale == "small" else ((2, 4, 8, 16), 40)
    haystacks = Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed)
    variants = _variants(trained // 2)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in variants}
    for task in TASKS:
        for each in times:
            rng = Random(f"{setting.seed} {task} {each}")
            for number in range(samples):
                prompt = haystacks.prompt(task, each * trained, rng, depth=(number + 0.5) / samples)
                for name, policy in variants.items():
                    progress(f"{task} at {each} times the trained length, {number + 1} of {samples}, {name}")
                    found[name].setdefault(f"{task}@{each}x", []).append(answer(model, haystacks, policy, prompt)[0])
    return [
        Row(
            name, "system" if name == SYSTEM else "baseline", {column: mean(scores) for column, scores in parts.items()}
        )
        for name, parts in found.items()
    ]


def _variants(budget: int) -> dict[str, ContextMemory]:
    ours: Any = make_policy(SYSTEM, budget)
    blocks = make_policy(BLOCKS, budget)
    assert blocks is not None
    return {
        SYSTEM: ours,
        SURPRISE: replace(ours, refinement=None, contiguity=0.0),
        FIXED: replace(ours, gamma=inf, refinement=None, contiguity=0.0),
        BLOCKS: blocks,
    }


def decide(rows: Mapping[str, Row]) -> bool:
    """Its mean over tasks and lengths is above that of fixed events and of InfLLM."""
    ours, *others = (mean(rows[name].values.values()) for name in (SYSTEM, FIXED, BLOCKS))
    return all(ours > other for other in others)


CLAIM = Claim(
    key="em-llm",
    sentence="A memory of events that open where the model is surprised, refined by the keys and recalled with their neighbours "
    "in time, answers more than one of fixed blocks.",
    figure="Mistral 7B on LongBench, 4K window and 2K recalled, average 43.7 (surprise, modularity and contiguity) against 41.9 of "
    "InfLLM; Retrieve.KV of InfiniteBench 99 against 95.6 (table 1).",
    experiment="Share of pass keys and of keys among pairs that greedy decoding answers, hidden in made prose, at twice (full scale: "
    "up to 16 times) the trained length; no token attends to more than half of that length. `surprise alone` is without "
    "refinement and neighbours. With --data on the checkpoint there, otherwise on the testbed that `recollect testbed train` makes.",
    rule="EM-LLM's mean accuracy is above that of events of fixed length and of InfLLM.",
    measure=measure,
    decide=decide,
)
