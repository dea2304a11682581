"""The speed benchmark of layers with a state, tiny and on the CPU: its rows, its ratios, its limits."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from recollect.benchmarks import state_speed as bench
from recollect.errors import InvalidInput, Unavailable
from recollect.state import kernels
from recollect.state.layer import StateLayer

TINY = {"dim": 16, "num_heads": 2, "num_tokens": 32, "device": "cpu", "dtype": "float32"}


def test_layers_stand_beside_attention(tmp_path):
    result = bench.run(["LSTM", "linear attention"], [32, 16], **TINY)
    assert [(row["layer"], row["length"], row["rows"]) for row in result["rows"]] == [
        (layer, length, 32 // length) for layer in ("attention", "LSTM", "linear attention") for length in (16, 32)
    ]
    full, lstm = result["rows"][1], result["rows"][3]
    assert full["train_times"] == full["decode_times"] == 1.0
    assert lstm["train_times"] == round(lstm["train_tokens_s"] / full["train_tokens_s"], 3)
    assert full["state_bytes"] == 2 * 32 * 16 * 4 + 2 * 8
    assert lstm["state_bytes"] == 2 * 16 * 4
    console = Console(record=True, width=140)
    bench.show(result, console)
    assert "One layer of width 16 with 2 heads" in console.export_text()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert bench.plot(result, tmp_path).stat().st_size > 5000


def test_a_layer_stops_at_its_limit_and_says_why():
    rows = bench.run([], [16, 32], limit_s=0.0, **TINY)["rows"]
    assert rows[1]["why_not"] == "a step at 16 tokens took more than 0 s"


def test_nothing_is_begun_after_the_time_and_each_row_is_saved():
    saved = []
    result = bench.run(["LSTM"], [16, 32], total_s=0.0, save=lambda found: saved.append(len(found["rows"])), **TINY)
    assert [row["why_not"] for row in result["rows"]] == ["0 s were over"] * 4
    saved.clear()
    bench.run(["LSTM"], [16, 32], save=lambda found: saved.append(len(found["rows"])), **TINY)
    assert saved == [1, 2, 3, 4]


class Untrainable(StateLayer):
    """Reads, and fails where a gradient is wanted, or at 32 tokens, as a kernel may."""

    def __init__(self, dim):
        super().__init__(dim)
        self.weight = torch.nn.Parameter(torch.zeros(dim))

    def initial_state(self, num_rows=1):
        return {"memory": self.zeros(num_rows, 3)}

    def mix(self, x, state):
        if x.shape[1] == 32:
            raise KeyError("too long")
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("needs a terabyte")
        return x, state


def test_a_layer_that_fails_says_why_and_ends_nothing(monkeypatch):
    make = bench.make
    monkeypatch.setattr(bench, "make", lambda name, *sizes: Untrainable(16) if name == "LSTM" else make(name, *sizes))
    rows = bench.run(["LSTM", "MoM"], [16, 32, 64], **TINY)["rows"]
    assert rows[3]["train_why_not"] == "out of memory"
    assert rows[3]["state_bytes"] == 12
    assert rows[3]["decode_times"] > 0
    assert rows[4] == {"layer": "LSTM", "length": 32, "why_not": "KeyError: 'too long'"}
    assert rows[5]["why_not"] == "KeyError: 'too long'"
    assert "train_times" in rows[8]
    console = Console(record=True, width=140)
    bench.show(
        {
            "rows": rows,
            "layer": dict.fromkeys(("width", "heads", "tokens_a_step"), 1) | {"dtype": ""},
            "device": "cpu",
            "total_seconds": 1.0,
        },
        console,
    )
    assert "out of memory" in console.export_text()


def test_layers_with_kernels_are_measured_without_them_too(monkeypatch):
    monkeypatch.setattr(bench, "_library", lambda: "1.0")
    assert set(bench.layers()) == {*bench.LAYERS, *bench.PEERS, *(f"{name} (plain)" for name in bench.FUSED)}
    seen = []
    monkeypatch.setattr(bench, "_measure", lambda *given: seen.append(kernels._on.get()) or {})
    bench.run(["MoM", "MoM (plain)"], [16], **TINY)
    assert seen == [True, True, False]


def test_every_layer_can_be_made():
    for name in bench.layers():
        bench.make(name, 16, 2)


def test_wrong_input_is_told():
    with pytest.raises(InvalidInput, match="layers: 'gpt' is not known or not installed"):
        bench.run(["gpt"], [16], **TINY)
    with pytest.raises(InvalidInput, match="lengths: give at least one"):
        bench.run([], [], **TINY)
    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="device"):
            bench.run([], [16])
