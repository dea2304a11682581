"""Fused kernels against the readable twin: how they are called on any machine, what they compute where a GPU has them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch

from recollect.state import kernels
from recollect.state.layer import tensors
from recollect.state.layers import make_layer
from recollect.state.scan import recurrence, recurrence_loop

KINDS = {"linear": (), "decay": ("log_decay",), "delta": ("rate",), "gated-delta": ("log_decay", "rate")}
NAMES = ("queries", "keys", "values", "memory")
CUDA = torch.device("cuda")
LAYERS = [
    ("linear-attention", {}),
    ("linear-attention", {"feature_map": "taylor", "key_size": 16}),
    ("jrt-rnn", {"prefix_tokens": 24}),
    ("mom", {"num_memories": 0}),
    ("mom", {}),
    ("mom", {"update": "decay"}),
    ("mom", {"update": "delta"}),
    ("synaptic-resonance", {}),
]


def make_inputs(kind, length, key_size, value_size, dtype, device="cpu", rows=2, heads=2):
    """What `recurrence` takes, by name: unit keys, a memory that is not empty, decay from slow to fast."""
    source = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(rows, *shape, generator=source)

    made = {
        "queries": normal(length, heads, key_size) * key_size**-0.5,
        "keys": torch.nn.functional.normalize(normal(length, heads, key_size), dim=-1),
        "values": normal(length, heads, value_size),
        "memory": normal(heads, key_size, value_size),
        "log_decay": -(2 * normal(length, heads) - 3).exp(),
        "rate": normal(length, heads).sigmoid(),
    }
    exact = ("memory", "log_decay", "rate")
    return {name: made[name].to(device, torch.float32 if name in exact else dtype) for name in (*NAMES, *KINDS[kind])}


def named(outputs):
    """What `recurrence` returns, by name."""
    return dict(zip(("y", "after"), outputs, strict=True))


def results(function, given):
    """Output, memory, and the gradients by every input of a loss that weighs all of both differently."""
    leaves = {name: each.clone().requires_grad_() for name, each in given.items()}
    found = named(function(**leaves))
    source = torch.Generator().manual_seed(1)
    loss = sum((torch.randn(each.shape, generator=source).to(each.device) * each).sum() for each in found.values())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return found | {f"d {name}": each for name, each in zip(leaves, gradients, strict=True)}


def assert_near(ours, twin, within):
    """Root mean squares of the differences, over those of the twin, are at most `within` of the first name that fits."""
    table, far = [], False
    for name, other in twin.items():
        one, other = ours[name].detach().float(), other.detach().float()
        assert one.shape == other.shape, name
        ratio = float((one - other).square().mean().sqrt() / other.square().mean().sqrt().clamp(min=1e-6))
        limit = next(value for start, value in within.items() if name.startswith(start))
        bad = not ratio <= limit  # also when it is no number
        far |= bad
        table.append(
            f"{name:20} {ratio:.2e} of {limit:.0e}, at most {float((one - other).abs().max()):.2e}{' FAR' * bad}"
        )
    assert not far, "\n" + "\n".join(table)


def stand_in(kind, steps=False):
    """A kernel of the library by `recurrence_loop`, which holds to what the library's own asks of its inputs."""

    def run(q, k, v, g=None, beta=None, *, scale, initial_state, output_final_state):
        assert scale == 1.0
        assert output_final_state
        assert initial_state.dtype == torch.float32
        assert (g is not None) == (kind in ("decay", "delta")) or steps
        assert (beta is not None) == (kind == "delta")
        if steps:
            assert not (torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v, initial_state)))
        else:
            assert q.dtype == k.dtype == v.dtype
            assert all(size % 16 == 0 for size in (*q.shape[-1:], *v.shape[-1:], *initial_state.shape[-2:]))
            if g is not None:
                assert g.shape == k.shape
                g = g.mean(-1)  # all columns are alike
        return recurrence_loop(q, k, v, initial_state, g, beta)

    return run


@pytest.fixture
def stand_ins(monkeypatch):
    """Kernels that work on a CPU, and the permission to round."""
    made = kernels.Kernels(
        stand_in("linear"), stand_in("decay"), stand_in("delta"), stand_in("linear", True), stand_in("delta", True)
    )
    monkeypatch.setattr(kernels, "kernels", lambda device: made)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("length", "key_size", "value_size"), [(1, 8, 5), (21, 16, 16), (40, 17, 33)])
def test_kernels_are_called_as_the_twin(stand_ins, kind, length, key_size, value_size):
    """With decay alone in float16, as no kernel takes that in float32."""
    dtype = torch.float16 if kind == "decay" else torch.float32
    given = make_inputs(kind, length, key_size, value_size, dtype)
    within = {"": 1e-2 if kind == "decay" else 1e-5}
    assert_near(results(kernels.recurrence, given), results(recurrence_loop, wide(given)), within)
    with torch.no_grad():
        ours, twin = kernels.recurrence(**given), recurrence_loop(**wide(given))
    assert_near(named(ours), named(twin), within)


def test_layers_go_through_them(stand_ins, monkeypatch):
    calls = []
    fitting = kernels.recurrence
    monkeypatch.setattr(kernels, "recurrence", lambda *given: calls.append(0) or fitting(*given))
    x = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0))
    for name, settings in LAYERS:
        before = len(calls)
        make_layer(name, 16, **settings)(x)
        assert len(calls) > before, name


def test_where_no_kernel_fits_the_twin_computes(stand_ins, monkeypatch):
    given = make_inputs("gated-delta", 20, 8, 8, torch.float32)
    assert kernels.recurrence(**given) is not None
    assert kernels.recurrence(**given | {"values": given["values"].double()}) is None
    assert kernels.recurrence(**make_inputs("decay", 20, 8, 8, torch.float32)) is None
    large = make_inputs("gated-delta", 20, kernels.MAX_KEY_SIZE + 1, 8, torch.float32)
    assert kernels.recurrence(**large) is None
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
    assert kernels.recurrence(**given) is None
    few = make_inputs("gated-delta", 2, 8, 8, torch.float32)
    assert kernels.recurrence(**few) is not None
    assert kernels.recurrence(**few | {"queries": few["queries"].requires_grad_()}) is None


def test_none_on_a_cpu():
    assert kernels.kernels(torch.device("cpu")) is None
    assert kernels.recurrence(**make_inputs("linear", 20, 16, 16, torch.bfloat16)) is None


def test_tuning_among_few(monkeypatch):
    class Autotuner:
        def prune_configs(self, given):
            return list(range(given))

    module = ModuleType("triton.runtime.autotuner")
    module.Autotuner = Autotuner
    for name in ("triton", "triton.runtime"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with kernels.tuned_among(3):
        first, *others = Autotuner().prune_configs(10)
        assert first == 0
        assert len(set(others) & set(range(1, 10))) == 2
        assert Autotuner().prune_configs(10) == [0, *others]
        assert Autotuner().prune_configs(1) == [0]
    assert Autotuner().prune_configs(10) == list(range(10))


def test_off_is_off_within_the_block(monkeypatch):
    made = kernels.Kernels(*[stand_in("linear")] * 5)
    monkeypatch.setattr(kernels, "_load", lambda: made)
    assert kernels.kernels(CUDA) is made
    with kernels.off():
        assert kernels.kernels(CUDA) is None
    assert kernels.kernels(CUDA) is made


@pytest.fixture
def gpu():
    """Skips where there is no GPU or no library; allows rounding to TF32, and tunes kernels little."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device that PyTorch can use")
    if kernels.kernels(CUDA) is None:
        pytest.skip("flash-linear-attention is not installed: pip install flash-linear-attention")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    with kernels.tuned_among(2):
        yield CUDA
    torch.set_float32_matmul_precision(before)


@contextmanager
def exact():
    """The twin, without kernels and without rounding."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with kernels.off():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def wide(given):
    """The same values in float32."""
    return {name: each.float() for name, each in given.items()}


LIMITS = {  # of gates' gradients, which are differences of sums; of other gradients; of the rest
    torch.float32: {"d log_decay": 0.02, "d rate": 0.02, "d": 0.01, "": 0.005},
    torch.bfloat16: {"d log_decay": 0.05, "d rate": 0.04, "d": 0.03, "": 0.015},
}


on_gpu = pytest.mark.filterwarnings("ignore")  # of the library, of Triton and of PyTorch about them
SIZES = {"float32": (64, 64), "bfloat16": (64, 64), "odd": (40, 23)}


@on_gpu
@pytest.mark.parametrize("length", [16, 63, 257])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_sequences_on_a_gpu(gpu, kind, length, sizes):
    dtype = torch.float32 if sizes == "float32" else torch.bfloat16
    given = make_inputs(kind, length, *SIZES[sizes], dtype, gpu)
    if (kind, dtype) == ("decay", torch.float32):
        pytest.skip("no kernel takes it")
    assert kernels.recurrence(**given) is not None
    ours = results(kernels.recurrence, given)
    with exact():
        twin = results(recurrence, wide(given))
    assert ours["y"].dtype == dtype
    assert ours["after"].dtype == torch.float32
    assert_near(ours, twin, LIMITS[dtype])


@on_gpu
def test_wide_keys_of_taylor_features_on_a_gpu(gpu):
    given = make_inputs("linear", 200, 273, 64, torch.bfloat16, gpu)
    with exact():
        twin = results(recurrence, wide(given))
    assert_near(results(kernels.recurrence, given), twin, LIMITS[torch.bfloat16])


@on_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 7])
def test_a_few_tokens_on_a_gpu_are_exact(gpu, kind, length):
    given = make_inputs(kind, length, 48, 33, torch.float32, gpu)
    with torch.no_grad():
        ours = kernels.recurrence(**given)
        with exact():
            twin = recurrence_loop(**given)
    assert_near(named(ours), named(twin), {"": 1e-5})


@on_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_in_pieces_on_a_gpu(gpu, kind):
    """A state carried from call to call, of all lengths of pieces, is that of one call."""
    given = make_inputs(kind, 150, 64, 64, torch.bfloat16, gpu)
    found, memory = [], given["memory"]
    with torch.no_grad():
        for start, end in [(0, 64), (64, 65), (65, 70), (70, 150)]:
            piece = {name: each[:, start:end] for name, each in given.items() if name != "memory"}
            y, memory = recurrence(**piece, memory=memory)
            found.append(y)
        with exact():
            whole = recurrence(**wide(given))
    ours = {"y": torch.cat(found, 1), "after": memory}
    assert_near(ours, named(whole), LIMITS[torch.bfloat16])


@on_gpu
@pytest.mark.parametrize("dtype", LIMITS, ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "settings"), LAYERS, ids=[f"{name}{settings}" for name, settings in LAYERS])
def test_layers_with_rows_reset_on_a_gpu(gpu, name, settings, dtype):
    torch.manual_seed(0)
    layer = make_layer(name, 128, **settings).to(gpu, dtype)
    x = torch.randn(3, 77, 128, generator=torch.Generator().manual_seed(0)).to(gpu, dtype)
    reset = torch.zeros(3, 77, dtype=torch.bool, device=gpu)
    reset[0, 30] = reset[2, 30] = reset[1, 50] = True

    def run(x):
        x = x.clone().requires_grad_()
        y, state = layer(x, reset=reset)
        (gradient,) = torch.autograd.grad((y.float() * y.float()).sum(), x)
        return {"y": y, "d x": gradient} | {key: each for key, each in tensors(state) if each.is_floating_point()}

    with exact():
        twin = run(x)
    rounding = {"d": 0.03, "": 0.02} if dtype == torch.float32 else {"d": 0.08, "": 0.04}
    assert_near(run(x), twin, rounding)
