"""LongMem's claim: its rule on made rows, and the whole of it, both scales, on models and texts that take seconds."""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recollect.benchmarks.testbed import make_tokenizer
from recollect.claims import longmem
from recollect.claims.claim import Row, Setting

TINY = longmem.Size(32, 128, 2, 8, 2, 2, 1e-3, num_texts=2, num_train=3, num_lessons=1, num_words=8, num_chapters=1)


def rows(far=2.0, mismatch=0.0, lessons=0.6, other=3.0, coupled=0.5) -> dict[str, Row]:
    def row(name, **values):
        return Row(name, "system" if name == longmem.SYSTEM else "baseline", values)

    made = [
        row(longmem.SYSTEM, **{"far nats": far, "mismatch": mismatch, "lessons right": lessons}),
        row(longmem.OFF, **{"far nats": other, "lessons right": 0.3}),
        *(row(name, **{"far nats": 3.0}) for name in (longmem.OTHER, longmem.PLAIN, longmem.BACKBONE)),
        row(longmem.COUPLED, **{"far nats": 2.0, "mismatch": coupled}),
    ]
    return {each.name: each for each in made}


def test_the_rule():
    assert longmem.decide(rows())
    assert not longmem.decide(rows(far=2.95))
    assert not longmem.decide(rows(other=2.0))
    assert not longmem.decide(rows(lessons=0.35))
    assert not longmem.decide(rows(mismatch=0.1))
    assert not longmem.decide(rows(coupled=0.01))


def untrained() -> tuple[Any, Any]:
    """(model, tokenizer) as a testbed is before its training."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(512))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    made = untrained()
    monkeypatch.setattr(longmem, "testbed_of", lambda data, device, progress: made)


def test_the_small_scale_measures_every_row(monkeypatch):
    monkeypatch.setattr(longmem, "SMALL", replace(TINY, num_seeds=2))
    lines: list[str] = []
    found = {row.name: row for row in longmem.measure(Setting(), lines.append)}
    assert [name for name, row in found.items() if row.role == "system"] == [longmem.SYSTEM]
    far = {name: row.values["far nats"] for name, row in found.items()}
    assert far[longmem.SYSTEM] == pytest.approx(far[longmem.SYSTEM + longmem.OLD])
    assert far[longmem.SYSTEM] != pytest.approx(far[longmem.OFF])
    assert far[longmem.SYSTEM] != pytest.approx(far[longmem.OTHER])
    assert found[longmem.SYSTEM].values["mismatch"] == pytest.approx(0.0, abs=1e-5)
    assert found[longmem.COUPLED].values["mismatch"] != 0.0
    assert isinstance(longmem.decide(found), bool)
    assert "seed 1, LongMem, 2 of 2" in " ".join(lines)
    assert far[longmem.BACKBONE] > 0


def test_the_full_scale_reads_novels(tmp_path, monkeypatch):
    folder = tmp_path / "novels"
    folder.mkdir()
    body = "\nand then Anna said that it was late, and so did Ben, but Clara walked on to the harbour. " * 12
    text = "".join(f"\nCHAPTER {number}\n{body}" for number in range(10))
    for part in ("train", "valid", "test"):
        with lzma.open(folder / f"{part}.jsonl.xz", "wt") as file:
            file.write("".join(json.dumps({"title": str(each), "text": text[each:]}) + "\n" for each in range(2)))
    monkeypatch.setattr(longmem, "FULL", replace(TINY, text_tokens=256))
    monkeypatch.setattr(
        longmem, "far_names", lambda text, offsets, near, far: [number % 7 == 0 for number in range(len(offsets))]
    )
    found = {row.name: row for row in longmem.measure(Setting("full", data=tmp_path), lambda line: None)}
    ours = found[longmem.SYSTEM].values
    assert 0 <= ours["chapters right"] <= 1
    assert {"windows 0-1", "windows 1-4", "windows 4-16"} <= ours.keys()
    assert ours["windows 4-16"] != found[longmem.OFF].values["windows 4-16"]
