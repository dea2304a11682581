"""The kernels of block memories equal their readable twins; on a GPU, or with Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

import os
from math import inf
from types import SimpleNamespace

import pytest
import torch

from recollect.context.attention import Band, Part, attend, attend_with_mass
from recollect.context.em_llm import EMLLM
from recollect.context.far import copy_tokens
from recollect.context.infllm import InfLLM
from recollect.context.recorded import RECORD_AFTER

from .conftest import make_model
from .test_attention import make_layer
from .test_far_ring import BLOCKS, EVENTS, POLICIES, plain, rows
from .test_ring import one_by_one, tokens

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("the kernels run on a GPU, and there is none", allow_module_level=True)
mass_kernel = pytest.importorskip("recollect.context.mass_kernel", reason="Triton is not installed")
DEVICE = "cpu" if INTERPRETED else "cuda"
TYPES = [torch.float32] if INTERPRETED else [torch.float32, torch.bfloat16]
SHAPES = [(2, 4, 2, 10, 90, 8), (1, 8, 8, 70, 300, 64), (1, 6, 2, 1, 130, 80)]  # B, H, G, T, S, D
gpu_only = pytest.mark.skipif(INTERPRETED, reason="a model needs a real GPU")


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def within(dtype: torch.dtype) -> dict[str, float]:
    return {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}


def exact(parts: list[Part], **changes) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the readable form makes of the parts in float32."""
    return attend(
        [Part(*(x.float() for x in (part.queries, part.keys, part.values)), part.mask) for part in parts],
        make_layer(**changes),
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parts_and_what_their_keys_got(shape, dtype, monkeypatch):
    B, H, G, T, S, D = shape
    ragged = random(T, S, dtype=torch.float32, seed=8) > 0
    some = random(B, 1, 1, S, dtype=torch.float32, seed=9) > 0
    masks = [Band(S - T, most=40), None, some, Band(S - T, least=30), ragged, Band(0, most=9)]
    parts = [
        Part(*(random(B, *each, D, dtype=dtype, seed=3 * number + n) for n, each in enumerate(((H, T), (G, S), (G, S)))), mask)
        for number, mask in enumerate(masks)
    ]  # fmt: skip
    wanted, weights = exact(parts)
    monkeypatch.setattr("recollect.context.attention.mass_kernel", lambda *_: mass_kernel)
    with torch.no_grad():
        output, mass = attend_with_mass(iter(parts), make_layer())
    torch.testing.assert_close(output.float(), wanted, **within(dtype))
    for number, each in enumerate(weights):
        torch.testing.assert_close(mass(number), each.sum(dim=2), **within(dtype))


def test_a_part_that_a_query_cannot_see_does_not_count(monkeypatch):
    keys, hidden = random(1, 1, 20, 16, dtype=torch.float32), torch.zeros(4, 20, dtype=torch.bool, device=DEVICE)
    parts = [Part(random(1, 2, 4, 16, dtype=torch.float32), keys, keys, mask) for mask in (None, hidden)]
    monkeypatch.setattr("recollect.context.attention.mass_kernel", lambda *_: mass_kernel)
    with torch.no_grad():
        output, mass = attend_with_mass(parts, make_layer())
    torch.testing.assert_close(output, attend(parts[:1], make_layer())[0], atol=1e-5, rtol=1e-5)
    assert mass(1).abs().sum() == 0


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cut", [0, 7, 600])
@pytest.mark.parametrize("shape", [(2, 4, 2, 1, 700, 8), (1, 8, 8, 1, 1300, 128), (1, 6, 2, 1, 650, 80)], ids=str)
def test_a_step_over_far_and_near_keys(shape, cut, dtype):
    B, H, G, T, S, D = shape
    far, near = random(2, B, H, T, D, dtype=dtype)
    keys, values = random(2, B, G, S, D, dtype=dtype, seed=1)
    seen = random(B, S, dtype=torch.float32, seed=2) > 0
    seen[:, -1] = True
    gained = torch.empty(B, H, S, device=DEVICE)
    output = mass_kernel.step_attention(far, near, keys, values, seen, cut, 0.3, gained)
    sides = ((far, slice(cut)), (near, slice(cut, None)))[0 if cut else 1 :]
    parts = [Part(each, keys[:, :, side], values[:, :, side], seen[:, None, None, side]) for each, side in sides]
    wanted, weights = exact(parts, scaling=0.3)
    torch.testing.assert_close(output.float(), wanted, **within(dtype))
    torch.testing.assert_close(gained, torch.cat(weights, dim=-1)[:, :, 0], **within(dtype))


def test_tokens_are_copied_where_they_are_asked_for():
    B, S, G, D, F = 2, 9, 3, 8, 5
    stored = torch.randn(B, S, 2, G, D, generator=torch.Generator().manual_seed(0))
    stored = stored if INTERPRETED else stored.pin_memory()
    tokens = torch.tensor([[8, -1, 0, 3, -1], [-1, 7, 7, -1, 2]], device=DEVICE)
    stretch = torch.arange(1.0, D + 1, device=DEVICE)
    ours, wanted = (torch.zeros(2, B, G, F + 2, D, device=DEVICE)[..., 1 : F + 1, :] for _ in range(2))
    mass_kernel.copy_tokens(stored, tokens, *ours, stretch)
    pageable = stored.clone()
    assert not pageable.is_pinned()
    copy_tokens(SimpleNamespace(tensor=pageable, room=pageable), tokens, *wanted, stretch)
    assert torch.equal(ours, wanted)
    assert wanted.count_nonzero() == 6 * 2 * G * D
    few = torch.zeros_like(ours)
    mass_kernel.copy_tokens(stored[:, :3], tokens, *few, stretch)  # of a file, say, that names more than it holds
    assert few.count_nonzero() == 2 * 2 * G * D
    assert torch.equal(few[:, 0, :, 2], wanted[:, 0, :, 2])


@gpu_only
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("policy", [InfLLM(**BLOCKS), EMLLM(**(EVENTS | {"gamma": inf}))], ids=["infllm", "em-llm"])
def test_reading_and_decoding_equal_the_cpu(policy, dtype):
    """Float32 equals the CPU's; bfloat16 runs, and stays near."""
    ids, outputs = tokens(rows(policy), 60, "cpu"), []
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        model = make_model().to(device, kind)
        with policy.attach(model) as memory, torch.no_grad():
            read = model(ids[:, :40].to(device), cache=memory.memory).logits
            outputs.append(torch.cat([read, one_by_one(model, ids[:, 40:].to(device), memory)], dim=1).cpu().float())
    apart = (outputs[0] - outputs[1]).abs()
    assert apart.max() < 1e-3 if dtype == torch.float32 else apart.mean() < 0.1


@gpu_only
@pytest.mark.parametrize("policy", [each for each in POLICIES if each.look_up_tokens < 5], ids=repr)
def test_look_ups_that_are_recorded(policy):
    """Equal to the readable way, over several runs, and told alike."""
    model, ids = make_model().to("cuda"), tokens(rows(policy), 90, "cuda")
    found, told = [], []
    for each in (plain(policy), policy):
        with each.attach(model) as memory:
            memory.read(ids[:, :23])
            found.append(one_by_one(model, ids[:, 23:], memory))
            told.append(memory.stats())
            if each is policy:
                room = memory._in_place._room
                assert room.can_record
                assert room.looked_up.refused is None
                assert room.looked_up.num_eager == RECORD_AFTER
    assert (found[0] - found[1]).abs().max() < 1e-4
    for name in ("num_read", "attended_tokens", "blocks", "events", "events_recalled", "tokens_chosen"):
        assert told[0].get(name) == told[1].get(name), name
