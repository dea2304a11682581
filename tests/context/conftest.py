"""Tiny random decoders of each family, made from configurations; no download."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import pytest
import torch
import transformers

from recollect.benchmarks.needle import policies
from recollect.catalogue import system

VOCABULARY, LENGTH = 60, 24
BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
HEAD = {"head_dim": 8}
WINDOWED = HEAD | {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 64}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", HEAD),
    "gemma": ("Gemma", HEAD),
    "gemma2": ("Gemma2", WINDOWED | {"query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3", WINDOWED | {"query_pre_attn_scalar": 8}),
    "phi": ("Phi", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    "phi3": ("Phi3", {}),
}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
_made: dict[str, Any] = {}


def make_model(family: str = "llama", **changes: Any) -> Any:
    """A tiny random decoder in float32."""
    name, own = FAMILIES[family]
    config = getattr(transformers, "Gemma3TextConfig" if family == "gemma3" else f"{name}Config")(
        **BASE | own | changes
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def tiny(family: str = "llama") -> Any:
    """A tiny decoder that is made once; a test leaves it as it was."""
    if family not in _made:
        _made[family] = make_model(family)
    return _made[family]


@pytest.fixture(params=policies())
def policy_class(request: pytest.FixtureRequest) -> Any:
    """The class of each policy in the catalogue."""
    module, name = system(request.param).target.split(":")
    return getattr(import_module(module), name)


@pytest.fixture
def model() -> Any:
    """A tiny Llama with grouped-query heads."""
    return tiny()


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of tokens, padding not among them."""
    return torch.randint(2, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def logits_of(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    """Logits [B, T, V] of one call."""
    with torch.no_grad():
        return model(ids, **options).logits


def snapshot(model: Any) -> dict[str, Any]:
    """All that attaching could touch: parameters, buffers, attributes of every module, the registry of attention."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return {
        "tensors": {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())},
        "modules": {
            name: (id(part), {key: id(value) for key, value in vars(part).items()})
            for name, part in model.named_modules()
        },
        "config": copy.deepcopy(model.config.to_dict()),
        "attention": model.config._attn_implementation,
        "registry": sorted(ALL_ATTENTION_FUNCTIONS),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Equal bit for bit, object for object."""
    assert before["tensors"].keys() == after["tensors"].keys()
    assert all(torch.equal(tensor, after["tensors"][name]) for name, tensor in before["tensors"].items())
    for part in ("modules", "config", "attention", "registry"):
        assert before[part] == after[part], part
