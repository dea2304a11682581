"""The benchmark of recall against bytes of state, tiny: rows, resume, the limit, the plot."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from recollect.benchmarks import state_recall as bench
from recollect.benchmarks.stories import KINDS
from recollect.cli.bench import app
from recollect.errors import Conflict, InvalidInput, Unavailable
from recollect.state.layers import layers, make_layer

TINY = bench.Setup(num_pairs=2, length=16, dim=16, batch_rows=4, num_steps=2, rates=(1e-2, 1e-3))


def test_rows_are_resumed_and_not_measured_again(tmp_path):
    saved = []
    first = bench.run(TINY, ["GRU"], limit_s=1e-9, save=lambda found: saved.append(len(found["rows"])))
    assert first["rows"] == []
    assert first["left_out"] == 4
    one = bench.run(TINY, ["GRU"])
    assert [(row["settings"]["state_size"], row["rate"]) for row in one["rows"]] == [
        (16, 1e-2),
        (64, 1e-2),
        (16, 1e-3),
        (64, 1e-3),
    ]
    assert [row["state_bytes"] for row in one["rows"]] == [2 * size * 4 for size in (16, 64, 16, 64)]
    done = []
    both = bench.run(TINY, ["GRU", "attention"], earlier=one, progress=lambda what, *_: done.append(what.split(":")[0]))
    assert done == ["attention", "attention"]
    assert both["rows"][:4] == one["rows"]
    assert both["rows"][-1]["state_bytes"] == 2 * (2 * 16 * 16 * 4 + 3 * 48 * 4 + 2 * 8)
    with pytest.raises(Conflict, match="setup: the earlier result was measured with"):
        bench.run(replace(TINY, seed=1), ["GRU"], earlier=one)
    console = Console(record=True, width=140)
    bench.show(both, console)
    assert "mqar, 16 tokens, 2 pairs; 2 blocks of width 16" in console.export_text()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert bench.plot(both, tmp_path).stat().st_size > 5000


def test_of_each_size_the_best_rate_counts():
    rows = [
        {
            "line": "GRU",
            "layer": "gru",
            "settings": {"state_size": 8},
            "rate": rate,
            "accuracy": right,
            "state_bytes": 1,
        }
        for rate, right in ((1e-2, 0.3), (1e-3, 0.9))
    ]
    rows.append({"line": "GRU", "layer": "gru", "settings": {"state_size": 9}, "rate": 1.0, "why_not": "diverged"})
    setup = {"num_pairs": 2, "rates": [1e-2, 1e-3]}
    assert [row["rate"] for row in bench.best({"rows": rows, "setup": setup})] == [1e-3]


def test_a_cut_run_leaves_a_fair_picture():
    found = bench.specs(replace(TINY, rates=(1e-3, 1e-2, 3e-3)))
    each = len(found) // 3
    assert [spec["rate"] for spec in found] == [3e-3] * each + [1e-3] * each + [1e-2] * each
    assert {spec["line"] for spec in found[:each]} == bench.entries(TINY).keys()
    assert [spec | {"rate": 0} for spec in found[:each]] == [spec | {"rate": 0} for spec in found[each : 2 * each]]
    slow = [number for number, spec in enumerate(found[:each]) if spec["layer"].startswith(bench.SLOW)]
    gaps = [two - one for one, two in zip([-1, *slow], [*slow, each], strict=True)]
    assert max(gaps) <= 2 * each / len(slow)


def test_a_model_that_has_learned_stops(monkeypatch):
    monkeypatch.setattr(bench, "ENOUGH", 100.0)
    row = bench.measure(replace(TINY, num_steps=90), {"line": "GRU", "layer": "gru", "settings": {}, "rate": 1e-3})
    assert row["steps"] == 50
    assert row["recorded"] is False
    assert "refused" not in row
    monkeypatch.setattr(bench, "ENOUGH", 0.0)
    assert (
        bench.measure(replace(TINY, num_steps=60), {k: row[k] for k in ("line", "layer", "settings", "rate")})["steps"]
        == 60
    )


def test_a_run_that_diverges_has_a_row_that_says_so(monkeypatch):
    def diverge(*_, **__):
        raise InvalidInput("learning_rate: the loss is nan at step 1; use a smaller one.")

    monkeypatch.setattr("recollect.benchmarks.state_tasks.teach", diverge)
    row = bench.measure(TINY, {"line": "GRU", "layer": "gru", "settings": {}, "rate": 1.0}, "cpu")
    assert row["why_not"].startswith("learning_rate: the loss is")


def test_every_entry_can_be_made_and_every_layer_that_generates_has_one():
    found = [entry for line in bench.entries(TINY).values() for entry in line]
    for layer, settings in found:
        make_layer(layer, 16, **settings)
    assert {layer for layer in layers().values() if layer.causal} == {layers()[layer] for layer, _ in found}


def test_every_line_can_be_named_in_a_list_of_names():
    """`--layers` is cut at commas."""
    names = list(bench.entries(TINY))
    assert not any("," in name for name in names)
    options = ["--pairs", "2", "--length", "16", "--width", "16", "--rows", "2", "--steps", "1", "--limit-s", "60"]
    made = CliRunner().invoke(app, ["recall", "--layers", "GRU, linear attention (Taylor)", *options, "--json"])
    assert made.exit_code == 0, made.output
    assert {row["line"] for row in json.loads(made.stdout)["rows"]} == {"GRU", "linear attention (Taylor)"}


def test_wrong_input_is_told():
    with pytest.raises(InvalidInput, match="task: 'sorting' is not known"):
        replace(TINY, task="sorting").make_task()
    with pytest.raises(InvalidInput, match="layers: 'gruu' is not known; use some of attention"):
        bench.run(TINY, ["gruu"])
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="device"):
            bench.run(TINY, device="cuda")
    for task in ("mqar", "selective-copying", "induction", "listops", *KINDS):
        assert 0 < bench.chance(replace(TINY, task=task)) <= 0.5
        replace(TINY, task=task, length=96).make_task()
