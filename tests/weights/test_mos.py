"""Merging, the search for the adapter, and the aligned head, each by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recollect.benchmarks.digits import make_glyphs, small_vit
from recollect.errors import InvalidInput
from recollect.weights.adapters import adapter_weights, add_adapters
from recollect.weights.batches import local_cross_entropy
from recollect.weights.learner import Learner
from recollect.weights.mos import MOS
from recollect.weights.streams import split_classes

from .conftest import assert_same, copies


def learned(method: MOS, num_tasks: int = 2):
    data = make_glyphs(2 * num_tasks, 12, seed=2)
    tasks = split_classes(data, data, 2)
    model = small_vit(2 * num_tasks, width=12, layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        add_adapters(model, bottleneck=4, scale=1.0, dropout=0.0)
    learner = Learner(
        model,
        [method],
        optimizer=lambda each: torch.optim.SGD(each, lr=0.05, momentum=0.9),
        objective=local_cross_entropy,
        batch_rows=12,
        num_epochs=3,
    )
    for task in tasks:
        learner.learn(task)
    return learner, tasks


def test_merging_goes_a_part_of_the_way_to_the_mean_of_the_finished_adapters():
    learner, _ = learned(method := MOS(merge=0.25, merges_a_step=2))
    name = next(iter(adapter_weights(learner.model)))
    finished = torch.stack([each[name] for each in method.state["adapters"]]).mean(0)
    with torch.no_grad():
        adapter_weights(learner.model)[name].add_(1.0)
    before = adapter_weights(learner.model)[name].detach().clone()
    method.after_step(learner, None)
    after = adapter_weights(learner.model)[name].detach()
    assert torch.allclose(after, finished + 0.75**2 * (before - finished), atol=1e-6)


def test_merging_all_the_way_leaves_one_adapter():
    _, _ = learned(method := MOS(merge=1.0))
    one, other = method.state["adapters"]
    assert_same(one, other)


def test_answers_change_nothing_and_come_from_the_adapter_that_they_name():
    learner, tasks = learned(method := MOS(ensemble=False))
    before = copies(learner.model)
    batch = next(learner.batches(tasks[1].test))
    logits = learner.predict(batch)
    assert_same(copies(learner.model), before)
    learner.model.eval()
    with torch.no_grad():
        found = method.search(learner, batch)
        for row in range(len(batch[1])):
            number = int(found["task"][row])
            part = [each[row : row + 1] for each in batch]
            plain = method.under(learner, number, lambda part=part: learner.model(part[0]).logits)
            assert torch.allclose(found["logits"][row], plain[0], atol=1e-5)
            if int(found["rounds"][row]) < method.num_rounds:
                assert int(plain.argmax()) // 2 == number  # the answer belongs to the adapter's own task
    assert torch.allclose(logits.exp(), found["logits"].softmax(1), atol=1e-6)


def test_the_ensemble_adds_prototypes_weighed_by_the_number_of_tasks():
    learner, tasks = learned(method := MOS())
    batch = next(learner.batches(tasks[0].test))
    logits = learner.predict(batch)
    learner.model.eval()
    with torch.no_grad():
        found = method.search(learner, batch)
        features = method.under(learner, 0, lambda: method.features(learner, batch))
    prototypes = torch.stack([method.state["prototypes"][label] for label in range(4)])
    cosines = F.cosine_similarity(features[:, None], prototypes, dim=2)
    assert torch.allclose(found["cosines"], cosines, atol=1e-5)
    assert torch.allclose(logits.exp(), found["logits"].softmax(1) + (2 * cosines).softmax(1), atol=1e-5)


def test_gaussians_have_the_moments_of_the_features():
    method = MOS(shrinkage=0.0)
    source = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 3, generator=source) @ torch.tensor(
        [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]
    )
    method._describe(features + 5.0, torch.zeros(2000, dtype=torch.long))
    drawn = method._draw(0, 20000, source)
    assert torch.allclose(drawn.mean(0), features.mean(0) + 5.0, atol=0.1)
    assert torch.allclose(torch.cov(drawn.T), torch.cov(features.T), atol=0.15)
    plain = MOS(gaussians="diagonal")
    plain._describe(features, torch.zeros(2000, dtype=torch.long))
    assert torch.allclose(plain._draw(0, 20000, source).var(0), features.var(0), rtol=0.1)


def test_the_features_are_pushed_away_from_the_means_of_other_classes():
    learner, tasks = learned(method := MOS(orthogonality=0.5))
    batch = next(learner.batches(tasks[0].test))
    with torch.no_grad():
        term = method.loss(learner, batch, torch.zeros(()))
        features = F.normalize(method.features(learner, batch), dim=1)
        firsts = torch.stack([features[batch[1] == each].mean(0) for each in (0, 1)])
        olds = torch.stack([method.state["means"][each] for each in (2, 3)])
        rows = F.normalize(torch.cat([olds, firsts]), dim=1)
        assert torch.allclose(term, 0.5 * F.cross_entropy(rows @ rows.T / 0.8, torch.arange(4)), atol=1e-5)


def test_alignment_lets_old_classes_speak():
    found = []
    for epochs in (0, 30):
        learner, tasks = learned(MOS(align_epochs=epochs, ensemble=False), num_tasks=3)
        found.append(sum(learner.evaluate(task) for task in tasks))
    assert found[1] > found[0]


def test_settings_without_sense_are_refused():
    with pytest.raises(InvalidInput, match="merge: 2"):
        MOS(merge=2)
    with pytest.raises(InvalidInput, match="head: the model has no linear layer"):
        MOS()._head(torch.nn.Identity())
