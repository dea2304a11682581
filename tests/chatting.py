"""A real HTTP server on loopback that speaks OpenAI's chat protocol, streaming too; it keeps what it was asked."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """Says `words`, or calls `tool` where the request has tools. status: of every reply; pause_s: between two words."""

    def __init__(self) -> None:
        self.words = ["You", " live", " in", " Lisbon", "."]
        self.status, self.pause_s, self.tool = 200, 0.0, False
        self.breaks_after: int | None = None  # words, after which the connection is cut
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.hung_up = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._json(
                    {"object": "list", "data": [{"id": "big", "object": "model", "created": 1, "owned_by": "us"}]}
                )

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(body)
                server.keys.append(self.headers.get("Authorization"))
                if server.status != 200:
                    said = f"no, {self.headers.get('Authorization')}"
                    self._json({"error": {"message": said, "type": "x", "param": None, "code": None}}, server.status)
                elif self.path.endswith("/embeddings"):
                    data = [{"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}]
                    self._json(
                        {"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
                    )
                elif body.get("stream"):
                    self._stream(body)
                else:
                    message: dict[str, Any] = {"role": "assistant", "content": "".join(server.words)}
                    if server.tool and body.get("tools"):
                        message = {"role": "assistant", "content": None, "tool_calls": [_call()]}
                    choice = {"index": 0, "finish_reason": "stop", "message": message}
                    self._json(_frame(body, "chat.completion", [choice]))

            def _json(self, data: Any, status: int = 200) -> None:
                content = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _stream(self, body: dict[str, Any]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                if server.breaks_after is not None:
                    self.send_header("Content-Length", "1000000")
                self.end_headers()
                try:
                    for number, word in enumerate(server.words):
                        if number == server.breaks_after:
                            return
                        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                        self._event(json.dumps(_frame(body, "chat.completion.chunk", [choice]), ensure_ascii=False))
                        time.sleep(server.pause_s)
                    self._event("[DONE]")
                except OSError:
                    server.hung_up.set()

            def _event(self, data: str) -> None:
                self.wfile.write(f"data: {data}\n\n".encode())
                self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.http.shutdown()
        self.http.server_close()


def _frame(body: dict[str, Any], kind: str, choices: list[Any]) -> dict[str, Any]:
    return {"id": "c1", "object": kind, "created": 1, "model": body["model"], "choices": choices}


def _call() -> dict[str, Any]:
    return {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
