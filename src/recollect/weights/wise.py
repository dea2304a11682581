"""WISE: edits live in a side memory beside one value matrix, and each prompt is routed to the side or to the main memory.

The model's own weights never change. The value projection of one feed-forward layer gets a side memory, the difference tau
to its weight, trained so that the model says the target of each edit. How strongly a prompt moves the side memory's output
tells whether it is about an edit: above a threshold it is answered from the side memory, below it by the model as it was,
bit for bit. Edits come in groups; each group is learned in a random subspace of its own, and groups are merged.

Paper: WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language Models, arXiv:2405.14768 (2024),
section 2; constants for Llama-2-7B.
Differs: the distance is the paper's, ||a tau|| averaged over the prompt's tokens, without the code's SiLU. It is taken once,
of the prompt, and kept while the text grows; each row of a batch has its own. Merging happens when the memory is read and
forgets no group, so that any edit can be undone; the code drops groups once they are merged. The learning rate is in
units of the activations, so that it carries over between models; the paper's 1.0 is absolute. Margins are calibrated on
random probes unless given. No weight decay, no replay of old edits.
Cost: mask_ratio * |W| values a group, kept as they are; |W| values of each merged memory while the model is used; one more
product of that size a token. While an edit is learned, the blocks below the layer run once, not in every step.

Shapes: B rows, T tokens, F width of the feed-forward layer, D of the model; tau [D, F].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.blocks import run_once_below
from recollect.weights.checkpoint import read_tensors
from recollect.weights.generation import evaluating, prompt_ids
from recollect.weights.side_memory import SideMemory, value_projection
from recollect.weights.ties import merge_mean, merge_ties


@dataclass(frozen=True)
class Edited:
    """An edit that was made. `delta`: how far its prompt moves the memory; `loss` in nats a token after `num_steps`."""

    id: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    unrelated: tuple[int, ...]
    group: int
    loss: float
    num_steps: int
    delta: float
    memory: WISE = field(repr=False, compare=False)

    def undo(self) -> None:
        """Take the edit out; see `WISE.undo`."""
        self.memory.undo(self.id)


@dataclass
class Group:
    """The edits of one subspace: which entries of tau may move, what they hold, and the edits behind them."""

    where: Tensor  # places in the flat tau, ascending
    values: Tensor
    edits: list[Edited]

    def tau(self, shape: torch.Size) -> Tensor:
        """The group's side memory, zero outside of its subspace."""
        flat = self.values.new_zeros(shape.numel())
        return flat.index_copy_(0, self.where, self.values).view(shape)


@dataclass
class WISE:
    """A side memory on a decoder of transformers; it is attached until `remove`. Defaults are the paper's.

    `tokenizer` turns text into tokens; without it, prompts and targets are lists of tokens. `layer` names the value
    projection, by default that of the block at 27/32 of the depth. `margins` are alpha, beta, gamma; None: measured.
    """

    model: Any
    tokenizer: Any = None
    layer: str | None = None
    margins: tuple[float, float, float] | None = None
    activation_ratio: float = 0.88  # of the threshold, above which a prompt is routed to the side memory
    mask_ratio: float = 0.2
    learning_rate: float = 10.0  # over the mean squared norm of the activations
    num_steps: int = 70
    group_edits: int = 500
    merge_groups: int = 2
    merge: Literal["ties", "mean"] = "ties"
    density: float = 0.53
    previous_share: float = 0.6  # of the memory merged before, when it is merged with new groups
    mode: Literal["merge", "retrieve"] = "merge"
    norm_constraint: float = 1.0
    num_prefixes: int = 10
    prefix_tokens: int = 10
    stop_loss: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("mask_ratio", 0, 1), ("density", 0, 1), ("activation_ratio", 0, 10)):
            if not low < getattr(self, name) <= high:
                raise InvalidInput(f"{name}: {getattr(self, name)} is not above {low} and at most {high}.")
        for name, known in (("merge", ("ties", "mean")), ("mode", ("merge", "retrieve"))):
            if getattr(self, name) not in known:
                raise InvalidInput(f"{name}: {getattr(self, name)!r:.20} is not known; use {' or '.join(known)}.")
        self.groups: list[Group] = []
        self._texts: list[list[int]] = []
        self.place, projection = value_projection(self.model, self.layer)
        self.side = SideMemory(projection)
        self.side.attach(self.model, self.place)

    def edit(self, prompt: Any, target: Any, unrelated: Any = None) -> Edited:
        """Let the model say `target` after `prompt`; `unrelated` is a prompt that is to stay as it was.

        Raises InvalidInput for an empty prompt or target, or text without a tokenizer.
        """
        self._calibrate()
        prompt, target = self._ids(prompt, "prompt", True), self._ids(target, "target", False)
        if unrelated is None:
            unrelated = self._irrelevant(prompt)
        else:
            unrelated = self._ids(unrelated, "unrelated", True)
        if not self.groups or len(self.groups[-1].edits) >= self.group_edits:
            self.groups.append(self._new_group(len(self.groups)))
        group, number = self.groups[-1], len(self.groups) - 1
        count = 1 + max((int(each.id.split("-")[0]) for each in self.edits), default=0)
        digest = hashlib.sha256(repr((prompt, target)).encode()).hexdigest()[:8]
        made = self._learn(group, f"{count}-{digest}", prompt, target, unrelated, number)
        group.edits.append(made)
        self.settle()
        return made

    def undo(self, id: str) -> None:
        """Take an edit out, as if it had never been made in its group; the group's later edits are learned again.

        Undoing the only edit of a group takes nothing but dropping it. Raises NotFound for an unknown id.
        """
        number = next((each.group for each in self.edits if each.id == id), None)
        if number is None:
            raise NotFound(f"id: there is no edit {id!r:.40}; see `edits`.")
        group = self.groups[number]
        fresh = self._new_group(number)
        for each in group.edits:
            if each.id != id:
                again = self._learn(fresh, each.id, each.prompt, each.target, each.unrelated, number)
                fresh.edits.append(again)
        self.groups[number] = fresh
        while self.groups and not self.groups[-1].edits:
            self.groups.pop()
        self.settle()

    @property
    def edits(self) -> list[Edited]:
        """The edits that are in force, oldest first."""
        return [each for group in self.groups for each in group.edits]

    def route(self, prompt: Any) -> tuple[int | None, list[float]]:
        """(which memory answers a prompt, None for the model itself; how far each is above its threshold, as a ratio)."""
        with evaluating(self.model):
            self.model(torch.tensor([self._ids(prompt, "prompt", True)], device=self.model.device), use_cache=False)
        choice = int(self.side.choice[0])
        return (None if choice < 0 else choice), self.side.ratios[0].tolist()

    def settle(self) -> None:
        """Merge the groups into the memories that prompts are routed to (equation 9), each with its threshold.

        Editing ends with it; call it after `activation_ratio`, or how groups are merged, was changed.
        """
        memories: list[tuple[Tensor, float]] = []
        for at in range(0, len(self.groups), self.merge_groups):
            cycle = self.groups[at : at + self.merge_groups]
            taus, edits = [group.tau(self.side.shape) for group in cycle], [each for g in cycle for each in g.edits]
            share = 1.0
            if self.mode == "merge" and memories:
                share = 1 - self.previous_share
                taus.append(memories[-1][0])
            weights = [share / len(cycle)] * len(cycle) + [1 - share] * (len(taus) - len(cycle))
            threshold = self.activation_ratio * min((each.delta for each in edits), default=float("inf"))
            if self.mode == "merge" and memories:
                threshold = min(threshold, memories.pop()[1])
            memories.append((self._merged(taus, weights), threshold))
        self.side.memories = memories

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The model as it was, in the body."""
        memories, self.side.memories = self.side.memories, []
        try:
            yield
        finally:
            self.side.memories = memories

    def remove(self) -> None:
        """Take the side memory off the model; nothing of it stays."""
        self.side.detach(self.model, self.place)

    def size_bytes(self) -> int:
        """Bytes of the edits: values and places of each group, and the merged memories in use."""
        tensors = [each for group in self.groups for each in (group.where, group.values)]
        tensors += [tau for tau, _ in self.side.memories]
        return sum(each.numel() * each.element_size() for each in tensors)

    def save(self, path: str | Path) -> None:
        """Write the edits to a safetensors file."""
        from safetensors.torch import save_file

        groups = enumerate(self.groups)
        tensors = {f"{name}/{number}": getattr(group, name) for number, group in groups for name in ("where", "values")}
        edits = [{key: value for key, value in vars(each).items() if key != "memory"} for each in self.edits]
        plain = {"layer": self.place, "margins": self.margins, "edits": edits}
        save_file({name: x.cpu().contiguous() for name, x in tensors.items()}, path, {"wise": json.dumps(plain)})

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote, in place of the edits that are there.

        Raises NotFound without the file, InvalidInput when it holds no edits, Conflict when they are for another layer.
        """
        tensors, plain = read_tensors(path, "a memory of WISE", "wise")
        if plain["layer"] != self.place:
            raise Conflict(f"layer: the edits are for {plain['layer']}; make the memory with that layer.")
        self.margins = tuple(plain["margins"])
        tensors = {name: each.to(self.model.device) for name, each in tensors.items()}
        self.groups = [Group(tensors[f"where/{i}"], tensors[f"values/{i}"], []) for i in range(len(tensors) // 2)]
        for each in plain["edits"]:
            ids = {name: tuple(each[name]) for name in ("prompt", "target", "unrelated")}
            self.groups[each["group"]].edits.append(Edited(**{**each, **ids}, memory=self))
        self.settle()

    def _learn(
        self,
        group: Group,
        id: str,
        prompt: tuple[int, ...],
        target: tuple[int, ...],
        unrelated: tuple[int, ...],
        number: int,
    ) -> Edited:
        """Train the group's values on an edit (equations 5 to 8) and say how it went."""
        rows, where = self._rows(prompt, target), group.where
        tau = group.tau(self.side.shape).requires_grad_()
        steps, rate = 0, None
        with run_once_below(self.model, self.side):
            while steps < self.num_steps:
                likelihood, deltas = self._forward(rows, unrelated, tau)
                total = likelihood + self._margin_loss(deltas[:-1], deltas[-1:])
                if float(total.detach()) <= self.stop_loss:
                    break
                steps += 1
                gradient = torch.autograd.grad(total, tau)[0].view(-1)[where]
                with torch.no_grad():
                    rate = rate or self.learning_rate / self.side.power
                    moved = (group.values - rate * gradient).clamp(-self.norm_constraint, self.norm_constraint)
                    group.values = moved
                    tau.view(-1).index_copy_(0, where, moved)
            with torch.no_grad():
                likelihood, deltas = self._forward(rows, unrelated, tau)
        return Edited(id, prompt, target, unrelated, number, float(likelihood), steps, float(deltas[0]), self)

    def _forward(
        self, rows: list[tuple[list[int], int]], unrelated: Sequence[int], tau: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(mean loss of the targets, distance of each row's prompt [B + 1], the unrelated one last), all from the side memory."""
        every = [*rows, (list(unrelated), 0)]
        width, device = max(len(ids) for ids, _ in every), self.model.device
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in every], device=device)
        sizes = torch.tensor([len(ids) for ids, _ in every], device=device)[:, None]
        asked = sizes - torch.tensor([count for _, count in every], device=device)[:, None]
        places = torch.arange(width, device=device)
        training = self.model.training
        self.model.eval()
        with self.side.learning(tau, places < asked) as deltas:
            logits = self.model(input_ids=ids, attention_mask=(places < sizes).long(), use_cache=False).logits
        self.model.train(training)
        labels = ids.masked_fill((places < asked) | (places >= sizes), -100)
        loss = F.cross_entropy(logits[:-1, :-1].flatten(0, 1).float(), labels[:-1, 1:].flatten())
        return loss, deltas[0]

    def _margin_loss(self, edited: Tensor, unrelated: Tensor) -> Tensor:
        """L_a of equation 5, averaged over the rows of an edit; nothing while the margins are being measured."""
        if self.margins is None:
            return edited.new_zeros(())
        alpha, beta, gamma = self.margins
        far, near = (unrelated - alpha).relu(), (beta - edited).relu()
        return (far + near + (gamma - (edited - unrelated)).relu()).mean()

    def _rows(self, prompt: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], int]]:
        """(tokens, how many of them are the target): the edit as it is, and behind each prefix that the model wrote."""
        start, body = self._split(prompt)
        prefixes = [[], *(text[: self.prefix_tokens] for text in self._made_texts()[: self.num_prefixes])]
        return [([*start, *prefix, *body, *target], len(target)) for prefix in prefixes]

    def _split(self, prompt: Sequence[int]) -> tuple[list[int], list[int]]:
        """The first token of every text, if the prompt has it, and the rest."""
        first = self._first()
        cut = 1 if first is not None and prompt[0] == first else 0
        return list(prompt[:cut]), list(prompt[cut:])

    def _first(self) -> int | None:
        return getattr(self.tokenizer or self.model.config, "bos_token_id", None)

    def _irrelevant(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """A text that the model wrote, chosen by the prompt."""
        texts = self._made_texts()
        number = int.from_bytes(hashlib.sha256(repr((self.seed, tuple(prompt))).encode()).digest()[:4], "big")
        text = texts[number % len(texts)]
        first = self._first()
        return tuple(text if first is None else [first, *text])

    def _made_texts(self, num_texts: int = 64) -> list[list[int]]:
        """Texts of `prefix_tokens` tokens that the model wrote by itself, without edits; drawn once, by the seed."""
        if not self._texts:
            first, device = self._first() or 0, self.model.device
            source = torch.Generator().manual_seed(self.seed)
            ids = torch.full((max(num_texts, self.num_prefixes), 1), first, device=device)
            with self.disabled(), evaluating(self.model):
                for _ in range(max(2, self.prefix_tokens)):
                    logits = self.model(input_ids=ids, use_cache=False).logits[:, -1].float().cpu()
                    drawn = torch.multinomial(logits.softmax(-1), 1, generator=source)
                    ids = torch.cat([ids, drawn.to(device)], dim=1)
            self._texts = ids[:, 1:].tolist()
        return self._texts

    def _calibrate(self, num_probes: int = 4) -> None:
        """Margins for this model: beta twice the distance of unconstrained edits, alpha a quarter of it, gamma half.

        The probes let the model say another token after a text of its own; no edit of the user's is among them.
        """
        if self.margins is not None:
            return
        deltas = []
        for number, text in enumerate(self._made_texts()[:num_probes]):
            first = self._first()
            prompt = tuple(text[:-1] if first is None else [first, *text[:-1]])
            target = (self._made_texts()[-1 - number][-1],)
            group = self._new_group(-1 - number)
            deltas.append(self._learn(group, "probe", prompt, target, prompt[:1], 0).delta)
        beta = 2 * median(deltas)
        self.margins = (beta / 4, beta, beta / 2)

    def _new_group(self, number: int) -> Group:
        """A group without edits, in the subspace that its number draws (M_i of equation 8)."""
        source = torch.Generator().manual_seed(hash((self.seed, number)) % 2**63)
        total = self.side.shape.numel()
        if self.mask_ratio == 1:
            where = torch.arange(total)
        else:
            where = (torch.rand(total, generator=source) < self.mask_ratio).nonzero()[:, 0]
        where = where.to(self.model.device)
        return Group(where, torch.zeros(len(where), device=self.model.device), [])

    def _merged(self, taus: list[Tensor], weights: list[float]) -> Tensor:
        if len(taus) == 1:
            return taus[0]
        merger: Callable[..., Tensor] = merge_mean if self.merge == "mean" else merge_ties
        return merger(taus, weights) if self.merge == "mean" else merger(taus, weights, self.density)

    def _ids(self, text: Any, name: str, starts: bool) -> tuple[int, ...]:
        """Tokens of a text, or the tokens that were given."""
        if isinstance(text, str):
            if self.tokenizer is None:
                raise InvalidInput(f"{name}: is text, and the memory has no tokenizer; give WISE one, or give tokens.")
            ids = prompt_ids(self.tokenizer, text) if starts else self.tokenizer.encode(text, add_special_tokens=False)
        else:
            ids = [int(each) for each in text]
        if not ids:
            raise InvalidInput(f"{name}: is empty; write at least one word.")
        return tuple(ids)
