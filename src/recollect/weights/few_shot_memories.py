"""Few-shot memories: does a memory recognise what it saw once, can it complete it, and how fast does it fade?

A memory studies texts a few times. Recognition: of a studied text and a foil, which seems more familiar? Recall: from its
first half, is the second half given word for word? Retention: both again while other texts are written. A memory is any pair
of functions that score and complete, so that weights, edits and stores are measured on the same curves.

Paper: Recognition, recall, and retention of few-shot memories in large language models, arXiv:2303.17557 (2023), sections 2, 3.
Differs: recall is scored on the half that was not given, where the paper's ROUGE counts the given half too; exact match and the
whole are told beside it. Recognition is told before studying too, since the prior may favour a foil.
Cost: two scores of each text for a foil, one completion of each text.

Shapes: N texts.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F

from recollect.errors import InvalidInput, NotFound
from recollect.weights.batches import IGNORED
from recollect.weights.generation import continuations, evaluating
from recollect.weights.texts import text_rows

Score = Callable[[Sequence[str]], list[float]]  # mean loss of each text in nats a token: lower is more familiar
Complete = Callable[[Sequence[list[int]], Sequence[int]], list[list[int]]]  # (prompts, how many tokens) -> tokens
CHECKPOINTS = (*range(1, 11), *range(20, 101, 10), *range(1000, 10_001, 1000))


@dataclass
class FewShotMemories:
    """Texts to study, and foils by kind, as many as there are texts. `tokenizer` cuts texts into halves."""

    study: Sequence[str]
    foils: Mapping[str, Sequence[str]]
    tokenizer: Any
    max_tokens: int = 128
    _halves: list[tuple[list[int], list[int]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for kind, texts in self.foils.items():
            if len(texts) != len(self.study):
                raise InvalidInput(f"foils: {len(texts)} of {kind!r:.20} for {len(self.study)} texts; give as many.")
        self._halves = []
        for text in self.study:
            ids = self.tokenizer.encode(text, add_special_tokens=False)[: self.max_tokens]
            if len(ids) < 2:
                raise InvalidInput(f"study: {text!r:.30} is a single token; study longer texts.")
            self._halves.append((ids[: len(ids) // 2], ids[len(ids) // 2 :]))

    def recognition(self, score: Score) -> dict[str, float]:
        """Share of pairs, of a text and the foil of its place, in which the text scores lower; by kind, chance 0.5.

        A tie counts half.
        """
        studied = score(self.study)
        found = {}
        for kind, texts in self.foils.items():
            pairs = zip(studied, score(texts), strict=True)
            found[kind] = mean(1.0 if seen < foil else 0.5 if seen == foil else 0.0 for seen, foil in pairs)
        return found

    def recall(self, complete: Complete) -> dict[str, float]:
        """Of the second halves: share given word for word, and ROUGE-1, -2 and -L of tokens; `whole`: ROUGE-L with the first half."""
        given = [first for first, _ in self._halves]
        wanted = [second for _, second in self._halves]
        made = complete(given, [len(each) for each in wanted])
        pairs = list(zip(made, wanted, strict=True))
        values = {"exact": mean(float(one == other) for one, other in pairs)}
        values |= {f"rouge-{size}": mean(rouge(one, other, size) for one, other in pairs) for size in (1, 2)}
        values["rouge-L"] = mean(rouge_longest(one, other) for one, other in pairs)
        whole = [(first + one, first + other) for first, (one, other) in zip(given, pairs, strict=True)]
        return values | {"whole": mean(rouge_longest(one, other) for one, other in whole)}

    def retention(
        self,
        score: Score,
        complete: Complete,
        write: Callable[[Sequence[str]], None],
        stream: Iterator[Sequence[str]],
        checkpoints: Sequence[int] = CHECKPOINTS,
    ) -> Iterator[dict[str, float]]:
        """Rows of (updates, recognition by kind, recall) before any update and after each number of updates.

        An update writes the next texts of the stream; the stream's end ends the rows.
        """
        done = 0
        for checkpoint in (0, *checkpoints):
            while done < checkpoint:
                texts = next(stream, None)
                if texts is None:
                    return
                write(texts)
                done += 1
            yield {"updates": done} | self.recognition(score) | self.recall(complete)


@dataclass
class WeightsMemory:
    """A decoder whose memory is its weights: `score`, `complete`, and `write`, a gradient step on all trained parameters.

    The optimizer keeps its moments between writes, so that studying and what comes after are one run; `fresh` starts a new
    one, as in the paper's retention, where its first steps are large.
    """

    model: Any
    tokenizer: Any
    learning_rate: float = 1e-4
    max_tokens: int = 128
    tested_rows: int = 256  # texts that are scored or completed at a time

    def __post_init__(self) -> None:
        self.fresh()

    def fresh(self) -> None:
        """A new optimizer: AdamW, no weight decay, a constant rate."""
        trained = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0)

    def study(self, texts: Sequence[str], exposures: int = 1, batch_rows: int = 4, seed: int = 0) -> None:
        """See each text so many times, in an order of its own each time."""
        rng = Random(seed)
        for _ in range(exposures):
            order = list(texts)
            rng.shuffle(order)
            for at in range(0, len(order), batch_rows):
                self.write(order[at : at + batch_rows])

    def write(self, texts: Sequence[str]) -> None:
        """One step on these texts, each a row of its own."""
        self.model.train()
        self.optimizer.zero_grad()
        losses, counts = self._losses(texts)
        (losses.sum() / counts.sum()).backward()
        self.optimizer.step()
        self.model.eval()

    def score(self, texts: Sequence[str]) -> list[float]:
        """The mean loss of each text in nats a token."""
        found: list[float] = []
        with evaluating(self.model):
            for at in range(0, len(texts), self.tested_rows):
                losses, counts = self._losses(texts[at : at + self.tested_rows])
                found += (losses / counts).tolist()
        return found

    def complete(self, prompts: Sequence[list[int]], numbers: Sequence[int]) -> list[list[int]]:
        """The most likely tokens after each prompt, so many of them."""
        texts: Any = [_Ids(prompt) for prompt in prompts]
        return continuations(self.model, _Passing(self.tokenizer), texts, numbers, self.tested_rows)

    def _losses(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(summed loss, number of tokens) of each text."""
        rows = [text_rows(self.tokenizer, [text], self.max_tokens)[0] for text in texts]
        width = max(len(row["input_ids"]) for row in rows)
        ids, mask, labels = (
            torch.stack([F.pad(row[name], (0, width - len(row[name])), value=fill) for row in rows]).to(
                self.model.device
            )
            for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", IGNORED))
        )
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        labels = labels[:, 1:]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
        return losses.sum(1), (labels != IGNORED).sum(1)


class _Ids(list[int]):
    """A prompt that is tokens already."""


class _Passing:
    """A tokenizer that lets prompts of tokens pass."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode(self, text: Any, add_special_tokens: bool = False) -> list[int]:
        return list(text) if isinstance(text, _Ids) else self.tokenizer.encode(text, add_special_tokens=False)


def rouge(made: Sequence[int], wanted: Sequence[int], size: int) -> float:
    """F1 of the runs of `size` tokens that two sequences share; 0 when one is too short."""
    one, other = (Counter(zip(*(each[at:] for at in range(size)), strict=False)) for each in (made, wanted))
    shared = sum((one & other).values())
    return 2 * shared / (one.total() + other.total()) if shared else 0.0


def rouge_longest(made: Sequence[int], wanted: Sequence[int]) -> float:
    """F1 of the longest common subsequence of two sequences of tokens."""
    row = [0] * (len(wanted) + 1)
    for one in made:
        before = row[:]
        for place, other in enumerate(wanted):
            row[place + 1] = before[place] + 1 if one == other else max(row[place], before[place + 1])
    return 2 * row[-1] / (len(made) + len(wanted)) if row[-1] else 0.0


def random_words(number: int, vocabulary: Sequence[str], rng: Random, length: int = 25) -> list[str]:
    """Texts without structure: `length` words drawn from a vocabulary (experiment 4)."""
    return [" ".join(rng.choice(vocabulary) for _ in range(length)) for _ in range(number)]


def gibberish(text: str, rng: Random) -> str:
    """The text with the letters of each word shuffled, and the words too (experiment 6)."""
    words = ["".join(rng.sample(word, len(word))) for word in text.split()]
    rng.shuffle(words)
    return " ".join(words)


def read_experiment(path: str | Path, number: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """(studied, foils) of one of the paper's six experiments, from its folder or from the archive that holds it.

    Raises NotFound when the files are not there.
    """
    path, found = Path(path), []
    for kind in ("seen", "unseen"):
        name = f"expt{number}/{kind}_data_{seed}.json"
        if path.is_dir():
            if not (path / name).is_file():
                raise NotFound(f"path: there is no {name} in {path}; name the folder that holds expt1.")
            lines: Any = (path / name).read_text("utf-8").splitlines()
        else:
            with tarfile.open(path) as archive:
                member = next((each for each in archive.getmembers() if each.name.endswith(name)), None)
                file = archive.extractfile(member) if member is not None else None
                if file is None:
                    raise NotFound(f"path: there is no {name} in {path}; name the archive of the paper's data.")
                lines = io.TextIOWrapper(file, "utf-8").read().splitlines()
        found.append([json.loads(line)["sent"] for line in lines if line.strip()])
    return found[0], found[1]
