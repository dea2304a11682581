"""HMT: a segment by its formula, recall by hand, pieces and batches, gradients that end, generation, files."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recollect.errors import InvalidInput, NotFound
from recollect.state.hmt import HMT
from recollect.state.layer import load_state, save_state, tensors

from .decoders import FAMILIES, make_decoder, tokens

SMALL: dict[str, Any] = {"segment_tokens": 6, "sensory_tokens": 2, "memory_segments": 3, "recall_size": 8}


def make(family: str = "llama", **settings: Any) -> HMT:
    backbone = make_decoder(family)
    torch.manual_seed(1)
    return HMT.from_backbone(backbone, **SMALL | settings)


def output(model: HMT, ids: torch.Tensor, mask: torch.Tensor | None = None, state: Any = None) -> Any:
    with torch.no_grad():
        return model(ids, mask, state=state)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def assert_same_state(ours: Any, theirs: Any) -> None:
    for (name, one), (other, two) in zip(tensors(ours), tensors(theirs), strict=True):
        assert name == other
        assert_equal(one, two)


@pytest.mark.parametrize("family", FAMILIES)
def test_three_segments_by_the_papers_steps(family):
    model, ids = make(family), tokens(2, 16)
    ours = output(model, ids)
    embed, decode = model.backbone.get_input_embeddings(), model.backbone.get_decoder()

    def read(*parts: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([part if part.ndim == 3 else part.expand(2, 1, -1) for part in parts], dim=1)
        return decode(inputs_embeds=whole).last_hidden_state

    bank: list[torch.Tensor] = []
    logits, sensory = [], ids[:, :0]
    with torch.no_grad():
        for x in ids.split(6, dim=1):
            recall = model.first.expand(2, 1, -1)
            if bank:
                asked = read(model.prompt, embed(x[:, :3]), model.prompt)[:, -1:]
                memory = torch.stack(bank, dim=1)
                scores = model.query(asked) @ model.key(memory).transpose(1, 2) / 8**0.5
                recall = torch.softmax(scores, dim=-1) @ memory
            hidden = read(recall, embed(sensory), embed(x), recall)
            logits.append(model._logits(hidden[:, 1 + sensory.shape[1] : -1]))
            bank.append(hidden[:, -1])
            sensory = x[:, -2:]
    assert_equal(ours.logits, torch.cat(logits, dim=1))
    assert_equal(ours.state["bank"], torch.stack(bank, dim=1))
    assert [each.shape[1] for each in ours.recalled] == [1, 2]
    assert torch.equal(ours.state["sensory"], ids[:, -2:])


def test_without_recall_the_last_summary_is_passed_on():
    model, ids = make(recall=False), tokens(1, 12)
    first = output(model, ids[:, :6])
    changed = {name: tensor.clone() for name, tensor in first.state.items()}
    changed["bank"] += 1.0
    after = output(model, ids[:, 6:], state=first.state)
    assert not torch.allclose(output(model, ids[:, 6:], state=changed).logits, after.logits, atol=1e-3)
    older = {**first.state, "bank": torch.cat([changed["bank"], first.state["bank"]], dim=1)}
    older["held"] = torch.ones(1, 2, dtype=torch.bool)
    assert_equal(output(model, ids[:, 6:], state=older).logits, after.logits)
    assert after.recalled == []


def test_recall_is_a_mixture_by_likeness():
    model, ids = make(), tokens(1, 6)
    state = output(model, tokens(1, 18, seed=4)).state
    with torch.no_grad():
        model.query.weight.zero_()
    weights = output(model, ids, state=state).recalled[0]
    assert_equal(weights, torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize("recall_from", ["segment", "sensory"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_read_in_whole_segments_is_read_at_once(family, recall_from):
    model, ids = make(family, recall_from=recall_from), tokens(2, 40)
    whole = output(model, ids)
    state, parts = None, []
    for start, end in ((0, 6), (6, 18), (18, 36), (36, 40)):
        part = output(model, ids[:, start:end], state=state)
        state = part.state
        parts.append(part.logits)
    assert_equal(torch.cat(parts, dim=1), whole.logits)
    assert_same_state(state, whole.state)
    assert whole.state["bank"].shape[1] == 3  # the oldest are gone


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_its_rows(side, family):
    model = make(family)
    rows = [tokens(1, length, seed=length) for length in (27, 5, 13)]
    ids, mask = torch.zeros(3, 27, dtype=torch.long), torch.zeros(3, 27, dtype=torch.long)
    for number, row in enumerate(rows):
        at = slice(27 - row.shape[1], 27) if side == "left" else slice(0, row.shape[1])
        ids[number, at], mask[number, at] = row[0], 1
    together = output(model, ids, mask)
    more = tokens(3, 14, seed=9)
    after = output(model, more, state=together.state)
    for number, row in enumerate(rows):
        alone = output(model, row)
        assert_equal(together.logits[number][mask[number].bool()], alone.logits[0])
        assert_equal(after.logits[number], output(model, more[number : number + 1], state=alone.state).logits[0])


def test_asked_by_the_sensory_memory_no_prediction_sees_later_tokens():
    ids = tokens(1, 20)
    other = ids.clone()
    other[:, 14:] = tokens(1, 6, seed=8)
    model = make(recall_from="sensory")
    assert_equal(output(model, ids).logits[:, :14], output(model, other).logits[:, :14])
    model = make()  # the paper's query has seen the first half
    assert not torch.allclose(output(model, ids).logits[:, 12:14], output(model, other).logits[:, 12:14], atol=1e-5)


def test_the_gradient_ends_where_it_is_told():
    ids = tokens(1, 24)

    def reach(bptt: int) -> float:
        """How far the loss of the last segment reaches back: the gradient of an embedding that only the first has."""
        model = make(bptt_segments=bptt, sensory_tokens=0)
        marked = ids.clone()
        marked[:, :6] = 2
        marked[:, 6:] = marked[:, 6:].clamp(min=3)
        labels = torch.full_like(marked, -100)
        labels[:, 20:] = marked[:, 20:]
        model(marked, labels=labels).loss.backward()
        return float(model.backbone.get_input_embeddings().weight.grad[2].abs().sum())

    assert reach(4) > 0
    assert reach(2) == 0


def test_it_learns_and_all_of_it():
    model, ids = make(), tokens(2, 18)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        loss = model(ids, labels=ids).loss
        loss.backward()
        assert all(weight.grad is not None for weight in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_greedy_generation_is_the_likeliest_next_token_over_segments():
    model, ids = make(recall_from="sensory"), tokens(1, 10)
    reply, state = model.generate(ids, max_new_tokens=12)
    whole = output(model, torch.cat([ids, reply], dim=1))
    assert torch.equal(whole.logits[:, 9:-1].argmax(dim=-1), reply)
    assert_same_state(state, whole.state)


def test_generation_of_a_batch_equals_that_of_its_rows_over_turns():
    model = make()
    rows = [tokens(1, 13, seed=2), tokens(1, 4, seed=3)]
    ids, mask = torch.zeros(2, 13, dtype=torch.long), torch.zeros(2, 13, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, 13 - row.shape[1] :], mask[number, 13 - row.shape[1] :] = row[0], 1
    turn = tokens(2, 5, seed=4)
    first, state = model.generate(ids, mask, max_new_tokens=9)
    second, _ = model.generate(turn, state=state, max_new_tokens=4)
    for number, row in enumerate(rows):
        reply, alone = model.generate(row, max_new_tokens=9)
        assert torch.equal(reply, first[number : number + 1])
        again, _ = model.generate(turn[number : number + 1], state=alone, max_new_tokens=4)
        assert torch.equal(again, second[number : number + 1])


def test_generation_ends_and_samples_when_asked():
    model, ids = make(), tokens(2, 7)
    reply, _ = model.generate(ids, max_new_tokens=8)
    ended, _ = model.generate(ids, max_new_tokens=8, eos_token_id=int(reply[0, 1]))
    stop = reply[0].tolist().index(int(reply[0, 1]))
    assert ended[0, : stop + 1].tolist() == reply[0, : stop + 1].tolist()
    assert not ended[0, stop + 1 :].any()
    torch.manual_seed(0)
    assert not torch.equal(model.generate(ids, max_new_tokens=8, do_sample=True, temperature=5.0)[0], reply)
    with pytest.raises(InvalidInput, match="input_ids: a row needs a token"):
        model.generate(ids, torch.zeros_like(ids))


def test_a_saved_model_and_a_saved_state_go_on_alike(tmp_path):
    model, ids = make(), tokens(2, 15)
    state = output(model, ids).state
    model.save_pretrained(tmp_path)
    save_state(state, tmp_path / "state.safetensors")
    other = HMT.from_pretrained(tmp_path)
    after = output(other, ids, state=load_state(tmp_path / "state.safetensors")).logits
    assert_equal(after, output(model, ids, state=state).logits)
    with pytest.raises(NotFound, match="there is no HMT in"):
        HMT.from_pretrained(tmp_path / "none")
    with pytest.raises(InvalidInput, match="backbone: its width is not that"):
        HMT.from_pretrained(tmp_path, make_decoder(hidden_size=48, num_attention_heads=6))


def test_wrong_use_is_refused_in_one_sentence():
    model, ids = make(), tokens(2, 7)
    with pytest.raises(InvalidInput, match="state: has 3 rows, input_ids 2"):
        model(ids, state=model.initial_state(3))
    with pytest.raises(InvalidInput, match="input_ids: hold no token"):
        model(ids, torch.zeros_like(ids))
    for settings, message in (
        ({"recall_from": "past"}, "recall_from: 'past' is not known; use one of segment, sensory"),
        ({"segment_tokens": 0}, "segment_tokens: 0 is below 1"),
        ({"sensory_tokens": 7}, "sensory_tokens: must be 0 to segment_tokens"),
        ({"summary_share": 0.0}, "summary_share: must be above 0"),
        ({"sensory_tokens": 0, "recall_from": "sensory"}, "recall_from: there are no sensory tokens"),
    ):
        with pytest.raises(InvalidInput, match=message):
            make(**settings)
