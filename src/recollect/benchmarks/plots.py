"""What all plots share: matplotlib without a screen, and files that come out the same from the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def losses(runs: Mapping[str, Sequence[float]], folder: Path, name: str = "loss", kept: float = 0.95) -> Path:
    """Draw the loss of each step of each run, averaged with `kept` of the average before, as `name`.svg in `folder`."""
    figure, axes = plotter().subplots(figsize=(6.5, 4))
    for label, found in runs.items():
        smooth = list(found[:1])
        for loss in found[1:]:
            smooth.append(kept * smooth[-1] + (1 - kept) * loss)
        axes.plot(range(1, len(smooth) + 1), smooth, label=label)
    axes.set(xlabel="step", ylabel="loss, nats")
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    return save(figure, folder, name)
