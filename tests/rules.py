"""A real HTTP server on loopback that speaks OpenAI's chat protocol and replies by rule, for tests of language-model steps."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Rule = Callable[[str, dict[str, Any], str], Any]  # (schema's name, JSON schema, all messages as text) -> the reply


def fill(schema: dict[str, Any], said: str) -> Any:
    """A value that fits a JSON schema: words of what was said for texts, the least number, the first choice, one item."""
    return _fill(schema, schema.get("$defs", {}), [word for word in said.split() if word.isalpha()][-12:] or ["tea"])


def _fill(schema: dict[str, Any], defs: dict[str, Any], words: list[str]) -> Any:
    if "$ref" in schema:
        return _fill(defs[schema["$ref"].rsplit("/", 1)[1]], defs, words)
    if "anyOf" in schema:
        return _fill(schema["anyOf"][0], defs, words)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object":
        return {name: _fill(part, defs, words) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        items = schema.get("prefixItems")
        if items:
            return [_fill(item, defs, words) for item in items]
        count = max(1, schema.get("minItems", 1))
        return [_fill(schema.get("items", {"type": "string"}), defs, words) for _ in range(count)]
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    if kind == "boolean":
        return False
    return " ".join(words[-3:])


class RuleServer:
    """Replies to each request with `rule`; `broken` texts get a reply that fits no schema; counts requests."""

    def __init__(self, rule: Rule = lambda name, schema, said: fill(schema, said)):
        self.rule = rule
        self.broken: set[str] = set()
        self.asked: list[str] = []  # names of the schemas, in order of arrival
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                data = json.dumps(server.reply(body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        said = "\n".join(message["content"] for message in body["messages"])
        form = body.get("response_format", {}).get("json_schema", {})
        with self._lock:
            self.asked.append(form.get("name", ""))
        if any(text in said for text in self.broken):
            content = "I would rather not."
        elif form:
            content = json.dumps(self.rule(form["name"], form["schema"], said))
        else:
            content = "tea"
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
            "usage": {
                "prompt_tokens": len(said) // 4,
                "completion_tokens": len(content) // 4,
                "total_tokens": (len(said) + len(content)) // 4,
            },
        }

    def close(self) -> None:
        """Stop listening."""
        self.http.shutdown()
        self.http.server_close()
