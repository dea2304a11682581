"""How much a parameter mattered, and the penalty for moving it: shared by EWC, refresh learning and MAS.

Importances are dicts from a parameter's name to a tensor of its shape, never negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from recollect.errors import InvalidInput
from recollect.weights.batches import aligned, classes_of, forward, local_cross_entropy, move, only, rows_of

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task

Importance = dict[str, Tensor]


def penalty(
    parameters: Iterable[tuple[str, nn.Parameter]], anchor: Mapping[str, Tensor], importance: Importance | None = None
) -> Tensor:
    """sum_j w_j (theta_j - theta*_j)^2 over the parameters that the anchor has; without importances w is 1."""
    total: Any = 0.0
    for name, parameter in parameters:
        if name in anchor:
            moved = (parameter - anchor[name]) ** 2
            total = total + (moved.sum() if importance is None else (importance[name] * moved).sum())
    return total if isinstance(total, Tensor) else torch.zeros(())


def anchor_of(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Copies of the parameters as they are now, on their device."""
    return {name: each.detach().clone() for name, each in parameters}


def add(old: Importance | None, new: Importance, keep: float = 1.0) -> Importance:
    """`keep` times the old importances plus the new ones."""
    return (
        new if old is None else {name: keep * old[name] + each if name in old else each for name, each in new.items()}
    )


def row_gradients(
    learner: Learner, data: Any, places: Iterable[int], value: Callable[[Any, Any], Tensor]
) -> Iterator[tuple[list[tuple[str, nn.Parameter]], Any]]:
    """For each row, alone and in evaluation mode: the trained parameters with the gradients of `value(outputs, batch)`."""
    named = list(learner.named_parameters())
    training = learner.model.training
    learner.model.eval()
    try:
        for place in places:
            batch = move(rows_of(data, [place], learner.collate), learner.device)
            found = value(forward(learner.model, batch), batch)
            yield named, torch.autograd.grad(found, [each for _, each in named], allow_unused=True)
    finally:
        learner.model.train(training)


def fisher(learner: Learner, task: Task, num_rows: int, labels: Literal["model", "true"] = "model") -> Importance:
    """The diagonal of the Fisher information: the mean over rows of squared gradients of each row's log-likelihood.

    Labels are drawn from the model's own prediction (the Fisher information proper) or are the true ones (the empirical
    one). The softmax is over the task's classes where the learner's objective is the local one, else over all.
    """
    if labels not in ("model", "true"):
        raise InvalidInput(f"labels: {labels!r:.20} is not known; use model or true.")
    source = learner.generator("fisher")
    places = torch.randperm(len(task.train), generator=source)[:num_rows].tolist()
    local = learner.objective is local_cross_entropy

    def value(outputs: Any, batch: Any) -> Tensor:
        logits, told = aligned(outputs, batch)
        logits = only(logits, classes_of(task)) if local else logits
        log = logits.flatten(0, -2).log_softmax(-1)
        told = told.flatten()
        known = told >= 0
        if labels == "model":
            told = torch.multinomial(log.exp().cpu(), 1, generator=source)[:, 0].to(log.device)
        return log[known].gather(1, told[known][:, None]).sum()

    return mean_of(row_gradients(learner, task.train, places, value), lambda gradient: gradient**2, len(places))


def mean_of(gradients: Iterator[Any], function: Callable[[Tensor], Tensor], num_rows: int) -> Importance:
    """The mean of `function(gradient)` over rows, by parameter."""
    total: Importance = {}
    for named, found in gradients:
        for (name, parameter), gradient in zip(named, found, strict=True):
            if name not in total:
                total[name] = torch.zeros_like(parameter)
            if gradient is not None:
                total[name] += function(gradient) / num_rows
    return total
