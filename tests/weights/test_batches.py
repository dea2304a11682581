"""Batches of both kinds are cut, joined, masked and weighed alike."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from recollect.weights.batches import (
    aligned,
    cross_entropy,
    forward,
    join,
    logits_of,
    mask_absent,
    move,
    num_rows,
    only,
    row_losses,
    rows_of,
    select,
)


def test_pairs_and_dicts_are_cut_and_joined_alike():
    pair = [torch.arange(6).reshape(3, 2), torch.tensor([0, 1, 2])]
    dicts = {"input_ids": pair[0], "labels": pair[1]}
    for batch in (pair, dicts, tuple(pair)):
        assert num_rows(join(batch, batch)) == 6
        assert num_rows(select(batch, slice(1))) == 1
        assert type(move(batch, "cpu")) is type(batch)
    assert join(dicts, select(dicts, torch.tensor([2])))["labels"].tolist() == [0, 1, 2, 2]


def test_rows_are_collated_or_indexed():
    data = [(torch.tensor([float(each)]), each) for each in range(4)]
    inputs, labels = rows_of(data, [3, 1])
    assert inputs.tolist() == [[3.0], [1.0]]
    assert labels.tolist() == [3, 1]
    inputs, labels = rows_of(torch.utils.data.TensorDataset(torch.eye(3), torch.arange(3)), [2])
    assert inputs.tolist() == [[0.0, 0.0, 1.0]]


def test_texts_are_scored_on_the_next_token_and_ignored_ones_are_left_out():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    batch = {"labels": torch.tensor([[1, 2, 3, 4], [0, 1, -100, -100]])}
    side, labels = aligned(logits, batch)
    assert side.shape == (2, 3, 5)
    assert labels.tolist() == [[2, 3, 4], [1, -100, -100]]
    log = logits.log_softmax(-1)
    by_hand = [-(log[0, 0, 2] + log[0, 1, 3] + log[0, 2, 4]) / 3, -log[1, 0, 1]]
    assert torch.allclose(row_losses(logits, batch), torch.stack(by_hand))
    mean = -(log[0, 0, 2] + log[0, 1, 3] + log[0, 2, 4] + log[1, 0, 1]) / 4
    assert torch.allclose(cross_entropy(logits, batch), mean)


def test_a_models_own_loss_is_taken_at_its_word():
    outputs = SimpleNamespace(loss=torch.tensor(3.0), logits=torch.zeros(1, 2))
    assert cross_entropy(outputs, [None, torch.tensor([0])]) == 3.0
    assert logits_of(outputs).shape == logits_of((outputs.logits, 1)).shape
    assert forward(torch.nn.Identity(), [torch.ones(2), None]).tolist() == [1.0, 1.0]


def test_masked_losses_equal_those_over_fewer_classes():
    logits, labels = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 3, 3, 1])
    fewer = torch.nn.functional.cross_entropy(logits[:, [1, 3]], torch.tensor([0, 1, 1, 0]))
    assert float(mask_absent(logits, [None, labels])) == pytest.approx(float(fewer), abs=1e-6)
    assert only(logits, [2]).argmax(1).tolist() == [2] * 4
