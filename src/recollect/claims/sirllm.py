"""SirLLM's claim: told once, a fact survives many dull turns in a cache that a window would have long moved past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from statistics import mean
from typing import Any

from recollect.benchmarks.haystack import Haystacks, needle
from recollect.benchmarks.needle import ANSWER_TOKENS, make_policy, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting

SYSTEM = "sirllm"
KEYS = (SYSTEM, "streaming-llm", "lm-infinite")
TURNS = (2, 8, 20)  # between the fact and the question


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Share of facts recalled after some turns of made talk, one kept memory a conversation, equal caches."""
    import torch

    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    budget, samples = model.config.max_position_embeddings // 4, 12 if setting.scale == "small" else 100
    haystacks, rng = Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed), Random(setting.seed)
    found: dict[str, dict[str, list[float]]] = {key: {f"after {turns}": [] for turns in TURNS} for key in KEYS}
    for number in range(samples):
        for turns in TURNS:
            (said,), _, question, answer = needle(rng, 0)
            talk = [haystacks.filler(budget // 8, rng) for _ in range(turns)]
            opening = [*haystacks.first, *haystacks.filler(budget // 8, rng)]  # the fact shall not be among the sinks
            for key in KEYS:
                progress(f"conversation {number + 1} of {samples}, {turns} turns, {key}")
                policy = make_policy(key, budget)
                assert policy is not None
                with policy.attach(model) as memory:
                    for turn in (opening, haystacks.encode(said), *talk):
                        memory.read(torch.tensor([turn], device=model.device))
                    asked = torch.tensor([haystacks.encode(question)], device=model.device)
                    options: dict[str, Any] = {"max_new_tokens": ANSWER_TOKENS, "do_sample": False, "pad_token_id": 0}
                    reply = haystacks.tokenizer.decode(memory.generate(asked, **options)[0].tolist())
                found[key][f"after {turns}"].append(float(reply.strip().startswith(answer)))
    return [
        Row(key, "system" if key == SYSTEM else "baseline", {name: mean(scores) for name, scores in parts.items()})
        for key, parts in found.items()
    ]


def decide(rows: Mapping[str, Row]) -> bool:
    """At least 0.3 above every window at the greatest number of turns, and no less than 0.1 below at the smallest."""
    ours, (few, *_, many) = rows[SYSTEM].values, [f"after {turns}" for turns in TURNS]
    others = [row.values for row in rows.values() if row.role == "baseline"]
    return all(ours[many] >= other[many] + 0.3 and ours[few] >= other[few] - 0.1 for other in others)


CLAIM = Claim(
    key="sirllm",
    sentence="In long conversations a cache that keeps the most surprising tokens recalls a fact that was told once, where "
    "attention sinks with a window of the same size have lost it.",
    figure="higher accuracy than StreamingLLM at equal caches on DailyDialog, Grocery Shopping and Rock-Paper-Scissors, for "
    "several chat models (section 4); no single figure could be verified.",
    experiment="The grocery task in small: a turn of made talk, a fact about a person, a number of turns of made talk, each an "
    "eighth of the cache, then the question; one kept memory a conversation and a cache of a quarter of the trained length. "
    "With --data on the checkpoint there, otherwise on the testbed that `recollect testbed train` makes.",
    rule="after 20 turns SirLLM recalls at least 0.3 more of the facts than StreamingLLM and LM-Infinite; after 2 at most 0.1 "
    "less.",
    measure=measure,
    decide=decide,
)
