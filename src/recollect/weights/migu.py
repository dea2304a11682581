"""MIGU: from the second task on, only those output units of each linear layer learn that respond most strongly to the data.

The magnitudes of a pretrained model's outputs differ between tasks, so that the strongest units are a part of the network
that belongs to the task. Nothing of earlier tasks is kept, and no task is told: only that the first one is over.

Paper: Unlocking Continual Learning Abilities in Language Models, arXiv:2406.17245 (2024),
section 3.
Differs: padding does not count; biases are masked with their unit; fused projections are ranked as one. As in the paper
gradients are masked, so that the momentum and the decay of an optimizer still move a masked unit a little.
Cost: one sum over outputs and one selection a layer and step; nothing is stored between steps.

Shapes: B rows, T tokens, U output units of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from recollect.errors import InvalidInput
from recollect.weights.batches import forward
from recollect.weights.generation import evaluating
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner


@dataclass
class MIGU(Method):
    """Masks the gradients of all but the strongest `1 - threshold` of each layer's units, from the second task on.

    `layers` is a pattern of names of linear layers: of a decoder of transformers all but the head are meant. With
    adapters of peft, `lora_A` is ranked by its own output and `lora_B` by that of the whole layer (section 3.3).
    `choose`: "strongest", or for controls "random" or "weakest".
    """

    threshold: float = 0.7  # share of units that is masked
    layers: str = r"^(?!.*(lm_head|embed)).*$"
    skip_first_task: bool = True
    choose: Literal["strongest", "random", "weakest"] = "strongest"
    _sums: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _hooks: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    _counted: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise InvalidInput(f"threshold: {self.threshold} is not in [0, 1); use the share of units to mask.")
        if self.choose not in ("strongest", "random", "weakest"):
            raise InvalidInput(f"choose: {self.choose!r:.20} is not known; use strongest, random or weakest.")

    @classmethod
    def idle(cls) -> Self:
        """No unit is masked."""
        return cls(threshold=0.0)

    def before_step(self, learner: Learner, batch: Any) -> Any:
        """Watch the layers' outputs in this step."""
        self._release()
        if self.threshold and (learner.learned or not self.skip_first_task):
            self._counted = batch.get("attention_mask") if isinstance(batch, dict) else None
            self._watch(learner.model)
        return batch

    def after_backward(self, learner: Learner) -> None:
        """Mask the gradients by what was watched."""
        modules = dict(learner.model.named_modules())
        for name, sums in self._sums.items():
            if self.choose == "random":
                sums = torch.rand(sums.shape, generator=learner.generator(f"MIGU {name}")).to(sums.device)
            kept = strongest(-sums if self.choose == "weakest" else sums, self.threshold)
            for parameter, dim in _owned(modules[name]):
                if parameter.grad is not None:
                    shape = [-1 if each == dim else 1 for each in range(parameter.ndim)]
                    parameter.grad *= kept.view(shape).to(parameter.grad.dtype)
        self._release()

    def _watch(self, model: nn.Module) -> None:
        for name, module in _linear(model, self.layers):

            def note(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                sizes = output.detach().abs().float()
                counted = self._counted
                if counted is not None and counted.shape == sizes.shape[:2]:
                    sizes = sizes * counted[..., None].to(sizes)
                total = sizes.flatten(0, -2).sum(0)
                self._sums[name] = self._sums[name] + total if name in self._sums else total

            self._hooks.append(module.register_forward_hook(note))

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._sums = [], {}


def strongest(sums: Tensor, threshold: float) -> Tensor:
    """Which units [U] are not among the floor(threshold * U) with the smallest sums; of equal ones the first are masked."""
    masked = int(threshold * len(sums))
    kept = torch.ones(len(sums), dtype=torch.bool, device=sums.device)
    kept[sums.argsort(stable=True)[:masked]] = False
    return kept


def profiles(model: nn.Module, batches: Sequence[Any], layers: str = MIGU.layers) -> dict[str, Tensor]:
    """The summed magnitudes of each layer's units [U] over some batches, by the layer's name."""
    watcher = MIGU(layers=layers)
    with evaluating(model):
        watcher._watch(model)
        try:
            for batch in batches:
                watcher._counted = batch.get("attention_mask") if isinstance(batch, dict) else None
                forward(model, batch)
            return dict(watcher._sums)
        finally:
            watcher._release()


def diagnose(model: nn.Module, tasks: Sequence[Any], layers: str = MIGU.layers) -> tuple[float, float]:
    """(rank correlation of profiles within a task, between tasks), averaged over layers: MIGU's premise.

    Each task is a sequence of at least two batches, of which the even and the odd ones are compared. Where the second
    figure is not clearly lower than the first, MIGU cannot be expected to help.
    """
    halves = [[profiles(model, task[each::2], layers) for each in (0, 1)] for task in tasks]
    within = [_rank_correlation(one[name], two[name]) for one, two in halves for name in one]
    pairs = [(halves[a][0], halves[b][1]) for a in range(len(halves)) for b in range(len(halves)) if a != b]
    between = [_rank_correlation(one[name], two[name]) for one, two in pairs for name in one]
    return sum(within) / len(within), sum(between) / max(1, len(between))


def _rank_correlation(one: Tensor, two: Tensor) -> float:
    ranks = torch.stack([each.argsort().argsort().float() for each in (one, two)])
    return float(torch.corrcoef(ranks)[0, 1]) if len(one) > 1 else 1.0


def _linear(model: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of the layers that are ranked: linear ones, or where a layer has an adapter, the whole and its A."""
    for name, module in model.named_modules():
        if not re.search(pattern, name) or ".lora_B." in name or ".base_layer" in name:
            continue
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D" or hasattr(module, "lora_B"):
            yield name, module


def _owned(module: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """(parameter, dimension of its output units) of a ranked layer."""
    adapter: Any = getattr(module, "lora_B", None)
    layers: list[Any] = [module] if adapter is None else list(adapter.values())
    for layer in layers:
        yield layer.weight, 1 if type(layer).__name__ == "Conv1D" else 0
        if getattr(layer, "bias", None) is not None:
            yield layer.bias, 0
