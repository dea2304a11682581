"""Small pictures to learn on: the real 8x8 digits that scikit-learn brings, made glyphs to pretrain on, and small models.

Shapes: N pictures, [N, 1, 8, 8] in [0, 1]; labels [N].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class KnownAndNew:
    """A transformer pretrained on some made signs, and rows of others, labelled from 0, that it is to learn."""

    shape: dict[str, int]
    base: Any
    train: TensorDataset
    test: TensorDataset
    num_new: int
    device: str

    def model(self, seed: int) -> Any:
        """The pretrained transformer under a new head for the new signs, drawn by the seed."""
        model = self.untaught(seed)
        model.vit.load_state_dict(self.base.vit.state_dict())
        return model

    def untaught(self, seed: int) -> Any:
        """The same with random weights."""
        return small_vit(self.num_new, seed=seed, **self.shape).to(self.device)

    def features(self, data: TensorDataset) -> Tensor:
        """What the pretrained transformer makes of pictures [N, width]."""
        with torch.no_grad():
            return self.base.vit(pixel_values=data.tensors[0].to(self.device)).last_hidden_state[:, 0]

    def class_means(self, prepare: Callable[[Tensor], Tensor] = lambda features: features) -> float:
        """Accuracy of the nearest class mean of the frozen features, each prepared in this way, as are the means."""
        seen, asked = (prepare(self.features(part)) for part in (self.train, self.test))
        labels = self.train.tensors[1].to(self.device)
        means = prepare(torch.stack([seen[labels == each].mean(0) for each in range(self.num_new)]))
        far = torch.cdist(asked, means, compute_mode="donot_use_mm_for_euclid_dist")
        return float((far.argmin(1).cpu() == self.test.tensors[1]).float().mean())


def known_and_new(
    known: int,
    new: int,
    full: bool,
    seed: int = 0,
    device: str = "cpu",
    style_of: Callable[[int], str] = lambda label: "plain",
) -> KnownAndNew:
    """Pretrain on `known` made signs and hold `new` others, 60 rows each, a third to test on; each sign in its style.

    `full`: a transformer of four layers of width 96, else of two of width 32.
    """
    shape = {"width": 96, "layers": 4, "heads": 4} if full else {"width": 32, "layers": 2, "heads": 2}
    pictures, labels = make_glyphs(known + new, 60, seed=seed).tensors
    for label in range(known + new):
        pictures[labels == label] = STYLES[style_of(label)](pictures[labels == label])
    old, held = labels < known, torch.arange(len(labels)) % 3 == 0
    base = pretrain(
        small_vit(known, seed=seed, **shape).to(device),
        TensorDataset(pictures[old], labels[old]),
        num_epochs=20 if full else 12,
    )
    train, test = (TensorDataset(pictures[~old & part], labels[~old & part] - known) for part in (~held, held))
    return KnownAndNew(shape, base, train, test, new, device)


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


class Block(nn.Module):
    """A residual block of two 3x3 convolutions with batch norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_first, self.norm_second = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, 8, 8] to the same."""
        return F.relu(x + self.norm_second(self.second(F.relu(self.norm_first(self.first(x))))))


class ResidualNet(nn.Module):
    """A classifier of pictures: a stem, parts of so many residual blocks each, a mean over places, a linear head."""

    def __init__(
        self, width: int = 16, parts: tuple[int, ...] = (1, 1, 1, 1), classes: int = 10, seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(1, width, 3, padding=1)
            self.parts = nn.ModuleList([nn.Sequential(*[Block(width) for _ in range(each)]) for each in parts])
            self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = F.relu(self.stem(x))
        for part in self.parts:
            x = part(x)
        return self.head(x.mean((-2, -1)))
