"""Small pictures to learn on: the real 8x8 digits that scikit-learn brings, made glyphs to pretrain on, and small models.

Shapes: N pictures, [N, 1, 8, 8] in [0, 1]; labels [N].
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from recollect.errors import Unavailable


def load_digits(seed: int = 0, test_share: float = 0.25) -> tuple[TensorDataset, TensorDataset]:
    """(train, test) of the 1,797 digits, rows of (picture, label), split at random by the seed.

    Raises Unavailable without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits as read
    except ImportError:
        raise Unavailable('digits: need scikit-learn; `pip install "recollect[learn]"` brings it.') from None
    raw: Any = read()
    pictures = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(raw.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, train = order.split([round(test_share * len(order)), len(order) - round(test_share * len(order))])
    return TensorDataset(pictures[train], labels[train]), TensorDataset(pictures[test], labels[test])


def make_glyphs(num_classes: int, rows_a_class: int, seed: int = 0, side: int = 8) -> TensorDataset:
    """Pictures of made-up signs: each class is a few pen strokes, each row a shifted, turned and shaken copy, blurred."""
    source = torch.Generator().manual_seed(seed)
    shapes = torch.rand(num_classes, 3, 4, 2, generator=source) * 1.4 - 0.7  # strokes of four points in [-1, 1]
    shapes[:, :, 1:] = shapes[:, :, :-1] * 0.35 + shapes[:, :, 1:] * 0.65
    labels = torch.arange(num_classes).repeat_interleave(rows_a_class)
    N = len(labels)
    points = shapes[labels] + 0.04 * torch.randn(N, 3, 4, 2, generator=source)
    angle = 0.1 * torch.randn(N, generator=source)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(N, 1, 2, 2)
    size = 1 + 0.05 * torch.randn(N, 1, 1, 1, generator=source)
    points = (points.view(N, 12, 2) @ turn[:, 0]).view(N, 3, 4, 2) * size
    points = points + 0.08 * torch.randn(N, 1, 1, 2, generator=source)
    along = torch.linspace(0, 1, 6).view(1, 1, 1, 6, 1)
    ink = points[:, :, :-1, None] * (1 - along) + points[:, :, 1:, None] * along  # [N, strokes, segments, 6, 2]
    ink = ink.reshape(N, -1, 2)
    grid = torch.linspace(-1, 1, side)
    rows, columns = ((grid[None, None] - ink[..., axis, None]) ** 2 for axis in (1, 0))
    width = 2 * (0.9 / side) ** 2
    drawn = torch.stack(
        [torch.exp(-(rows[each, :, :, None] + columns[each, :, None, :]) / width).amax(0) for each in range(N)]
    )
    drawn = (drawn + 0.03 * torch.randn(N, side, side, generator=source)).clamp(0, 1)
    return TensorDataset(drawn[:, None], labels)


class Perceptron(nn.Module):
    """A classifier of pictures with hidden layers of one width."""

    def __init__(self, inputs: int = 64, width: int = 256, classes: int = 10, hidden: int = 1, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [inputs, *[width] * hidden]
            self.body = nn.ModuleList([nn.Linear(one, two) for one, two in pairwise(sizes)])
            self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer [B, width]."""
        x = x.flatten(1)
        for layer in self.body:
            x = F.relu(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.features(x))


def small_vit(classes: int, width: int = 48, layers: int = 3, heads: int = 3, side: int = 8, seed: int = 0) -> Any:
    """A vision transformer of transformers for one-channel pictures, patches of 2x2, with a random start."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        image_size=side,
        patch_size=2,
        num_channels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.num_labels = classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTForImageClassification(config)


def pretrain(model: nn.Module, data: TensorDataset, num_epochs: int, rate: float = 3e-3, seed: int = 0) -> nn.Module:
    """Train a classifier on all of a data set with AdamW, its rate rising and falling again; returns the model."""
    from recollect.weights.batches import cross_entropy, forward

    source, device = torch.Generator().manual_seed(seed), next(model.parameters()).device
    steps = num_epochs * -(-len(data) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(num_epochs):
        for rows in torch.randperm(len(data), generator=source).split(64):
            batch = [each.to(device) for each in data[rows]]
            loss = cross_entropy(forward(model, batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def noisy_prototypes(data: TensorDataset, rows_a_class: int, noise: float = 0.4, seed: int = 0) -> TensorDataset:
    """Each class's mean picture with Gaussian noise on it: as many rows as wanted, for streams in a single pass."""
    source = torch.Generator().manual_seed(seed)
    pictures, labels = data.tensors
    classes = labels.unique()
    wanted = classes.repeat_interleave(rows_a_class)
    means = torch.stack([pictures[labels == each].mean(0) for each in classes]).repeat_interleave(rows_a_class, 0)
    return TensorDataset(means + noise * torch.randn(means.shape, generator=source), wanted)


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _occlude(x: Tensor) -> Tensor:
    return torch.cat([x[..., :3], torch.zeros_like(x[..., 3:5]), x[..., 5:]], dim=-1)


def _mix_rows(x: Tensor) -> Tensor:
    return x[..., [0, 1, 4, 2, 5, 3, 6, 7], :]


STYLES = {  # changes of pictures [N, 1, 8, 8], for domains and for corruptions; each is a function of the pictures alone
    "plain": lambda x: x,
    "inverted": lambda x: 1 - x,
    "blurred": _blur,
    "faint": lambda x: 0.4 * x,
    "shifted": lambda x: torch.roll(x, 2, dims=-1),
    "occluded": _occlude,
    "mixed rows": _mix_rows,
    "washed out": lambda x: 0.5 + 0.5 * x,
    "thick": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "turned": lambda x: torch.rot90(x, 1, dims=(-2, -1)),
}
