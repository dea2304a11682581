"""Continual pre-training: rates along the schedules, rows exchanged at equal cost, and the Trainer of transformers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import TensorDataset

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput
from recollect.weights.continual_pretraining import (
    Anneal,
    Constant,
    ContinualPretraining,
    InfiniteRate,
    ReplayMix,
    RewarmCosine,
    for_trainer,
)
from recollect.weights.learner import Learner
from recollect.weights.texts import text_rows
from words import tokenizer as make_tokenizer

from .conftest import make_net, make_tasks


def test_rewarming_starts_anew_for_each_corpus_and_ends_at_the_floor():
    schedule = RewarmCosine(peak=1.0, floor=0.1, warmup_share=0.1)
    rates = [schedule.rate(step, 100, 0) for step in range(100)]
    assert rates[:10] == pytest.approx([each / 10 for each in range(1, 11)])
    assert max(rates) == 1.0
    assert rates[55] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 0.5)))
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert [schedule.rate(step, 100, 500) for step in range(100)] == rates


@pytest.mark.parametrize("shape", ["cosine", "rsqrt"])
def test_an_infinite_schedule_warms_cools_and_stays_over_corpora(shape):
    schedule = InfiniteRate(peak=1.0, constant=0.5, warmup_steps=10, cooldown_steps=40, shape=shape)
    rates = [schedule.rate(step, 30, 0) for step in range(30)] + [schedule.rate(step, 60, 30) for step in range(60)]
    assert rates[9] == 1.0
    assert rates[10:51] == sorted(rates[10:51], reverse=True)
    assert rates[51:] == pytest.approx([0.5] * 39)
    assert rates[30] == pytest.approx(0.5 + 0.25 if shape == "cosine" else 1 - 0.5 * (1 - 6**-0.5) / (1 - 11**-0.5))


def test_annealing_falls_along_an_exponential_to_a_floor_above_zero():
    schedule = InfiniteRate(constant=0.5).annealing(0.005)
    rates = [schedule.rate(step, 10, 99) for step in range(10)]
    assert rates[-1] == pytest.approx(0.005)
    assert rates[4] == pytest.approx(0.05)
    with pytest.raises(InvalidInput, match="floor: 0"):
        Anneal(0.1, 0)


def test_the_learner_gets_the_rate_of_each_step():
    seen = []
    method = ContinualPretraining(schedule=RewarmCosine(peak=0.1, floor=0.01, warmup_share=0.25))
    learner = Learner(make_net(), [method], batch_rows=8, num_steps=8)
    for task in make_tasks():
        learner.learn(task, progress=lambda each: seen.append(each.optimizer.param_groups[0]["lr"]))
    assert seen[:8] == seen[8:]
    assert seen[:2] == [0.05, 0.1]


def test_rows_of_earlier_corpora_take_the_place_of_new_ones():
    batches = []

    class Watch(ContinualPretraining):
        def before_step(self, learner, batch):
            batches.append(super().before_step(learner, batch))
            return batches[-1]

    learner = Learner(make_net(), [Watch(share=0.5, schedule=Constant(0.01))], batch_rows=24, num_steps=10)
    for task in make_tasks():
        learner.learn(task)
    old = [[int(label) < 2 for label in labels] for _, labels in batches]
    assert all(len(rows) == 24 for rows in old)
    assert all(all(rows) for rows in old[:10])
    share = sum(sum(rows) for rows in old[10:]) / 240
    assert 0.35 < share < 0.65


def test_a_mix_has_the_new_data_sets_length_and_is_drawn_by_its_seed():
    new, old, older = (TensorDataset(torch.full((size,), value)) for size, value in ((400, 0), (100, 1), (300, 2)))
    mix = ReplayMix(new, [old, older], share=0.25, seed=3)
    values = [int(mix[place][0]) for place in range(len(mix))]
    assert len(values) == 400
    assert values == mix.sources.tolist() == ReplayMix(new, [old, older], share=0.25, seed=3).sources.tolist()
    assert 0.15 < sum(value > 0 for value in values) / 400 < 0.35
    assert values.count(2) > values.count(1)
    assert not any(ReplayMix(new, [], share=0.5).sources)
    with pytest.raises(InvalidInput, match="share: 2"):
        ReplayMix(new, [old], share=2)


def test_it_works_with_the_trainer_of_transformers(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    from transformers import Trainer, TrainingArguments

    tokenizer = make_tokenizer()
    model = tiny_decoder(len(tokenizer), width=16, inner=16, heads=2)
    rows = text_rows(tokenizer, ["ana lives in the red town"] * 8, 6)
    mix = ReplayMix(rows, [rows], share=0.5)
    schedule = RewarmCosine(peak=0.01, floor=0.001, warmup_share=0.5)
    optimizers = for_trainer(model.parameters(), schedule, steps=4)
    options = TrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, options, train_dataset=mix, optimizers=optimizers)
    trainer.train()
    rates = [each["learning_rate"] for each in trainer.state.log_history if "learning_rate" in each]
    assert rates == pytest.approx([schedule.rate(step, 4, 0) for step in range(4)])
