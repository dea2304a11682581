"""Plots come out the same from the same figures, and say how to get matplotlib."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recollect.benchmarks import plots
from recollect.errors import Unavailable


def test_the_same_figure_makes_the_same_file(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    written = []
    for name in ("one", "two"):
        figure, axes = plots.plotter().subplots()
        axes.plot([1, 2], [3, 4])
        written.append(plots.save(figure, tmp_path / "new", name).read_bytes())
    assert written[0] == written[1]
    assert not plots.plotter().get_fignums()


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Unavailable, match="recollect\\[bench\\]"):
        plots.plotter()


def test_losses_are_drawn_one_line_a_run(tmp_path: Path):
    path = plots.losses({"one": [3.0, 2.0, 1.0], "two": [3.0]}, tmp_path)
    assert path.name == "loss.svg"
    assert path.stat().st_size > 3000
    assert path.read_bytes() == plots.losses({"one": [3.0, 2.0, 1.0], "two": [3.0]}, tmp_path).read_bytes()
