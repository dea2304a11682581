"""Every layer of the home, small, for the contract; a layer joins by its row in the catalogue or in VARIANTS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from recollect.state.layer import StateLayer
from recollect.state.layers import layers, make_layer

DIM, ROWS, LENGTH = 8, 3, 21
SMALL: dict[str, list[dict[str, Any]]] = {  # settings under which LENGTH is several chunks; none: the defaults
    "attention": [{}, {"conv_tokens": 3}, {"window_tokens": 5}],
    "linear-attention": [{"chunk_tokens": 8}, {"chunk_tokens": 8, "feature_map": "taylor", "key_size": 3}],
    "lstm": [{}, {"state_size": 6, "peephole": True}, {"forget_gate": False}],
    "longvq": [{"codebook_size": 6, "window_tokens": 4, "key_size": 4, "num_averages": 3, "chunk_tokens": 5}],
    "synaptic-resonance": [{"window_tokens": 5, "chunk_tokens": 8}, {"window_tokens": 5, "rule": "hebb"}],
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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
