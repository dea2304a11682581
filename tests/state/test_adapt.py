"""Adaptation: rows go on in their documents, training lowers the loss, a stopped run goes on exactly, the probe finds."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.adapt import Streams, adapt, suggest_memory_layer
from recollect.state.longmem import LongMem
from recollect.state.trainer import Plan

from .decoders import make_decoder, tokens

SETTINGS = {"segment_tokens": 8, "num_retrieved_tokens": 4, "chunk_tokens": 2, "memory_tokens": 32}


def documents() -> list[list[int]]:
    return [tokens(1, length, seed=length)[0].tolist() for length in (20, 33, 8, 5, 41)]


def test_rows_go_on_in_their_documents():
    given = documents()
    streams = iter(Streams(given, rows=2, segment_tokens=8, seed=3))
    read: list[list[list[int]]] = [[], []]
    for _ in range(20):
        ids, new = next(streams)
        assert ids.shape == (2, 8)
        for row in range(2):
            if row in new:
                read[row].append([])
            read[row][-1] += ids[row].tolist()
    finished = [text for row in read for text in row[:-1]]
    whole = [document[: len(document) // 8 * 8] for document in given if len(document) >= 8]
    assert finished
    assert all(text in whole for text in finished)
    with pytest.raises(InvalidInput, match="documents: none has the 50 tokens of a segment"):
        Streams(given, 2, 50)


def test_training_lowers_the_loss_and_touches_the_side_network_only():
    model = LongMem.from_backbone(make_decoder(), **SETTINGS)
    streams = Streams([[3, 4, 5, 6] * 20, [9, 8, 7] * 20], rows=2, segment_tokens=8)
    losses = adapt(model, streams, Plan(num_steps=30, learning_rate=1e-2, warmup_steps=3))
    assert losses[-1] < 0.6 * losses[0]
    assert len(model.memory) == 0
    with pytest.raises(InvalidInput, match="a segment of 8 tokens does not fit; use at most 6"):
        adapt(LongMem.from_backbone(make_decoder(), **SETTINGS | {"overlap_tokens": 2}), streams)


class Stopped(Exception):
    """A run that is cut off."""


@pytest.mark.parametrize("overlap", [0, 2])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, overlap):
    plan = Plan(num_steps=12, learning_rate=1e-2, warmup_steps=2, save_steps=5)

    def run(folder, stop=100):
        def progress(step: int, total: int, what: str) -> None:
            if step == stop:
                raise Stopped

        model = LongMem.from_backbone(make_decoder(), overlap_tokens=overlap, **SETTINGS)
        streams = Streams(documents(), rows=2, segment_tokens=6)
        return model, adapt(model, streams, plan, folder=folder, progress=progress)

    whole, losses = run(None)
    with pytest.raises(Stopped):
        run(tmp_path, stop=8)
    again, resumed = run(tmp_path)
    assert resumed == pytest.approx(losses, rel=1e-5)
    for ours, theirs in zip(again.side.parameters(), whole.side.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_without_the_bank_the_gates_stay_as_they_were():
    model = LongMem.from_backbone(make_decoder(), **SETTINGS)
    adapt(model, Streams(documents(), 2, 8), Plan(num_steps=3, weight_decay=0.0), use_memory=False)
    assert not model.side.attention.gate.any()


def test_the_probe_finds_the_layer_that_looks_up_what_was_read():
    from transformers import LlamaConfig, LlamaForCausalLM

    from recollect.benchmarks.testbed import start_with_induction

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        attention_bias=True,
        max_position_embeddings=256,
    )
    model = LlamaForCausalLM(config)
    start_with_induction(model)  # its second layer compares
    layer, found = suggest_memory_layer(model.eval(), num_tokens=64, rows=2)
    assert layer == 1
    assert found[1] > 5 * max(found[0], found[2], found[3])
