"""Language models behind one small protocol: messages in, text or an object of a pydantic schema out, and the cost.

`OpenAICompatible` speaks to any server with OpenAI's chat endpoint (OpenAI, vLLM, llama.cpp, Ollama, LM Studio ...),
`Transformers` runs a model in this process, `Scripted` plays back replies in tests. `from_settings` makes the
configured one, or None: recollect never needs a language model.

A schema is asked for through `response_format` where the server knows it, else in the prompt. A reply may have code
fences, thoughts or other text around its JSON, and the last object that fits counts. When none fits, the model is shown
the error and asked once more; when that fails too, SchemaBroken is raised and nothing half-read gets out.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ValidationError

from recollect.config import OPENAI_URL, Settings
from recollect.errors import InvalidInput, SchemaBroken, Unavailable

if TYPE_CHECKING:
    import openai

Message = Mapping[str, str]  # "role" (system, user or assistant) and "content"
CHARACTERS_PER_TOKEN = 4  # the estimate used where a server does not count


@dataclass(frozen=True, slots=True)
class Reply:
    """What a language model answered and what it cost, a second attempt at a schema included."""

    text: str
    parsed: Any  # an object of the schema that was asked for; None without one
    input_tokens: int
    output_tokens: int
    seconds: float
    model: str
    estimated: bool = False  # the server did not count the tokens; 4 characters are taken for one


class LanguageModel(Protocol):
    """Anything that turns messages into a reply."""

    name: str

    def complete(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> Reply:
        """The reply to `messages`, with `parsed` an object of `schema` when one is given.

        Raises InvalidInput for messages that cannot be sent, Unavailable when the model cannot be reached or refuses,
        SchemaBroken when two replies did not fit the schema.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Raw:
    """One answer of a model, before any schema is looked at."""

    text: str
    input_tokens: int
    output_tokens: int
    cut: bool = False  # it ended because max_tokens was reached
    estimated: bool = False


class OpenAICompatible:
    """A model behind an OpenAI-compatible chat endpoint, through the openai client.

    `base_url` ends in /v1 as a rule (None: OpenAI's). Busy servers (429, 5xx), lost connections and timeouts are tried
    `max_retries` times more, waiting 0.5 s and twice as long each time up to 8 s, or as long as the server says.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 3,
    ):
        if not model:
            raise InvalidInput("model: name the model that the server is to use.")
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        self.name = model
        self.timeout_s = timeout_s
        self.max_retries = max_retries
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

        def generate(messages: list[Message]) -> _Raw:
            return self._request(messages, schema, max_tokens, temperature)

        return _complete(self.name, generate, messages, schema)

    def _request(
        self, messages: list[Message], schema: type[BaseModel] | None, max_tokens: int, temperature: float
    ) -> _Raw:
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
                sent = [*messages, {"role": "user", "content": _ask_for(schema)}]
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

    def _read(self, response: Any, sent: Sequence[Message]) -> _Raw:
        """The text and the counts in a server's answer."""
        choices = getattr(response, "choices", None)
        if not choices:
            raise Unavailable(f"lm.base_url: {self.base_url} does not answer as a chat endpoint; does it end in /v1?")
        text = choices[0].message.content or ""
        cut = choices[0].finish_reason == "length"
        usage = response.usage
        if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
            given = sum(len(message["content"]) for message in sent)
            return _Raw(text, given // CHARACTERS_PER_TOKEN, len(text) // CHARACTERS_PER_TOKEN, cut, estimated=True)
        return _Raw(text, usage.prompt_tokens, usage.completion_tokens, cut)

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
        first = [*messages, {"role": "user", "content": _ask_for(schema)}] if schema is not None else messages

        def generate(messages: list[Message]) -> _Raw:
            return self._generate(messages, max_tokens, temperature)

        return _complete(self.name, generate, first, schema)

    def _generate(self, messages: list[Message], max_tokens: int, temperature: float) -> _Raw:
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
        return _Raw(text, ids.shape[1], len(new), cut=len(new) >= max_tokens)


class Scripted:
    """A language model for tests: gives `replies` one after the other and keeps what it was asked in `calls`.

    A reply is text, an object that is written as JSON, or a function of the messages that returns either.
    """

    def __init__(self, replies: Sequence[str | Mapping[str, Any] | Callable[[Sequence[Message]], Any]]):
        self.name = "scripted"
        self.calls: list[list[Message]] = []
        self._replies = list(replies)

    def complete(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> Reply:
        """See `LanguageModel.complete`; tokens are counted as four characters each."""

        def generate(messages: list[Message]) -> _Raw:
            if len(self.calls) >= len(self._replies):
                raise Unavailable(f"replies: the script ends after {len(self._replies)} replies; give it more.")
            self.calls.append(messages)
            reply = self._replies[len(self.calls) - 1]
            reply = reply(messages) if callable(reply) else reply
            text = reply if isinstance(reply, str) else json.dumps(reply)
            given = sum(len(message["content"]) for message in messages)
            return _Raw(text, given // CHARACTERS_PER_TOKEN, len(text) // CHARACTERS_PER_TOKEN, estimated=True)

        return _complete(self.name, generate, messages, schema)


def from_settings(settings: Settings) -> LanguageModel | None:
    """The configured language model, or None when no model is named; nothing is contacted yet."""
    if settings.lm_model is None:
        if settings.lm_base_url is not None:
            raise InvalidInput(f"lm.model: name the model that {settings.lm_base_url} is to use (RECOLLECT_LM_MODEL).")
        return None
    return OpenAICompatible(
        settings.lm_base_url,
        settings.lm_model,
        settings.lm_api_key,
        timeout_s=settings.lm_timeout_s,
        max_retries=settings.lm_max_retries,
    )


def _complete(
    name: str, generate: Callable[[list[Message]], _Raw], messages: Sequence[Message], schema: type[BaseModel] | None
) -> Reply:
    """Generate, read the schema, and ask once more when it is broken; tokens and seconds are summed."""
    asked = list(messages)
    for message in asked:
        if message.get("role") not in ("system", "user", "assistant") or not isinstance(message.get("content"), str):
            raise InvalidInput("messages: each needs a role (system, user or assistant) and a content of text.")
    if not asked:
        raise InvalidInput("messages: at least one is needed.")
    start = time.perf_counter()
    raw = generate(asked)
    attempts = [raw]
    parsed = None
    if schema is not None:
        parsed, problem = _parse(raw, schema)
        if parsed is None:
            correction = f"That reply cannot be used: {problem}. {_ask_for(schema)}"
            raw = generate(
                [*asked, {"role": "assistant", "content": raw.text}, {"role": "user", "content": correction}]
            )
            attempts.append(raw)
            parsed, problem = _parse(raw, schema)
        if parsed is None:
            raise SchemaBroken(f"schema: two replies of {name} did not fit {schema.__name__}: {problem}.")
    return Reply(
        text=raw.text,
        parsed=parsed,
        input_tokens=sum(attempt.input_tokens for attempt in attempts),
        output_tokens=sum(attempt.output_tokens for attempt in attempts),
        seconds=time.perf_counter() - start,
        model=name,
        estimated=any(attempt.estimated for attempt in attempts),
    )


def _ask_for(schema: type[BaseModel]) -> str:
    form = json.dumps(schema.model_json_schema(), ensure_ascii=False)
    return f"Reply with one JSON object that fits this JSON schema, and nothing else: {form}"


def _parse(raw: _Raw, schema: type[BaseModel]) -> tuple[BaseModel | None, str]:
    """The last JSON object in a reply that fits the schema, or None and what was wrong with the last one."""
    problem = "it was cut off at max_tokens before any JSON object ended" if raw.cut else "it holds no JSON object"
    parsed = None
    for value in _json_objects(raw.text):
        try:
            parsed = schema.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or schema.__name__
            problem = f"in the field {place}: {first['msg']}"
    return parsed, problem


def _json_objects(text: str, max_tries: int = 1000) -> Iterator[Any]:
    """The outermost JSON objects in a text, in order; `max_tries` opening braces are looked at."""
    start = 0
    decoder = json.JSONDecoder()
    for _ in range(max_tries):
        start = text.find("{", start)
        if start < 0:
            return
        try:
            value, start = decoder.raw_decode(text, start)
            yield value
        except (ValueError, RecursionError):
            start += 1


def _joined(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages with neighbours of one role joined, as many chat templates insist that roles take turns."""
    joined: list[dict[str, str]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1]["content"] += "\n\n" + message["content"]
        else:
            joined.append(dict(message))
    return joined
