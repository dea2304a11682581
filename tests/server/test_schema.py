"""Schemathesis against a running server: whatever the OpenAPI document allows or forbids, no request breaks it.

Checked for every route: no 5xx, only statuses, content types and bodies that the document names, and that what it forbids
is refused. Queries and texts are generated, hostile ones too.
"""

from __future__ import annotations

import json
import warnings

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@schemathesis.serializer("application/x-ndjson", "application/octet-stream")
def as_lines(_, value):
    """A body of JSON lines, or what was generated as it is."""
    if isinstance(value, bytes | str):
        return value if isinstance(value, bytes) else value.encode(errors="replace")
    return "\n".join(json.dumps(line) for line in (value if isinstance(value, list) else [value])).encode()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_the_server_keeps_to_its_document(serve, mode):
    server = serve()
    for number in range(3):
        server.client.post("/v1/episodes", json={"text": f"Ana said {number}", "session": "s", "speaker": "Ana"})
    written = server.client.get("/openapi.json").json()
    for operation in (operation for methods in written["paths"].values() for operation in methods.values()):
        operation.pop("security", None)  # a loopback server needs no key
    document = schemathesis.openapi.from_dict(written)
    document.config.update(base_url=server.url)
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 20

    for operation in operations:

        @settings(
            max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            reply = case.call(timeout=30)
            case.validate_response(reply, checks=CHECKS)

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the generators of Schemathesis
                ask()
        except Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE, operation.label  # takes no input that could be wrong
