"""EcoTTA: a frozen model adapts to an unlabelled stream through small side networks, each held near the part that it helps.

The encoder is cut into parts f_k. Beside each stand a norm and a bypass: x~_k = Norm_k(f_k(x~_{k-1})) + g_k(x~_{k-1}). Only
these are trained: once on labelled source data (warm-up), then on every batch of the stream, to lower the entropy of
confident predictions and to stay near f_k's own output. Nothing of the model itself changes, and `detach` takes the side
networks off again.

Paper: EcoTTA: Memory-Efficient Continual Test-time Adaptation via Self-distilled Regularization, arXiv:2303.01904 (2023),
section 3. The paper's program could not be found; learning rates are those of a published re-implementation.
Differs: PyTorch holds the inputs of frozen convolutions and norms too, so that freezing alone saves nothing; parts are
therefore computed again on the way back, and each distance is sent back as soon as it is known. `bottleneck` bypasses, for
token models, start at zero, so that the warm-up may be left out; the frozen norms use the batch's statistics without keeping
them.
Cost: one 3x3 convolution (or linear layer, or bottleneck) and two norms a part; three forward passes and one backward pass a
batch. Held for it are the inputs of all parts and the inside of one; `SavedBytes` measures it.

Shapes: B rows, C classes, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from recollect.errors import InvalidInput
from recollect.weights.batches import cross_entropy, forward, logits_of, move

Bypass = Literal["conv3x3", "linear", "bottleneck"]


class MetaPart(nn.Module):
    """A frozen part with its side network."""

    def __init__(self, part: nn.Module, bypass: Bypass, bottleneck: int, given: Tensor, made: Tensor) -> None:
        super().__init__()
        self.part = part
        self.pull: float | None = None  # in the distance pass: what the distance is multiplied by
        self.recomputes = False
        self.gap = 0.0  # mean |x~_k - f_k(x~_{k-1})| of the last distance pass
        axis = 1 if bypass == "conv3x3" else -1
        width, out = given.shape[axis], made.shape[axis]
        if bypass == "conv3x3":
            stride = given.shape[-1] // made.shape[-1]
            first: nn.Module = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
            norms = [nn.BatchNorm2d(out, track_running_stats=False) for _ in range(2)]
        elif bypass == "linear":
            first = nn.Linear(width, out, bias=False)
            norms = [nn.BatchNorm1d(out, track_running_stats=False) for _ in range(2)]
        else:
            self.norm: nn.Module = Affine(out)
            last = nn.Linear(bottleneck, out)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.bypass = nn.Sequential(nn.Linear(width, bottleneck), nn.GELU(), last)
            return
        self.norm, self.bypass = norms[0], nn.Sequential(first, norms[1], nn.ReLU())

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Norm(f(x)) + g(x); a part that returns a tuple has its first tensor changed."""
        if self.pull is not None:
            return self._distance(x, *args, **kwargs)
        if self.recomputes and torch.is_grad_enabled():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return checkpoint(lambda y: self._ours(y, *args, **kwargs), x, use_reentrant=True)
        return self._ours(x, *args, **kwargs)

    def _ours(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        made = self.part(x, *args, **kwargs)
        if isinstance(made, tuple):
            return self.norm(made[0]) + self.bypass(x), *made[1:]
        return self.norm(made) + self.bypass(x)

    def _distance(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The part's output, after a backward pass of its own distance to what the frozen part gives."""
        x = x.detach()
        with torch.no_grad():
            made = self.part(x, *args, **kwargs)
        plain = made[0] if isinstance(made, tuple) else made
        ours = self.norm(plain) + self.bypass(x)
        gap = (ours - plain).abs().mean()
        if self.pull:
            (self.pull * gap).backward()
        self.gap = float(gap.detach())
        ours = ours.detach()
        return (ours, *made[1:]) if isinstance(made, tuple) else ours


class Affine(nn.Module):
    """A scale and a shift of each feature, at first none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x * weight + bias."""
        return x * self.weight + self.bias


class EcoTTA:
    """Attaches side networks to `parts`, names of modules of the model in the order of the forward pass.

    `example` is a batch, by which shapes are found. `strength` is the paper's lambda (0.25 in the re-implementation);
    predictions with an entropy below `entropy_margin` ln C teach. `two_steps`: first a step on the distances, then one on the
    entropy; else one step on the sum of both. `recomputes`: a part is computed again on the way back, so that only one
    part's tensors are held at a time. The model is frozen from here on.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[str],
        example: Any,
        *,
        bypass: Bypass = "conv3x3",
        bottleneck: int = 32,
        strength: float = 0.25,
        entropy_margin: float = 0.4,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] = partial(torch.optim.SGD, lr=5e-3, momentum=0.9),
        two_steps: bool = True,
        recomputes: bool = True,
        seed: int = 0,
    ) -> None:
        if not parts:
            raise InvalidInput("parts: there are none; name modules of the model, such as its blocks.")
        if bypass not in ("conv3x3", "linear", "bottleneck"):
            raise InvalidInput(f"bypass: {bypass!r:.20} is not known; use conv3x3, linear or bottleneck.")
        self.model, self.names = model, list(parts)
        self.strength, self.entropy_margin, self.two_steps = strength, entropy_margin, two_steps
        self.recomputes = recomputes
        self.make_optimizer = optimizer
        self.device = next(model.parameters()).device
        shapes = self._shapes(example)
        self._required = {name: each.requires_grad for name, each in model.named_parameters()}
        model.requires_grad_(False)
        self.parts: list[MetaPart] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name in self.names:
                part = MetaPart(model.get_submodule(name), bypass, bottleneck, *shapes[name]).to(self.device)
                self._put(name, part)
                self.parts.append(part)
        self.optimizer = self.make_optimizer(self.parameters())
        self._start = self._copy()
        self.stats: dict[str, Any] = {}

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: norms and bypasses."""
        return [each for part in self.parts for side in (part.norm, part.bypass) for each in side.parameters()]

    def warm_up(self, batches: Iterable[Any], rate: float = 0.05) -> float:
        """Train the side networks on labelled source batches with momentum 0.9; returns the last loss.

        What is learned is the state to which `reset` goes back. The paper warms up for a few epochs; give a list or an
        iterable that goes over the data as often.
        """
        optimizer, loss = torch.optim.SGD(self.parameters(), lr=rate, momentum=0.9), torch.zeros(())
        with self._adapting():
            for batch in batches:
                batch = move(batch, self.device)
                loss = cross_entropy(forward(self.model, batch), batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self._start = self._copy()
        self.optimizer = self.make_optimizer(self.parameters())
        return float(loss.detach())

    def step(self, batch: Any) -> Tensor:
        """Logits for a batch of the stream, without looking at labels, and one step of adaptation on it."""
        batch = move(batch, self.device)
        with self._adapting(), torch.enable_grad():
            self.optimizer.zero_grad()
            self._distances(batch)
            if self.two_steps and self.strength:
                self.optimizer.step()
                self.optimizer.zero_grad()
            logits = logits_of(forward(self.model, batch))
            entropy, share = self._entropy(logits, batch)
            if share:
                entropy.backward()
            if share or (self.strength and not self.two_steps):
                self.optimizer.step()
        gaps = [part.gap for part in self.parts]
        self.stats = {"used_share": share, "entropy": float(entropy.detach()), "gaps": gaps}
        return logits.detach()

    def predict(self, batch: Any) -> Tensor:
        """Logits without adaptation, by the statistics of the batch."""
        with self._adapting(), torch.no_grad():
            return logits_of(forward(self.model, move(batch, self.device)))

    def reset(self) -> None:
        """Back to the state after the warm-up, momentum included."""
        for part, saved in zip(self.parts, self._start, strict=True):
            part.norm.load_state_dict(saved["norm"])
            part.bypass.load_state_dict(saved["bypass"])
        self.optimizer = self.make_optimizer(self.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Everything that adaptation has learned: side networks and the optimizer's state; see `checkpoint.save_tree`."""
        return {"parts": self._copy(), "start": self._start, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._start = saved["parts"]
        self.reset()
        self._start = saved["start"]
        self.optimizer.load_state_dict(saved["optimizer"])

    def detach(self) -> None:
        """Take the side networks off: the model is what it was, bit for bit."""
        for name, part in zip(self.names, self.parts, strict=True):
            self._put(name, part.part)
        for name, each in self.model.named_parameters():
            each.requires_grad_(self._required[name])

    def _distances(self, batch: Any) -> None:
        """Gradients of the parts' distances, none of which leaves its part."""
        for part in self.parts:
            part.pull = self.strength
        try:
            forward(self.model, batch)
        finally:
            for part in self.parts:
                part.pull = None

    def _entropy(self, logits: Tensor, batch: Any) -> tuple[Tensor, float]:
        """The mean entropy of confident predictions in nats, 0 where there are none; and their share."""
        entropy = entropy_of(logits.flatten(0, -2))
        margin = self.entropy_margin * torch.log(torch.tensor(float(logits.shape[-1])))
        used = entropy < margin.to(entropy)
        if logits.dim() == 3 and isinstance(batch, dict) and "attention_mask" in batch:
            used = used & batch["attention_mask"].flatten().bool()
        if not used.any():
            return (entropy * 0.0).sum(), 0.0
        return entropy[used].mean(), float(used.float().mean())

    def _copy(self) -> list[dict[str, Any]]:
        def copied(module: nn.Module) -> dict[str, Tensor]:
            return {name: each.detach().clone() for name, each in module.state_dict().items()}

        return [{"norm": copied(part.norm), "bypass": copied(part.bypass)} for part in self.parts]

    @contextmanager
    def _adapting(self) -> Iterator[None]:
        """Norms work on the batch's statistics; the frozen ones keep their own, and dropout is off."""
        training = [(each, each.training) for each in self.model.modules()]
        side = {id(each) for part in self.parts for one in (part.norm, part.bypass) for each in one.modules()}
        kept = []
        self.model.eval()
        for part in self.parts:
            part.recomputes = self.recomputes
        for each in self.model.modules():
            if isinstance(each, nn.modules.batchnorm._BatchNorm):
                each.train()
                if id(each) not in side and each.track_running_stats:
                    kept.append((each, each.running_mean, each.running_var, each.num_batches_tracked))
                    each.running_mean = each.running_var = each.num_batches_tracked = None
        try:
            yield
        finally:
            for each, mean, variance, count in kept:
                each.running_mean, each.running_var, each.num_batches_tracked = mean, variance, count
            for each, was in training:
                each.training = was

    def _shapes(self, example: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """What goes into each part and comes out of it, for an example."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        known = dict(self.model.named_modules())
        hooks = []
        for name in self.names:
            if name not in known:
                raise InvalidInput(f"parts: there is no module {name!r:.60}; see model.named_modules().")

            def note(module: nn.Module, inputs: tuple[Any, ...], output: Any, name: str = name) -> None:
                found[name] = inputs[0], output[0] if isinstance(output, tuple) else output

            hooks.append(known[name].register_forward_hook(note))
        try:
            with torch.no_grad(), self._plain():
                forward(self.model, move(example, self.device))
        finally:
            for hook in hooks:
                hook.remove()
        if missing := [name for name in self.names if name not in found]:
            raise InvalidInput(f"parts: {missing[0]!r:.60} is not used in a forward pass; leave it out.")
        return found

    @contextmanager
    def _plain(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def _put(self, name: str, module: nn.Module) -> None:
        parent, _, last = name.rpartition(".")
        setattr(self.model.get_submodule(parent), last, module)


def entropy_of(logits: Tensor) -> Tensor:
    """The softmax entropy of each row [B], in nats."""
    return -(F.softmax(logits, -1) * F.log_softmax(logits, -1)).sum(-1)
