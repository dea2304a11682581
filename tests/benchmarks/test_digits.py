"""The pictures are what they say, and the split and the signs depend on the seed only."""

from __future__ import annotations

import pytest
import torch

from recollect.benchmarks.digits import Perceptron, load_digits, make_glyphs, noisy_prototypes, pretrain, small_vit


def test_the_digits_are_split_once_and_for_all():
    pytest.importorskip("sklearn", reason="the digits need scikit-learn: pip install 'recollect[learn]'")
    train, test = load_digits()
    assert (len(train), len(test)) == (1348, 449)
    assert train.tensors[0].shape == (1348, 1, 8, 8)
    assert float(train.tensors[0].max()) == 1.0
    assert set(test.tensors[1].tolist()) == set(range(10))
    again, _ = load_digits()
    assert torch.equal(train.tensors[0], again.tensors[0])
    assert not torch.equal(train.tensors[1], load_digits(seed=1)[0].tensors[1])
    whole = {tuple(row.flatten().tolist()) for part in (train, test) for row in part.tensors[0]}
    assert len(whole) == 1797  # no picture is in both parts


def test_copies_of_a_sign_are_more_alike_than_other_signs():
    pictures, labels = make_glyphs(8, 20).tensors
    assert pictures.shape == (160, 1, 8, 8)
    assert float(pictures.min()) >= 0
    assert float(pictures.max()) <= 1
    flat = pictures.flatten(1)
    means = torch.stack([flat[labels == each].mean(0) for each in range(8)])
    right = (torch.cdist(flat, means).argmin(1) == labels).float().mean()
    assert right > 0.7
    assert torch.equal(make_glyphs(3, 4).tensors[0], make_glyphs(3, 4).tensors[0])


def test_small_models_take_pictures_and_start_by_their_seed():
    pictures = make_glyphs(2, 2).tensors[0]
    assert Perceptron(width=8)(pictures).shape == (4, 10)
    assert small_vit(5, width=12, layers=1)(pictures).logits.shape == (4, 5)
    weights = [Perceptron(width=8, seed=seed).head.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_prototypes_are_the_class_means_with_noise():
    data = make_glyphs(3, 10)
    made = noisy_prototypes(data, 400, noise=0.2)
    assert made.tensors[1].tolist() == [0] * 400 + [1] * 400 + [2] * 400
    mean = data.tensors[0][data.tensors[1] == 1].mean(0)
    rest = made.tensors[0][400:800] - mean
    assert float(rest.mean(0).abs().max()) < 0.05
    assert float(rest.std()) == pytest.approx(0.2, rel=0.05)


def test_pretraining_learns():
    data = make_glyphs(3, 20)
    model = pretrain(Perceptron(width=16, classes=3), data, num_epochs=60, rate=1e-2)
    assert not model.training
    with torch.no_grad():
        assert (model(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean() > 0.9
