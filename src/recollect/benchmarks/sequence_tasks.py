"""Small supervised sequence tasks: a model of layers with a state is trained on made tokens and asked for some of them.

A task makes a batch from a number of rows and a seed: tokens and labels [B, T], where the label at a place is what shall be
predicted there, and -100 nothing. Training draws seeds that testing does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.benchmarks.haystack import mqar

if TYPE_CHECKING:
    from recollect.state.trainer import Plan, Progress

Task = Callable[[int, int], tuple[np.ndarray, np.ndarray]]  # (rows, seed) -> tokens, labels, int64 [B, T]
TEST_SEED = 1 << 30


def far_recall(length: int, num_pairs: int, num_keys: int = 16, num_values: int = 8, gap_tokens: int = 0) -> Task:
    """Pairs of a key and a value, a token each, then at least `gap_tokens` of noise, then tokens that ask for the keys.

    Tokens: 8 of noise, `num_keys * num_values` pairs, `num_keys` questions; a label is the number of the value.
    """
    tell, ask = 8, 8 + num_keys * num_values

    def make(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        tokens, labels = rng.integers(0, 8, (rows, length)), np.full((rows, length), -100)
        for row in range(rows):
            keys, values = rng.permutation(num_keys)[:num_pairs], rng.integers(0, num_values, num_pairs)
            tokens[row, :num_pairs] = tell + keys * num_values + values
            at = np.sort(rng.choice(np.arange(num_pairs + gap_tokens, length), num_pairs, replace=False))
            order = rng.permutation(num_pairs)
            tokens[row, at], labels[row, at] = ask + keys[order], values[order]
        return tokens, labels

    return make


def drifting_level(length: int, num_levels: int = 16, num_queries: int = 8) -> Task:
    """Noisy readings of a level that drifts slowly; at a query the sign of the level must be told.

    Readings are tokens 0 to `num_levels` - 1, the query `num_levels`, the answers the two tokens after it. A single reading
    says little: the noise is four times the level's size.
    """

    def make(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        level = np.zeros((rows, length))
        level[:, 0] = rng.normal(size=rows)
        for t in range(1, length):
            level[:, t] = 0.99 * level[:, t - 1] + np.sqrt(1 - 0.99**2) * rng.normal(size=rows)
        seen = level + 4 * rng.normal(size=(rows, length))
        tokens = np.clip(np.round((seen + 8) * num_levels / 16), 0, num_levels - 1).astype(np.int64)
        labels = np.full((rows, length), -100)
        for row in range(rows):
            at = rng.choice(np.arange(length // 4, length), num_queries, replace=False)
            tokens[row, at], labels[row, at] = num_levels, num_levels + 1 + (level[row, at] > 0)
        return tokens, labels

    return make


def multi_query_recall(length: int, num_pairs: int, vocabulary: int) -> Task:
    """MQAR with the power law of its paper; see `haystack.mqar`."""
    return lambda rows, seed: mqar(rows, length, num_pairs, vocabulary, seed)


def fit(
    model: Any, task: Task, plan: Plan, num_rows: int = 32, progress: Progress = lambda *_: None, folder: Any = None
) -> list[float]:
    """Train a MemoryLM on a task, in place; the loss of each step, in nats. See `recollect.state.trainer.train`."""
    import torch
    from torch.nn.functional import cross_entropy

    from recollect.state.trainer import train

    def loss(step: int) -> Any:
        tokens, labels = (
            torch.from_numpy(each).to(model.device) for each in task(num_rows, plan.seed * 1_000_003 + step)
        )
        logits = model(tokens, use_cache=False).logits
        asked = labels >= 0
        extra = [block.auxiliary_loss() for block in model.blocks]
        return cross_entropy(logits[asked].float(), labels[asked]) + sum(each for each in extra if each is not None)

    return train(model, loss, plan, folder, progress)


def accuracy(model: Any, task: Task, num_rows: int = 256, seed: int = 0, batch_rows: int = 64) -> float:
    """Share of the labels that are the likeliest token, on rows that no training saw."""
    import torch

    right = count = 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, num_rows, batch_rows):
            tokens, labels = task(min(batch_rows, num_rows - start), TEST_SEED + seed * 1_000_003 + start)
            guess = model(torch.from_numpy(tokens).to(model.device), use_cache=False).logits.argmax(-1).cpu().numpy()
            right += int((guess == labels)[labels >= 0].sum())
            count += int((labels >= 0).sum())
    model.train(was_training)
    return right / count
