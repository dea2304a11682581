"""The speed benchmark of context policies on a tiny model on the CPU: its rows, its ratios, its limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("torch", reason="torch is not installed")
import torch

from recollect.benchmarks import context_speed, full_speed
from recollect.errors import InvalidInput, Unavailable


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(full_speed, "DECODE_STEPS", 12)


TINY = {"num_layers": 1, "device": "cpu", "dtype": "float32", "width": 64}


def test_policies_stand_beside_full_attention(tmp_path: Path):
    result = context_speed.run(["lm-infinite", "infllm"], [64, 32], **TINY)
    assert [(row["method"], row["length"]) for row in result["rows"]] == [
        (method, length) for method in ("full", "lm-infinite", "infllm") for length in (32, 64)
    ]
    full, bounded = result["rows"][1], result["rows"][3]
    assert full["device_bytes"] == 2 * 64 * 64 * 4  # keys and values, tokens, width, bytes
    assert full["decode_ms"] == min(full["decode_copying_ms"], full["decode_static_ms"])
    assert bounded["decode_times"] == round(full["decode_ms"] / bounded["decode_ms"], 2)
    assert bounded["smaller_times"] == round(full["device_bytes"] / bounded["device_bytes"], 2)
    assert bounded["settings"]["window_tokens"] == 4096
    console = Console(record=True, width=140)
    context_speed.show(result, console)
    assert "1 layers of a Llama of width 64" in console.export_text()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert context_speed.plot(result, tmp_path).stat().st_size > 5000


def test_of_several_rows_full_attention_gets_as_many_as_fit(monkeypatch):
    tried, measured = [], full_speed._full_row

    def full_row(model, ids):
        tried.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError
        return measured(model, ids)

    monkeypatch.setattr(full_speed, "_full_row", full_row)
    full, bounded = context_speed.run(["lm-infinite"], [32], num_rows=5, **TINY)["rows"]
    assert tried == [5, 2]
    assert (full["rows"], bounded["rows"]) == (2, 5)
    assert bounded["decode_times"] == round(full["decode_ms"] / 2 / (bounded["decode_ms"] / 5), 2)
    assert bounded["smaller_times"] == round(full["device_bytes"] / 2 / (bounded["device_bytes"] / 5), 2)


def test_what_fits_nowhere_says_so(monkeypatch):
    def full_row(model, ids):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(full_speed, "_full_row", full_row)
    result = context_speed.run(["lm-infinite"], [16, 32], num_rows=2, **TINY)
    assert [row.get("why_not") for row in result["rows"]] == ["out of device memory"] * 2 + [None] * 2
    assert result["rows"][-1]["decode_times"] is None
    console = Console(record=True, width=80)
    context_speed.show(result, console)
    assert "lm-infinite " in console.export_text()


def test_steps_of_decoding_leave_the_stream_as_it_was():
    """What is read after a stop is what would have been read without it."""
    one = context_speed.run(["sliding-window"], [16, 48], **TINY)["rows"][-1]
    two = context_speed.run(["sliding-window"], [48], **TINY)["rows"][-1]
    assert one["device_bytes"] == two["device_bytes"]
    assert one["attended_tokens"] == two["attended_tokens"] == 48


def test_look_ups_of_block_memories_change_as_they_are_told(monkeypatch):
    from recollect.context.infllm import InfLLM

    small = {
        "num_first_tokens": 4,
        "window_tokens": 64,
        "block_tokens": 8,
        "num_blocks": 10,
        "num_cached_blocks": 10,
        "chunk_tokens": 64,
        "look_up_tokens": 4,
    }
    assert context_speed.looks_up("infllm")
    assert not context_speed.looks_up("lm-infinite")
    found = {}
    for copied in (0.0, 0.5):
        rows = context_speed.run(["infllm"], [512], settings={"infllm": small}, copied=copied, **TINY)["rows"]
        assert isinstance(InfLLM(**rows[1]["settings"]), InfLLM)
        found[copied] = rows[1]["decode_tokens_copied"] / rows[1]["decode_tokens_chosen"]
    assert found[0.0] == 0.0  # what was found while reading lies there
    assert 0.4 <= found[0.5] <= 0.5  # and the first look-up copies nothing


def test_settings_are_read_and_wrong_ones_refused():
    keys = ["infllm", "lm-infinite", "rapid"]
    given = ["infllm.num_blocks=32", "infllm.replacement=lru", "infllm.decay=0.5", "lm-infinite.window_tokens=2048"]
    assert context_speed.parse_settings(given, keys) == {
        "infllm": {"num_blocks": 32, "replacement": "lru", "decay": 0.5},
        "lm-infinite": {"window_tokens": 2048},
    }
    for wrong, told in (
        ("em-llm.gamma=1", "names no policy that is measured"),
        ("rapid.transfer=1", "names no policy that is measured"),
        ("num_blocks=32", "names no policy that is measured"),
        ("infllm.blocks=32", "infllm has no setting 'blocks'; it has chunk_tokens, num_first_tokens"),
        ("infllm.num_blocks=many", r"infllm.num_blocks is 'many'; give a number \(int\)"),
        ("infllm.num_blocks", r"infllm.num_blocks is ''; give a number \(int\)"),
    ):
        with pytest.raises(InvalidInput, match=f"^set: .*{told}"):
            context_speed.parse_settings([wrong], keys)


def test_a_method_stops_at_its_limits_and_says_why():
    rows = context_speed.run(["lm-infinite"], [16, 32], limits={"lm-infinite": 16, "full": 16}, **TINY)["rows"]
    assert [row.get("why_not") for row in rows] == [None, "not asked for"] * 2
    slow = context_speed.run(["lm-infinite"], [16, 32], limit_s=0.0, **TINY)["rows"]
    assert slow[1]["why_not"].startswith("16 tokens took")
    assert slow[2]["why_not"].startswith("stopped at 0 tokens")


def test_wrong_input_is_told():
    with pytest.raises(InvalidInput, match="lengths"):
        context_speed.run([], [], **TINY)
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="device"):
            context_speed.run([], [16], 1)


def test_every_policy_of_the_catalogue_can_be_measured():
    assert {"infllm", "em-llm", "streaming-llm"} <= set(context_speed.policies())
