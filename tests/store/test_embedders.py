"""Embedders behind one protocol: making one, hashing, and the cutting of long texts that they share."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.errors import InvalidInput, Unavailable
from recollect.store import embedders, minilm
from recollect.store.embedders import (
    Embedder,
    HashingEmbedder,
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


def plain_hashing(text: str) -> np.ndarray:
    """The specification: every feature by its name, one at a time."""
    vector = np.zeros(HashingEmbedder.dim)

    def add(feature: str, weight: float) -> None:
        code = zlib.crc32(feature.encode())
        vector[code % HashingEmbedder.dim] += weight if code >> 31 else -weight

    words = [word[:64] for word in re.findall(r"\w+", text.lower())]
    for word in words:
        weight = 0.1 if word in embedders._COMMON else 1.0
        grams = [f"<{word}>"[i : i + size] for size in (3, 4, 5) for i in range(len(word) + 3 - size)]
        add(f"w{word}", weight)
        for gram in grams:
            add(f"g{gram}", weight / len(grams) ** 0.5)
    for first, second in pairwise(words):
        add(f"p{first} {second}", (0.5, 0.2, 0.05)[(first in embedders._COMMON) + (second in embedders._COMMON)])
    vector = np.sign(vector) * np.sqrt(np.abs(vector))
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    "text", ["I", "I moved to Lisbon in May, to Lisbon!", "caf\u00e9 \u4f60\u597d " + "x" * 90 + " of it"]
)
def test_hashing_equals_the_readable_twin(text: str) -> None:
    assert np.allclose(HashingEmbedder().embed([text]).vectors[0], plain_hashing(text), atol=1e-6)


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
