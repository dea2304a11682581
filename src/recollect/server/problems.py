"""Errors as the server tells them: one JSON shape, which is also OpenAI's, with one sentence and the field.

{"error": {"message": "text: is empty.", "type": "invalid_input", "param": "text", "code": 422}}
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from recollect.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    RecollectError,
    SchemaBroken,
    StorageFailed,
    Unavailable,
)

_STATUS: dict[type[RecollectError], tuple[int, str]] = {
    InvalidInput: (422, "invalid_input"),
    NotFound: (404, "not_found"),
    Conflict: (409, "conflict"),
    Unavailable: (503, "unavailable"),
    SchemaBroken: (502, "schema_broken"),
    StorageFailed: (500, "storage_failed"),
}
_FIELD = re.compile(r"(?:(?:item|line) \d+: )?([a-z_][a-z_.]*): ")
_BY_CODE = {
    400: ("malformed", "body: cannot be read; send JSON in UTF-8."),
    404: ("not_found", "There is no such route; /openapi.json lists those that there are."),
    405: ("method_not_allowed", "This route does not take this method; /openapi.json lists what it takes."),
}


class Problem(BaseModel):
    """What went wrong."""

    message: str = Field(description="one sentence that names the field and the way out")
    type: str = Field(examples=["invalid_input"])
    param: str | None = Field(description="the field, where there is one", examples=["text"])
    code: int = Field(description="the HTTP status", examples=[422])


class ProblemReply(BaseModel):
    """The body of every reply that is an error."""

    error: Problem


class Refused(HTTPException):
    """A request that the server does not take, with its status, its type and one sentence."""

    def __init__(
        self, status: int, type: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ):
        super().__init__(status, message, headers)
        self.problem = Problem(message=message, type=type, param=field, code=status)


def problem_of(error: Exception) -> Problem:
    """What is told about an error. What is no error on purpose, or names files of the server, tells nothing of itself."""
    if isinstance(error, Refused):
        return error.problem
    if isinstance(error, StarletteHTTPException):
        kind, message = _BY_CODE.get(error.status_code, ("bad_request", f"{error.detail}."))
        return Problem(message=message, type=kind, param=None, code=error.status_code)
    if isinstance(error, StorageFailed):
        message = "The database cannot be read or written now; the server's log says why."
        return Problem(message=message, type="storage_failed", param=None, code=500)
    if isinstance(error, RecollectError):
        status, kind = next(entry for base, entry in _STATUS.items() if isinstance(error, base))
        found = _FIELD.match(str(error))
        return Problem(message=str(error), type=kind, param=found[1] if found else None, code=status)
    return Problem(message="The server failed at this; its log says where.", type="internal", param=None, code=500)


def reply(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse({"error": problem.model_dump()}, problem.code, headers)


def _of_validation(error: RequestValidationError) -> Problem:
    first: dict[str, Any] = error.errors()[0]
    if first["type"] == "json_invalid":
        return Problem(
            message=f"body: is not JSON ({first.get('ctx', {}).get('error', 'it cannot be read')}).",
            type="malformed",
            param="body",
            code=400,
        )
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    field = ".".join(place) or "body"
    text = str(first["msg"])
    message = f"{field}: {text[:1].lower()}{text[1:]}."
    return Problem(message=message, type="invalid_input", param=field, code=422)


def install(app: FastAPI) -> None:
    """Let every error of an app have the one shape."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        return reply(problem_of(error), getattr(error, "headers", None))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return reply(_of_validation(error))

    app.add_exception_handler(RecollectError, known)
    app.add_exception_handler(StarletteHTTPException, known)
    app.add_exception_handler(RequestValidationError, invalid)
