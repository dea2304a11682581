"""Made tasks on which layers with a state are told apart: what must be kept, for how long, and how much of it.

Tasks of tokens give (tokens, labels) [rows, length], the label at the place where it is to be said, -100 elsewhere: MQAR (of
haystack.py), selective copying, induction, ListOps. Tasks of signals give numbers and targets: adding, parity of both sides,
scenes in the manner of Sort-of-CLEVR. Stories in the manner of bAbI are in stories.py.
Every batch follows from its seed.

Papers: Zoology, arXiv:2312.04927 (2023), for MQAR; Mamba, arXiv:2312.00752 (2023), for selective copying and induction;
Long Range Arena, arXiv:2011.04006 (2020), for ListOps; Long Short-Term Memory (1997) for adding; A simple neural network
module for relational reasoning, arXiv:1706.01427 (2017), for Sort-of-CLEVR.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.benchmarks.haystack import mqar
from recollect.errors import InvalidInput
from recollect.state.layers import make_layer
from recollect.state.lm import MemoryLM, memory_lm
from recollect.state.trainer import Learned, Plan, Progress, learn

Batch = tuple[Tensor, Tensor]
IGNORED = -100
NUM_OBJECTS, NUM_KINDS, NUM_ANSWERS = 6, 6, 10  # of a scene, one of each colour; of questions on it
SCENE_SIZE = 2 * NUM_OBJECTS + 2 + 2 + NUM_KINDS  # numbers that describe an object or a question


@dataclass(frozen=True)
class Task:
    """A task of tokens: its name, how many kinds of tokens it has, and its batches by rows and seed."""

    name: str
    vocabulary: int
    make: Callable[[int, int], Batch] = field(compare=False)


def mqar_task(num_pairs: int, length: int, vocabulary: int) -> Task:
    """Multi-query associative recall of `num_pairs` keys and values, queried once each, at even chances over the rest."""

    def make(rows: int, seed: int) -> Batch:
        tokens, labels = mqar(rows, length, num_pairs, vocabulary, seed, power=1.0)
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    return Task(f"mqar {num_pairs}", vocabulary, make)


def selective_copying(num_data: int = 16, length: int = 256, alphabet: int = 16) -> Task:
    """`num_data` letters at random places among noise; then as many marks, at which they are to be said in order."""
    noise, mark = 0, alphabet + 1
    if num_data > length:
        raise InvalidInput(f"num_data: {num_data} letters do not fit into {length} tokens; use fewer.")

    def make(rows: int, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        tokens = np.full((rows, length + num_data), noise, dtype=np.int64)
        labels = np.full_like(tokens, IGNORED)
        places = np.sort(rng.random((rows, length)).argsort(1)[:, :num_data], 1)
        letters = rng.integers(1, alphabet + 1, (rows, num_data))
        np.put_along_axis(tokens, places, letters, 1)
        tokens[:, length:], labels[:, length:] = mark, letters
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    return Task("selective copying", alphabet + 2, make)


def induction(length: int = 256, alphabet: int = 16) -> Task:
    """A mark stands once among random letters, and once more at the end: say the letter that followed it."""
    if length < 4:
        raise InvalidInput(f"length: {length} is too short; use 4 or more.")

    def make(rows: int, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, alphabet, (rows, length))
        labels = np.full_like(tokens, IGNORED)
        row, place = np.arange(rows), rng.integers(0, length - 2, rows)
        tokens[row, place] = tokens[:, -1] = alphabet
        labels[:, -1] = tokens[row, place + 1]
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    return Task("induction", alphabet + 1, make)


def paired_recall(length: int, num_pairs: int, num_keys: int = 8, num_values: int = 4, gap_tokens: int = 0) -> Task:
    """Pairs of a key and a value, a token each, then at least `gap_tokens` of noise, then tokens that ask for the keys.

    Tokens: 8 of noise, `num_keys * num_values` pairs, `num_keys` questions; a label is the number of the value.
    """
    tell, ask = 8, 8 + num_keys * num_values

    def make(rows: int, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        tokens, labels = rng.integers(0, 8, (rows, length)), np.full((rows, length), IGNORED)
        for row in range(rows):
            keys, values = rng.permutation(num_keys)[:num_pairs], rng.integers(0, num_values, num_pairs)
            tokens[row, :num_pairs] = tell + keys * num_values + values
            at = np.sort(rng.choice(np.arange(num_pairs + gap_tokens, length), num_pairs, replace=False))
            order = rng.permutation(num_pairs)
            tokens[row, at], labels[row, at] = ask + keys[order], values[order]
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    return Task("paired recall", ask + num_keys, make)


def drifting_level(length: int, num_levels: int = 16, num_queries: int = 8) -> Task:
    """Noisy readings of a level that drifts slowly; at a query the sign of the level is to be told.

    Readings are tokens 0 to `num_levels` - 1, the query `num_levels`, the answers the two tokens after it. A single reading
    says little: the noise is four times the level's size.
    """

    def make(rows: int, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        level = np.zeros((rows, length))
        level[:, 0] = rng.normal(size=rows)
        for t in range(1, length):
            level[:, t] = 0.99 * level[:, t - 1] + np.sqrt(1 - 0.99**2) * rng.normal(size=rows)
        seen = level + 4 * rng.normal(size=(rows, length))
        tokens = np.clip(np.round((seen + 8) * num_levels / 16), 0, num_levels - 1).astype(np.int64)
        labels = np.full((rows, length), IGNORED)
        for row in range(rows):
            at = rng.choice(np.arange(length // 4, length), num_queries, replace=False)
            tokens[row, at], labels[row, at] = num_levels, num_levels + 1 + (level[row, at] > 0)
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    return Task("drifting level", num_levels + 3, make)


LISTOPS = {"MIN": min, "MAX": max, "MED": lambda found: int(np.median(found)), "SM": lambda found: sum(found) % 10}


def listops(length: int = 128, shortest: int = 16, depth: int = 10, most: int = 10) -> Task:
    """Nested operations on digits, such as "[MAX 2 9 [MIN 4 7] 0]": say the value (0 to 9) at the last bracket.

    Tokens 0 to 9 are digits, then the four operations with their opening bracket, the closing one, and padding in front.
    """
    names, close, blank = list(LISTOPS), 10 + len(LISTOPS), 11 + len(LISTOPS)

    def tree(rng: Random, left: int) -> tuple[list[int], int]:
        operation = rng.randrange(len(names))
        tokens, values = [10 + operation], []
        for _ in range(rng.randint(2, most)):
            if left > 1 and rng.random() < 0.25:
                inner, value = tree(rng, left - 1)
            else:
                value = rng.randrange(10)
                inner = [value]
            tokens += inner
            values.append(value)
        return [*tokens, close], LISTOPS[names[operation]](values)

    def make(rows: int, seed: int) -> Batch:
        rng = Random(f"listops {seed}")
        tokens, labels = torch.full((rows, length), blank), torch.full((rows, length), IGNORED)
        for row in range(rows):
            said, value = tree(rng, depth)
            while not shortest <= len(said) <= length:
                said, value = tree(rng, depth)
            tokens[row, length - len(said) :] = torch.tensor(said)
            labels[row, -1] = value
        return tokens, labels

    return Task("listops", blank + 1, make)


def fit(
    task: Task,
    blocks: Sequence[Mapping[str, Any]],
    dim: int,
    plan: Plan,
    batch_rows: int = 64,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
    **settings: Any,
) -> MemoryLM:
    """A MemoryLM of these blocks, trained on a task. `settings` are its config's."""
    model = memory_lm(task.vocabulary, dim, blocks, plan.seed, **settings).to(device)  # pyright: ignore
    teach(model, task, plan, batch_rows, progress)
    return model


def teach(
    model: MemoryLM, task: Task, plan: Plan, batch_rows: int = 64, progress: Progress = lambda *_: None
) -> Learned:
    """Train a model on a task, in place; batches are made anew at each step."""

    def loss(tokens: Tensor, labels: Tensor) -> Tensor:
        logits = model(tokens, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
        return loss + model.auxiliary_loss()

    learned = learn(
        model, loss, lambda step: task.make(batch_rows, plan.seed * 1_000_003 + step), plan, progress=progress
    )
    model.eval()
    return learned


def score(model: MemoryLM, task: Task, num_rows: int = 256, batch_rows: int = 64, seed: int = 7_654_321) -> float:
    """Share of the labels that the model's likeliest token is, on rows that training did not see."""
    right = total = 0
    with torch.no_grad():
        for start in range(0, num_rows, batch_rows):
            tokens, labels = (each.to(model.device) for each in task.make(batch_rows, seed + start))
            guess = model(tokens, use_cache=False).logits.argmax(-1)
            right += int((guess == labels).sum())
            total += int((labels != IGNORED).sum())
    return right / total


class Labeller(nn.Module):
    """Signals [B, T, inputs] to outputs [B, T, outputs]: a linear map, one layer with a state, and a small MLP."""

    def __init__(self, num_inputs: int, num_outputs: int, dim: int, layer: str, seed: int = 0, **settings: Any):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.into = nn.Linear(num_inputs, dim)
            self.layer = make_layer(layer, dim, **settings)
            self.out = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for x."""
        return self.out(self.layer(self.into(x))[0])


def adding(rows: int, length: int, generator: torch.Generator) -> Batch:
    """(signals [B, T, 2], targets [B]): numbers in 0..1 and two marks, one in each half; the target is the marked sum."""
    numbers, marks = torch.rand(rows, length, generator=generator), torch.zeros(rows, length)
    row = torch.arange(rows)
    one = torch.randint(0, length // 2, (rows,), generator=generator)
    two = torch.randint(length // 2, length, (rows,), generator=generator)
    marks[row, one] = marks[row, two] = 1.0
    return torch.stack([numbers, marks], -1), numbers[row, one] + numbers[row, two]


def both_sides(rows: int, length: int, generator: torch.Generator, distance: int = 3) -> Batch:
    """(signals [B, T, 2], labels [B, T]): bits, and whether those `distance` before and after a place differ."""
    bits = torch.randint(2, (rows, length), generator=generator)
    labels = torch.full_like(bits, IGNORED)
    labels[:, distance:-distance] = bits[:, : -2 * distance] ^ bits[:, 2 * distance :]
    return F.one_hot(bits, 2).float(), labels


def delayed(rows: int, length: int, generator: torch.Generator, delay: int, smooth: int = 16) -> Batch:
    """(signals [B, T, 1], targets [B, T]): noise of variance 1, smoothed over `smooth` places, and what it was `delay` ago.

    A target before there is one is NaN.
    """
    noise = torch.randn(rows, 1, length + smooth - 1, generator=generator)
    signal = F.conv1d(noise, torch.full((1, 1, smooth), smooth**-0.5))[:, 0]
    targets = torch.full_like(signal, torch.nan)
    targets[:, delay:] = signal[:, :-delay]
    return signal[..., None], targets


def waves(rows: int, length: int, generator: torch.Generator, num_classes: int = 10) -> Batch:
    """(signals [B, T, 1], labels [B]): a sine of 2 + label periods from a random phase, with noise."""
    labels = torch.randint(num_classes, (rows,), generator=generator)
    phase = torch.rand(rows, 1, generator=generator)
    time = torch.arange(length) / length
    signal = torch.sin(2 * torch.pi * ((labels[:, None] + 2) * time + phase))
    return (signal + 0.1 * torch.randn(rows, length, generator=generator))[..., None], labels


def far_recall(num_pairs: int = 8, gap: int = 48, vocabulary: int = 32) -> Task:
    """Keys and values at the beginning, a gap of one filling token, then the keys in another order: say each value.

    Tokens 1 to vocabulary / 2 - 1 are keys, the upper half values, 0 fills.
    """
    half = vocabulary // 2
    if not 0 < num_pairs < half:
        raise InvalidInput(
            f"num_pairs: {num_pairs} keys of {half - 1} cannot be drawn; use fewer or a larger vocabulary."
        )

    def make(rows: int, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        keys = rng.random((rows, half - 1)).argsort(1)[:, :num_pairs] + 1
        values = rng.integers(half, vocabulary, (rows, num_pairs))
        order = rng.random((rows, num_pairs)).argsort(1)
        length = 4 * num_pairs + gap
        tokens, labels = np.zeros((rows, length), dtype=np.int64), np.full((rows, length), IGNORED, dtype=np.int64)
        tokens[:, 0 : 2 * num_pairs : 2], tokens[:, 1 : 2 * num_pairs : 2] = keys, values
        asked = slice(2 * num_pairs + gap, length, 2)
        tokens[:, asked] = np.take_along_axis(keys, order, 1)
        labels[:, asked] = np.take_along_axis(values, order, 1)
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    return Task(f"far recall {num_pairs} over {gap}", vocabulary, make)


def intersection(small: int = 4, large: int = 24, vocabulary: int = 64, times: int = 1) -> Task:
    """Two sets and a mark: say the one token that is in both. In even rows the smaller set is first, in odd ones the larger.

    Tokens 0 to vocabulary - 1 are members, then the separator and the mark. `times` 2 says both sets twice before the mark.
    """
    if small + large - 1 > vocabulary:
        raise InvalidInput(f"vocabulary: {vocabulary} tokens do not make sets of {small} and {large}; use more.")
    separator, mark = vocabulary, vocabulary + 1

    def make(rows: int, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        drawn = rng.random((rows, vocabulary)).argsort(1)[:, : small + large - 1]
        common = drawn[:, :1]
        one, two = drawn[:, :small], np.concatenate([common, drawn[:, small:]], 1)
        one, two = rng.permuted(one, axis=1), rng.permuted(two, axis=1)
        between = np.full((rows, 1), separator)
        forward = np.concatenate([one, between, two], 1)
        backward = np.concatenate([two, between, one], 1)
        sets = np.where((np.arange(rows) % 2 == 0)[:, None], forward, backward)
        tokens = np.concatenate([*[np.concatenate([sets, between], 1)] * times, np.full((rows, 1), mark)], 1)
        labels = np.full_like(tokens, IGNORED)
        labels[:, -1:] = common
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    return Task(f"intersection {small} {large}", vocabulary + 2, make)


def scenes(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens [B, 7, SCENE_SIZE], answers [B], whether the question is on a relation [B]): symbolic Sort-of-CLEVR.

    Six objects, each of another colour, a rectangle or a circle somewhere in the unit square, and behind them a question on
    the object of one colour: its shape, whether it is left, whether it is above; or the shape of the object that is
    nearest to it, of the one that is furthest from it, and how many have its shape. Answers: no, yes, rectangle, circle, 1 to 6.
    """

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (rows, *shape), generator=generator)

    at, shapes = torch.rand(rows, NUM_OBJECTS, 2, generator=generator), draw(2, NUM_OBJECTS)
    colours = torch.rand(rows, NUM_OBJECTS, generator=generator).argsort(dim=1)
    asked, kind = draw(NUM_OBJECTS), draw(NUM_KINDS)
    row = torch.arange(rows)
    tokens = torch.zeros(rows, NUM_OBJECTS + 1, SCENE_SIZE)
    tokens[:, :NUM_OBJECTS, :NUM_OBJECTS] = F.one_hot(colours, NUM_OBJECTS).float()
    tokens[:, :NUM_OBJECTS, NUM_OBJECTS : NUM_OBJECTS + 2] = F.one_hot(shapes, 2).float()
    tokens[:, :NUM_OBJECTS, NUM_OBJECTS + 2 : NUM_OBJECTS + 4] = at
    tokens[:, NUM_OBJECTS, NUM_OBJECTS + 4 : 2 * NUM_OBJECTS + 4] = F.one_hot(colours[row, asked], NUM_OBJECTS).float()
    tokens[:, NUM_OBJECTS, 2 * NUM_OBJECTS + 4 :] = F.one_hot(kind, NUM_KINDS).float()
    distance = (at - at[row, asked][:, None]).norm(dim=-1)
    nearest = distance.scatter(1, asked[:, None], 9.0).argmin(dim=1)
    shape = shapes[row, asked]
    answers = torch.stack(
        [
            2 + shape,
            (at[row, asked, 0] < 0.5).long(),
            (at[row, asked, 1] < 0.5).long(),
            2 + shapes[row, nearest],
            2 + shapes[row, distance.argmax(dim=1)],
            3 + (shapes == shape[:, None]).sum(dim=1),
        ]
    )
    return tokens, answers[kind, row], kind >= NUM_KINDS // 2
