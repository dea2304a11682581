"""JRT-Prompt: the layouts by hand, the copies equal after a cut, and the same reply as the prompt written out."""

from __future__ import annotations

import pytest
import torch

from recollect.context.jrt import JRTPrompt
from recollect.errors import InvalidInput

CONTEXT, QUESTION = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[8, 9]])


def test_the_layouts_by_hand():
    assert JRTPrompt().prompt(CONTEXT, QUESTION).tolist() == [[1, 2, 3, 4, 8, 9, 1, 2, 3, 4, 8, 9]]
    assert JRTPrompt(layout="ccq").prompt(CONTEXT, QUESTION).tolist() == [[1, 2, 3, 4, 1, 2, 3, 4, 8, 9]]
    assert JRTPrompt(num_readings=1).prompt(CONTEXT, QUESTION).tolist() == [[1, 2, 3, 4, 8, 9]]
    start = torch.tensor([[0]])
    assert JRTPrompt().prompt(CONTEXT[:, :1], QUESTION, start).tolist() == [[0, 1, 8, 9, 1, 8, 9]]
    assert JRTPrompt(num_readings=3).prompt(CONTEXT, QUESTION).shape == (1, 18)


def test_a_long_context_is_cut_alike_in_all_copies():
    assert JRTPrompt(num_prompt_tokens=9).prompt(CONTEXT, QUESTION).tolist() == [[1, 2, 8, 9, 1, 2, 8, 9]]
    assert JRTPrompt(num_prompt_tokens=9, layout="ccq").prompt(CONTEXT, QUESTION).tolist() == [[1, 2, 3, 1, 2, 3, 8, 9]]
    assert JRTPrompt(num_prompt_tokens=9).prompt(CONTEXT, QUESTION, CONTEXT[:, :3]).shape == (1, 9)
    assert JRTPrompt(num_prompt_tokens=4).prompt(CONTEXT, QUESTION).tolist() == [[8, 9, 8, 9]]
    with pytest.raises(InvalidInput, match="num_prompt_tokens: 3 cannot hold the question; use 4 or more"):
        JRTPrompt(num_prompt_tokens=3).prompt(CONTEXT, QUESTION)


def test_with_any_policy_the_reply_is_that_to_the_prompt_written_out(policy_class, model, ids):
    context, question = ids[:, :9], ids[:, 9:12]
    written = torch.cat([context, question, context, question], dim=1)
    options = {"max_new_tokens": 5, "do_sample": False}
    with policy_class.with_budget(12).attach(model) as memory:
        expected = memory.generate(written, **options)
        memory.forget()
        assert torch.equal(JRTPrompt().ask(memory.generate, context, question, **options), expected)
    plain = JRTPrompt().ask(model.generate, context, question, **options)
    assert torch.equal(plain[:, : written.shape[1]], written)


def test_settings_that_cannot_be_used_are_refused():
    with pytest.raises(InvalidInput, match="num_readings: 0 is too small"):
        JRTPrompt(num_readings=0)
    with pytest.raises(InvalidInput, match="layout: 'qcqc' is not known"):
        JRTPrompt(layout="qcqc")  # type: ignore[arg-type]
