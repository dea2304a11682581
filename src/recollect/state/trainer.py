"""A trainer for small runs: AdamW with warm-up and cosine, gradient clipping, checkpoints, and a resume that is exact.

The caller says what the loss of a step is, as a function of the step's number alone; so a run that was cut off goes on to
the same weights as one that was not. A checkpoint is one safetensors file: weights, moments of the optimiser, losses.
`learn` takes the loss and the batches apart, which lets a GPU replay the step as CUDA graphs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recollect.errors import Conflict, InvalidInput
from recollect.state.layer import StateLayer
from recollect.state.recorded import Objective, Recorded

Progress = Callable[[int, int, str], None]  # step, of, what was measured last
Loss = Callable[[int], "Tensor | Iterable[Tensor]"]
Batch = Callable[[int], Sequence[Tensor]]
CHECKPOINT = "checkpoint.safetensors"
STEADY = 50  # steps in a row whose loss is low enough before training ends early


@dataclass(frozen=True)
class Plan:
    """How a model is trained."""

    num_steps: int = 1000
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    final_share: float = 0.05  # of the learning rate, at the end of the cosine
    weight_decay: float = 0.1  # of matrices
    betas: tuple[float, float] = (0.9, 0.95)
    max_norm: float = 1.0  # of the gradient
    seed: int = 0
    save_steps: int = 200  # steps between checkpoints
    enough: float | None = None  # a loss: training ends once STEADY steps in a row are below it; None: it does not

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step, which counts from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.num_steps))
        return min(1.0, (step + 1) / max(1, self.warmup_steps)) * (self.final_share + (1 - self.final_share) * cosine)

    def is_over(self, losses: Sequence[float]) -> bool:
        """Whether a run with these losses so far has ended."""
        learned = self.enough is not None and len(losses) >= STEADY and max(losses[-STEADY:]) < self.enough
        return learned or len(losses) >= self.num_steps


def train(
    model: nn.Module,
    loss: Loss,
    plan: Plan,
    folder: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> list[float]:
    """Train a model in place; the loss of each step, in nats.

    `loss(step)` is the loss of a step, or several in turn, each of which is back-propagated before the next is asked for;
    their sum counts. It must depend on the step alone; torch's random numbers are seeded before each call. With a `folder`
    a checkpoint is kept there, from which a run of the same plan goes on. Raises Conflict when another plan wrote it.
    """
    parameters = dict(model.named_parameters())
    device = next(model.parameters()).device
    fused = True if device.type == "cuda" else None
    optimizer = torch.optim.AdamW(list(_groups(model, plan)), lr=plan.learning_rate, betas=plan.betas, fused=fused)
    path = Path(folder) / CHECKPOINT if folder is not None else None
    losses = _load(path, parameters, optimizer, plan) if path is not None and path.is_file() else []
    was_training = model.training
    model.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        while not plan.is_over(losses):
            step = len(losses)
            torch.manual_seed(plan.seed * 1_000_003 + step)
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * group["factor"] * plan.rate(step)
            total = torch.zeros((), device=device)
            given = loss(step)
            for part in (given,) if isinstance(given, Tensor) else given:
                part.backward()
                total += part.detach()
            nn.utils.clip_grad_norm_(list(parameters.values()), plan.max_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(total.item())
            if not math.isfinite(losses[-1]):
                raise InvalidInput(f"learning_rate: the loss is {losses[-1]} at step {step}; use a smaller one.")
            progress(step + 1, plan.num_steps, f"loss {losses[-1]:.3f}")
            if path is not None and ((step + 1) % plan.save_steps == 0 or plan.is_over(losses)):
                _save(path, parameters, optimizer, plan, losses)
    model.train(was_training)
    return losses


@dataclass(frozen=True)
class Learned:
    """How a training went."""

    losses: list[float]  # of each step
    recorded: bool  # steps were replayed as CUDA graphs
    refused: str | None  # why they were not, where a GPU was asked to


def learn(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    plan: Plan,
    folder: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Learned:
    """Train a model as `train` does, in place, by `objective(*batch(step))`: the loss of a batch, of which it must know nothing else.

    `batch(step)` gives tensors without gradient on any device, for the steps in their order. On a GPU it is called a step
    ahead in a thread of its own, so that it must not use torch's global random numbers, and the loss with its gradients is
    recorded as CUDA graphs, one for each shape of a batch.
    """
    device, recorded = next(model.parameters()).device, Recorded(model, objective)
    ahead = _ahead(batch, plan.num_steps) if device.type == "cuda" else nullcontext(batch)
    with closing(recorded), ahead as given:
        losses = train(model, lambda step: recorded(*(each.to(device) for each in given(step))), plan, folder, progress)
        return Learned(losses, recorded.is_recorded, recorded.refused)


@contextmanager
def _ahead(batch: Batch, num_steps: int) -> Iterator[Batch]:
    """`batch`, which begins with the next step's when it is asked for a step's."""
    with ThreadPoolExecutor(1) as pool:
        begun: dict[int, Future[Sequence[Tensor]]] = {}

        def give(step: int) -> Sequence[Tensor]:
            made = begun.pop(step, None) or pool.submit(batch, step)
            if step + 1 < num_steps:
                begun[step + 1] = pool.submit(batch, step + 1)
            return made.result()

        yield give


def segments(model: Any, ids: Tensor, segment_tokens: int) -> Iterator[Tensor]:
    """Losses of ids [B, T] read in segments whose gradient stops at their borders, the memory carried over them.

    They add up to the mean loss of all predictions. `model` is a MemoryLM.
    """
    memory, num = None, ids.shape[1] - 1
    for start in range(0, num, segment_tokens):
        end = min(start + segment_tokens, num)
        output = model(ids[:, start:end], cache=memory, use_cache=True)
        memory = output.cache.detach()
        each = nn.functional.cross_entropy(output.logits.flatten(0, 1).float(), ids[:, start + 1 : end + 1].flatten())
        yield each * ((end - start) / num)


def _groups(model: nn.Module, plan: Plan) -> Iterator[dict[str, Any]]:
    """Parameters by what the optimiser does to them: weight decay for matrices, rates of their own where a layer says so."""
    factors = {
        f"{place}.{name}" if place else name: factor
        for place, part in model.named_modules()
        if isinstance(part, StateLayer)
        for name, factor in part.rate_factors().items()
    }
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, weight in model.named_parameters():
        decay = plan.weight_decay if weight.ndim > 1 and name not in factors else 0.0
        groups.setdefault((factors.get(name, 1.0), decay), []).append(weight)
    for (factor, decay), weights in groups.items():
        yield {"params": weights, "weight_decay": decay, "factor": factor}


def _save(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, plan: Plan, losses: list[float]
) -> None:
    from safetensors.torch import save_file

    kept = {"losses": torch.tensor(losses, dtype=torch.float64)}
    for name, weight in parameters.items():
        kept[f"weight {name}"] = weight.detach()
        kept |= {f"{moment} {name}": value for moment, value in optimizer.state[weight].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    save_file(
        {name: each.contiguous().clone() for name, each in kept.items()}, scratch, {"plan": json.dumps(asdict(plan))}
    )
    os.replace(scratch, path)


def _load(path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, plan: Plan) -> list[float]:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        about = json.loads((file.metadata() or {}).get("plan", "{}"))
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in json.loads(json.dumps(asdict(plan))).items():
        if about.get(name) != value and name != "save_steps":
            raise Conflict(
                f"{name}: the checkpoint in {path} was made with {about.get(name)}, not {value}; use another folder."
            )
    losses = found.pop("losses").tolist()
    if {name.split(" ", 1)[1] for name in found} != parameters.keys():
        raise Conflict(f"model: the checkpoint in {path} is of another model; use another folder.")
    with torch.no_grad():
        for name, value in found.items():
            kind, weight = name.split(" ", 1)[0], parameters[name.split(" ", 1)[1]]
            if kind == "weight":
                weight.copy_(value)
            else:
                on_device = kind != "step" or optimizer.defaults["fused"]
                optimizer.state[weight][kind] = value.to(weight.device) if on_device else value
    return losses
