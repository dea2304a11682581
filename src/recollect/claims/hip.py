"""HiP's claim: a search in a tree of key ranges finds nearly the best keys, with products that grow as T log T."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import mean
from typing import Any

from recollect.benchmarks.haystack import Haystacks
from recollect.benchmarks.needle import PLAIN, losses, make_policy, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting

SYSTEM, WINDOW, AT_RANDOM = "hip", "streaming-llm", "blocks at random"
SMOOTHNESS = (0, 2, 8, 16)  # tokens over which keys resemble each other
TASKS = ("passkey", "key-value")


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Recall of the best keys among made ones, growth of the search, and loss within the trained length."""
    values: dict[str, dict[str, float]] = {SYSTEM: {}, AT_RANDOM: {}, WINDOW: {}, PLAIN: {}}
    for smoothness in SMOOTHNESS:
        progress(f"search among keys that resemble their neighbours over {smoothness} tokens")
        found, chance = _recall(smoothness, 6 if setting.scale == "small" else 40, setting.seed)
        values[SYSTEM][f"recall@{smoothness}"], values[AT_RANDOM][f"recall@{smoothness}"] = found, chance
    progress("products against length")
    values[SYSTEM]["exponent"] = _exponent()
    for key, loss in _losses(setting, progress).items():
        values[key] |= loss
    return [Row(key, "system" if key == SYSTEM else "baseline", each) for key, each in values.items()]


def _recall(smoothness: int, draws: int, seed: int, length: int = 16384, far: int = 512) -> tuple[float, float]:
    """Share of the `far` best of `length` keys found by the search, and by as many blocks of two at random.

    Keys are a Gaussian process in time: white noise that is smoothed; the query is one key from a random place.
    """
    import torch

    from recollect.context.hip import rate, search

    generator = torch.Generator().manual_seed(seed)
    shares = []
    for _ in range(draws):
        keys = torch.randn(length, 32, generator=generator)
        if smoothness:
            places = torch.arange(-4 * smoothness, 4 * smoothness + 1)
            kernel = torch.exp(-(places.float() ** 2) / (2 * smoothness**2))
            keys = torch.nn.functional.conv1d(keys.T[:, None], kernel[None, None], padding="same")[:, 0].T
            keys = keys / keys.std()
        query = keys[int(torch.randint(length, (1,), generator=generator))]
        best = set((keys @ query).topk(far).indices.tolist())
        blocks = torch.tensor([length // 2])
        found, _ = search(query.view(1, 1, 1, 1, -1), keys[None, :, None], blocks, 0, far // 2, 2, rate)
        drawn = torch.randperm(length // 2, generator=generator)[: far // 2]
        shares.append(
            [
                len(best & {2 * block + each for block in blocks.flatten().tolist() for each in (0, 1)}) / far
                for blocks in (found, drawn)
            ]
        )
    ours, chance = (mean(column) for column in zip(*shares, strict=True))
    return ours, chance


def _exponent(lengths: Sequence[int] = (2048, 4096, 8192, 16384, 32768, 65536)) -> float:
    """The slope, on two logarithmic axes, of the products of search and attention over whole prompts (2: full attention)."""
    import torch

    from recollect.context.hip import HiP, rate, search

    policy, points = HiP(), []
    sampled = policy.query_block_tokens // policy.query_stride_tokens
    attended = policy.num_sink_tokens + policy.num_far_tokens + policy.window_tokens
    for length in lengths:
        ends = torch.arange(0, length, policy.query_block_tokens) // policy.key_block_tokens
        queries, keys = torch.ones(1, 1, len(ends), 1, 1), torch.arange(float(length)).view(1, -1, 1, 1)
        far = policy.num_far_tokens // policy.key_block_tokens
        products = 0
        for each in range(0, len(ends), 64):
            part = slice(each, each + 64)
            products += search(queries[:, :, part], keys, ends[part], 0, far, policy.key_block_tokens, rate)[1]
        points.append((math.log(length), math.log(products * sampled + attended * length)))
    x, y = (mean(column) for column in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def _losses(setting: Setting, progress: Progress) -> dict[str, dict[str, float]]:
    """Loss of recall prompts as long as the model was trained to, at half of that length attended to; true distances."""
    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    trained, samples = model.config.max_position_embeddings, 12 if setting.scale == "small" else 100
    haystacks, rng = Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed), Random(setting.seed)
    ours: Any = make_policy(SYSTEM, trained // 2)
    policies = {
        PLAIN: None,
        SYSTEM: replace(ours, far_distance_tokens=None),
        WINDOW: make_policy(WINDOW, trained // 2),
    }
    found: dict[str, dict[str, list[float]]] = {key: {"loss": [], "answers": []} for key in policies}
    for number in range(samples):
        prompt = haystacks.prompt(TASKS[number % 2], trained - 16, rng)
        answer = haystacks.encode(f" {prompt.answer}.")
        for key, policy in policies.items():
            progress(f"loss of prompt {number + 1} of {samples}, {key}")
            each = losses(model, policy, prompt.tokens + answer)
            found[key]["loss"].append(mean(each))
            found[key]["answers"].append(mean(each[-len(answer) :]))
    return {key: {name: mean(values) for name, values in parts.items()} for key, parts in found.items()}


def decide(rows: Mapping[str, Row]) -> bool:
    """Recall of 0.8 at a smoothness of 8, growth below T ** 1.3, 0.1 nats from the plain model and better than a window."""
    ours, plain, window = rows[SYSTEM].values, rows[PLAIN].values, rows[WINDOW].values
    finds = ours["recall@8"] >= 0.8 and ours["recall@8"] >= rows[AT_RANDOM].values["recall@8"] + 0.5
    near = ours["loss"] <= plain["loss"] + 0.1 and ours["answers"] < window["answers"]
    return finds and ours["exponent"] <= 1.3 and near


CLAIM = Claim(
    key="hip",
    sentence="Where neighbouring keys are alike, a search in a tree of key ranges finds nearly the best keys in O(T log T), and a "
    "model that attends to those alone predicts almost as well.",
    figure="Llama 3.1 8B keeps most of its LongBench score with k = 512 to 2048; O(T log T) time, O(T) space (sections 3 and 5).",
    experiment="`recall@8`: share of the best 512 of 16,384 made keys, alike over 8 tokens, that the search finds for one query. "
    "`exponent`: slope of the products of search and attention against length, 2K to 64K, on logarithmic axes; 2 is full attention. "
    "`loss`, `answers`: nats a token of recall prompts as long as the model was trained to, and of their answers, no token "
    "attending to more than half of that. With --data on the checkpoint there, otherwise on the testbed that "
    "`recollect testbed train` makes.",
    rule="recall at 8 is at least 0.8 and 0.5 above blocks at random, the exponent at most 1.3, the loss at most 0.1 nats above the "
    "plain model's, and that of answers below that of sinks with a window.",
    measure=measure,
    decide=decide,
)
