"""Control LLM: some blocks get a trainable twin beside the frozen original, and the two are interpolated and kept close.

The pretrained blocks stay as they are. A twin starts as a copy and learns; the pair's output lies between both, and a
divergence loss holds the twin's hidden states to the original's. With the twin's weight at zero the model is what it was,
bit for bit; after learning the pairs may stay, or be merged into single blocks of the original size.

Paper: Control LLM: Controlled Evolution for Intelligence Retention in LLM, arXiv:2501.10979 (2025), section 3.
Differs: the original's state is detached in the divergence; padding does not count; slerp falls back to lerp for each token
whose states point the same way; the cosine is bounded where its angle has no gradient. Twins keep their keys and values
in cache layers of their own. Progressive, projecting, gated and stacked variants are left out.
Cost: a block more for every `every` blocks, in compute, weights and cache; optimizer state for the twins only.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.errors import InvalidInput
from recollect.weights.blocks import decoder_blocks

INTERPOLATORS = ("lerp", "slerp", "dlerp", "dlerpin")
DIVERGENCES = ("cosine", "mse", "dot")


@dataclass(frozen=True)
class ControlLLM:
    """Settings of an expansion; the defaults are those of the paper's pre-training."""

    every: int = 4  # each so-manieth block gets a twin, the last of each group
    interpolator: Literal["lerp", "slerp", "dlerp", "dlerpin"] = "dlerp"
    divergence: Literal["cosine", "mse", "dot"] = "cosine"
    divergence_weight: float = 1.0  # alpha
    twin_weight: float = 0.5  # w at the start
    train_weight: bool = True

    def __post_init__(self) -> None:
        for name, known in (("interpolator", INTERPOLATORS), ("divergence", DIVERGENCES)):
            if getattr(self, name) not in known:
                raise InvalidInput(f"{name}: {getattr(self, name)!r:.20} is not known; use {', '.join(known)}.")
        if self.every < 1 or not 0 < self.twin_weight < 1:
            raise InvalidInput("every, twin_weight: use every >= 1, and a weight between 0 and 1, both excluded.")

    def expand(self, model: Any) -> Expanded:
        """Give the model its twins, in place; only they, and what interpolates, are trained from now on.

        Raises InvalidInput when no list of blocks is found, or it has fewer than `every`.
        """
        blocks, place = decoder_blocks(model)
        chosen = list(range(self.every - 1, len(blocks), self.every))
        if not chosen:
            raise InvalidInput(f"every: {self.every} is more than the model's {len(blocks)} blocks; use fewer.")
        model.requires_grad_(False)
        pairs, config = {}, model.config
        for number, at in enumerate(chosen):
            pairs[at] = Pair(blocks[at], len(blocks) + number, model.config.hidden_size, self)
            blocks[at] = pairs[at]
        config.num_hidden_layers += len(pairs)  # as many as the cache needs
        if getattr(config, "layer_types", None):
            config.layer_types = [*config.layer_types, *(config.layer_types[at] for at in chosen)]
        return Expanded(model, place, pairs)


class Pair(nn.Module):
    """A frozen block and its twin: hidden states [B, T, D] to hidden states between the two blocks' outputs."""

    def __init__(self, block: nn.Module, cache_layer: int, width: int, settings: ControlLLM) -> None:
        super().__init__()
        self.block, self.settings = block, settings
        self.twin = copy.deepcopy(block).requires_grad_(True)
        for module in self.twin.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = cache_layer  # type: ignore[assignment]
        device = next(block.parameters()).device
        start = torch.tensor(settings.twin_weight, device=device).logit()
        self.logit = nn.Parameter(start, requires_grad=settings.train_weight)
        inputs = {"dlerp": 2 * width, "dlerpin": width}.get(settings.interpolator)
        if inputs:
            self.direction = nn.Parameter(torch.zeros(inputs, device=device), requires_grad=settings.train_weight)
        self.forced: float | None = None  # one weight for all, in place of the learned ones
        self.divergence: Tensor | None = None  # of the last forward pass, by token [B, T]
        self.weight: Tensor | None = None  # w of the last forward pass, by token or one for all

    def __getattr__(self, name: str) -> Any:
        """What is not the pair's own is the block's, as the kind of its attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the block's own forward; the twin sees the same input."""
        kept = self.block(hidden, *args, **kwargs)
        if self.forced == 0:
            return kept
        made = self.twin(hidden, *args, **kwargs)
        one, two = (each[0] if isinstance(each, tuple) else each for each in (kept, made))
        weight = self._weight(hidden, one, two)
        self.weight = weight.detach()
        self.divergence = diverge(self.settings.divergence, one.detach(), two)
        mixed = slerp(one, two, weight) if self.settings.interpolator == "slerp" else torch.lerp(one, two, weight)
        return (mixed, *kept[1:]) if isinstance(kept, tuple) else mixed

    def _weight(self, hidden: Tensor, one: Tensor, two: Tensor) -> Tensor:
        """w: a scalar, or for each token [B, T, 1]."""
        if self.forced is not None:
            return one.new_tensor(self.forced)
        if self.settings.interpolator in ("lerp", "slerp"):
            return self.logit.sigmoid().to(one.dtype)
        seen = torch.cat([one, two], -1) if self.settings.interpolator == "dlerp" else hidden
        return (seen @ self.direction.to(seen.dtype) + self.logit).sigmoid()[..., None].to(one.dtype)


class Expanded:
    """A model with twins. Its loss, where it is given labels, contains the divergence; `model` is used as ever."""

    def __init__(self, model: Any, place: tuple[nn.Module, str], pairs: dict[int, Pair]) -> None:
        self.model, self.pairs = model, pairs
        self._owner, self._name = place
        self._counted: Tensor | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._note, with_kwargs=True),
            model.register_forward_hook(self._add),
        ]

    def weights(self) -> list[float]:
        """The mean weight of each twin in the last forward pass, from below."""
        return [float(pair.weight.float().mean()) if pair.weight is not None else 0.0 for pair in self.pairs.values()]

    @contextmanager
    def forced(self, weight: float | None) -> Iterator[None]:
        """One weight of all twins in the body: 0 is the model as it was, bit for bit, 1 the twins alone."""
        before = {pair: pair.forced for pair in self.pairs.values()}
        for pair in before:
            pair.forced = weight
        try:
            yield
        finally:
            for pair, value in before.items():
                pair.forced = value

    def undo(self) -> None:
        """Take the twins out: the model is the one that was expanded, bit for bit, and all of it is trained again."""
        self._replace({at: pair.block for at, pair in self.pairs.items()})

    def merge(self, how: Literal["lerp", "slerp"] = "lerp") -> None:
        """Make one block of each pair, by the mean weights of the last forward pass; the size is the original one again.

        Each tensor lies between the block's and the twin's; slerp goes by rows. Blocks are not linear, so that this is
        an approximation: measure after it. Raises InvalidInput before any forward pass.
        """
        merged = {}
        for at, pair in self.pairs.items():
            if pair.weight is None:
                raise InvalidInput("weights: none have been measured; run the model over some text first.")
            block, weight = pair.block, pair.weight.float().mean()
            with torch.no_grad():
                for one, two in zip(block.parameters(), pair.twin.parameters(), strict=True):
                    between = (
                        slerp(one, two, weight)
                        if how == "slerp" and one.ndim > 1
                        else torch.lerp(one, two, weight.to(one))
                    )
                    one.copy_(between)
            merged[at] = block
        self._replace(merged)

    def size_bytes(self) -> int:
        """Bytes of the twins and of what interpolates."""
        trained = (each for pair in self.pairs.values() for each in pair.parameters() if each.requires_grad)
        return sum(each.numel() * each.element_size() for each in trained)

    def divergence(self) -> Tensor:
        """The mean over pairs of alpha L_div of the last forward pass, padding left out; 0 where twins are off."""
        found = []
        for pair in self.pairs.values():
            if pair.divergence is not None:
                each = pair.divergence
                counted = torch.ones_like(each) if self._counted is None else self._counted.to(each)
                counted = counted if counted.shape == each.shape else torch.ones_like(each)
                found.append(pair.settings.divergence_weight * (each * counted).sum() / counted.sum())
        return torch.stack(found).mean() if found else torch.zeros(())

    def _note(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._counted = kwargs.get("attention_mask")
        for pair in self.pairs.values():
            pair.divergence = None

    def _add(self, model: nn.Module, args: Any, output: Any) -> Any:
        if model.training and getattr(output, "loss", None) is not None:
            output.loss = output.loss + self.divergence().to(output.loss)
        return output

    def _replace(self, blocks: dict[int, nn.Module]) -> None:
        own = getattr(self._owner, self._name)
        for at, block in blocks.items():
            own[at] = block
        for hook in self._hooks:
            hook.remove()
        config = self.model.config
        config.num_hidden_layers -= len(blocks)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: config.num_hidden_layers]
        self.model.requires_grad_(True)


def slerp(one: Tensor, two: Tensor, weight: Tensor) -> Tensor:
    """Between two tensors along the arc, by their last dimension; where they point the same way, along the line."""
    first, second = one.float(), two.float()
    share = weight.float()
    cosine = F.cosine_similarity(first, second, dim=-1)[..., None]
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    arc = ((1 - share) * angle).sin() / angle.sin() * first + (share * angle).sin() / angle.sin() * second
    return torch.where(cosine > 1 - 1e-5, torch.lerp(first, second, share), arc).to(one.dtype)


def diverge(kind: str, kept: Tensor, made: Tensor) -> Tensor:
    """L_div by token [B, T] between the block's states and the twin's [B, T, D]."""
    kept, made = kept.float(), made.float()
    if kind == "mse":
        return (made - kept).square().mean(-1)
    apart = (1 - F.cosine_similarity(kept, made, dim=-1)).relu()
    cosine = F.smooth_l1_loss(apart, torch.zeros_like(apart), reduction="none")
    if kind == "cosine":
        return cosine
    return 0.5 * cosine + 0.5 * (kept.norm(dim=-1) - made.norm(dim=-1)).square()
