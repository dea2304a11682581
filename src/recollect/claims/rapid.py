"""RAPID's claim: a drafter that reads excerpts is believed more often with transfer, at no loss of right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from statistics import mean
from typing import Any

from recollect.benchmarks.haystack import Haystacks, Prompt
from recollect.benchmarks.needle import ANSWER_TOKENS, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting

SYSTEM, WITHOUT, TARGET, DRAFTER = "rapid", "transfer 0", "all read, no drafter", "excerpts read, no target"
TASKS = ("passkey", "key-value")


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Right answers and accepted drafts, greedily, in and beyond the trained length; one model drafts for itself."""
    from recollect.context.rapid import RAPID

    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    trained, samples = model.config.max_position_embeddings, 48 if setting.scale == "small" else 200
    haystacks = Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed)
    ours = RAPID(temperature=0.0, chunk_tokens=trained // 8, draft_context_tokens=trained // 4)
    plain = RAPID(temperature=0.0, chunk_tokens=trained // 8, draft_context_tokens=trained // 4, transfer=0.0)
    values: dict[str, dict[str, float]] = {name: {} for name in (SYSTEM, WITHOUT, TARGET, DRAFTER)}
    for times in (0.75, 1.5):
        rng, found = Random(f"{setting.seed} {times}"), {name: [] for name in values}
        accepted: dict[str, list[dict[str, float]]] = {SYSTEM: [], WITHOUT: []}
        for number in range(samples):
            progress(f"question {number + 1} of {samples} at {times} times the trained length")
            prompt = haystacks.prompt(TASKS[number % 2], round(times * trained), rng)
            context, question = _split(haystacks, prompt)
            for name, policy in ((SYSTEM, ours), (WITHOUT, plain)):
                reply = policy.generate(model, tokenizer, context, question, ANSWER_TOKENS)
                found[name].append(prompt.correct(tokenizer.decode(reply.tokens)))
                accepted[name].append(reply.stats)
            excerpt = ours.retrieve(tokenizer, context, question)
            for name, tokens in ((TARGET, prompt.tokens), (DRAFTER, [*excerpt, *question])):
                found[name].append(prompt.correct(tokenizer.decode(_greedy(model, tokens))))
        for name, answers in found.items():
            values[name][f"right@{times}x"] = mean(answers)
        for name, stats in accepted.items():
            drafted, stay, tokens, calls = (
                sum(each[part] for each in stats) for part in ("drafted", "accepted", "tokens", "target_calls")
            )
            values[name] |= {f"acceptance@{times}x": stay / drafted, f"tokens a call@{times}x": tokens / calls}
    return [Row(name, "system" if name == SYSTEM else "baseline", each) for name, each in values.items()]


def _split(haystacks: Haystacks, prompt: Prompt) -> tuple[list[int], list[int]]:
    """Context and question of a prompt: the question is its last line."""
    start = len(prompt.tokens) - 1
    while "\n" not in haystacks.tokenizer.decode(prompt.tokens[start:]):
        start -= 1
    return prompt.tokens[:start], prompt.tokens[start:]


def _greedy(model: Any, tokens: list[int]) -> list[int]:
    import torch

    ids = torch.tensor([tokens], device=model.device)
    options = {"max_new_tokens": ANSWER_TOKENS, "do_sample": False, "pad_token_id": model.config.pad_token_id or 0}
    with torch.no_grad():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_length=None, eos_token_id=None, **options)
    return output[0, len(tokens) :].tolist()


def decide(rows: Mapping[str, Row]) -> bool:
    """More drafts accepted than without transfer, and as many right as the better of target and drafter, 0.05 less at most."""
    ours, without = rows[SYSTEM].values, rows[WITHOUT].values
    parents = [rows[name].values for name in (TARGET, DRAFTER)]
    more = all(ours[name] > without[name] for name in ours if name.startswith("acceptance"))
    right = [name for name in ours if name.startswith("right")]
    return more and all(ours[name] >= max(parent[name] for parent in parents) - 0.05 for name in right)


CLAIM = Claim(
    key="rapid",
    sentence="With a drafter that reads retrieved excerpts and a transfer of what it knows, more drafts are accepted than in plain "
    "speculative decoding, and answers are no worse than those of either model alone.",
    figure="Llama 3.1 8B on InfiniteBench 42.83, reading all 39.33, retrieval alone 40.40, at 2.10 times the throughput; acceptance "
    "75 to 85% against 60 to 70% without transfer (table 1 and section 4).",
    experiment="`right`: share of pass keys and of keys among pairs answered greedily, in made prose, at 0.75 and 1.5 times the length "
    "that the model was trained to; `acceptance`: share of drafted tokens that stay; one model is target and drafter, which reads "
    "two eighths of the trained length, ranked by words. With --data on the checkpoint there, otherwise on the testbed that "
    "`recollect testbed train` makes. Seconds are not measured here.",
    rule="at both lengths more drafts are accepted than without transfer, and at most 0.05 fewer answers are right than of the better "
    "of target and drafter alone.",
    measure=measure,
    decide=decide,
)
