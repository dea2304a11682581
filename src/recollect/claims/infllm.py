"""InfLLM's claim: a model recalls what lies far beyond its trained length, at no more attended tokens than a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recollect.benchmarks.haystack import Haystacks
from recollect.benchmarks.needle import PLAIN, run, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting

KEYS = ("infllm", "streaming-llm", "lm-infinite")
TASKS = ("passkey", "key-value")


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Accuracy of pass key and key-value at half and twice (full: up to 64 times) the trained length."""
    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    trained = model.config.max_position_embeddings
    times, samples = ((0.5, 2), 8) if setting.scale == "small" else ((0.5, 2, 4, 8, 16, 32, 64), 40)
    result = run(
        model,
        Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed),
        (PLAIN, *KEYS),
        [round(each * trained) for each in times],
        TASKS,
        samples,
        seed=setting.seed,
        progress=lambda what, done, total: progress(f"{what} ({done} of {total})"),
    )
    values: dict[str, dict[str, float]] = {key: {} for key in (*KEYS, PLAIN)}
    for row in result["rows"]:
        values[row["policy"]][f"{row['task']}@{row['length'] / trained:g}x"] = row["accuracy"]
        if row["length"] == round(times[-1] * trained):
            values[row["policy"]]["attended"] = row["attended_tokens"]
    return [Row(key, "system" if key == "infllm" else "baseline", found) for key, found in values.items()]


def decide(rows: Mapping[str, Row]) -> bool:
    """0.2 above every other on each task at every length beyond the trained one, and attending to a bounded number."""
    ours = rows["infllm"].values
    beyond = [name for name in ours if "@" in name and not name.endswith("@0.5x")]
    others = [row.values for row in rows.values() if row.role == "baseline"]
    fewer = all(ours["attended"] <= other["attended"] for other in others)
    return fewer and all(ours[name] >= other[name] + 0.2 for other in others for name in beyond)


CLAIM = Claim(
    key="infllm",
    sentence="With a block memory that is looked up once a chunk, a model answers from far beyond its trained length, without "
    "training, where windows with sinks fail.",
    figure="Mistral 7B on InfiniteBench with 4K local and 96 blocks: average 57.7, the model itself 25.2, LM-Infinite 21.6, "
    "StreamingLLM 21.5; pass keys found up to 1,024K tokens (tables 1 and section 4).",
    experiment="Share of pass keys and of keys among pairs that greedy decoding answers, hidden at depths spread evenly over "
    "made prose, at multiples of the trained length; every policy attends to at most half of that length a token. With --data "
    "on the checkpoint there, otherwise on the testbed that `recollect testbed train` makes.",
    rule="beyond the trained length InfLLM answers at least 0.2 more than StreamingLLM, LM-Infinite and the plain model, on "
    "each task and at every length, attending to no more tokens than any of them.",
    measure=measure,
    decide=decide,
)
