"""What all plots share: matplotlib without a screen, and files that come out the same from the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recollect.errors import Unavailable


def plotter() -> Any:
    """matplotlib's pyplot, drawing SVG. Raises Unavailable without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError:
        raise Unavailable('plots: matplotlib is not installed; `pip install "recollect[bench]"` brings it.') from None
    matplotlib.rcParams["svg.hashsalt"] = "recollect"
    return pyplot


def save(figure: Any, folder: Path, name: str) -> Path:
    """Write a figure as `name`.svg into `folder`, made as needed, and let go of it; the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plotter().close(figure)
    return path
