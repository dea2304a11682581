"""The comparison of methods, its costs, and TF-IDF as an embedder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from recollect.benchmarks import methods
from recollect.benchmarks.conversations import generate
from recollect.benchmarks.cost import percentiles_ms
from recollect.benchmarks.tfidf import TfIdf
from recollect.errors import InvalidInput


def test_methods_are_compared_on_the_same_questions(tmp_path, capsys):
    path = tmp_path / "made.json"
    made = next(iter(generate(1, 0)))
    made["qa"] = made["qa"][:6]
    path.write_text(json.dumps([made]), "utf-8")
    result = methods.compare(path, ["episodic", "scm"], embedder="hashing")
    one, other = result["methods"]["episodic"], result["methods"]["scm"]
    assert one["num_questions"] == other["num_questions"] > 0
    assert one["ingest"]["notes_per_episode"] == 0 < other["ingest"]["notes_per_episode"]
    assert other["ingest"]["bytes_per_episode"] > one["ingest"]["bytes_per_episode"] > 0
    assert one["recall_ms"]["p95"] >= one["recall_ms"]["p50"] > 0
    methods.show(result, Console())
    printed = capsys.readouterr().out
    assert "episodic" in printed
    assert "BM25" in printed


def test_names_of_methods():
    assert methods.names_of(None) == ["episodic"]
    assert methods.names_of("all")[0] == "episodic"
    assert methods.names_of("scm, episodic") == ["scm", "episodic"]
    with pytest.raises(InvalidInput, match="method: 'nope' is not known"):
        methods.names_of("scm,nope")


def test_percentiles():
    assert percentiles_ms([0.001, 0.002, 0.003])["p50"] == 2.0
    assert percentiles_ms([]) == {"p50": 0.0, "p95": 0.0}


def test_tfidf_prefers_rare_terms():
    texts = ["apple pear", "apple plum", "apple fig"]
    embedder = TfIdf(texts)
    vectors = embedder.embed([*texts, "apple fig", "unknown"]).vectors
    assert np.allclose(np.linalg.norm(vectors[:4], axis=1), 1)
    assert not vectors[4].any()
    assert (vectors[:3] @ vectors[3]).argmax() == 2
    assert embedder.name != TfIdf(["other"]).name
