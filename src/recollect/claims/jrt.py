"""JRT-Prompt's claim: a model with a memory of fixed size recalls more from a context that it has read twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from statistics import mean
from typing import Any

from recollect.benchmarks.haystack import Haystacks
from recollect.benchmarks.needle import ANSWER_TOKENS, PLAIN, make_policy, testbed_of
from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.context.jrt import JRTPrompt

BOUNDED = ("streaming-llm", "sirllm", "infllm")
TASKS = ("passkey", "needle", "key-value")


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Accuracy of recall from contexts of 3/8 of the trained length in a cache of a quarter of it, read once and twice."""
    import torch

    model, tokenizer = testbed_of(setting.data, setting.device, progress)
    trained, samples = model.config.max_position_embeddings, 12 if setting.scale == "small" else 100
    haystacks, length = Haystacks(tokenizer, model.config.bos_token_id, seed=setting.seed), 3 * trained // 8
    options: dict[str, Any] = {"max_new_tokens": ANSWER_TOKENS, "do_sample": False, "pad_token_id": 0}
    keys, found = (PLAIN, *BOUNDED), {}
    for task in TASKS:
        rng = Random(f"{setting.seed} {task}")
        prompts = [haystacks.prompt(task, length, rng, (each + 0.5) / samples) for each in range(samples)]
        for key in keys:
            for times in (1, 2):
                progress(f"{task}, {key}, read {times} times")
                right = []
                for prompt in prompts:
                    context, question = (torch.tensor([each], device=model.device) for each in prompt.parts())
                    start, context = context.split(
                        [len(haystacks.first), context.shape[1] - len(haystacks.first)], dim=1
                    )
                    asked, policy = JRTPrompt(num_readings=times), make_policy(key, trained // 4)
                    if policy is None:
                        output = asked.ask(model.generate, context, question, start, max_length=None, **options)
                        new = output[0, asked.prompt(context, question, start).shape[1] :]
                    else:
                        with policy.attach(model) as memory:
                            new = asked.ask(memory.generate, context, question, start, **options)[0]
                    right.append(float(prompt.correct(tokenizer.decode(new.tolist()))))
                found.setdefault(_name(key, times), {})[task] = mean(right)
    return [
        Row(name, "system" if name.endswith("twice") else "baseline", {**values, "mean": mean(values.values())})
        for name, values in found.items()
    ]


def _name(key: str, times: int) -> str:
    return f"{key}, {'once' if times == 1 else 'twice'}"


def decide(rows: Mapping[str, Row]) -> bool:
    """With bounded memories, twice is 0.05 above once on average, and below with none by more than 0.05."""
    gains = [rows[_name(key, 2)].values["mean"] - rows[_name(key, 1)].values["mean"] for key in BOUNDED]
    return mean(gains) >= 0.05 and min(gains) >= -0.05


CLAIM = Claim(
    key="jrt",
    sentence="A prompt that repeats context and question lets models of fixed-size memory recall more, since on the second "
    "reading they know what is asked.",
    figure="11.0 points more over 16 recurrent models and 6 recall tasks; a Transformer of 1.3B gains too, from 47.8 to 57.8 "
    "(section 3).",
    experiment="Share of pass keys, facts and keys among pairs answered from a context of three eighths of the trained length, "
    "read once and twice, by the plain model and with three policies whose tokens attend to a quarter of the trained length. The "
    "paper's models are recurrent; the memories here are bounded attention caches. With --data on the checkpoint there, otherwise on "
    "the testbed that `recollect testbed train` makes.",
    rule="averaged over the three bounded memories and the tasks, twice is at least 0.05 above once, and with no memory more "
    "than 0.05 below.",
    measure=measure,
    decide=decide,
)
