"""Tiny models and tasks for the tests of the home; everything is made here, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


@dataclass(frozen=True)
class MadeTask:
    name: str
    train: Any
    test: Any
    classes: tuple[int, ...] = ()


def make_tasks(num: int = 2, rows: int = 24, dim: int = 6, classes: int = 2) -> list[MadeTask]:
    """Tasks of Gaussian clouds, `classes` new ones in each."""
    source = torch.Generator().manual_seed(7)
    tasks = []
    for number in range(num):
        labels = torch.arange(rows) % classes + number * classes
        centres = torch.randn(classes, dim, generator=source) * 2
        inputs = centres[labels - number * classes] + 0.3 * torch.randn(rows, dim, generator=source)
        data = TensorDataset(inputs, labels)
        tasks.append(MadeTask(f"task {number}", data, data, tuple(range(number * classes, (number + 1) * classes))))
    return tasks


class Net(nn.Module):
    """A small classifier with dropout, norm and a frozen part, so that randomness, buffers and freezing are felt."""

    def __init__(self, dim: int = 6, classes: int = 6) -> None:
        super().__init__()
        self.frozen = nn.Linear(dim, dim)
        self.body = nn.Sequential(nn.Linear(dim, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, classes)
        self.frozen.requires_grad_(False)

    def features(self, x: Tensor) -> Tensor:
        return self.body(self.frozen(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def make_net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture
def tasks() -> list[MadeTask]:
    return make_tasks()
