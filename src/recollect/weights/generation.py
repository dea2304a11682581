"""What a decoder says: greedy continuations of prompts, and whether they are the answers that were wanted.

Any decoder of transformers with its tokenizer. Prompts of a batch are filled up at the left, so that all end side by side.

Shapes: B prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from recollect.errors import InvalidInput
from recollect.weights.streams import Question


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """A prompt's tokens, after the tokenizer's first one if it has one."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*start, *tokenizer.encode(prompt, add_special_tokens=False)]


def left_padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """(ids, mask) [B, T] of rows of tokens, filled up at the left; the mask is 1 where a row's own tokens are."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode and without gradients in the body."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def continuations(
    model: Any, tokenizer: Any, prompts: Sequence[str], num_tokens: int | Sequence[int], batch_rows: int = 64
) -> list[list[int]]:
    """The most likely tokens after each prompt, `num_tokens` of them, fewer where the model ends the text.

    `num_tokens` is one number or one for each prompt. Raises InvalidInput for an empty prompt without a first token.
    """
    numbers = [num_tokens] * len(prompts) if isinstance(num_tokens, int) else list(num_tokens)
    rows = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    if not all(rows):
        raise InvalidInput("prompts: one is empty, and the tokenizer has no first token; write something.")
    end = tokenizer.eos_token_id
    padding = next((each for each in (tokenizer.pad_token_id, end) if each is not None), 0)
    order = sorted(range(len(rows)), key=lambda each: len(rows[each]))
    found: list[list[int]] = [[] for _ in rows]
    with evaluating(model):
        for at in range(0, len(order), batch_rows):
            chosen = order[at : at + batch_rows]
            ids, mask = left_padded([rows[each] for each in chosen], padding)
            made = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max(numbers[each] for each in chosen),
                do_sample=False,
                pad_token_id=padding,
                eos_token_id=end,
            )[:, ids.shape[1] :].tolist()
            for each, tokens in zip(chosen, made, strict=True):
                kept = tokens[: tokens.index(end)] if end in tokens else tokens
                found[each] = kept[: numbers[each]]
    return found


def say(model: Any, tokenizer: Any, prompts: Sequence[str], num_tokens: int = 32, batch_rows: int = 64) -> list[str]:
    """The most likely continuation of each prompt, as text."""
    return [tokenizer.decode(tokens) for tokens in continuations(model, tokenizer, prompts, num_tokens, batch_rows)]


def answers(model: Any, tokenizer: Any, questions: Sequence[Question], batch_rows: int = 64) -> list[bool]:
    """Of each question, whether the model's own continuation of the prompt is, token for token, the answer."""
    wanted = [tokenizer.encode(question.answer, add_special_tokens=False) for question in questions]
    prompts = [question.prompt for question in questions]
    found = continuations(model, tokenizer, prompts, [len(each) for each in wanted], batch_rows)
    return [one == other for one, other in zip(found, wanted, strict=True)]


def right(model: Any, tokenizer: Any, questions: Sequence[Question], batch_rows: int = 64) -> float:
    """Share of the questions that the model answers rightly by itself."""
    return sum(answers(model, tokenizer, questions, batch_rows)) / len(questions)
