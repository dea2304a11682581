"""Our own claim for the baseline: what a window has dropped is gone, and what is in it is recalled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from statistics import mean

from recollect.benchmarks.haystack import Haystacks
from recollect.benchmarks.needle import PLAIN, answer, make_policy, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting

SYSTEM = "sliding-window"


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Share of pass keys answered in inputs of the trained length, when they stand in the window and before it."""
    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    length, samples = model.config.max_position_embeddings - 16, 8 if setting.scale == "small" else 50
    haystacks, rng = Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed), Random(setting.seed)
    found: dict[str, dict[str, list[float]]] = {key: {"inside": [], "outside": []} for key in (SYSTEM, PLAIN)}
    for number in range(samples):
        for place, start in (("inside", 0.7), ("outside", 0.05)):
            prompt = haystacks.prompt("passkey", length, rng, depth=start + 0.25 * number / samples)
            for key in found:
                progress(f"pass key {number + 1} of {samples}, {place} the window, {key}")
                found[key][place].append(answer(model, haystacks, make_policy(key, length // 2), prompt)[0])
    return [
        Row(key, "system" if key == SYSTEM else "baseline", {place: mean(scores) for place, scores in parts.items()})
        for key, parts in found.items()
    ]


def decide(rows: Mapping[str, Row]) -> bool:
    """Answered inside as the plain model does, within 0.1; outside at most 0.1, where the plain model answers 0.8."""
    ours, plain = rows[SYSTEM].values, rows[PLAIN].values
    return ours["inside"] >= plain["inside"] - 0.1 and ours["outside"] <= 0.1 and plain["outside"] >= 0.8


CLAIM = Claim(
    key="sliding-window",
    sentence="What stands in the window is recalled, and what has left it is gone.",
    figure="no paper; the reason why the other policies exist.",
    experiment="Share of pass keys answered in inputs as long as the model was trained to, with a window of half that length: "
    "`inside`, the key stands in the window when it is asked for; `outside`, before it. With --data on the checkpoint there, "
    "otherwise on the testbed that `recollect testbed train` makes.",
    rule="inside, the window answers as the plain model does, 0.1 less at most; outside at most 0.1, where the plain model "
    "answers at least 0.8.",
    measure=measure,
    decide=decide,
)
