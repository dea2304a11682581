"""Made languages for continual learning: Markov chains over one vocabulary, and topics with classes to tell apart.

A language is a table of what follows each token. A second one shares a part of it, so that learning it pulls the model away
from the first. Nothing is downloaded.

Shapes: V vocabulary, N rows, T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recollect.weights.batches import IGNORED, Rows, forward
from recollect.weights.generation import evaluating
from recollect.weights.learner import Learner
from recollect.weights.streams import Task

START = 3  # tokens 0, 1, 2 begin, end and pad


@dataclass(frozen=True)
class Language:
    """A Markov chain: row i of `table` [V, V] holds the chances of each token after token i."""

    table: Tensor

    @classmethod
    def made(cls, vocabulary: int, seed: int, sharpness: float = 3.0) -> Language:
        """Rows that are the softmax of `sharpness` times Gaussians; special tokens never occur."""
        source = torch.Generator().manual_seed(seed)
        logits = sharpness * torch.randn(vocabulary, vocabulary, generator=source)
        logits[:, :START] = -math.inf
        return cls(logits.softmax(-1))

    def shifted(self, share: float, seed: int) -> Language:
        """The language with this share of its rows drawn anew."""
        other = Language.made(len(self.table), seed).table
        source = torch.Generator().manual_seed(seed)
        redrawn = torch.rand(len(self.table), generator=source) < share
        return Language(torch.where(redrawn[:, None], other, self.table))

    def rows(self, number: int, tokens: int, seed: int) -> Rows:
        """`number` texts of `tokens` tokens, every token learned."""
        source = torch.Generator().manual_seed(seed)
        now = torch.randint(START, len(self.table), (number,), generator=source)
        ids = [now]
        for _ in range(tokens - 1):
            now = torch.multinomial(self.table[now], 1, generator=source)[:, 0]
            ids.append(now)
        made = torch.stack(ids, 1)
        return Rows(input_ids=made, attention_mask=torch.ones_like(made), labels=made.clone())

    def task(self, name: str, number: int, tokens: int, seed: int, held_out: int = 256) -> Task:
        """A corpus of the language as a task; tested on texts of its own."""
        return Task(name, self.rows(number, tokens, seed), self.rows(held_out, tokens, seed + 1_000_003))


def text_loss(model: Any, rows: Rows, batch_rows: int = 128) -> float:
    """The mean cross-entropy of rows in nats a learned token."""
    total = count = 0.0
    with evaluating(model):
        for at in range(0, len(rows), batch_rows):
            batch = {name: each.to(model.device) for name, each in rows[at : at + batch_rows].items()}
            labels = batch.pop("labels")[:, 1:]
            logits = forward(model, batch).logits[:, :-1].float()
            total += float(
                F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED)
            )
            count += int((labels != IGNORED).sum())
    return total / count


def minus_loss(learner: Learner, task: Task) -> float:
    """A learner's score: minus the loss of the task's held-out rows, by what the learner predicts."""
    total = count = 0.0
    for batch in learner.batches(task.test):
        logits = learner.predict({name: each for name, each in batch.items() if name != "labels"})[:, :-1].float()
        labels = batch["labels"][:, 1:]
        total += float(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED))
        count += int((labels != IGNORED).sum())
    return -total / count


@dataclass(frozen=True)
class Topics:
    """Text classification in text-to-text form: topics with words of their own, all answered with the same few labels.

    A text is drawn from its topic's words and from words that all topics share. Each topic word has a leaning to one label;
    the answer is the label that most words of the text lean to.
    """

    num_topics: int = 6
    num_words: int = 12  # a topic
    num_shared: int = 8
    num_labels: int = 3
    text_tokens: int = 10
    seed: int = 0

    @property
    def vocabulary(self) -> int:
        """Tokens: special ones, labels, a mark before the answer, shared words, topic words."""
        return START + 1 + self.num_labels + self.num_shared + self.num_topics * self.num_words

    def texts(self, topic: int, number: int, seed: int) -> tuple[Tensor, Tensor]:
        """(texts [N, T], labels [N]) of a topic."""
        source = torch.Generator().manual_seed(seed * 977 + topic)
        labels = torch.randint(self.num_labels, (number,), generator=source)
        place = torch.arange(self.num_words)
        order = torch.Generator().manual_seed(self.seed * 31 + topic)
        leaning = place[torch.randperm(self.num_words, generator=order)] % self.num_labels
        chances = torch.where(leaning[None] == torch.arange(self.num_labels)[:, None], 4.0, 0.4)  # [labels, words]
        own = torch.multinomial(chances[labels], self.text_tokens, True, generator=source) + self._first(topic)
        shared = torch.randint(self.num_shared, own.shape, generator=source) + START + 1 + self.num_labels
        texts = torch.where(torch.rand(own.shape, generator=source) < 0.4, shared, own)
        return texts, labels

    def corpus(self, number: int, seed: int) -> Rows:
        """Texts of all topics without labels, to pretrain on."""
        made = torch.cat([self.texts(topic, number // self.num_topics, seed)[0] for topic in range(self.num_topics)])
        return Rows(input_ids=made, attention_mask=torch.ones_like(made), labels=made.clone())

    def task(self, topic: int, number: int, seed: int, held_out: int = 200) -> Task:
        """The topic as a task whose answers are learned."""
        return Task(f"topic {topic}", self._answered(topic, number, seed), self._answered(topic, held_out, seed + 7919))

    def _answered(self, topic: int, number: int, seed: int) -> Rows:
        texts, labels = self.texts(topic, number, seed)
        mark = torch.full((number, 1), START)
        ids = torch.cat([texts, mark, (labels + START + 1)[:, None]], 1)
        hidden = torch.full_like(ids, IGNORED)
        hidden[:, -1] = ids[:, -1]
        return Rows(input_ids=ids, attention_mask=torch.ones_like(ids), labels=hidden)

    def _first(self, topic: int) -> int:
        return START + 1 + self.num_labels + self.num_shared + topic * self.num_words


def topic_reader(topics: Topics, num_steps: int, seed: int, device: str = "cpu") -> Any:
    """A tiny decoder that has read the texts of all topics, and no answers."""
    from recollect.benchmarks.facts import tiny_decoder

    model = tiny_decoder(topics.vocabulary, width=48, inner=96, heads=2, tokens=32, seed=seed).to(device)
    rows = topics.corpus(32 * num_steps, seed)
    learner = Learner(model, batch_rows=32, num_steps=num_steps, clip_norm=1.0, seed=seed)
    learner.learn(Task("texts", rows, rows), evaluate=[])
    return model
