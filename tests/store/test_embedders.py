"""Embedders behind one protocol: hashing, libraries and endpoints, and the cutting of long texts that they share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.config import Settings
from recollect.errors import InvalidInput, Unavailable
from recollect.store import minilm
from recollect.store.embedders import (
    Embedder,
    HashingEmbedder,
    OpenAIEmbedder,
    embedder_from_settings,
    encodable,
    make_embedder,
    split_text,
)

# Making an embedder


def test_importing_needs_numpy_only() -> None:
    code = (
        "import sys; import recollect.store.embedders as e; e.make_embedder('hashing').embed(['a']); "
        "print([n for n in ('onnxruntime', 'tokenizers', 'openai', 'torch', 'safetensors', 'usearch') if n in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_none_is_the_best_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "missing", lambda: "not here")
    assert make_embedder(None).name == "hashing-1"


def test_recorded_names_are_specs_and_instances_pass() -> None:
    embedder = make_embedder("hashing")
    assert make_embedder(embedder.name).name == embedder.name
    assert make_embedder(embedder) is embedder
    assert isinstance(embedder, Embedder)


@pytest.mark.parametrize("spec", ["", "minilm:x", "openai:", "fastembed", "hashing:2", "word2vec"])
def test_unknown_specs_are_refused_with_the_list(spec: str) -> None:
    with pytest.raises(InvalidInput, match=r"embedder: .* is not known; use minilm, minilm-float32, hashing"):
        make_embedder(spec)


@pytest.mark.parametrize(
    ("module", "spec", "command"),
    [
        ("sentence_transformers", "sentence-transformers:some/model", "pip install sentence-transformers"),
        ("fastembed", "fastembed:some/model", "pip install fastembed"),
    ],
)
def test_missing_packages_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, module: str, spec: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unavailable, match=command):
        make_embedder(spec)


# Hashing


def test_hashing_is_the_same_in_every_process() -> None:
    texts = ["I moved to Lisbon in May.", "caf\u00e9 \u4f60\u597d"]
    code = (
        "import json, sys; from recollect.store.embedders import HashingEmbedder; "
        f"print(json.dumps(HashingEmbedder().embed({texts!a}).vectors.tolist()))"
    )
    outputs = {
        subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert np.array_equal(np.array(json.loads(outputs.pop()), np.float32), HashingEmbedder().embed(texts).vectors)


def test_hashing_finds_words_and_their_forms() -> None:
    texts = ["I moved to Lisbon in May", "My cat is called Biscuit", "We bake bread every Sunday"]
    vectors = HashingEmbedder().embed(texts).vectors
    for query, wanted in (("When did Ana move to Lisbon?", 0), ("the cats", 1), ("baking breads", 2)):
        assert int((vectors @ HashingEmbedder().embed([query], "query").vectors[0]).argmax()) == wanted


@given(st.lists(st.text(st.characters(codec=None), max_size=300), max_size=4))
def test_hashing_takes_any_text(texts: list[str]) -> None:
    found = HashingEmbedder().embed(texts)
    assert found.vectors.shape == (len(texts), HashingEmbedder.dim)
    assert found.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert found.tokens is None


# Cutting long texts


@given(st.text(st.sampled_from("ab .!?\n\u3002"), max_size=400), st.integers(1, 40), st.integers(1, 400))
def test_pieces_cover_any_text(text: str, max_units: int, window_chars: int) -> None:
    spans = split_text(text, max_units, lambda window: range(1, len(window) + 1), window_chars)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(end - start <= max_units for start, end in spans)
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start <= end < next_end


def test_pieces_end_at_sentences_else_at_words_else_anywhere() -> None:
    def cut(text: str) -> list[str]:
        return [text[a:b] for a, b in split_text(text, 20, lambda window: range(1, len(window) + 1), 21)]

    assert cut("One two three. Four five six.") == ["One two three. ", "Four five six."]
    assert cut("one two three four five six") == ["one two three four ", "five six"]
    assert cut("a" * 30) == ["a" * 20, "a" * 10]
    assert cut("A long sentence. B. Then another.") == ["A long sentence. B. ", "B. Then another."]


def test_lone_surrogates_are_replaced_in_place() -> None:
    assert encodable("a\ud800b\udfffc") == "a\ufffdb\ufffdc"
    assert encodable("caf\u00e9 \U0001f600") == "caf\u00e9 \U0001f600"


# An endpoint


class Endpoint:
    """An OpenAI-compatible server on loopback; `answer` may be replaced, and every request is kept."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None, dict[str, Any]]] = []
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] = self.vectors
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
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
