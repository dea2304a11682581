"""The likelihood is one, nothing sees its future, and prompts are retrieved by what has been seen."""

from __future__ import annotations

import pytest
import torch

from recollect.benchmarks.hawkes import Hawkes
from recollect.errors import InvalidInput
from recollect.weights.learner import Learner
from recollect.weights.prompttpp import Asynchronous, PoolSettings, PromptTPP, TemporalPromptPool

from .conftest import MadeTask

POOL = PoolSettings(num_entries=4, prompt_length=2, num_retrieved=2)


def tiny(pool: PoolSettings | None = POOL, **options) -> PromptTPP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PromptTPP(3, dim=6, time_dim=4, num_layers=2, num_heads=2, pool=pool, **{"num_points": 4} | options)


@pytest.fixture(scope="module")
def rows():
    return Hawkes.random(3, 0).simulate(8, 7, seed=0)


@pytest.mark.parametrize("pool", [None, POOL])
@torch.no_grad()
def test_a_rate_depends_on_earlier_events_only(pool, rows):
    model, (times, types) = tiny(pool), (rows.tensors["times"], rows.tensors["types"])
    asked = times[:, 3:4]
    before = model.intensity(times, types, asked)
    later_times, later_types = times.clone(), types.clone()
    later_times[:, 3:] += torch.arange(1.0, 5.0)
    later_types[:, 3:] = (types[:, 3:] + 1) % 3
    assert torch.allclose(model.intensity(later_times, later_types, asked), before, atol=1e-6)
    changed = types.clone()
    changed[:, 2] = (types[:, 2] + 1) % 3
    assert not torch.allclose(model.intensity(times, changed, asked), before, atol=1e-6)
    alone = model.intensity(times[:1], types[:1], asked[:1])
    assert torch.allclose(alone, before[:1], atol=1e-6)  # neighbours in the batch do not matter


@torch.no_grad()
def test_the_loss_is_the_point_process_likelihood(rows):
    model, times, types = tiny(None, num_points=400), rows.tensors["times"][:1], rows.tensors["types"][:1]
    fine = torch.linspace(0, float(times[0, -1]), 8001)
    middle = (fine[1:] + fine[:-1]) / 2
    integral = model.intensity(times, types, middle[None]).sum(-1).mean() * times[0, -1]
    own = model.intensity(times, types, times)[0].gather(-1, types[0][:, None]).log().sum()
    assert float(model.nll(times, types)) == pytest.approx(float(integral - own) / 7, abs=1e-3)


@torch.no_grad()
def test_padding_counts_nothing(rows):
    model, times, types = tiny(), rows.tensors["times"], rows.tensors["types"]
    mask = torch.ones_like(types, dtype=torch.bool)
    mask[:, 5:] = False
    padded_times, padded_types = times.clone(), types.clone()
    padded_times[:, 5:], padded_types[:, 5:] = 0.0, 0
    short = model.nll(times[:, :5], types[:, :5])
    assert float(model.nll(padded_times, padded_types, mask)) == pytest.approx(float(short), abs=1e-5)


def test_the_nearest_keys_are_retrieved():
    pool = TemporalPromptPool(PoolSettings(3, 2, 2), dim=2, time_dim=2)
    with torch.no_grad():
        pool.keys.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [1.0, 1.0, 0, 0]]))
    chosen, likeness = pool.retrieve(torch.tensor([[[2.0, 0.5, 0, 0]]]))
    assert chosen.tolist() == [[[True, False, True]]]
    cosines = torch.nn.functional.cosine_similarity(torch.tensor([2.0, 0.5, 0, 0]), pool.keys, dim=1)
    assert float(likeness.detach()) == pytest.approx(float(cosines[[0, 2]].mean().detach()), abs=1e-6)


def test_prompts_are_keys_and_values_joined_with_the_next_time():
    """One head by the plain formula: prompts [P; z] put through the same projections as events."""
    from recollect.weights.prompttpp import _Attention

    layer = _Attention(3, 2, PoolSettings(2, 2, 1))
    asked, events, code = torch.randn(1, 1, 5), torch.randn(1, 4, 5), torch.randn(1, 1, 2)
    sees = torch.tensor([[[True, True, False, True]]])
    ours = layer(asked, events, sees, code)
    entry = int(layer.chosen[0, 0].nonzero())
    part = slice(2 * entry, 2 * entry + 2)
    spread = code[0].expand(2, 2)
    keys = torch.cat([layer.pool.for_keys[part], spread], 1)
    values = torch.cat([layer.pool.for_values[part], spread], 1)
    seen = events[0][sees[0, 0]]
    scores = layer.query(asked[0]) @ layer.key(torch.cat([seen, asked[0], keys])).T / 5**0.5
    by_hand = scores.softmax(-1) @ layer.value(torch.cat([seen, asked[0], values]))
    assert torch.allclose(ours[0], by_hand, atol=1e-5)


def test_it_learns_with_a_learner_and_prompts_learn_in_every_second_step(rows):
    model = tiny()
    task = MadeTask("one", rows, rows)
    start = {name: each.detach().clone() for name, each in model.named_parameters()}
    moved: list[tuple[bool, bool]] = []

    def note(learner: Learner) -> None:
        now = dict(model.named_parameters())
        moved.append(tuple(not torch.equal(now[name], start[name]) for name in names))
        start.update({name: each.detach().clone() for name, each in now.items()})

    names = ("heads.0.0.pool.for_keys", "heads.0.0.query.weight")
    learner = Learner(
        model,
        [Asynchronous(2)],
        optimizer=lambda each: torch.optim.SGD(each, lr=0.1),
        batch_rows=8,
        num_epochs=4,
        score=lambda learner, task: -float(learner.model(**next(learner.batches(task.test))).nll),
    )
    before = learner.evaluate(task)
    assert learner.learn(task, progress=note)["one"] > before
    assert moved == [(True, True), (False, True)] * 2


@torch.no_grad()
def test_the_next_event_of_a_steady_rate_is_its_mean_gap_away():
    model = tiny(None)
    model.rates.weight.zero_()
    model.rates.bias.copy_(torch.tensor([-9.0, 2.0, -9.0]))  # softplus(2) = 2.127 events a unit of time
    times, types = torch.arange(1.0, 8.0)[None], torch.zeros(1, 7, dtype=torch.long)
    when, what = model.predict_next(times, types, num_points=2000)
    assert float(when) == pytest.approx(7 + 1 / 2.127, abs=0.02)
    assert int(what) == 1


def test_usage_says_which_entries_were_retrieved(rows):
    used = tiny().usage(rows.tensors["times"], rows.tensors["types"])
    assert used.shape == (2, 2, 8, 4)
    assert (used.sum(-1) == 2).all()
    with pytest.raises(InvalidInput, match="pool: this model has none"):
        tiny(None).usage(rows.tensors["times"], rows.tensors["types"])
    with pytest.raises(InvalidInput, match="time_dim: 3 is odd"):
        PromptTPP(2, time_dim=3)
