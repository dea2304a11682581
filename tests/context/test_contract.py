"""The contract of the home: what every policy in the catalogue holds to, on tiny random models."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest
import torch

from recollect.errors import Conflict, InvalidInput, NotFound, Unavailable

from .conftest import FAMILIES, LENGTH, SCALINGS, assert_same, logits_of, make_model, snapshot, tiny

AMPLE = 256  # a budget above every input
TIGHT = 12  # a budget that drops, packs or evicts within LENGTH tokens


def close(ours: torch.Tensor, plain: torch.Tensor, within: float = 1e-5) -> None:
    assert ours.shape == plain.shape
    assert (ours - plain).abs().max() <= within * max(1.0, float(plain.abs().max()))


def greedy(model, ids, **options):
    return model.generate(ids, max_new_tokens=6, do_sample=False, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_an_ample_budget_it_is_plain_attention_on_every_family(policy_class, family, ids):
    model = tiny(family)
    plain, before = logits_of(model, ids), snapshot(model)
    with policy_class.with_budget(AMPLE).attach(model):
        close(logits_of(model, ids), plain)
    assert_same(before, snapshot(model))
    assert torch.equal(logits_of(model, ids), plain)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_with_scaled_positions(policy_class, scaling, ids):
    model = make_model(rope_parameters={"rope_theta": 1e4} | SCALINGS[scaling])
    plain = logits_of(model, ids)
    with policy_class.with_budget(AMPLE).attach(model):
        close(logits_of(model, ids), plain)


def test_in_bfloat16(policy_class, ids):
    model = make_model().to(torch.bfloat16)
    plain = logits_of(model, ids)
    with policy_class.with_budget(AMPLE).attach(model):
        ours = logits_of(model, ids)
    assert ours.dtype == torch.bfloat16
    close(ours.float(), plain.float(), within=0.05)


def test_read_in_pieces_is_read_at_once(policy_class, model, ids):
    with policy_class.with_budget(AMPLE).attach(model) as memory:
        whole = logits_of(model, ids)
        memory.forget()
        memory.read(ids[:, :7])
        memory.read(ids[:, 7:8])
        close(logits_of(model, ids[:, 8:], cache=memory.memory), whole[:, 8:])


def test_a_bounded_memory_reads_in_chunks_whatever_the_pieces(policy_class, model, ids):
    policy = replace(policy_class.with_budget(TIGHT), chunk_tokens=2)
    with policy.attach(model) as memory:
        whole = logits_of(model, ids)
        kept = memory.stats()
        assert kept["attended_tokens"] <= TIGHT
        assert kept["num_read"] == LENGTH
        memory.forget()
        pieces = [logits_of(model, ids[:, start : start + 8], cache=memory.memory) for start in (0, 8, 16)]
        close(torch.cat(pieces, dim=1), whole)
        close(logits_of(model, ids, logits_to_keep=1), whole[:, -1:])
    plain = logits_of(model, ids)
    assert (whole[:, -1] - plain[:, -1]).abs().max() > 0.01  # the budget was felt


@pytest.mark.parametrize("budget", [AMPLE, TIGHT])
def test_a_padded_batch_equals_its_rows(policy_class, model, ids, budget):
    pads = [5, 0]
    mask = torch.tensor([[int(column >= pad) for column in range(LENGTH)] for pad in pads])
    with policy_class.with_budget(budget).attach(model):
        both = logits_of(model, ids * mask, attention_mask=mask)
        for row, pad in enumerate(pads):
            close(both[row : row + 1, pad:], logits_of(model, ids[row : row + 1, pad:]))
        together = greedy(model, ids * mask, attention_mask=mask)
        for row, pad in enumerate(pads):
            alone = greedy(model, ids[row : row + 1, pad:])
            assert torch.equal(together[row, LENGTH:], alone[0, LENGTH - pad :])


def test_generate_greedily_by_sampling_and_with_beams(policy_class, model, ids):
    mask = torch.ones_like(ids)
    ways = ({"do_sample": False}, {"do_sample": True, "top_k": 5}, {"do_sample": False, "num_beams": 3})
    for way in ways:
        torch.manual_seed(3)
        plain = model.generate(ids, attention_mask=mask, max_new_tokens=6, **way)
        with policy_class.with_budget(AMPLE).attach(model):
            torch.manual_seed(3)
            assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=6, **way), plain)


def test_beams_of_a_tight_memory_carry_their_own_past(policy_class, model, ids):
    """The score of the chosen beam is what its tokens get when they are read one by one."""
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "output_scores": True}
    with policy_class.with_budget(TIGHT).attach(model) as memory:
        found = model.generate(ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, **options)
        last, total = logits_of(model, ids)[:, -1], torch.zeros(2)
        for column in range(LENGTH, LENGTH + 4):
            token = found.sequences[:, column : column + 1]
            total += last.log_softmax(-1).gather(1, token)[:, 0]
            last = logits_of(model, token, cache=memory.memory)[:, -1]
    close(total / 4, found.sequences_scores)


def test_two_attached_models_do_not_disturb_each_other(policy_class, ids):
    one, other = make_model(), make_model()
    for part in other.modules():  # models may share a configuration
        if hasattr(part, "config"):
            part.config = one.config
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
    policy, plain = policy_class.with_budget(TIGHT), logits_of(other, ids)
    with policy.attach(other):
        alone = logits_of(other, ids)
    with policy.attach(one) as first:
        expected = logits_of(one, ids)
        assert torch.equal(logits_of(other, ids), plain)
        with policy.attach(other) as second:
            assert torch.equal(logits_of(other, ids), alone)
            assert torch.equal(logits_of(one, ids), expected)
            assert first.memory is not second.memory
        assert torch.equal(logits_of(other, ids), plain)
        assert torch.equal(logits_of(one, ids), expected)


def test_an_exception_leaves_the_model_and_the_memory_as_they_were(policy_class, ids):
    model = make_model()
    before = snapshot(model)

    def stop(*_):
        raise RuntimeError("stop")

    def use() -> None:
        with policy_class.with_budget(TIGHT).attach(model) as memory:
            memory.read(ids)
            kept = memory.memory
            following = logits_of(model, ids[:, :3], cache=kept.copy())
            with model.model.layers[1].register_forward_pre_hook(stop), pytest.raises(RuntimeError, match="stop"):
                model(ids, cache=kept)
            assert kept.stats()["num_read"] == LENGTH
            assert torch.equal(logits_of(model, ids[:, :3], cache=kept.copy()), following)
            stop()

    with pytest.raises(RuntimeError, match="stop"):
        use()
    assert_same(before, snapshot(model))


def test_generation_goes_on_over_turns_on_one_memory(policy_class, model, ids):
    with policy_class.with_budget(AMPLE).attach(model) as memory:
        first = memory.generate(ids[:, :10], max_new_tokens=4, do_sample=False)
        second = memory.generate(ids[:, 10:15], max_new_tokens=4, do_sample=False, num_beams=2)
        third = memory.generate(ids[:, 15:], max_new_tokens=4, do_sample=False)
    assert torch.equal(first, model.generate(ids[:, :10], max_new_tokens=4, do_sample=False)[:, 10:])
    text = torch.cat([ids[:, :10], first, ids[:, 10:15]], dim=1)
    assert torch.equal(second, model.generate(text, max_new_tokens=4, do_sample=False, num_beams=2)[:, text.shape[1] :])
    text = torch.cat([text, second, ids[:, 15:]], dim=1)
    assert torch.equal(third, model.generate(text, max_new_tokens=4, do_sample=False)[:, text.shape[1] :])


def test_a_reply_that_breaks_off_leaves_the_memory_as_it_was(policy_class, ids):
    """The model fails in the middle of a reply; the same turn then gives what it gives undisturbed."""
    model, turn = make_model(), {"max_new_tokens": 5, "do_sample": False}
    with policy_class.with_budget(TIGHT).attach(model) as memory:
        memory.generate(ids, **turn)
        expected = memory.generate(ids[:, :9], **turn)
        memory.forget()
        memory.generate(ids, **turn)
        calls = 0

        def stop(*_):
            nonlocal calls
            calls += 1
            if calls == 12:
                raise RuntimeError("stop")

        with model.model.layers[1].register_forward_pre_hook(stop), pytest.raises(RuntimeError, match="stop"):
            memory.generate(ids[:, :9], **(turn | {"max_new_tokens": 50}))
        assert torch.equal(memory.generate(ids[:, :9], **turn), expected)


def test_a_saved_memory_goes_on_as_the_kept_one_does(policy_class, model, ids, tmp_path):
    policy, path = policy_class.with_budget(TIGHT), tmp_path / "memory.safetensors"
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with policy.attach(model) as memory:
        memory.read(ids, mask)
        reply = memory.generate(ids[:, :4], max_new_tokens=3, do_sample=False)
        memory.save(path)
        size, expected = memory.size_bytes(), memory.generate(ids[:, 4:9], max_new_tokens=5, do_sample=False)
    assert reply.shape == (2, 3)
    with type(policy)(**asdict(policy)).attach(model) as memory:
        memory.load(path)
        assert sum(memory.size_bytes()) <= sum(size)
        assert torch.equal(memory.generate(ids[:, 4:9], max_new_tokens=5, do_sample=False), expected)


def test_a_memory_of_another_kind_is_refused(policy_class, model, ids, tmp_path):
    path = tmp_path / "memory.safetensors"
    policy = policy_class.with_budget(TIGHT)
    with policy.attach(model) as memory:
        memory.read(ids)
        memory.save(path)
    with policy_class.with_budget(AMPLE).attach(model) as memory:
        with pytest.raises(Conflict, match="settings: the memory"):
            memory.load(path)
        with pytest.raises(NotFound, match="path: there is no file"):
            memory.load(tmp_path / "nothing")
        (tmp_path / "broken").write_bytes(b"not a memory")
        with pytest.raises(InvalidInput, match=r"path: .* is not a safetensors file"):
            memory.load(tmp_path / "broken")
        assert memory.stats()["num_read"] == 0
    with policy.attach(make_model(num_hidden_layers=1)) as memory, pytest.raises(Conflict, match="num_layers"):
        memory.load(path)


def test_sizes_are_those_of_the_tensors(policy_class, model, ids):
    """Every byte that the states hold, counted by walking over them, and bounded on the device where the policy says so."""
    with policy_class.with_budget(64).attach(model) as memory:
        assert memory.size_bytes() == (0, 0)
        sizes = []
        for _ in range(12):
            memory.read(ids)
            sizes.append(memory.size_bytes())
        storages = {}
        for unit in memory.memory.units:
            for _, state in unit.states():
                for each in state.values():
                    if isinstance(each, torch.Tensor):
                        storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
                    else:  # beyond its room there are addresses only
                        storages[each.room.data_ptr()] = each.room.nbytes
        assert sum(storages.values()) == sum(memory.size_bytes())
        kept = {name: value for name, value in memory.stats().items() if name.endswith("_bytes")}
        assert kept == {"device_bytes": sizes[-1].device, "host_bytes": sizes[-1].host}
    bytes_a_token = 2 * 2 * 2 * 2 * 8 * 4  # rows, layers, keys and values, heads, head size, float32
    if policy_class.bounded:
        assert sizes[-1].device < 12 * LENGTH * bytes_a_token * 0.65  # well below keeping all


def test_wrong_use_is_refused_in_one_sentence(policy_class, model, ids):
    policy = policy_class.with_budget(TIGHT)
    for name in (
        field.name for field in fields(policy) if field.name.endswith("_tokens") or field.name.startswith("num_")
    ):
        with pytest.raises(InvalidInput, match=f"{name}: -1 is too small"):
            replace(policy, **{name: -1})
    with pytest.raises(InvalidInput, match="model: Linear is not a decoder"), policy.attach(torch.nn.Linear(2, 2)):
        pass
    plain = model(ids).cache
    with policy.attach(model) as memory:
        with pytest.raises(Conflict, match="attached to it already"), policy.attach(model):
            pass
        with pytest.raises(InvalidInput, match="cache: a cache that was filled without"):
            model(ids, cache=plain)
        right = torch.ones_like(ids)
        right[0, -1] = 0
        with pytest.raises(InvalidInput, match="attention_mask: only left padding"):
            model(ids, attention_mask=right)
        with pytest.raises(InvalidInput, match="model: while a policy is attached"):
            model.model(ids)
        memory.read(ids)
        with pytest.raises(InvalidInput, match="input_ids: 1 rows for a memory of 2"):
            memory.read(ids[:1])
        with pytest.raises(Unavailable, match="crop: a bounded memory"):
            memory.memory.crop(1)
