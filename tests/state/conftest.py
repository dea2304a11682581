"""Every layer of the home, small, for the contract; a layer joins by its row in the catalogue or in VARIANTS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from recollect.state.layer import StateLayer
from recollect.state.layers import layers, make_layer

DIM, ROWS, LENGTH = 8, 3, 21
SMALL: dict[str, list[dict[str, Any]]] = {  # settings under which LENGTH is several chunks; none: the defaults
    "attention": [{}, {"num_persistent": 2, "window_tokens": 6}, {"conv_tokens": 3}, {"window_tokens": 5}],
    "linear-attention": [{"chunk_tokens": 8}, {"chunk_tokens": 8, "feature_map": "taylor", "key_size": 3}],
    "rnn-review": [],  # as "lstm"
    "lstm": [{}, {"state_size": 6, "peephole": True}, {"forget_gate": False}],
    "longvq": [{"codebook_size": 6, "window_tokens": 4, "key_size": 4, "num_averages": 3, "chunk_tokens": 5}],
    "synaptic-resonance": [{"window_tokens": 5, "chunk_tokens": 8}, {"window_tokens": 5, "rule": "hebb"}],
    "lssl": [
        {"state_size": 4, "chunk_tokens": 8},
        {"state_size": 4, "chunk_tokens": 8, "measure": "legt", "learn_matrix": False, "channels": 2, "alpha": 1.0},
    ],
    "s4d": [{"state_size": 4, "chunk_tokens": 8}, {"state_size": 4, "start": "inv"}],
    "s5": [{"state_size": 4}],
    "titans": [{"segment_tokens": 8}, {"segment_tokens": 5, "num_persistent": 0, "depth": 1, "momentum": False}],
    "titans-mag": [{"window_tokens": 6, "chunk_tokens": 8}, {"num_persistent": 0, "depth": 1}],
    "titans-mal": [{"window_tokens": 6, "chunk_tokens": 8, "num_persistent": 3}],
    "mom": [
        {"chunk_tokens": 8},
        {"update": "linear", "num_memories": 3, "top_k": 1, "shared": False, "key_size": 3},
        {"update": "delta", "num_memories": 0, "value_size": 6},
        {"update": "decay", "conv_tokens": 0},
    ],
    "jrt-rnn": [{"prefix_tokens": 6, "chunk_tokens": 8, "key_size": 3}, {"prefix_tokens": 0, "feature_map": "elu"}],
    "titans-lmm": [
        {"chunk_tokens": 8},
        {"chunk_tokens": 1, "depth": 1},
        {"chunk_tokens": 4, "depth": 3, "momentum": False},
        {"chunk_tokens": 8, "forget": False, "conv_tokens": 0},
        {"learn": False},
    ],
    "pmi": [
        {"num_slots": 4, "num_segments": 2, "num_heads": 2, "head_size": 4, "top_k": 3},
        {"num_slots": 3, "num_segments": 2, "num_heads": 1, "head_size": 4, "association": "outer", "scale": True},
    ],
    "bidirectional-rnn": [{}, {"cell": "gru"}],
}


@dataclass(frozen=True)
class Case:
    """A layer with settings."""

    name: str
    settings: dict[str, Any]

    def make(self) -> StateLayer:
        """The layer, its weights moved off what they begin as, so that no part of it is idle."""
        torch.manual_seed(0)
        layer = make_layer(self.name, DIM, **self.settings)
        with torch.no_grad():
            for weight in layer.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        return layer

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{name}={value}" for name, value in self.settings.items())])


CASES = [Case(name, settings) for name in layers() for settings in SMALL.get(name, [{}])]


@pytest.fixture(params=CASES, ids=str)
def layer(request: pytest.FixtureRequest) -> StateLayer:
    """Each layer of the home."""
    return request.param.make()


@pytest.fixture(params=[case for case in CASES if layers()[case.name].causal], ids=str)
def causal_layer(request: pytest.FixtureRequest) -> StateLayer:
    """Each layer that can read token by token."""
    return request.param.make()


@pytest.fixture
def x() -> torch.Tensor:
    """Inputs [ROWS, LENGTH, DIM]."""
    return torch.randn(ROWS, LENGTH, DIM, generator=torch.Generator().manual_seed(1))
