"""Memory-augmented adaptation: how the side network of LongMem learns to read the bank (arXiv:2306.07174, section 3.1).

Documents are read by `Streams` as rows that go on from batch to batch, so that a row's bank holds what came before in its
document. The loss is next-token cross-entropy on the side network's logits; only the side network is trained.
`suggest_memory_layer` says at which layer a backbone itself looks up what it read before, which decides what a bank of that
layer is good for.

Differs: the learning rate falls by a cosine, where the paper's falls linearly.

Shapes: B rows, T tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recollect.errors import InvalidInput
from recollect.state.decoder import decoder_of, read
from recollect.state.trainer import Plan, Progress, train

if TYPE_CHECKING:
    from recollect.state.longmem import LongMem

PAPER = Plan(
    num_steps=100_000, learning_rate=2e-4, warmup_steps=0, final_share=0.0, weight_decay=0.01, betas=(0.9, 0.98)
)


class Streams:
    """Documents as segments for rows that go on: iterating gives (tokens [B, T], rows that begin a document) without end.

    Each row reads a document segment by segment and then the next one of an order that is drawn anew for each pass; what
    is left at a document's end and fills no segment is dropped.
    """

    def __init__(self, documents: Sequence[Sequence[int]], rows: int, segment_tokens: int, seed: int = 0):
        """`documents` are token numbers. Raises InvalidInput when none fills a segment."""
        self.documents = [each for each in documents if len(each) >= segment_tokens]
        self.rows, self.segment_tokens, self.seed = rows, segment_tokens, seed
        if not self.documents:
            raise InvalidInput(f"documents: none has the {segment_tokens} tokens of a segment.")

    def __iter__(self) -> Iterator[tuple[Tensor, list[int]]]:
        order = self._order()
        segments = [self._segments(order) for _ in range(self.rows)]
        while True:
            drawn = [next(row) for row in segments]
            yield torch.tensor([tokens for tokens, _ in drawn]), [row for row, (_, new) in enumerate(drawn) if new]

    def _order(self) -> Iterator[Sequence[int]]:
        rng = Random(f"streams {self.seed}")
        while True:
            yield from rng.sample(self.documents, len(self.documents))

    def _segments(self, order: Iterator[Sequence[int]]) -> Iterator[tuple[Sequence[int], bool]]:
        for document in order:
            for start in range(0, len(document) - self.segment_tokens + 1, self.segment_tokens):
                yield document[start : start + self.segment_tokens], start == 0


def adapt(
    model: LongMem,
    streams: Streams,
    plan: Plan = PAPER,
    use_memory: bool = True,
    folder: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> list[float]:
    """Train the side network in place; the loss of each step, in nats a token.

    `use_memory` False trains it without the bank, for comparison. The loss of tokens at the head of a segment, whose
    predecessor is in the last one, is not counted. With a `folder`, a run that was cut off goes on from its checkpoint as
    if it had not been; the bank, which does not depend on what is trained, is read anew. Raises InvalidInput for a segment
    that does not fit into the window at once, Conflict when another plan wrote the checkpoint.
    """
    room = model.settings.segment_tokens - model.settings.overlap_tokens
    if streams.segment_tokens > room:
        raise InvalidInput(f"streams: a segment of {streams.segment_tokens} tokens does not fit; use at most {room}.")
    at, segments = 0, iter(streams)

    def loss(step: int) -> Tensor:
        nonlocal at
        if step != at:
            _catch_up(model, streams, segments, step)
        at = step + 1
        ids = _begin(model, next(segments))
        found = model(ids, labels=ids, use_memory=use_memory).loss
        assert found is not None
        return found

    model.reset()
    losses = train(model.side, loss, plan, folder, progress)
    model.reset()
    return losses


def _begin(model: LongMem, segment: tuple[Tensor, list[int]]) -> Tensor:
    """The tokens of a segment; the rows that begin a document in it are made empty, the others have room for it."""
    ids, new = segment
    if len(new) == len(ids):
        model.reset()
    elif new:
        model.reset(new)
    model.advance(ids.shape[1])
    return ids.to(model.device)


def _catch_up(model: LongMem, streams: Streams, segments: Iterator[tuple[Tensor, list[int]]], step: int) -> None:
    """Bring the segments, of which none was taken, to a step, and the bank to what it held there."""
    begun = [0] * streams.rows  # the step in which each row's document began
    for number, (_, new) in zip(range(step), streams, strict=False):
        for row in new:
            begun[row] = number
    for number in range(step):
        segment = next(segments)
        if number >= min(begun):
            model.read(_begin(model, segment))


def suggest_memory_layer(model: Any, num_tokens: int = 256, rows: int = 8, seed: int = 0) -> tuple[int, list[float]]:
    """(the layer whose bank finds most, what each layer finds) of a decoder of transformers, on random tokens said twice.

    What a layer finds is the share of attention, positions left out as in the bank, that a token of the second saying
    pays to the one that followed it in the first; mean over tokens and heads.
    """
    decoder = decoder_of(model)
    half = num_tokens // 2
    generator = torch.Generator().manual_seed(seed)
    said = torch.randint(0, decoder.config.vocab_size, (rows, half), generator=generator)
    ids = torch.cat([said, said], dim=1).to(next(model.parameters()).device)
    layers = range(len(decoder.layers))
    heads = read(decoder, layers, input_ids=ids).heads
    found = []
    for layer in layers:
        queries, keys, _ = heads[layer]
        queries, keys = queries[:, :, half : 2 * half - 1].float(), keys[:, :, :half].float()
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
        scores = torch.softmax(queries @ keys.transpose(-1, -2) * decoder.layers[layer].self_attn.scaling, dim=-1)
        found.append(scores.diagonal(1, dim1=-2, dim2=-1).mean().item())
    return max(layers, key=found.__getitem__), found
