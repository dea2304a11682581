"""Schemas: asking for an object, reading it out of a reply, and asking once more when it does not fit.

A reply may have code fences, thoughts or other text around its JSON, and the last object that fits counts. When none fits,
the model is shown the error and asked once more; when that fails too, SchemaBroken is raised and nothing half-read gets
out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from recollect.errors import InvalidInput, SchemaBroken
from recollect.lm.protocol import Message, Reply


@dataclass(frozen=True, slots=True)
class Raw:
    """One answer of a model, before any schema is looked at."""

    text: str
    input_tokens: int
    output_tokens: int
    cut: bool = False  # it ended because max_tokens was reached
    estimated: bool = False


def complete_with(
    name: str, generate: Callable[[list[Message]], Raw], messages: Sequence[Message], schema: type[BaseModel] | None
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
            correction = f"That reply cannot be used: {problem}. {ask_for(schema)}"
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


def ask_for(schema: type[BaseModel]) -> str:
    form = json.dumps(schema.model_json_schema(), ensure_ascii=False)
    return f"Reply with one JSON object that fits this JSON schema, and nothing else: {form}"


def _parse(raw: Raw, schema: type[BaseModel]) -> tuple[BaseModel | None, str]:
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
