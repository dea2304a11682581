"""HMT's claim: asked about one of several topics, recalling its summary answers more than one summary of everything does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.claims.runs import Run, averages, grid

if TYPE_CHECKING:
    from torch import Tensor

    from recollect.state.hmt import HMT, HMTOutput

SYSTEM, ALONE, RMT, EMPTY = "HMT", "HMT, recall not shown", "RMT", "HMT, memory emptied"
BEGIN, TOPICS, NUM_TOPICS, NUM_VALUES = 1, 2, 8, 16  # tokens: 1 begins a segment, then topics, then values
VALUES = TOPICS + NUM_TOPICS
SEGMENT = 3


@dataclass(frozen=True)
class Size:
    """How much is trained and measured."""

    num_topics: int  # of a text at most, and in those that are measured
    num_steps: int
    rows: int
    width: int
    num_seeds: int = 1
    num_texts: int = 256


SMALL = Size(num_topics=4, num_steps=300, rows=64, width=64, num_seeds=2)
FULL = Size(num_topics=6, num_steps=1000, rows=256, width=128, num_seeds=2)


def trained(run: Run, setting: Setting, progress: Progress) -> dict[str, float]:
    """Share of questions answered, and the weight of recall on the right topic."""
    import torch

    size = SMALL if setting.scale == "small" else FULL
    recall, shown = {SYSTEM: (True, True), RMT: (False, False), ALONE: (True, False)}[run.name]
    model = _trained(size, recall, shown, setting.device, run.seed, progress)
    ids = torch.tensor(texts(Random(f"test {run.seed}"), size.num_texts, size.num_topics), device=setting.device)
    empty = _figures(model, ids[:, ids.shape[1] // 2 :], told=False)
    return _figures(model, ids) | {"emptied": empty["right"]}


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """A row for each way, averaged over seeds; the system's also with an empty memory."""
    size = SMALL if setting.scale == "small" else FULL
    runs = grid((SYSTEM, RMT, ALONE), range(setting.seed, setting.seed + size.num_seeds))
    for name, values in averages(trained, runs, setting, progress):
        emptied = values.pop("emptied")
        yield Row(name, "system" if name == SYSTEM else "baseline", values)
        if name == SYSTEM:
            yield Row(EMPTY, "baseline", {"right": emptied})


def texts(rng: Random, rows: int, num_topics: int) -> list[list[int]]:
    """Texts of segments [begin, topic, value]: each topic is told its value once, and later, in another order, asked for it."""
    made = []
    for _ in range(rows):
        topics = rng.sample(range(TOPICS, VALUES), num_topics)
        values = {topic: rng.randrange(VALUES, VALUES + NUM_VALUES) for topic in topics}
        order = topics + rng.sample(topics, num_topics)
        made.append([token for topic in order for token in (BEGIN, topic, values[topic])])
    return made


def _trained(size: Size, recall: bool, shown: bool, device: str, seed: int, progress: Progress) -> HMT:
    """A small decoder with memory, trained from nothing; with `shown`, also to recall the segment of the topic."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from recollect.state.hmt import HMT
    from recollect.state.trainer import Plan, learn

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VALUES + NUM_VALUES,
        hidden_size=size.width,
        intermediate_size=2 * size.width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=BEGIN,
        pad_token_id=0,
    )
    backbone: Any = LlamaForCausalLM(config)
    model = HMT.from_backbone(
        backbone.to(device), recall=recall, segment_tokens=SEGMENT, sensory_tokens=0, bptt_segments=99
    )
    rng = Random(f"train {seed}")

    def batch(step: int) -> tuple[Tensor]:
        return (torch.tensor(texts(rng, size.rows, 2 + step % (size.num_topics - 1))),)

    def loss(ids: Tensor) -> Tensor:
        output = model(ids, labels=_labels(ids))
        assert output.loss is not None
        return output.loss + 0.3 * _recall_loss(output, ids) if shown else output.loss

    def tell(step: int, total: int, what: str) -> None:
        progress(f"step {step} of {total}: {what}")

    learn(model, loss, batch, Plan(size.num_steps, 3e-3, 20, weight_decay=0.01, seed=seed), progress=tell)
    return model.eval()


def _labels(ids: Tensor) -> Tensor:
    """What is to be predicted: the values in the second half."""
    labels = ids.clone()
    labels[:, : ids.shape[1] // 2] = -100
    return labels.where(labels >= VALUES, -100)


def _recalled(output: HMTOutput, ids: Tensor) -> Iterator[Tensor]:
    """For each segment that asks, the weight [B] of its recall on the segments of the same topic."""
    topics = ids[:, 1::SEGMENT]
    for number in range(topics.shape[1] // 2, topics.shape[1]):
        same = topics[:, :number] == topics[:, number : number + 1]
        yield (output.recalled[number - 1] * same).sum(dim=1)


def _recall_loss(output: HMTOutput, ids: Tensor) -> Tensor:
    import torch

    return -torch.stack([weight.clamp(min=1e-6).log().mean() for weight in _recalled(output, ids)]).mean()


def _figures(model: Any, ids: Tensor, told: bool = True) -> dict[str, float]:
    """Share of asked values that are the likeliest; with `told` False, `ids` are the asking halves alone."""
    import torch

    with torch.no_grad():
        output = model(ids)
    right = (output.logits[:, :-1].argmax(dim=-1) == ids[:, 1:]).float()
    half = ids.shape[1] // 2 if told else 0
    figures = {"right": right[:, half + SEGMENT - 2 :: SEGMENT].mean().item()}
    if told and output.recalled:
        figures["recall on topic"] = torch.stack(list(_recalled(output, ids))).mean().item()
    return figures


def decide(rows: Mapping[str, Row]) -> bool:
    """HMT answers 0.05 more than RMT, RMT 0.1 more than without memory, and 0.7 of the recall is on the topic."""
    ours, flat, without = (rows[name].values["right"] for name in (SYSTEM, RMT, EMPTY))
    return ours >= flat + 0.05 and flat >= without + 0.1 and rows[SYSTEM].values["recall on topic"] >= 0.7


CLAIM = Claim(
    key="hmt",
    sentence="When topics come and go, recalling the summaries of what was like the present segment answers more than one "
    "summary that is passed on, and both answer more than a window alone.",
    figure="perplexity 13% below RMT's on Wikitext-103 and 5.4% on PG-19, with the same backbones (section 5).",
    experiment="Texts tell the value of each of several topics once, a segment each, and later ask for all in another order. "
    "Decoders of two layers are trained from nothing on as many texts, of two topics to the greatest number, which is measured: "
    "four at small scale, six at full; chance is 1 in 16. HMT is also shown which segment to recall, as the released code does for "
    "question answering; beside it HMT that is not, RMT, and HMT that reads the questions with an empty memory.",
    rule="HMT answers at least 0.05 more than RMT, RMT at least 0.1 more than HMT with its memory emptied, and at least 0.7 of "
    "HMT's recall is on segments of the same topic.",
    measure=measure,
    decide=decide,
)
