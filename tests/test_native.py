"""What embeds reports nothing, and nothing loads it but through `recollect.native`."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import recollect

SOURCE = Path(recollect.__file__).parent
USES = {
    "the encoder": "from recollect.store.embedders import make_embedder; make_embedder('minilm').embed(['a'])",
    "a graph": "from recollect.store.approximate import make_index; make_index(8, 'cos', 'i8')",
    "a program that had it": "import onnxruntime; from recollect.native import load_onnxruntime as load; "
    "assert load() is onnxruntime",
}


def test_nothing_else_loads_it():
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [path.name for name in names if name.split(".")[0] in ("onnxruntime", "usearch")]
    assert found == ["native.py"] * 2


@pytest.mark.parametrize("use", ["the encoder", "a graph"])
def test_it_leaves_no_trace_of_a_session_that_would_be_reported(use, tmp_path):
    """A session is kept in the temporary folder, as a hidden file, as soon as the library loads by itself."""
    pytest.importorskip("onnxruntime")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["TMPDIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", USES[use]], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_had_it_is_told_to_stop():
    pytest.importorskip("onnxruntime")
    subprocess.run([sys.executable, "-c", USES["a program that had it"]], check=True)
