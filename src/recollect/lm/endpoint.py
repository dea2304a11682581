"""A language model behind any server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from recollect.config import OPENAI_URL
from recollect.errors import InvalidInput, Unavailable
from recollect.lm.protocol import CHARACTERS_PER_TOKEN, Message, Reply
from recollect.lm.schema import Raw, ask_for, complete_with

if TYPE_CHECKING:
    import openai


class OpenAICompatible:
    """A model behind an OpenAI-compatible chat endpoint, through the openai client.

    `base_url` ends in /v1 as a rule (None: OpenAI's). Busy servers (429, 5xx), lost connections and timeouts are tried
    `max_retries` times more, waiting 0.5 s and twice as long each time up to 8 s, or as long as the server says.
    `max_concurrency`: how many requests a method may have under way at a time.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 3,
        max_concurrency: int = 8,
    ):
        if not model:
            raise InvalidInput("model: name the model that the server is to use.")
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        self.name = model
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.max_concurrency = max_concurrency
        self._api_key = api_key
        self._client: openai.OpenAI | None = None
        self._schema_in_prompt = False  # the server rejects response_format
        self._limit_name = "max_tokens"  # newer models of OpenAI call it max_completion_tokens
        self._takes_temperature = True

    def __repr__(self) -> str:
        return f"OpenAICompatible({self.base_url!r}, {self.name!r})"

    def complete(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> Reply:
        """See `LanguageModel.complete`."""

        def generate(messages: list[Message]) -> Raw:
            return self._request(messages, schema, max_tokens, temperature)

        return complete_with(self.name, generate, messages, schema)

    def _request(
        self, messages: list[Message], schema: type[BaseModel] | None, max_tokens: int, temperature: float
    ) -> Raw:
        """One request, repeated without what the server says it does not take (three things at most)."""
        import openai

        if self._client is None:
            self._client = openai.OpenAI(
                base_url=self.base_url,
                api_key=self._api_key or "none",
                timeout=self.timeout_s,
                max_retries=self.max_retries,
            )
        create: Any = self._client.chat.completions.create
        while True:
            options: dict[str, Any] = {self._limit_name: max_tokens}
            if self._takes_temperature:
                options["temperature"] = temperature
            sent = messages
            if schema is not None and self._schema_in_prompt:
                sent = [*messages, {"role": "user", "content": ask_for(schema)}]
            elif schema is not None:
                form = {"name": schema.__name__, "schema": schema.model_json_schema()}
                options["response_format"] = {"type": "json_schema", "json_schema": form}
            try:
                response = create(model=self.name, messages=[dict(message) for message in sent], **options)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                said = f"{error.param or ''} {error.message}".lower()
                if self._limit_name == "max_tokens" and "max_completion_tokens" in said:
                    self._limit_name = "max_completion_tokens"
                elif self._takes_temperature and "temperature" in said:
                    self._takes_temperature = False
                elif "response_format" in options and re.search(r"response_format|json_?schema|schema", said):
                    self._schema_in_prompt = True
                else:
                    raise self._explained(error) from None
            except (openai.APIError, json.JSONDecodeError) as error:
                raise self._explained(error) from None
            else:
                return self._read(response, sent)

    def _read(self, response: Any, sent: Sequence[Message]) -> Raw:
        """The text and the counts in a server's answer."""
        choices = getattr(response, "choices", None)
        if not choices:
            raise Unavailable(f"lm.base_url: {self.base_url} does not answer as a chat endpoint; does it end in /v1?")
        text = choices[0].message.content or ""
        cut = choices[0].finish_reason == "length"
        usage = response.usage
        if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
            given = sum(len(message["content"]) for message in sent)
            return Raw(text, given // CHARACTERS_PER_TOKEN, len(text) // CHARACTERS_PER_TOKEN, cut, estimated=True)
        return Raw(text, usage.prompt_tokens, usage.completion_tokens, cut)

    def _explained(self, error: Exception) -> Unavailable:
        """The client's error as one sentence that names the setting and the way out, without the key."""
        import openai

        said = " ".join(str(getattr(error, "message", error)).split())[:300]
        if self._api_key:
            said = said.replace(self._api_key, "***")
        times = f"{self.max_retries + 1} attempts" if self.max_retries else "one attempt"
        if isinstance(error, openai.APITimeoutError):
            text = (
                f"lm.timeout_s: {self.base_url} gave no answer within {self.timeout_s:g} s in {times}; allow it longer."
            )
        elif isinstance(error, openai.APIConnectionError):
            text = (
                f"lm.base_url: {self.base_url} cannot be reached in {times}; start the server or correct the address."
            )
        elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            has = "refuses the API key" if self._api_key else "asks for an API key"
            text = f"lm.api_key: {self.base_url} {has}; set RECOLLECT_LM_API_KEY to a valid one."
        elif isinstance(error, openai.NotFoundError):
            text = f"lm.model: {self.base_url} does not know {self.name!r}; correct the model or the address ({said})."
        elif isinstance(error, openai.RateLimitError):
            text = f"lm.base_url: {self.base_url} is busy or the quota is used up after {times}; try later ({said})."
        elif isinstance(error, openai.InternalServerError):
            text = f"lm.base_url: {self.base_url} failed in {times}; look at the server's log ({said})."
        elif isinstance(error, openai.APIStatusError):
            text = f"lm.model: {self.base_url} refused the request ({said})."
        else:
            text = f"lm.base_url: {self.base_url} does not answer as a chat endpoint; does it end in /v1?"
        return Unavailable(text)
