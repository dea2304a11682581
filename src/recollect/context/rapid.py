"""RAPID: a drafter that reads only retrieved pieces of a long context, checked by a model that reads all of it.

Remembers the context twice: the target's cache holds all of it, the drafter's the chunks that match the question. The drafter
proposes a few tokens; one pass of the target over them decides how many stay, as in speculative sampling. Before that, the
target's distribution is moved towards the drafter's by one step of distillation, so that what clean excerpts say survives.

Paper: Long-Context Inference with Retrieval-Augmented Speculative Decoding, arXiv:2502.20330 (2025), section 3.
Differs: with a transfer the reply is a fusion of two models and not distributed as the target's; it is with `transfer=0`.
Logits move only for tokens that the drafter gives at least `tail` of its greatest probability, as in the authors' code; the
paper restores the unlikely ones of the moved distribution. Greedy decoding compares likeliest tokens, where theirs draws
lots. Chunks are ranked by words that they share with the question; any other scorer can be given.
Cost: the target's cache and the drafter's, of at most `draft_context_tokens` or a 24th of the context. A round: up to
`num_draft_tokens` passes of the drafter over one token, on a GPU a recorded graph, and one pass of the target over all of them.

Shapes: C tokens of context, n tokens of a question, g drafted tokens, V vocabulary.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from recollect.context.attach import is_attached
from recollect.context.cache import MemoryCache
from recollect.context.checking import Reserved, lower_right
from recollect.context.recorded import Recorded
from recollect.errors import InvalidInput

Scorer = Callable[[str, Sequence[str]], Sequence[float]]  # (question, chunks) -> how well each chunk matches


class Tokenizer(Protocol):
    """What is needed of a tokenizer of transformers."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]:
        """Token numbers of a text."""
        ...

    def decode(self, token_ids: Any) -> str:
        """The text of token numbers."""
        ...


def lexical_scores(question: str, chunks: Sequence[str]) -> list[float]:
    """BM25 of each chunk for the words of the question (k1 = 1.2, b = 0.75); 0 where none is shared."""
    counts = [Counter(re.findall(r"\w+", chunk.lower())) for chunk in chunks]
    lengths = [sum(count.values()) for count in counts]
    usual = sum(lengths) / len(lengths) if any(lengths) else 1.0
    scores = [0.0] * len(chunks)
    for word in dict.fromkeys(re.findall(r"\w+", question.lower())):
        holding = sum(word in count for count in counts)
        weight = log(1 + (len(chunks) - holding + 0.5) / (holding + 0.5))
        for number, count in enumerate(counts):
            times = count[word]
            scores[number] += weight * 2.2 * times / (times + 1.2 * (0.25 + 0.75 * lengths[number] / usual))
    return scores


@dataclass(frozen=True)
class Reply:
    """The new tokens, and what they cost.

    `stats`: tokens; target_calls, passes of the target but for reading the context; drafted, accepted, and acceptance, their
    share; tokens_per_call; draft_tokens, the length of the drafter's prompt; prefill_seconds, draft_seconds, target_seconds.
    """

    tokens: list[int]
    stats: dict[str, float]


@dataclass
class RAPID:
    """Retrieval-augmented speculative decoding (the paper's settings for a model that drafts for itself)."""

    num_draft_tokens: int = 10
    transfer: float = 10.0  # step of the distillation (eta); 0: the reply is distributed as the target's
    temperature: float = 1.0  # 0: greedy
    tail: float = 0.1  # share of the drafter's greatest probability below which a token's logit is not moved
    least_confidence: float = 0.4  # a draft ends at a token for which the drafter's greatest probability is below this
    chunk_tokens: int = 512
    draft_context_tokens: int = 4096  # of retrieved chunks; a 24th of the context where that is more
    num_first_tokens: int = 1  # of the context, which the drafter always reads: a first special token, or instructions
    scorer: Scorer = lexical_scores

    def __post_init__(self) -> None:
        for name in ("num_draft_tokens", "chunk_tokens", "draft_context_tokens"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: {getattr(self, name)} is too small; use 1 or more.")
        for name in ("transfer", "temperature", "tail", "least_confidence", "num_first_tokens"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name}: {getattr(self, name)} is too small; use 0 or more.")

    @torch.no_grad()
    def generate(
        self,
        target: Any,
        tokenizer: Tokenizer,
        context: Sequence[int],
        question: Sequence[int],
        max_new_tokens: int = 256,
        drafter: Any = None,
        stop: Collection[int] = (),
        generator: torch.Generator | None = None,
    ) -> Reply:
        """Answer a question [n] after a context [C], up to and with the first token in `stop`.

        Both models read what `tokenizer` makes; `drafter` None: the target drafts for itself. A policy may be attached to
        either. `generator` is one of the models' device. Raises InvalidInput for an empty question or no tokens to make.
        """
        if not len(question):
            raise InvalidInput("question: is empty; give at least one token.")
        if max_new_tokens < 1:
            raise InvalidInput(f"max_new_tokens: {max_new_tokens} is too small; use 1 or more.")
        with lower_right(target, target if drafter is None else drafter):
            began = time.perf_counter()
            excerpt = self.retrieve(tokenizer, context, question)
            room = max_new_tokens + self.num_draft_tokens
            judge = _Reader(target, [*context, *question], room)
            author = _Author(drafter if drafter is not None else target, [*excerpt, *question], room)
            if target.device.type == "cuda":
                torch.cuda.synchronize(target.device)
            prefill, draft_seconds, target_seconds = time.perf_counter() - began, 0.0, 0.0
            new: list[int] = []
            calls = num_drafted = num_accepted = 0
            while len(new) < max_new_tokens and not (new and new[-1] in stop):
                start = time.perf_counter()
                drafted, beliefs = self._draft(author, new, max_new_tokens - len(new), generator)
                middle = time.perf_counter()
                scores = judge.logits(new + drafted, len(drafted) + 1)
                accepted, following = self.verify(scores, beliefs, drafted, generator)
                target_seconds, draft_seconds = (
                    target_seconds + time.perf_counter() - middle,
                    draft_seconds + middle - start,
                )
                calls, num_drafted, num_accepted = calls + 1, num_drafted + len(drafted), num_accepted + accepted
                for token in [*drafted[:accepted], following]:
                    new.append(token)
                    if token in stop or len(new) == max_new_tokens:
                        break
                judge.rewind(new)
                author.rewind(new)
        stats = {
            "tokens": len(new),
            "target_calls": calls,
            "drafted": num_drafted,
            "accepted": num_accepted,
            "acceptance": num_accepted / num_drafted,
            "tokens_per_call": len(new) / calls,
            "draft_tokens": len(excerpt) + len(question),
            "prefill_seconds": prefill,
            "draft_seconds": draft_seconds,
            "target_seconds": target_seconds,
        }
        return Reply(new, stats)

    def retrieve(self, tokenizer: Tokenizer, context: Sequence[int], question: Sequence[int]) -> list[int]:
        """The tokens that the drafter reads before the question: first ones, and matching chunks as they stand in the context.

        Chunks that score 0 or less are left out; blank lines stand between the others.
        """
        first, rest = list(context[: self.num_first_tokens]), list(context[self.num_first_tokens :])
        chunks = [rest[start : start + self.chunk_tokens] for start in range(0, len(rest), self.chunk_tokens)]
        if not chunks:
            return first
        scores = self.scorer(tokenizer.decode(list(question)), [tokenizer.decode(chunk) for chunk in chunks])
        room = max(1, ceil(max(self.draft_context_tokens, len(rest) / 24) / self.chunk_tokens))
        best = sorted(range(len(chunks)), key=lambda number: -scores[number])[:room]
        between = tokenizer.encode("\n\n", add_special_tokens=False)
        for place, number in enumerate(sorted(number for number in best if scores[number] > 0)):
            first += [*(between if place else []), *chunks[number]]
        return first

    def verify(
        self, scores: Tensor, beliefs: Tensor, drafted: Sequence[int], generator: torch.Generator | None = None
    ) -> tuple[int, int]:
        """(how many of the drafted tokens stay, the token that follows them).

        scores [g + 1, V]: the target's logits before each drafted token and after the last; beliefs [g, V]: the distributions
        from which the tokens were drawn (for greedy decoding, of which they were the likeliest).
        """
        tempered = scores.double() / (self.temperature or 1.0)
        plain, beliefs = tempered.softmax(-1), beliefs.double()
        moved = self.fuse(tempered[:-1], plain[:-1], beliefs)
        for place, token in enumerate(drafted):
            if not self.temperature:
                likeliest = int(moved[place].argmax())
                if likeliest != token:
                    return place, likeliest
                continue
            luck = torch.rand((), generator=generator, dtype=torch.float64, device=scores.device)
            if luck * beliefs[place, token] < moved[place, token]:
                continue
            missing = torch.maximum(plain[place] - moved[place], plain[place] - beliefs[place]).clamp(min=0)
            return place, _draw(missing if missing.sum() > 0 else plain[place], generator)
        return len(drafted), _draw(plain[-1], generator) if self.temperature else int(plain[-1].argmax())

    def fuse(self, tempered: Tensor, plain: Tensor, beliefs: Tensor) -> Tensor:
        """The target's distribution after one step of distillation, softmax(z / T + eta (q - p)), all [g, V] (equation 5)."""
        likely = beliefs >= self.tail * beliefs.amax(-1, keepdim=True)
        return (tempered + self.transfer * (beliefs - plain) * likely).softmax(-1)

    def _draft(
        self, author: _Reader, new: list[int], room: int, generator: torch.Generator | None
    ) -> tuple[list[int], Tensor]:
        """(drafted tokens, at least one, and the distributions [g, V] that they are from)."""
        drafted: list[int] = []
        beliefs = []
        while len(drafted) < min(self.num_draft_tokens, room):
            belief = (author.logits(new + drafted, 1)[0].double() / (self.temperature or 1.0)).softmax(-1)
            drafted.append(_draw(belief, generator) if self.temperature else int(belief.argmax()))
            beliefs.append(belief)
            if belief.max() < self.least_confidence:
                break
        return drafted, torch.stack(beliefs)


class _Reader:
    """A model, and its cache of a prompt and of the new tokens that it has read so far, at most `room`."""

    layer: Any = Reserved  # of its cache, made with how many tokens there must be room for

    def __init__(self, model: Any, prompt: list[int], room: int):
        self.model, self.last = model, prompt[-1]
        self.cache: Any = None  # an attached policy makes one itself
        if not is_attached(model):
            num = model.config.get_text_config().num_hidden_layers
            self.cache = Cache(layers=[self.layer(len(prompt) + room) for _ in range(num)])
        self.num_read = 0  # of the last token of the prompt and the new ones
        if len(prompt) > 1:
            self._read(prompt[:-1], 1)
        self.mark = self._mark()

    def logits(self, new: list[int], keep: int) -> Tensor:
        """Logits [keep, V] after the last `keep` tokens of prompt and new ones."""
        unread = [self.last, *new][self.num_read :]
        self.num_read += len(unread)
        return self._read(unread, keep)

    def rewind(self, new: list[int]) -> None:
        """Leave in the cache no more than the prompt and the new tokens but the last, which is to be read next.

        A bounded memory cannot drop its last tokens: it goes back to where it was and reads again what stays.
        """
        too_many = self.num_read - len(new)
        if too_many > 0 and isinstance(self.cache, MemoryCache):
            self.num_read, checkpoint = self.mark
            if checkpoint is None:
                self.cache = None
            else:
                self.cache.restore(checkpoint)
            if again := [self.last, *new][self.num_read : len(new)]:
                self._read(again, 1)
                self.num_read += len(again)
        elif too_many > 0:
            self.cache.crop(-too_many)
            self.num_read -= too_many
        self.mark = self._mark()

    def _mark(self) -> tuple[int, Any]:
        return self.num_read, self.cache.checkpoint() if isinstance(self.cache, MemoryCache) else None

    def _read(self, tokens: list[int], keep: int) -> Tensor:
        ids = torch.tensor([tokens], device=self.model.device)
        output = self.model(input_ids=ids, cache=self.cache, use_cache=True, logits_to_keep=keep)
        self.cache = output.cache
        return output.logits[0]


class _Author(_Reader):
    """A reader that goes on token by token; on a GPU a step without a policy is a recorded graph."""

    layer = StaticLayer

    def __init__(self, model: Any, prompt: list[int], room: int):
        self._step: Recorded | None = None
        super().__init__(model, prompt, room)
        self._step = None if is_attached(model) else Recorded()

    def _read(self, tokens: list[int], keep: int) -> Tensor:
        if self._step is None:
            return super()._read(tokens, keep)
        steps = [self._step(self._forward, torch.tensor([[token]], device=self.model.device)) for token in tokens]
        return torch.cat(steps[-keep:], dim=1)[0]

    def _forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, cache=self.cache, use_cache=True).logits


def _draw(weights: Tensor, generator: torch.Generator | None) -> int:
    """A token drawn with chances proportional to `weights` [V]."""
    return int(torch.multinomial(weights, 1, generator=generator))
