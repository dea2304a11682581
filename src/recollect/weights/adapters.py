"""Bottleneck adapters beside the MLPs of a transformer: out = x + MLP(norm(x)) + scale * up(ReLU(down(x))).

Their weights live in the model as parameters named `adapter_down`, `adapter_up` and their biases; everything else is frozen.
Adapters of peft change a layer's own weights; these stand beside it, as MOS and others ask.

Shapes: B rows, T tokens, D width, H bottleneck.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.errors import InvalidInput


class ParallelAdapter(nn.Module):
    """A module with a bottleneck beside it, which starts at zero: module(norm(x)) + scale * up(ReLU(down(x)))."""

    def __init__(self, module: nn.Module, width: int, bottleneck: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.module, self.scale, self.dropout = module, scale, dropout
        like = next(module.parameters())
        self.adapter_down = nn.Parameter(torch.empty(bottleneck, width, device=like.device, dtype=like.dtype))
        self.adapter_up = nn.Parameter(torch.zeros(width, bottleneck, device=like.device, dtype=like.dtype))
        self.adapter_down_bias = nn.Parameter(torch.zeros(bottleneck, device=like.device, dtype=like.dtype))
        self.adapter_up_bias = nn.Parameter(torch.zeros(width, device=like.device, dtype=like.dtype))
        nn.init.kaiming_uniform_(self.adapter_down, a=5**0.5)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The module's output plus the bottleneck's of the same input [B, T, D]."""
        low = F.relu(F.linear(x, self.adapter_down, self.adapter_down_bias))
        low = F.dropout(low, self.dropout, self.training)
        return self.module(x, *args, **kwargs) + self.scale * F.linear(low, self.adapter_up, self.adapter_up_bias)


def add_adapters(
    model: nn.Module,
    pattern: str = r"layers?\.\d+\.mlp$",
    bottleneck: int = 16,
    scale: float = 0.1,
    dropout: float = 0.1,
    trained_too: str = r"classifier|head$|head\.",
) -> list[str]:
    """Put an adapter beside every module whose name matches, and freeze all but adapters and `trained_too`.

    The module takes and gives vectors of the model's width. Returns the names of the modules that got one. Raises
    InvalidInput when there is none, or they have one already.
    """
    names = [name for name, _ in model.named_modules() if re.search(pattern, name)]
    if not names:
        raise InvalidInput(f"pattern: {pattern!r:.60} matches no module's name; see model.named_modules().")
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, ParallelAdapter):
            raise InvalidInput(f"model: {name} has an adapter already; use it, or load the model anew.")
        linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
        parent, _, last = name.rpartition(".")
        adapter = ParallelAdapter(module, linear[0].in_features, bottleneck, scale, dropout)
        setattr(model.get_submodule(parent), last, adapter)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("adapter_" in name or bool(re.search(trained_too, name)))
    return names


def adapter_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of all adapters, by name."""
    return {name: each for name, each in model.named_parameters() if ".adapter_" in name}
