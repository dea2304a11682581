"""The speed benchmark of layers with a state, tiny and on the CPU: its rows, its ratios, its limits."""

from __future__ import annotations

import pytest
from rich.console import Console

from recollect.benchmarks import state_speed as bench
from recollect.errors import InvalidInput, Unavailable

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
    assert rows[1]["why_not"] == "16 tokens took more than 0 s"


def test_every_layer_can_be_made():
    for name in bench.layers():
        bench.make(name, 16, 2)


def test_wrong_input_is_told():
    with pytest.raises(InvalidInput, match="layers: 'gpt' is not known or not installed"):
        bench.run(["gpt"], [16], **TINY)
    with pytest.raises(InvalidInput, match="lengths: give at least one"):
        bench.run([], [], **TINY)
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="device"):
            bench.run([], [16])
