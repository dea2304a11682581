"""The learner against a loop written by hand, on any kind of model, resumed, undone and refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.batches import local_cross_entropy, row_losses
from recollect.weights.delta import Deltas
from recollect.weights.learner import Learner, accuracy, train_only
from recollect.weights.method import Method

from .conftest import MadeTask, assert_same, copies, make_net, make_tasks


@dataclass(frozen=True)
class Told(MadeTask):
    told: bool = True


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def tiny_lm():
    return tiny_decoder(16, width=16, inner=16, layers=1, heads=2)


def text_task(name: str = "counting", rows: int = 8) -> MadeTask:
    ids = (torch.arange(rows)[:, None] + torch.arange(6)) % 16
    data = [{"input_ids": row, "labels": row} for row in ids]
    return MadeTask(name, data, data)


def test_gradients_that_frozen_parameters_hold_do_not_count_when_clipping(tasks):
    clean, stale = make_net(), make_net()
    stale.frozen.weight.grad = torch.full_like(stale.frozen.weight, 100.0)
    for net in (clean, stale):
        Learner(net, optimizer=sgd, batch_rows=8, clip_norm=0.5).learn(tasks[0])
    assert_same(copies(clean), copies(stale))


def test_it_is_the_loop_that_one_would_write(tasks):
    data = tasks[0].train
    one_batch = replace(tasks[0], train=TensorDataset(*data.tensors))
    ours, by_hand = make_net(), make_net()
    ours.body[3].p = by_hand.body[3].p = 0.0
    learner = Learner(ours, optimizer=sgd, batch_rows=len(data), num_steps=3, clip_norm=0.5)
    losses = []
    learner.learn(one_batch, progress=lambda each: losses.append(float(each.last_loss)))
    optimizer = sgd([each for each in by_hand.parameters() if each.requires_grad])
    for step in range(3):
        loss = F.cross_entropy(by_hand(data.tensors[0]), data.tensors[1])
        assert losses[step] == pytest.approx(float(loss.detach()), abs=1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
        optimizer.step()
    for name, tensor in copies(by_hand).items():
        assert torch.allclose(copies(ours)[name], tensor, atol=1e-5)


def test_hooks_are_called_in_order_and_see_what_earlier_ones_made(tasks):
    called = []

    @dataclass
    class Noted(Method):
        name: str = ""

        def before_task(self, learner, task):
            called.append(f"{self.name} before {task.name}")
            assert learner.optimizer is None

        def before_step(self, learner, batch):
            called.append(f"{self.name} batch {len(batch[0])}")
            return [each[: len(each) // 2] for each in batch]

        def loss(self, learner, batch, loss):
            called.append(f"{self.name} loss {len(batch[0])}")
            return 2 * loss

        def after_backward(self, learner):
            called.append(f"{self.name} grad {learner.model.head.weight.grad is not None}")

        def after_step(self, learner, batch):
            called.append(f"{self.name} step {learner.step}")

        def after_task(self, learner, task):
            called.append(f"{self.name} after")

    learner = Learner(make_net(), [Noted("a"), Noted("b")], batch_rows=24)
    learner.learn(tasks[0])
    expected = "before task 0, batch 24, batch 12, loss 6, grad True, step 0, after".split(", ")
    assert [line for line in called if line.startswith("a")] == [f"a {each}" for each in expected if each != "batch 12"]
    assert called[2:4] == ["a batch 24", "b batch 12"]
    assert called[4:6] == ["a loss 6", "b loss 6"]


def test_each_epoch_sees_every_row_once_in_an_order_of_its_own(tasks):
    seen = []

    @dataclass
    class Noted(Method):
        def before_step(self, learner, batch):
            seen.append(batch[0][:, 0].tolist())
            return batch

    Learner(make_net(), [Noted()], batch_rows=10, num_epochs=2).learn(tasks[0])
    assert [len(each) for each in seen] == [10, 10, 4] * 2
    first, second = ([x for part in each for x in part] for each in (seen[:3], seen[3:]))
    assert first != second
    assert sorted(first) == sorted(second) == sorted(tasks[0].train.tensors[0][:, 0].tolist())


def test_scores_are_kept_after_each_task(tasks):
    learner = Learner(make_net(), optimizer=sgd, num_epochs=20, batch_rows=8)
    assert learner.learn(tasks[0]) == {"task 0": learner.evaluate(tasks[0])}
    learner.learn(tasks[1])
    assert [set(row) for row in learner.scores] == [{"task 0"}, {"task 0", "task 1"}]
    assert learner.scores[0]["task 0"] > 0.9
    assert learner.scores[1]["task 1"] > 0.9
    assert learner.scores[1]["task 0"] <= 0.5  # forgotten: nothing holds it
    told = Told(tasks[0].name, tasks[0].train, tasks[0].test, tasks[0].classes)
    assert accuracy(learner, told) > accuracy(learner, tasks[0])
    report = learner.report()
    assert report.get(1, 0) == learner.scores[1]["task 0"]
    assert report.forgetting() == learner.scores[0]["task 0"] - learner.scores[1]["task 0"]
    assert learner.learn(tasks[0], evaluate=()) == {}
    with pytest.raises(InvalidInput, match="one was learned twice"):
        learner.report()


def test_a_model_of_transformers_learns_from_dicts_with_its_own_loss():
    learner = Learner(tiny_lm(), optimizer=lambda each: torch.optim.AdamW(each, lr=0.01), batch_rows=4, num_epochs=20)
    task = text_task()
    batch = next(learner.batches(task.train))
    with torch.no_grad():
        outputs = learner.model(**batch)
    assert float(row_losses(outputs, batch).mean()) == pytest.approx(float(outputs.loss), abs=1e-5)
    assert learner.learn(task) == {"counting": 1.0}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_adapters_of_peft_are_all_that_is_trained(tmp_path):
    peft = pytest.importorskip("peft", reason="adapters need peft: pip install 'recollect[learn]'")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    learner = Learner(peft.get_peft_model(tiny_lm(), config), batch_rows=4, num_epochs=2)
    before = copies(learner.model)
    learner.learn(text_task())
    changed = {name for name, x in copies(learner.model).items() if not torch.equal(x, before[name])}
    assert changed == {name for name, _ in learner.named_parameters()}
    assert all("lora_" in name for name in changed)


def test_with_accelerate_it_learns_the_same_and_in_mixed_precision(tasks):
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate: pip install 'recollect[learn]'")
    plain = Learner(make_net(), optimizer=sgd, batch_rows=8, clip_norm=1.0)
    plain.learn(tasks[0])
    same = Learner(make_net(), optimizer=sgd, batch_rows=8, clip_norm=1.0, accelerator=accelerate.Accelerator(cpu=True))
    same.learn(tasks[0])
    assert_same(copies(plain.model), copies(same.model))
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    low = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    mixed = Learner(make_net(), optimizer=sgd, batch_rows=8, num_epochs=20, accelerator=low)
    assert mixed.learn(tasks[0])["task 0"] > 0.9
    assert mixed.model.head.weight.dtype == torch.float32
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_the_optimizer_is_new_for_each_task_or_kept(tasks):
    for keep in (False, True):
        learner = Learner(make_net(), keep_optimizer=keep)
        learner.learn(tasks[0])
        first = learner.optimizer
        train_only(learner.model)
        learner.learn(tasks[1])
        assert (learner.optimizer is first) is keep
        groups = learner.optimizer.param_groups
        assert sum(len(group["params"]) for group in groups) == len(list(learner.model.parameters()))


def test_checkpoints_are_written_on_the_way_and_at_the_end(tasks, tmp_path):
    written = []
    learner = Learner(make_net(), batch_rows=8, num_epochs=2)
    learner.learn(
        tasks[0],
        folder=tmp_path,
        save_every_steps=4,
        progress=lambda _: written.append((tmp_path / "learner.json").exists()),
    )
    assert written == [False] * 3 + [True] * 3
    other = Learner(make_net(1), batch_rows=8, num_epochs=2)
    other.load(tmp_path)
    assert_same(copies(other.model), copies(learner.model))
    assert (other.learned, other.scores, other.total_steps) == (["task 0"], learner.scores, 6)
    for each in (learner, other):
        each.learn(tasks[1], evaluate=tasks)
    assert_same(copies(other.model), copies(learner.model))


def test_what_cannot_be_gone_on_with_is_refused(tasks, tmp_path):
    learner = Learner(make_net(), [Deltas()], batch_rows=8)

    def stop(each):
        each.save(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.learn(tasks[0], progress=stop)
    with pytest.raises(Conflict, match=r"task: 'task 0' is half learned"):
        learner.learn(tasks[1])
    with pytest.raises(Conflict, match=r"methods: none are not those"):
        Learner(make_net()).load(tmp_path)
    with pytest.raises(Conflict, match=r"seed: 3 is not the saved one; use seed=0"):
        Learner(make_net(), [Deltas()], seed=3).load(tmp_path)
    with pytest.raises(Conflict, match=r"model: is not shaped as the saved one"):
        Learner(torch.nn.Linear(2, 2), [Deltas()]).load(tmp_path)
    with pytest.raises(NotFound, match=r"no learner\.json"):
        learner.load(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="batch_rows: 0 is below 1"):
        Learner(make_net(), batch_rows=0)
    with pytest.raises(InvalidInput, match="has no rows"):
        Learner(make_net()).learn(MadeTask("empty", [], []))
    with pytest.raises(InvalidInput, match="classes: the task names none"):
        Learner(make_net(), objective=local_cross_entropy).learn(replace(tasks[0], classes=()))
    with pytest.raises(InvalidInput, match="'xyz' is in no parameter's name"):
        train_only(make_net(), "xyz")


def test_train_only_chooses_by_name():
    model = make_net()
    assert train_only(model, r"^head\.") == ["head.weight", "head.bias"]
    assert [name for name, each in model.named_parameters() if each.requires_grad] == ["head.weight", "head.bias"]


def test_draws_depend_on_seed_name_and_step_only(tasks):
    one, other = Learner(make_net()), Learner(make_net())
    torch.rand(3)
    assert torch.equal(torch.rand(4, generator=one.generator("a")), torch.rand(4, generator=other.generator("a")))
    first = torch.rand(4, generator=one.generator("a"))
    assert not torch.equal(first, torch.rand(4, generator=one.generator("b")))
    one.step = 1
    assert not torch.equal(first, torch.rand(4, generator=one.generator("a")))


def test_a_local_loss_does_not_touch_the_rows_of_other_classes(tasks):
    model = make_net()
    before = copies(model)
    Learner(model, optimizer=sgd, objective=local_cross_entropy, batch_rows=8).learn(make_tasks()[0])
    assert torch.equal(model.head.weight[2:], before["head.weight"][2:])
    assert not torch.equal(model.head.weight[:2], before["head.weight"][:2])
