"""The kernels of HiP equal their readable twin; on a GPU only."""

from __future__ import annotations

import pytest
import torch

from recollect.context import hip
from recollect.context.hip import HiP

from .conftest import logits_of, make_model

if not torch.cuda.is_available():
    pytest.skip("the kernels run on a GPU, and there is none", allow_module_level=True)
hip_kernel = pytest.importorskip("recollect.context.hip_kernel", reason="Triton is not installed")

SHAPES = [  # B, H, G, T, S, D, tokens a query block, tokens a key block
    (2, 4, 2, 10, 90, 8, 4, 2),
    (1, 8, 8, 128, 700, 128, 64, 2),
    (1, 8, 2, 1, 300, 64, 64, 4),
    (1, 6, 2, 70, 500, 80, 32, 1),
]


def made(shape, dtype):
    B, H, G, T, S, D, q, b = shape
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, B, H, T, D, generator=generator).to("cuda", dtype)
    keys, values = torch.randn(2, B, S, G, D, generator=generator).to("cuda", dtype)
    near = torch.randn(B, G, T + 40, D, generator=generator).to("cuda", dtype)
    N = -(-T // q)
    ends = (torch.arange(N) * q + S - T - 37) // b
    chosen = torch.randint(0, int(ends[0]), (B, G, N, 21), generator=generator).sort().values.cuda()
    chosen[..., :3] = -1
    return queries, keys, near, values, chosen, ends


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_to_blocks(shape, dtype):
    queries, keys, near, values, chosen, ends = made(shape, dtype)
    outputs = [
        each.block_attention(*queries, keys, near, values, chosen, ends, shape[-2], shape[-1], shape[5] ** -0.5)
        for each in (hip_kernel, hip)
    ]
    within = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(outputs[0], outputs[1], atol=within, rtol=within)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rating_and_search(shape, dtype):
    B, H, G, T, _, D, q, b = shape
    _, keys, _, _, chosen, ends = made(shape, dtype)
    N = len(ends)
    queries = torch.randn(B, G, N, min(q, T) * H // G, D, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)
    within = 1e-4 if dtype == torch.float32 else 0.2
    blocks = chosen.clamp(min=0)
    torch.testing.assert_close(
        hip_kernel.rate(queries, keys, blocks, b), hip.rate(queries, keys, blocks, b), atol=within, rtol=within
    )
    if dtype == torch.float32:
        ours, twin = (hip.search(queries, keys, ends, 1, 8, b, each)[0] for each in (hip_kernel.rate, hip.rate))
        assert torch.equal(ours, twin)


def test_a_model_on_the_gpu_says_what_it_says_on_the_cpu():
    """All tokens differ, because keys that are equal tie, and either may be chosen."""
    ids = torch.stack([torch.randperm(58, generator=torch.Generator().manual_seed(row))[:24] + 2 for row in (0, 1)])
    policy, outputs = HiP.with_budget(12), []
    for device in ("cpu", "cuda"):
        model = make_model().to(device)
        with policy.attach(model):
            outputs.append(logits_of(model, ids.to(device)).cpu())
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("heads", [4, 2], ids=["every head its own keys", "grouped heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_layers_on_the_gpu(heads, dtype):
    """Read in chunks, and a token at a time, the last queries see all that came before them.

    In bfloat16 both round; one logit of thousands may be off by a quarter, all of them together are not.
    """
    ids = torch.randint(2, 60, (1, 90), generator=torch.Generator().manual_seed(0)).cuda()
    model = make_model(num_key_value_heads=heads, hidden_size=64).to("cuda", dtype)
    plain = logits_of(model, ids).float()
    with HiP(num_dense_layers=2, chunk_tokens=40).attach(model) as memory:
        ours = logits_of(model, ids[:, :88])
        last = [logits_of(model, ids[:, at : at + 1], cache=memory.memory) for at in (88, 89)]
    off = (torch.cat([ours, *last], dim=1).float() - plain).abs()
    most, mean = (1e-3, 1e-4) if dtype == torch.float32 else (0.5, 0.04)
    assert off.max() < most * plain.std()
    assert off.mean() < mean * plain.std()
