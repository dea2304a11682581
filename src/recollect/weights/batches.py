"""Batches: pairs (inputs, labels) for any module, or dicts with `labels` for models of transformers.

Shapes: B rows, C classes, T tokens, V vocabulary. Logits are [B, C] with labels [B], or, of a causal language model,
[B, T, V] with labels [B, T], where -100 marks what is not learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate

from recollect.errors import InvalidInput

IGNORED = -100  # the label of a token that is not learned


class Rows(Dataset[dict[str, Tensor]]):
    """Named tensors with the same first dimension [N, ...]; row i is a dict of the tensors' rows i.

    Raises InvalidInput when the tensors disagree.
    """

    def __init__(self, **tensors: Tensor) -> None:
        sizes = {len(tensor) for tensor in tensors.values()}
        if len(sizes) != 1:
            raise InvalidInput(f"rows: the tensors have {sorted(sizes)} rows; give each the same number, at least one.")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, which: Any) -> dict[str, Tensor]:
        return {name: tensor[which] for name, tensor in self.tensors.items()}


def rows_of(data: Any, places: Sequence[int], collate: Any = default_collate) -> Any:
    """A batch of these rows of a map-style data set."""
    if isinstance(data, TensorDataset | Rows):
        return data[torch.as_tensor(places)]
    return collate([data[place] for place in places])


def move(batch: Any, device: torch.device | str) -> Any:
    """The batch with its tensors on the device."""
    return tree_map(lambda x: x.to(device), batch)


def tree_map(function: Any, *trees: Any) -> Any:
    """The tree of `function` of the tensors at the same place of each tree; anything else is taken from the first."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, Mapping):
        return {key: tree_map(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(tree_map(function, *parts) for parts in zip(*trees, strict=True))
    return first


def forward(model: nn.Module, batch: Any) -> Any:
    """What the model makes of a batch: of a pair the module's output, of a dict that of `model(**batch)`."""
    return model(**batch) if isinstance(batch, Mapping) else model(batch[0])


def labels_of(batch: Any) -> Tensor:
    """The labels of a batch."""
    return batch["labels"] if isinstance(batch, Mapping) else batch[1]


def logits_of(outputs: Any) -> Tensor:
    """The logits in what a model returned: a tensor, an output of transformers, or the first of a tuple."""
    if isinstance(outputs, Tensor):
        return outputs
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]


def num_rows(batch: Any) -> int:
    """How many rows a batch has."""
    return len(labels_of(batch))


def join(*batches: Any) -> Any:
    """One batch of the rows of several, whose rows must be shaped alike."""
    return tree_map(lambda *parts: torch.cat(parts), *batches)


def select(batch: Any, rows: Tensor | slice) -> Any:
    """The batch of these rows."""
    return tree_map(lambda x: x[rows], batch)


def aligned(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """(logits, labels) side by side: as they are, or for a causal model each token's logits with the next label."""
    logits, labels = logits_of(outputs), labels_of(batch)
    if logits.dim() == 3:
        return logits[:, :-1], labels[:, 1:]
    return logits, labels


def cross_entropy(outputs: Any, batch: Any, task: Any = None) -> Tensor:
    """The mean cross-entropy over all classes or next tokens, in nats: what a learner minimises by default.

    A model of transformers that returns its own loss is taken at its word.
    """
    loss = getattr(outputs, "loss", None)
    if loss is not None:
        return loss
    logits, labels = aligned(outputs, batch)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def row_losses(outputs: Any, batch: Any) -> Tensor:
    """The cross-entropy of each row [B], in nats; of a text the mean over its tokens."""
    logits, labels = aligned(outputs, batch)
    if logits.dim() == 2:
        return F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
    return losses.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def only(logits: Tensor, classes: Sequence[int] | Tensor) -> Tensor:
    """The logits with all but these classes at minus infinity."""
    allowed = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    allowed[torch.as_tensor(classes, device=logits.device)] = True
    return logits.masked_fill(~allowed, -torch.inf)


def local_cross_entropy(outputs: Any, batch: Any, task: Any = None) -> Tensor:
    """Cross-entropy with a softmax over the task's own classes, so that classes of other tasks are not pushed down.

    With no task, as for rows from a memory, over all classes. Raises InvalidInput for a task without classes.
    """
    if task is None:
        return cross_entropy(outputs, batch)
    return F.cross_entropy(only(logits_of(outputs), classes_of(task)), labels_of(batch))


def mask_absent(outputs: Any, batch: Any, task: Any = None) -> Tensor:
    """Cross-entropy with a softmax over the classes that occur in the batch (group masking, arXiv:2207.04543)."""
    labels = labels_of(batch)
    return F.cross_entropy(only(logits_of(outputs), labels.unique()), labels)


def classes_of(task: Any) -> list[int]:
    """The classes of a task. Raises InvalidInput when it names none."""
    classes = getattr(task, "classes", None)
    if classes is None or not len(classes):
        raise InvalidInput("classes: the task names none; give it `classes`, the labels that occur in it.")
    return [int(each) for each in classes]
