"""Results are written as JSON, in folders made as needed, and what cannot be written is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recollect.benchmarks.provenance import write_json
from recollect.errors import InvalidInput


def test_results_are_written_as_json(tmp_path: Path):
    path = tmp_path / "results" / "some.json"
    write_json({"who": "Zo\u00eb", "right": 0.5}, path)
    assert json.loads(path.read_text("utf-8")) == {"who": "Zo\u00eb", "right": 0.5}
    with pytest.raises(InvalidInput, match=r"output: .* cannot be written"):
        write_json({}, path / "below.json")
