"""I-LoRA: the slow copy is the moving average, it answers, and texts of earlier tasks draw the fast one to it."""

from __future__ import annotations

import pytest
import torch

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput
from recollect.weights.i_lora import ILoRA, between, parameters, path, placed
from recollect.weights.learner import Learner
from recollect.weights.streams import Question
from recollect.weights.texts import instructions
from words import tokenizer as make_tokenizer

from .conftest import assert_same, copies, make_net, make_tasks

TOKENIZER = make_tokenizer()


def text_tasks():
    facts = [("ana lives in", " sea"), ("bo likes", " tea")]
    return [instructions(TOKENIZER, prompt, *[[Question(prompt, answer)]] * 2, tokens=8) for prompt, answer in facts]


def test_the_slow_copy_is_the_average_that_ramps_up():
    seen = []
    method = ILoRA(retention=0.6, share=0.0)
    learner = Learner(make_net(), [method], batch_rows=8, num_steps=4)
    start = parameters(learner.model)["head.bias"]
    learner.learn(make_tasks()[0], progress=lambda each: seen.append(parameters(each.model)["head.bias"]))
    expected = start
    for step, fast in enumerate(seen):
        expected = torch.lerp(expected, fast, 1 - min(1 - 1 / (step + 1), 0.6))
    torch.testing.assert_close(method.state["slow"]["head.bias"], expected)


def test_the_slow_copy_answers_and_the_model_keeps_the_fast_one():
    method = ILoRA(retention=1.0)
    learner = Learner(make_net(), [method], batch_rows=8, num_steps=3)
    before = copies(learner.model)
    batch = next(learner.batches(make_tasks()[0].test))
    untouched = learner.predict(batch)
    learner.learn(make_tasks()[0])
    # with the whole copy kept from step 1 on, the slow one is the fast one after the first step
    fast, slow = copies(learner.model), learner.predict(batch)
    assert not torch.equal(slow, untouched)
    with method.using(learner.model, 1.0) as model:
        model.eval()
        torch.testing.assert_close(model(batch[0]), slow)
    assert_same(copies(learner.model), fast)
    assert not torch.equal(before["head.weight"], fast["head.weight"])


def test_replay_starts_with_the_second_task_and_consistency_pulls_to_the_slow_copy():
    def drift(consistency):
        torch.manual_seed(0)
        method = ILoRA(consistency=consistency, retention=0.999)
        model = tiny_decoder(len(TOKENIZER), width=16, inner=16, heads=2)
        learner = Learner(model, [method], batch_rows=1, num_steps=12)
        for task in text_tasks():
            learner.learn(task)
        slow = method.state["slow"]
        return sum(float((each - slow[name]).norm()) for name, each in parameters(model).items())

    assert drift(100.0) < drift(0.0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_with_an_adapter_of_peft_only_the_adapter_is_averaged():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = tiny_decoder(len(TOKENIZER), width=16, inner=16, heads=2)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    method = ILoRA()
    learner = Learner(model, [method], batch_rows=1, num_steps=3)
    for task in text_tasks():
        learner.learn(task)
    assert len(method.state["slow"]) == 2 * 2 * 2
    assert all("lora" in name for name in method.state["slow"])


def test_points_between_adapters_are_scored_and_leave_no_trace():
    model = make_net()
    earlier = parameters(model)
    later = {name: each + 1 for name, each in earlier.items()}
    torch.testing.assert_close(between(earlier, later, 0.5)["head.bias"], earlier["head.bias"] + 0.5)
    before = copies(model)
    scores = path(model, earlier, later, lambda: float(model.head.bias.detach().sum()), (0.0, 0.5, 1.0))
    assert scores[2] - scores[0] == pytest.approx(6, abs=1e-4)
    assert_same(copies(model), before)
    with pytest.raises(ZeroDivisionError), placed(model, later):
        raise ZeroDivisionError
    assert_same(copies(model), before)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InvalidInput, match=r"retention: 1\.5"):
        ILoRA(retention=1.5)
    with pytest.raises(InvalidInput, match="answers: 'both'"):
        ILoRA(answers="both")
