"""Tiny random decoders of each family, made from configurations; no download."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCABULARY = 60
BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
HEAD = {"head_dim": 8}
WINDOWED = HEAD | {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 6}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", HEAD),
    "gemma2": ("Gemma2", WINDOWED | {"query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3", WINDOWED | {"query_pre_attn_scalar": 8}),
    "phi": ("Phi", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    "phi3": ("Phi3", {}),
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}


def make_decoder(family: str = "llama", **changes: Any) -> Any:
    """A tiny random decoder in float32."""
    name, own = FAMILIES[family]
    config = getattr(transformers, "Gemma3TextConfig" if family == "gemma3" else f"{name}Config")(
        **BASE | own | changes
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random tokens [rows, length], none of them special."""
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
