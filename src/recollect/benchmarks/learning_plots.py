"""Plots of continual learning: the matrix of scores, how each task fared along the stream, and curves of several learners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from recollect.benchmarks.plots import plotter, save
from recollect.weights.metrics import Scores


def draw_matrix(scores: Scores, folder: Path, name: str, title: str = "") -> Path:
    """R as a heat map with its figures, tasks trained downwards, tasks tested to the right; the file's path."""
    pyplot, count = plotter(), scores.num_trained
    cells = [[_score(scores, after, task) for task in range(len(scores.tasks))] for after in range(count)]
    figure, axes = pyplot.subplots(figsize=(1.6 + 0.9 * len(scores.tasks), 1.4 + 0.6 * count))
    axes.imshow(cells, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for after, row in enumerate(cells):
        for task, score in enumerate(row):
            if score == score:
                colour = "white" if score > 0.6 else "black"
                axes.text(task, after, f"{score:.2f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(scores.tasks)), scores.tasks, rotation=30, ha="right")
    axes.set_yticks(range(count), scores.tasks[:count])
    axes.set_xlabel("score on")
    axes.set_ylabel("after learning")
    axes.set_title(title)
    return save(figure, folder, name)


def draw_tasks(learners: Mapping[str, Scores], folder: Path, name: str) -> Path:
    """For each learner a panel: the score of every task after each task of the stream; the file's path."""
    pyplot = plotter()
    figure, panels = pyplot.subplots(1, len(learners), figsize=(4.2 * len(learners), 3.4), sharey=True, squeeze=False)
    for axes, (title, scores) in zip(panels[0], learners.items(), strict=True):
        steps = range(scores.num_trained)
        for task, label in enumerate(scores.tasks):
            axes.plot(steps, [_score(scores, after, task) for after in steps], marker="o", label=label)
        axes.set_xticks(steps, scores.tasks[: scores.num_trained], rotation=30, ha="right")
        axes.set_title(title)
        axes.set_xlabel("after learning")
    panels[0][0].set_ylabel("score")
    panels[0][0].legend(title="score on", fontsize="small")
    return save(figure, folder, name)


def draw_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    folder: Path,
    name: str,
    labels: tuple[str, str],
    logarithmic: bool = False,
) -> Path:
    """Curves by name, each (places, values), on one pair of axes; the file's path."""
    figure, axes = plotter().subplots(figsize=(6.0, 3.8))
    for label, (places, values) in curves.items():
        axes.plot(places, values, marker="o", markersize=3, label=label)
    if logarithmic:
        axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return save(figure, folder, name)


def _score(scores: Scores, after: int, task: int) -> float:
    """R[after, task], not a number when it was not measured."""
    return scores.get(after, task) if (after, task) in scores else float("nan")
