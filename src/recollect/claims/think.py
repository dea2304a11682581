"""ThinK's claim: keys can lose 40% of their channels at almost no loss, if queries and keys choose them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from random import Random
from statistics import mean
from typing import TYPE_CHECKING, Any

from recollect.benchmarks.haystack import Haystacks
from recollect.benchmarks.needle import PLAIN, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from recollect.context.think import ThinK

SYSTEM, KEYS_ONLY, AT_RANDOM = "think", "channels by the norm of keys", "channels at random"
RATIOS = (0.2, 0.4, 0.6, 0.8)
TASKS = ("passkey", "key-value")


def _variants() -> dict[str, type[ThinK]]:
    import torch

    from recollect.context.think import ThinK

    class KeysOnly(ThinK):
        def score(self, queries: Tensor, keys: Tensor) -> Tensor:
            return keys.float().square().mean(dim=2)

    class AtRandom(ThinK):
        def score(self, queries: Tensor, keys: Tensor) -> Tensor:
            B, G, _, D = keys.shape
            return torch.rand(B, G, D, generator=torch.Generator().manual_seed(0)).to(keys.device)

    return {SYSTEM: ThinK, KEYS_ONLY: KeysOnly, AT_RANDOM: AtRandom}


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Loss and divergence within the trained length by the share of channels that old keys lose, and bytes kept."""
    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    trained, samples = model.config.max_position_embeddings, 12 if setting.scale == "small" else 100
    haystacks, rng = Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed), Random(setting.seed)
    texts = []
    for number in range(samples):
        prompt = haystacks.prompt(TASKS[number % 2], trained - 16, rng)
        texts.append(prompt.tokens + haystacks.encode(f" {prompt.answer}."))
    progress("plain")
    plain = [_predictions(model, None, tokens) for tokens in texts]
    rows = [
        Row(PLAIN, "baseline", {"loss": mean(_loss(each, tokens) for each, tokens in zip(plain, texts, strict=True))})
    ]
    for name, variant in _variants().items():
        values: dict[str, float] = {}
        for ratio in RATIOS:
            progress(f"{name}, without {ratio:.0%} of the channels")
            policy = variant(ratio=ratio, recent_tokens=trained // 8)
            found = [_predictions(model, policy, tokens) for tokens in texts]
            values[f"loss@{ratio}"] = mean(_loss(each, tokens) for each, tokens in zip(found, texts, strict=True))
            values[f"divergence@{ratio}"] = mean(
                float((one.exp() * (one - other)).sum(-1).mean()) for one, other in zip(plain, found, strict=True)
            )
            whole = _key_bytes(model, replace(policy, ratio=0.0), texts[0])
            values[f"key bytes@{ratio}"] = _key_bytes(model, policy, texts[0]) / whole
        rows.append(Row(name, "system" if name == SYSTEM else "baseline", values))
    return rows


def _predictions(model: Any, policy: ThinK | None, tokens: list[int]) -> Tensor:
    """Log-probabilities [N, V] of the next token, read in eight pieces under a policy, or by the plain model."""
    import torch

    ids, cache, found = torch.tensor([tokens], device=model.device), None, []
    with torch.no_grad(), nullcontext() if policy is None else policy.attach(model):
        for chunk in ids.split(len(tokens) // 8, dim=1):
            output = model(input_ids=chunk, cache=cache, use_cache=True)
            cache = output.cache
            found.append(output.logits[0].float().log_softmax(-1))
    return torch.cat(found)


def _loss(predictions: Tensor, tokens: list[int]) -> float:
    """-log P of the tokens but the first, in nats a token."""
    following = predictions.new_tensor(tokens[1:]).long()
    return -float(predictions[:-1].gather(1, following[:, None]).mean())


def _key_bytes(model: Any, policy: ThinK, tokens: list[int]) -> int:
    """Bytes that the keys of old tokens take, over all layers."""
    import torch

    with policy.attach(model) as memory:
        memory.read(torch.tensor([tokens], device=model.device))
        return sum(
            state["thin_keys"].untyped_storage().nbytes() for unit in memory.memory.units for state in unit.layers
        )


def decide(rows: Mapping[str, Row]) -> bool:
    """At 0.4 at most 0.02 nats and 0.62 of the key bytes; from 0.4 on less divergence than both others."""
    ours, plain = rows[SYSTEM].values, rows[PLAIN].values
    small = ours["loss@0.4"] <= plain["loss"] + 0.02 and ours["key bytes@0.4"] <= 0.62
    names = [f"divergence@{ratio}" for ratio in RATIOS if ratio >= 0.4]
    return small and all(ours[name] < rows[other].values[name] for name in names for other in (KEYS_ONLY, AT_RANDOM))


CLAIM = Claim(
    key="think",
    sentence="Old keys can lose 40% of their channels with almost no loss when queries and keys choose the channels together, "
    "and choosing by keys alone is worse.",
    figure="Llama 3 8B and Mistral 7B on LongBench, on top of H2O or SnapKV, keep their score with 40% fewer key channels; the "
    "score of queries and keys beats the norm of keys at the same ratio (sections 3 and 4).",
    experiment="Recall prompts with their answers, as long as the model was trained to, read in eight pieces, the last eighth with "
    "whole keys; `@0.4` is without 40% of the channels of older keys. `loss` is in nats a token, `divergence` the mean "
    "Kullback-Leibler divergence of the predictions from the plain model's, `key bytes` those of the old keys as a share of whole "
    "ones. With --data on the checkpoint there, otherwise on the testbed that `recollect testbed train` makes.",
    rule="at 0.4 ThinK's loss is at most 0.02 nats above the plain model's with at most 0.62 of the key bytes, and from 0.4 on its "
    "divergence is below that of channels chosen by keys alone and at random.",
    measure=measure,
    decide=decide,
)
