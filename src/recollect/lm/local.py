"""A language model of the transformers library, run in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from recollect.errors import InvalidInput, Unavailable
from recollect.lm.protocol import Message, Reply
from recollect.lm.schema import Raw, ask_for, complete_with


class Transformers:
    """A model of the transformers library, run in this process on the device where it lies.

    The chat template is used when the tokenizer has one, else lines of "role: content". With a temperature of 0 the
    most likely token is taken each time. Cost: one forward pass of the prompt and one for each new token.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str | None = None):
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or getattr(model, "name_or_path", "") or type(model).__name__

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> Transformers:
        """Load model and tokenizer by name or folder; `options` go to `AutoModelForCausalLM.from_pretrained`.

        Raises Unavailable when torch or transformers is missing or the model cannot be loaded.
        """
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise Unavailable('lm.model: local models need torch; run `pip install "recollect[torch]"`.') from None
        try:
            return cls(AutoModelForCausalLM.from_pretrained(name, **options), AutoTokenizer.from_pretrained(name), name)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            raise Unavailable(
                f"lm.model: {name!r} cannot be loaded; give a model's folder or name ({reason})."
            ) from None

    def complete(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> Reply:
        """See `LanguageModel.complete`; InvalidInput when the messages and `max_tokens` exceed the model's window."""
        first = [*messages, {"role": "user", "content": ask_for(schema)}] if schema is not None else messages

        def generate(messages: list[Message]) -> Raw:
            return self._generate(messages, max_tokens, temperature)

        return complete_with(self.name, generate, first, schema)

    def _generate(self, messages: list[Message], max_tokens: int, temperature: float) -> Raw:
        import torch  # pyright: ignore[reportMissingImports]

        if getattr(self.tokenizer, "chat_template", None):
            prompt = self.tokenizer.apply_chat_template(_joined(messages), tokenize=False, add_generation_prompt=True)
            encoded = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        else:
            lines = [f"{message['role']}: {message['content']}" for message in messages]
            encoded = self.tokenizer("\n".join([*lines, "assistant:"]), return_tensors="pt")
        ids = encoded["input_ids"].to(self.model.device)  # (1, T)
        window = getattr(self.model.config, "max_position_embeddings", None)
        if window is not None and ids.shape[1] + max_tokens > window:
            raise InvalidInput(
                f"messages: {ids.shape[1]} tokens and max_tokens={max_tokens} exceed the model's window of {window}; "
                "recall fewer memories or ask for a shorter answer."
            )
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            options = {"do_sample": True, "temperature": temperature}
        padding = self.tokenizer.pad_token_id
        if padding is None:
            padding = self.tokenizer.eos_token_id
        with torch.no_grad():
            output = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, pad_token_id=padding, **options
            )
        new = output[0, ids.shape[1] :]
        text = self.tokenizer.decode(new, skip_special_tokens=True).strip()
        return Raw(text, ids.shape[1], len(new), cut=len(new) >= max_tokens)


def _joined(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages with neighbours of one role joined, as many chat templates insist that roles take turns."""
    joined: list[dict[str, str]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1]["content"] += "\n\n" + message["content"]
        else:
            joined.append(dict(message))
    return joined
