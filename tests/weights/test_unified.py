"""Every named case equals its loss written by hand, and the divergences equal their definition."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from recollect.weights.learner import Learner
from recollect.weights.unified import Unified, bregman, divergence, gaussian_kl

from .conftest import make_tasks


class Plain(torch.nn.Module):
    """A body and a head without randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = torch.nn.Linear(6, 4), torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.body(x))


@torch.enable_grad()
def second_task(method: Unified, **options):
    """(learner in the second task, its batch, the objective's loss, the model after the first task)."""
    one, two = make_tasks()
    torch.manual_seed(0)
    learner = Learner(Plain(), [method], batch_rows=24, num_steps=3, **options)
    learner.learn(one)
    old = copy.deepcopy(learner.model)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(0.1)
    learner.task, learner.task_name = two, two.name
    batch = list(two.train.tensors)
    learner.outputs = learner.model(batch[0])
    return learner, batch, learner.objective(learner.outputs, batch, two), old


def memory(learner: Learner, batch):
    """(pictures, labels, logits now, logits then) of the rows that the method draws in this step."""
    method = learner.methods[0]
    places = method.draw(learner, batch, 24)
    inputs, labels = method.batch(learner, places)
    stored = [method.state["logits"][each] for each in places] if "logits" in method.state else None
    return inputs, labels, learner.model(inputs), torch.stack(stored) if stored else None


def close(ours, by_hand) -> None:
    assert float(ours.detach()) == pytest.approx(float(by_hand.detach()), abs=1e-5)


def test_er_der_and_derpp():
    learner, batch, own, _ = second_task(Unified.er(0.7))
    _, labels, logits, _ = memory(learner, batch)
    close(learner.methods[0].loss(learner, batch, own), own + 0.7 * F.cross_entropy(logits, labels))

    learner, batch, own, _ = second_task(Unified.der(0.3))
    _, labels, logits, stored = memory(learner, batch)
    far = (logits - stored).pow(2).sum(1).mean()
    close(learner.methods[0].loss(learner, batch, own), own + 0.3 * far)

    learner, batch, own, _ = second_task(Unified.derpp(0.3, 0.7))
    _, labels, logits, stored = memory(learner, batch)
    far = (logits - stored).pow(2).sum(1).mean()
    close(learner.methods[0].loss(learner, batch, own), own + 0.3 * far + 0.7 * F.cross_entropy(logits, labels))


def test_stored_logits_are_those_of_the_step_in_which_a_row_was_kept():
    learner, _, _, old = second_task(Unified.der())
    rows = torch.stack([row[0] for row in learner.methods[0].state["rows"]])
    stored = torch.stack(learner.methods[0].state["logits"])
    assert len(stored) == 24
    assert not torch.allclose(stored, old(rows))  # the model went on learning afterwards
    learner.methods[0].forget("task 0")
    assert learner.methods[0].state["logits"] == []


def test_lwf_and_fdr():
    learner, batch, own, old = second_task(Unified.lwf(0.5, temperature=2.0))
    p, q = (old(batch[0]) / 2).log_softmax(1), (learner.outputs / 2).log_softmax(1)
    close(learner.methods[0].loss(learner, batch, own), own + 0.5 * 4 * (p.exp() * (p - q)).sum(1).mean())

    learner, batch, own, old = second_task(Unified.fdr(0.5))
    inputs, _, logits, _ = memory(learner, batch)
    close(learner.methods[0].loss(learner, batch, own), own + 0.5 * (old(inputs) - logits).pow(2).sum(1).mean())


def test_cpr_is_minus_the_entropy_up_to_a_constant():
    learner, batch, own, _ = second_task(Unified.cpr(0.4))
    p = learner.outputs.softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    close(learner.methods[0].loss(learner, batch, own), own + 0.4 * (torch.tensor(4.0).log() - entropy))


def test_ewc_and_l2_are_half_a_quadratic_form():
    learner, batch, own, old = second_task(Unified.ewc(3.0))
    weights = learner.methods[0].state["fisher"]
    form = sum((weights[name] * 0.01).sum() for name, _ in old.named_parameters())
    assert form > 1e-3
    close(learner.methods[0].loss(learner, batch, own), own + 1.5 * form)

    learner, batch, own, old = second_task(Unified.l2(3.0))
    close(learner.methods[0].loss(learner, batch, own), own + 1.5 * 0.01 * sum(p.numel() for p in old.parameters()))


def test_a_natural_step_divides_the_gradient_by_the_importances():
    learner, _, own, _ = second_task(Unified.natural(damping=0.5))
    own.backward()
    before = learner.model.body.weight.grad.clone()
    learner.methods[0].after_backward(learner)
    expected = before / (learner.methods[0].state["fisher"]["body.weight"] + 0.5)
    assert torch.allclose(learner.model.body.weight.grad, expected)


def test_vcl_descends_the_expected_loss_and_the_kl_to_the_last_task():
    learner, batch, _, _ = second_task(Unified.vcl(2.0), optimizer=lambda each: torch.optim.SGD(each, lr=0.1))
    method, model = learner.methods[0], learner.model
    name, parameter = "body.weight", model.body.weight
    mean, logs = parameter.detach().clone(), method.state["deviations"][name].clone()
    old_mean, old_logs = (part[name] for part in method.state["prior"])
    method.before_step(learner, batch)
    moved = parameter.detach() - mean
    noise = method._noise[name][1]
    assert torch.allclose(moved, logs.exp() * noise, atol=1e-6)
    learner.objective(model(batch[0]), batch, None).backward()
    slope = parameter.grad.clone()
    method.after_backward(learner)
    assert torch.equal(parameter.detach(), mean)

    m, r = mean.clone().requires_grad_(), logs.clone().requires_grad_()
    term = 2.0 / 24 * gaussian_kl(m, r.exp(), old_mean, old_logs.exp())
    for_mean, for_log = torch.autograd.grad(term, (m, r))
    assert torch.allclose(parameter.grad, slope + for_mean, atol=1e-6)
    expected = logs - 0.1 * (slope * noise * logs.exp() + for_log)
    assert torch.allclose(method.state["deviations"][name], expected, atol=1e-6)


def test_the_divergences_equal_their_definition():
    source = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 5, generator=source)
    close(bregman(lambda x: x.pow(2).sum(), p, q), divergence("square", p[None], q[None]))
    p, q = p.softmax(0), q.softmax(0)
    close(bregman(lambda x: (x * x.log()).sum(), p, q), divergence("entropy", p.log()[None], q.log()[None]))
    root = torch.randn(5, 5, generator=source)
    matrix = root @ root.T
    way = p - q
    close(bregman(lambda x: 0.5 * x @ matrix @ x, p, q), 0.5 * way @ matrix @ way)
    one, other = (torch.distributions.Normal(p, p.abs()), torch.distributions.Normal(q, q.abs()))
    close(gaussian_kl(p, p.abs(), q, q.abs()), torch.distributions.kl_divergence(one, other).sum())
