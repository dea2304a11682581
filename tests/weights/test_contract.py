"""The contract of the home: what every method in the catalogue holds to, on a tiny model."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest
import torch

from recollect import weights
from recollect.catalogue import SYSTEMS
from recollect.weights.delta import Deltas
from recollect.weights.gss import GSS
from recollect.weights.learner import Learner
from recollect.weights.mas import TaskFreeMAS
from recollect.weights.method import Method
from recollect.weights.mir import MIR
from recollect.weights.rehearsal_free import RehearsalFree
from recollect.weights.scole import FrequencyReplay
from recollect.weights.unified import Unified

from .conftest import assert_same, copies, make_net, make_tasks


def _methods() -> list[type[Method]]:
    """Every method of the home, in the catalogue or not."""
    found = []
    for info in pkgutil.iter_modules(weights.__path__):
        module = import_module(f"recollect.weights.{info.name}")
        parts = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Method)]
        found += [each for each in parts if each.__module__ == module.__name__ and each is not Method]
    return found


METHODS = _methods()
CASES = [  # every method with its defaults, and settings that reach what the defaults leave out
    *METHODS,
    lambda: RehearsalFree(prediction=0.5, features=0.1, l2=0.1, ewc=1.0, fisher_rows=4),
    *(Unified.er, Unified.derpp, Unified.lwf, Unified.fdr, Unified.cpr, Unified.ewc, Unified.l2, Unified.vcl),
    Unified.natural,
    lambda: TaskFreeMAS(plateau_mean=10.0, plateau_variance=10.0, window=2),
    lambda: MIR(num_candidates=12, share=0.3),
    lambda: FrequencyReplay(low=0.0, high=1.0, min_visits=1, rows_a_class=4),
    lambda: GSS(capacity=6, threshold=1.0, num_references=2),
]


def test_every_method_of_the_catalogue_is_held_to_it():
    targets = {f"{each.__module__}:{each.__name__}" for each in METHODS}
    assert {
        entry.target for entry in SYSTEMS if entry.home == "weights" and issubclass(_class(entry.target), Method)
    } <= targets


def _class(target: str) -> type:
    module, name = target.split(":")
    return getattr(import_module(module), name)


class Stop(Exception):
    """Raised to break a run off."""


def make_learner(*methods: Method, seed: int = 0, **options) -> Learner:
    optimizer = torch.optim.Adam
    return Learner(
        make_net(), methods, optimizer=lambda each: optimizer(each, lr=0.01), batch_rows=8, seed=seed, **options
    )


def learned(learner: Learner):
    for task in make_tasks():
        learner.learn(task)
    return copies(learner.model)


@pytest.fixture(scope="module")
def plain():
    learner = make_learner()
    return learned(learner), learner.scores


@pytest.mark.parametrize("method", METHODS)
def test_with_strength_zero_it_is_plain_training_bit_for_bit(method, plain):
    learner = make_learner(method.idle())
    assert_same(learned(learner), plain[0])
    assert learner.scores == plain[1]


@pytest.mark.parametrize("method", CASES)
def test_an_interrupted_run_equals_one_that_was_not(method, tmp_path):
    whole = make_learner(method())
    expected = learned(whole)
    broken, tasks = make_learner(method()), make_tasks()
    broken.learn(tasks[0])

    def stop(learner: Learner) -> None:
        if learner.step == 2:
            learner.save(tmp_path)
            raise Stop

    with pytest.raises(Stop):
        broken.learn(tasks[1], progress=stop)
    fresh = make_learner(method())
    with torch.no_grad():
        fresh.model.head.weight.zero_()
    fresh.load(tmp_path)
    fresh.learn(tasks[1], evaluate=tasks)
    assert_same(copies(fresh.model), expected)
    assert fresh.scores == whole.scores


@pytest.mark.parametrize("method", CASES)
def test_nothing_outside_the_trained_parameters_changes(method):
    learner, state = make_learner(method()), torch.get_rng_state()
    before = copies(learner.model)
    after = learned(learner)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, _ in learner.named_parameters()}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_a_kind_compose_with_another(method, plain):
    assert_same(learned(make_learner(method(), Deltas())), learned(make_learner(Deltas(), method())))


@pytest.mark.parametrize("method", CASES)
def test_the_seed_decides(method):
    one, same, other = (learned(make_learner(method(), seed=seed)) for seed in (1, 1, 2))
    assert_same(one, same)
    assert not torch.equal(one["head.weight"], other["head.weight"])
