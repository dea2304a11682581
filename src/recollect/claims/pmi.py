"""PMI's claim: a network whose tokens meet in its memories answers questions about relations better than self-attention does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recollect.benchmarks.state_tasks import NUM_ANSWERS, SCENE_SIZE, scenes
from recollect.claims.claim import Claim, Progress, Row, Setting
from recollect.claims.runs import Run, averages, grid

if TYPE_CHECKING:
    from torch import Tensor

SYSTEM, OUTER, WORKSPACE, ATTENTION = "PMI", "PMI, outer products", "shared workspace", "self-attention"


@dataclass(frozen=True)
class Size:
    """How much is trained and measured."""

    width: int
    num_steps: int
    num_seeds: int
    rows: int = 128
    num_scenes: int = 2048
    num_layers: int = 4


SMALL = Size(width=48, num_steps=700, num_seeds=1, rows=64, num_layers=3)
FULL = Size(width=128, num_steps=3000, num_seeds=3, rows=512, num_scenes=16384)


def make(name: str, size: Size) -> Any:
    """A network of this name: one block, used `num_layers` times, and a head on the question's token."""
    import torch
    from torch import nn

    from recollect.state.pmi import PMI

    D, heads = size.width, 4

    class Mixer(nn.Module):
        """Self-attention, in the interface of a layer with a state."""

        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(D, heads, batch_first=True)

        def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
            return self.attention(x, x, x, need_weights=False)[0], None

    def mixer() -> Any:
        if name == ATTENTION:
            return Mixer()
        options: dict[str, Any] = (
            {"alpha": 1.0} if name == WORKSPACE else {"association": "outer" if name == OUTER else "scalar"}
        )
        return PMI(D, num_heads=heads, head_size=D // heads, scale=True, **options)

    class Network(nn.Module):
        def __init__(self, hidden: int):
            super().__init__()
            self.embed, self.mixer, self.head = nn.Linear(SCENE_SIZE, D), mixer(), nn.Linear(D, NUM_ANSWERS)
            self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(3))
            self.feed = nn.Sequential(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D))

        def forward(self, tokens: Tensor) -> Tensor:
            x, state = self.embed(tokens), None
            for _ in range(size.num_layers):
                y, state = self.mixer(self.norms[0](x), state)
                x = x + y
                x = x + self.feed(self.norms[1](x))
            return self.head(self.norms[2](x[:, -1]))

    def count(network: nn.Module) -> int:
        return sum(weight.numel() for weight in network.parameters())

    with torch.random.fork_rng(devices=[]):
        own = count(mixer())
        most = count(PMI(D, num_heads=heads, head_size=D // heads))
    return Network(2 * D + max(most - own, 0) // (2 * D + 1))  # all as many parameters as PMI, or as near as can be


def trained(run: Run, setting: Setting, progress: Progress) -> dict[str, float]:
    """Share of questions answered, on relations and on single objects."""
    import torch

    from recollect.state.trainer import Plan, learn

    size = SMALL if setting.scale == "small" else FULL
    torch.manual_seed(run.seed)
    network = make(run.name, size).to(setting.device)

    def loss(tokens: Tensor, answers: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(network(tokens), answers)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        tokens, answers, _ = scenes(size.rows, torch.Generator().manual_seed(run.seed * 1_000_003 + step))
        return tokens, answers

    plan = Plan(size.num_steps, 2e-3, 50, weight_decay=0.01, seed=run.seed)
    learn(network, loss, batch, plan, progress=lambda step, total, what: progress(f"step {step} of {total}: {what}"))
    tokens, answers, relation = scenes(size.num_scenes, torch.Generator().manual_seed(-1 - run.seed))
    with torch.no_grad():
        right = (network(tokens.to(setting.device)).argmax(dim=-1).cpu() == answers).float()
    return {
        "relations right": right[relation].mean().item(),
        "objects right": right[~relation].mean().item(),
        "parameters": float(sum(weight.numel() for weight in network.parameters())),
    }


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """A row for each network, averaged over seeds."""
    size = SMALL if setting.scale == "small" else FULL
    seeds = range(setting.seed, setting.seed + size.num_seeds)
    runs = grid((SYSTEM, OUTER, WORKSPACE, ATTENTION), seeds)
    for name, values in averages(trained, runs, setting, progress):
        yield Row(name, "system" if name == SYSTEM else "baseline", values)


def decide(rows: Mapping[str, Row]) -> bool:
    """On relations PMI answers 0.02 more than self-attention, and no less than 0.01 below the workspace alone."""
    ours, workspace, attention = (rows[name].values["relations right"] for name in (SYSTEM, WORKSPACE, ATTENTION))
    return ours >= attention + 0.02 and ours >= workspace - 0.01


CLAIM = Claim(
    key="pmi",
    sentence="With a working memory that is written by competition and a long-term memory that gathers it in the place of "
    "self-attention, a small transformer answers more questions about relations.",
    figure="better than the transformer and than a shared workspace on Sort-of-CLEVR, bAbI and others (section 4).",
    experiment="Symbolic Sort-of-CLEVR: six objects as tokens and a question on one of them, three kinds on relations to others and "
    "three on itself. One block, used over and over, with PMI, with PMI whose long-term memory sums outer products (ours), with "
    "the working memory alone, and with self-attention; parameters made equal by the feed-forward part. Scores are scaled by "
    "the head's size in all.",
    rule="on relations PMI answers at least 0.02 more than self-attention, and at most 0.01 less than the working memory alone.",
    measure=measure,
    decide=decide,
)
