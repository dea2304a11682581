"""StreamingLLM's claim: a window loses its fluency when the first tokens leave it, and a few sinks restore it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from statistics import mean

from recollect.benchmarks.haystack import Haystacks
from recollect.benchmarks.needle import PLAIN, losses, make_policy, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting

SYSTEM, WINDOW, ANEW = "streaming-llm", "sliding-window", "read anew"


def fluency(setting: Setting, progress: Progress, system: str, keys: Sequence[str]) -> list[Row]:
    """Mean loss of each policy at the end of the trained length (`trained`) and as many tokens far beyond it (`far`).

    Beside them `ANEW`: the same far tokens when the plain model reads nothing but the trained length that ends with them,
    which is as fluent as it can be there.
    """
    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    trained = model.config.max_position_embeddings
    times, texts = (4, 2) if setting.scale == "small" else (64, 8)
    haystacks, rng = Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed), Random(setting.seed)
    quarter, found = trained // 4, {key: {"trained": [], "far": []} for key in (*keys, ANEW)}
    for number in range(texts):
        tokens = [*haystacks.first, *haystacks.filler(times * trained, rng)]
        for key in keys:
            progress(f"text {number + 1} of {texts}, {key}")
            each = losses(model, make_policy(key, trained), tokens)
            found[key]["trained"] += each[trained - quarter : trained]
            found[key]["far"] += each[-quarter:]
        found[ANEW]["far"] += losses(model, None, tokens[-trained:])[-quarter:]
    return [
        Row(key, "system" if key == system else "baseline", {name: mean(part) for name, part in parts.items() if part})
        for key, parts in found.items()
    ]


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Loss within the trained length and far beyond it."""
    return fluency(setting, progress, SYSTEM, (SYSTEM, WINDOW, PLAIN))


def decide(rows: Mapping[str, Row]) -> bool:
    """Far loss within 3% of that when read anew; the window's at least 10% above it."""
    ours, window, anew = rows[SYSTEM].values, rows[WINDOW].values, rows[ANEW].values
    return ours["far"] <= 1.03 * anew["far"] and window["far"] >= 1.1 * ours["far"]


CLAIM = Claim(
    key="streaming-llm",
    sentence="A window alone loses its fluency when the first tokens leave it; keeping four of them as attention sinks restores it.",
    figure="Llama 2 13B, perplexity of the first 20K tokens of PG-19: window 5,158; 4 sinks and the window 5.40; the window "
    "computed anew for each token 5.43 (figure 1).",
    experiment="Mean loss in nats a token on made prose: `trained`, of tokens in the last quarter of the trained length; `far`, "
    "of as many tokens at four (full scale: 64) times that length; `read anew`, the same far tokens when only the trained "
    "length that ends with them is read. Both hold as many keys as that. With --data on the checkpoint there, otherwise on the "
    "testbed that `recollect testbed train` makes.",
    rule="StreamingLLM's far loss is at most 1.03 times that of the same tokens read anew, and the window's at least 1.1 times "
    "StreamingLLM's.",
    measure=measure,
    decide=decide,
)
