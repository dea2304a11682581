"""Embedders of others: endpoints that answer, fail or lie, and libraries."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.config import Settings
from recollect.errors import Unavailable
from recollect.store.adapters import OpenAIEmbedder
from recollect.store.embedders import embedder_from_settings, make_embedder

# An endpoint


class Endpoint:
    """An OpenAI-compatible server on loopback; `answer` may be replaced, and every request is kept."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None, dict[str, Any]]] = []
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] = self.vectors
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, self.headers["Authorization"], body))
                status, reply = endpoint.answer(body)
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    @staticmethod
    def vectors(body: dict[str, Any]) -> tuple[int, Any]:
        rows = [
            {"object": "embedding", "index": i, "embedding": [len(text), 2.0, 0.0]}
            for i, text in enumerate(body["input"])
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return 200, {"object": "list", "model": body["model"], "data": rows[::-1], "usage": usage}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()


def test_an_endpoint_is_asked_in_batches_and_answers_in_order(endpoint: Endpoint) -> None:
    embedder = OpenAIEmbedder("m", endpoint.url, "secret", batch_size=4)
    texts = ["x" * n for n in range(10)]
    found = embedder.embed(texts)
    wanted = np.array([[max(n, 1), 2.0, 0.0] for n in range(10)])
    assert np.allclose(found.vectors, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)
    posts = [body["input"] for path, key, body in endpoint.requests if len(body["input"]) > 1]
    assert [len(post) for post in posts] == [4, 4, 2]
    assert posts[0][0] == " "
    assert {(path, key) for path, key, _ in endpoint.requests} == {("/v1/embeddings", "Bearer secret")}
    assert (embedder.name, embedder.dim, embedder.has_tokens) == ("openai:m", 3, False)
    assert embedder.embed([]).vectors.shape == (0, 3)
    assert embedder.embed(["\ud800\0 hi"]).vectors.shape == (1, 3)


def test_an_endpoint_is_named_by_spec_environment_and_settings(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_embedder(f"openai:m@{endpoint.url}").dim == 3
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    assert make_embedder("openai:m").dim == 3
    settings = Settings(
        db="x", embedder="openai:m", embedder_base_url=endpoint.url + "/", embedder_api_key="from-settings"
    )
    assert embedder_from_settings(settings).dim == 3
    assert [key for _, key, _ in endpoint.requests] == [
        "Bearer none",
        "Bearer from-environment",
        "Bearer from-settings",
    ]
    assert embedder_from_settings(Settings(db="x", embedder="hashing")).name == "hashing-1"


def test_passing_failures_are_tried_again(endpoint: Endpoint) -> None:
    statuses = [429, 500, 200]
    endpoint.answer = lambda body: (s, {}) if (s := statuses.pop(0)) != 200 else Endpoint.vectors(body)
    assert OpenAIEmbedder("m", endpoint.url).dim == 3
    assert statuses == []


@pytest.mark.parametrize(
    ("status", "reply", "message"),
    [
        (401, {"error": {"message": "no"}}, r"'m' at http://127.* refused the key; set OPENAI_API_KEY"),
        (400, {"error": {"message": "unknown model"}}, r"answered with an error: .*unknown model"),
        (200, {"object": "list", "data": []}, r"returned 0 vectors for 2 texts"),
        (200, {"object": "list", "data": [{"index": i, "embedding": [1.0] * (i + 1)} for i in range(2)]}, "lengths"),
    ],
)
def test_an_endpoint_that_does_not_serve_says_why(endpoint: Endpoint, status: int, reply: Any, message: str) -> None:
    endpoint.answer = lambda body: Endpoint.vectors(body) if len(body["input"]) == 1 else (status, reply)
    with pytest.raises(Unavailable, match=message):
        OpenAIEmbedder("m", endpoint.url, max_retries=0).embed(["a", "b"])


def test_an_endpoint_that_is_not_there_says_so() -> None:
    with pytest.raises(Unavailable, match="does not answer; is the server running"):
        OpenAIEmbedder("m", "http://127.0.0.1:9/v1", max_retries=0).embed(["a"])
    with pytest.raises(Unavailable, match="needs a key in OPENAI_API_KEY, or a server's address"):
        OpenAIEmbedder("m")


# Libraries


def test_a_sentence_transformers_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    library = pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz.",
        *(f"##{c}" for c in "abcdefgh"),
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    modules = library.sentence_transformer.modules if hasattr(library, "sentence_transformer") else library.models
    encoder = modules.Transformer(str(tmp_path / "bert"))
    encoder.max_seq_length = 48
    pooling = modules.Pooling(16)
    library.SentenceTransformer(modules=[encoder, pooling], device="cpu").save(str(tmp_path / "model"))

    embedder = make_embedder(f"sentence-transformers:{tmp_path / 'model'}")
    assert embedder.name == f"sentence-transformers:{tmp_path / 'model'}"
    assert (embedder.dim, embedder.has_tokens) == (16, False)
    found = embedder.embed(["a b c", "", "\ud800"])
    assert found.vectors.shape == (3, 16)
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    text = "a b c d e. " * 20
    spans = embedder.split(text)
    assert spans[-1][1] == len(text)
    assert all(len(text[start:end].replace(".", " .").split()) <= 32 for start, end in spans)
    with pytest.raises(Unavailable, match="sentence-transformers cannot load"):
        make_embedder(f"sentence-transformers:{tmp_path / 'nothing'}")


def test_a_fastembed_model_that_is_not_known() -> None:
    pytest.importorskip("fastembed")
    with pytest.raises(Unavailable, match="fastembed cannot load 'no/such-model'"):
        make_embedder("fastembed:no/such-model")
