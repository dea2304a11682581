"""JRT-Prompt: let the model read the context twice, so that on the second reading it knows what it is asked.

Remembers nothing by itself. A memory of fixed size must choose what to keep before it has seen the question, so recall
depends on the order of what comes in; a prompt that repeats context and question lets the choice be made again with both
known. It goes with any policy of this home, and with the model alone.

Paper: Just read twice: closing the recall gap for recurrent language models, arXiv:2407.05483 (2024), section 3.
Differs: works on token numbers, so that all copies are equal to the token, and cuts a context that is too long at its
end before it is repeated. The paper's recurrent network (JRT-RNN) does not belong to this home.
Cost: `num_readings` times the prefill; the memory is the policy's.

Shapes: B rows, C tokens of context, Q of question, N new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from recollect.errors import InvalidInput


@dataclass
class JRTPrompt:
    """Context and question, repeated (the paper reads twice)."""

    num_readings: int = 2
    layout: Literal["cqcq", "ccq"] = "cqcq"  # the question after each reading, or after the last one only
    num_prompt_tokens: int | None = None  # of the whole prompt at most; None: no limit

    def __post_init__(self) -> None:
        if self.num_readings < 1:
            raise InvalidInput(f"num_readings: {self.num_readings} is too small; use 1 or more.")
        if self.layout not in ("cqcq", "ccq"):
            raise InvalidInput(f"layout: {self.layout!r:.20} is not known; use cqcq or ccq.")

    def prompt(self, context: Tensor, question: Tensor, start: Tensor | None = None) -> Tensor:
        """The prompt [B, N] of a context [B, C] and a question [B, Q]; the context is cut so that all copies fit.

        `start` [B, S] stands once before it all, as the mark that begins a document does.
        Raises InvalidInput when the questions alone are longer than `num_prompt_tokens`.
        """
        start = question[:, :0] if start is None else start
        if self.num_prompt_tokens is not None:
            least = start.shape[1] + question.shape[1] * (self.num_readings if self.layout == "cqcq" else 1)
            if self.num_prompt_tokens < least:
                raise InvalidInput(
                    f"num_prompt_tokens: {self.num_prompt_tokens} cannot hold the question; use {least} or more."
                )
            context = context[:, : (self.num_prompt_tokens - least) // self.num_readings]
        if self.layout == "cqcq":
            return torch.cat([start, *[context, question] * self.num_readings], dim=1)
        return torch.cat([start, *[context] * self.num_readings, question], dim=1)

    def ask(
        self,
        generate: Callable[..., Tensor],
        context: Tensor,
        question: Tensor,
        start: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """What `generate` gives for the prompt: that of a model, or of the memory of a policy that is attached.

        With `memory.generate` the result is the new tokens [B, N], with `model.generate` they follow the prompt.
        """
        ids = self.prompt(context, question, start)
        return generate(ids, attention_mask=torch.ones_like(ids), **options)
