"""Attaching: what works as it does on the plain model, and the example in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from recollect.benchmarks.testbed import make_tokenizer
from recollect.context.infllm import InfLLM
from recollect.context.sliding_window import SlidingWindow
from recollect.context.streaming_llm import StreamingLLM

from .conftest import LENGTH, logits_of, make_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "context.md"


def test_loss_and_gradients_are_those_of_the_plain_model(ids):
    model = make_model()
    plain = model(ids, labels=ids)
    plain.loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    with StreamingLLM(window_tokens=100, chunk_tokens=7).attach(model):
        ours = model(ids, labels=ids)
        ours.loss.backward()
    torch.testing.assert_close(ours.loss, plain.loss)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], atol=1e-5, rtol=1e-4)


def test_ways_of_calling_the_model(model, ids):
    plain = logits_of(model, ids)
    with SlidingWindow(window_tokens=100, chunk_tokens=5).attach(model) as memory, torch.no_grad():
        torch.testing.assert_close(model(ids, None).logits, plain)
        torch.testing.assert_close(model(ids, return_dict=False)[0], plain)
        torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, plain)
        torch.testing.assert_close(model(ids, logits_to_keep=9).logits, plain[:, -9:])
        torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([2, 20])).logits, plain[:, [2, 20]])
        assert model(ids, use_cache=False).cache is None
        assert model(ids).cache is memory.memory
        without = model.generate(ids, max_new_tokens=3, do_sample=False, use_cache=False)
        chunked = model.generate(ids, max_new_tokens=3, do_sample=False, prefill_chunk_size=7)
    expected = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert torch.equal(without, expected)
    assert torch.equal(chunked, expected)


def test_a_model_without_a_head_can_be_attached_to(ids):
    model = make_model().model
    with torch.no_grad():
        plain = model(ids).last_hidden_state
        with InfLLM.with_budget(256).attach(model):
            torch.testing.assert_close(model(ids).last_hidden_state, plain)


def test_long_inputs_are_read_in_chunks_without_the_logits_of_all(model, ids):
    """The model's inner decoder never sees more than a chunk, and its head only what is asked for."""
    seen: list[tuple[int, int]] = []
    hook = model.lm_head.register_forward_hook(lambda _, given, made: seen.append((given[0].shape[1], made.shape[1])))
    with StreamingLLM(window_tokens=8, chunk_tokens=5).attach(model):
        model.generate(ids, max_new_tokens=1, do_sample=False)
    hook.remove()
    assert seen == [(1, 1)] * -(-LENGTH // 5)


def test_the_six_lines_in_the_docs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_model(vocab_size=400, max_position_embeddings=8192).save_pretrained("llama")
    backend = make_tokenizer(400)
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|eos|>").save_pretrained("llama")
    (block,) = re.findall(r"## Six lines.*?```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(block.splitlines()) == 6
    said: list[str] = []
    space = {"say": said.append, "book": "The miller walked on. " * 60}
    exec(compile(block.replace("path/to/llama", "llama").replace("print(", "say("), "page", "exec"), space)
    assert said[0]


def test_generate_leaves_out_what_a_memory_has_read(model, ids):
    with StreamingLLM(num_sink_tokens=2, window_tokens=64).attach(model) as memory:
        wanted = model.generate(ids, max_new_tokens=4, do_sample=False)
        memory.forget()
        memory.read(ids[:, :10])
        assert torch.equal(model.generate(ids, cache=memory.memory, max_new_tokens=4, do_sample=False), wanted)
        assert memory.stats()["num_read"] == ids.shape[1] + 3
