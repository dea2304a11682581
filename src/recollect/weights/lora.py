"""Adapters of peft on a decoder: low-rank changes beside the projections of its attention.

Paper: LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685 (2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def adapted(model: Any, rank: int = 8, scale: float = 4.0, layers: Sequence[str] = ATTENTION, seed: int = 0) -> Any:
    """The model with an adapter of this rank on the named layers, drawn by the seed; only it is trained.

    `scale` is alpha over the rank.
    """
    config = LoraConfig(
        r=rank, lora_alpha=round(scale * rank), lora_dropout=0.0, target_modules=list(layers), task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for a name that transformers is leaving
        torch.manual_seed(seed)
        return get_peft_model(model, config)
