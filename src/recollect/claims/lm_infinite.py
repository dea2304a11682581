"""LM-Infinite's claim: with a Lambda-shaped mask and capped distances a model stays fluent far beyond its trained length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recollect.benchmarks.needle import PLAIN
from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.claims.streaming_llm import ANEW, fluency

SYSTEM = "lm-infinite"


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Loss within the trained length and far beyond it."""
    return fluency(setting, progress, SYSTEM, (SYSTEM, "streaming-llm", "sliding-window", PLAIN))


def decide(rows: Mapping[str, Row]) -> bool:
    """Far loss within 3% of that when read anew, and the plain model's at least 10% above it."""
    ours, plain, anew = rows[SYSTEM].values, rows[PLAIN].values, rows[ANEW].values
    return ours["far"] <= 1.03 * anew["far"] and plain["far"] >= 1.1 * ours["far"]


CLAIM = Claim(
    key="lm-infinite",
    sentence="Attending to the first tokens and a window only, with distances capped at the window, keeps a model as fluent far "
    "beyond its trained length as within it, without training.",
    figure="flat loss of LLaMA, Llama 2, MPT and GPT-J up to 200M tokens; 2.7 times faster decoding with 7.5 times less memory "
    "than the model itself (abstract).",
    experiment="Mean loss in nats a token on made prose: `trained`, of tokens in the last quarter of the trained length; `far`, "
    "of as many tokens at four (full scale: 64) times that length; `read anew`, the same far tokens when only the trained length "
    "that ends with them is read. The window is the trained length less the sinks. With "
    "--data on the checkpoint there, otherwise on the testbed that `recollect testbed train` makes.",
    rule="LM-Infinite's far loss is at most 1.03 times that of the same tokens read anew, and the plain model's far loss at least "
    "1.1 times LM-Infinite's.",
    measure=measure,
    decide=decide,
)
