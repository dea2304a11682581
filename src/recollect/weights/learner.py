"""The learner: a plain loop over tasks, in which methods of continual learning do their part through hooks.

    learner = Learner(model, methods=[Replay(share=0.2), RehearsalFree(l2=1.0)], num_epochs=3)
    for task in tasks:                      # anything with name, train, test, and classes where a method asks for them
        learner.learn(task)
    learner.report()                        # the matrix of scores: accuracy, backward transfer, forgetting

A model is any torch module (batches are pairs of inputs and labels) or one of transformers, with peft's adapters or without
(batches are dicts with `labels`). What is trained are the parameters that require gradients: `train_only` chooses them.

The order of rows, and whatever methods draw by `generator`, are functions of the seed and the step alone; dropout draws from
a random state that is the learner's own. So a learner that is saved in the middle of a task and loaded goes on bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import default_collate

from recollect.errors import Conflict, InvalidInput
from recollect.weights.batches import (
    IGNORED,
    aligned,
    classes_of,
    cross_entropy,
    forward,
    logits_of,
    move,
    only,
    rows_of,
)
from recollect.weights.checkpoint import load_tree, save_tree
from recollect.weights.method import Method
from recollect.weights.metrics import Scores
from recollect.weights.randomness import generator_of, random_states, set_random_states


class Task(Protocol):
    """What is learned at a time. A task may also have `classes`, the labels that occur in it."""

    @property
    def name(self) -> str:
        """How the task is called in scores; the same name again is the same task again."""
        ...

    @property
    def train(self) -> Any:
        """A map-style data set (`len` and numbers as keys) of pairs (input, label) or of dicts with `labels`."""
        ...

    @property
    def test(self) -> Any:
        """The same, held out."""
        ...


Objective = Callable[[Any, Any, Any], Tensor]  # (outputs, batch, task or None) -> a scalar
Score = Callable[["Learner", Any], float]  # (learner, task) -> how well the model does on it


class Learner:
    """Trains a model on one task after another.

    `optimizer` makes an optimizer of a list of parameters; a new one is made for each task unless `keep_optimizer`. A task
    takes `num_epochs` over its rows, or `num_steps` steps where given. `objective` is the loss of outputs and a batch,
    `score` says how well the model does on a task. `clip_norm` bounds the norm of the gradients. `accelerator` is one of
    accelerate's, for mixed precision and several devices; each process then takes `batch_rows` rows a step.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method] = (),
        *,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] = partial(torch.optim.AdamW, lr=1e-3),
        objective: Objective = cross_entropy,
        score: Score | None = None,
        batch_rows: int = 32,
        num_epochs: int = 1,
        num_steps: int | None = None,
        clip_norm: float | None = None,
        keep_optimizer: bool = False,
        collate: Callable[[list[Any]], Any] = default_collate,
        seed: int = 0,
        accelerator: Any = None,
    ) -> None:
        for name, value in (("batch_rows", batch_rows), ("num_epochs", num_epochs), ("num_steps", num_steps)):
            if value is not None and value < 1:
                raise InvalidInput(f"{name}: {value} is below 1; use a whole number of at least 1.")
        self.methods, self.objective, self.score = list(methods), objective, score or accuracy
        self.batch_rows, self.num_epochs, self.wanted_steps = batch_rows, num_epochs, num_steps
        self.clip_norm, self.keep_optimizer, self.collate, self.seed = clip_norm, keep_optimizer, collate, seed
        self.accelerator = accelerator or _OneDevice(next(model.parameters()).device)
        self.device = self.accelerator.device
        self.model = model.to(self.device)
        self.net = self.accelerator.prepare(self.model)  # what is called in training
        self.make_optimizer = optimizer
        self.optimizer: Optimizer | None = None
        self.task: Task | None = None
        self.task_name = ""  # of the task that is being learned, or "" between tasks
        self.learned: list[str] = []  # names of the tasks that are done
        self.step = 0  # steps taken in the task that is being learned
        self.num_steps = 0  # steps that it takes
        self.total_steps = 0  # steps taken since the learner was made
        self.epoch = 0  # of this step, over the task's rows
        self.places: list[int] = []  # of this step's rows in the task's training data
        self.outputs: Any = None  # what the model made of this step's batch
        self.last_loss: Tensor | None = None
        self.scores: list[dict[str, float]] = []  # after each task, by the task's name
        self._tasks: dict[str, Task] = {}
        self._order: tuple[str, Tensor] | None = None
        self._random: list[Tensor] | None = None  # of the learner's own, while it is not learning
        self._learning = False

    def learn(
        self,
        task: Task,
        *,
        evaluate: Sequence[Task] | None = None,
        progress: Callable[[Learner], None] = lambda learner: None,
        folder: Path | str | None = None,
        save_every_steps: int = 0,
    ) -> dict[str, float]:
        """Learn a task, or go on with one that was saved in the middle; returns the scores, by name of task.

        Scored are the tasks in `evaluate`, by default this one and all that this learner object learned before.
        `progress` is called after each step; a call that raises stops the learning there, and `learn` then goes on with it.
        With a `folder`, the learner is saved into it every `save_every_steps` steps and at the task's end. Raises Conflict
        when another task is half learned.
        """
        with self._own_randomness():
            self._begin(task)
            self.model.train()
            while self.step < self.num_steps:
                self._take_step(task)
                if folder and save_every_steps and self.step % save_every_steps == 0:
                    self.save(folder)
                progress(self)
            for method in self.methods:
                method.after_task(self, task)
            self.learned.append(task.name)
            self._tasks[task.name] = task
            self.task_name, self.step = "", 0
            asked = list(self._tasks.values()) if evaluate is None else evaluate
            self.scores.append({each.name: self.evaluate(each) for each in asked})
            if folder:
                self.save(folder)
        return self.scores[-1]

    def report(self) -> Scores:
        """The matrix of scores with its measures. Raises InvalidInput when a task came back: see `scores` then."""
        if len(set(self.learned)) < len(self.learned):
            raise InvalidInput("tasks: one was learned twice, so there is no square matrix; read `scores` instead.")
        found = Scores(list(self.learned))
        for after, row in enumerate(self.scores):
            for number, name in enumerate(self.learned):
                if name in row:
                    found.set(after, number, row[name])
        return found

    def evaluate(self, task: Task) -> float:
        """The score on a task's held-out rows."""
        return self.score(self, task)

    def predict(self, batch: Any) -> Tensor:
        """Logits for a batch, in evaluation mode and without gradients, by the first method that answers or the model."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                batch = move(batch, self.device)
                for method in self.methods:
                    logits = method.predict(self, batch)
                    if logits is not None:
                        return logits
                return logits_of(forward(self.model, batch))
        finally:
            self.model.train(training)

    def generator(self, name: str) -> torch.Generator:
        """A source of randomness on the CPU that depends on the seed, the name and the step only."""
        text = f"{self.seed} {name} {len(self.learned)} {self.step}"
        return generator_of(text)

    def loss_of(self, batch: Any, task: Task | None) -> Tensor:
        """The objective of a batch, in training mode; with no task, as for rows from a memory, over all classes."""
        with self.accelerator.autocast():
            return self.objective(forward(self.net, batch), batch, task)

    def total_loss(self, batch: Any, task: Task) -> Tensor:
        """What a step descends: the objective of the batch with what every method makes of it."""
        with self.accelerator.autocast():
            self.outputs = forward(self.net, batch)
            loss = self.objective(self.outputs, batch, task)
        for method in self.methods:
            loss = method.loss(self, batch, loss)
        return loss

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that are trained, with their names in the model."""
        return ((name, each) for name, each in self.model.named_parameters() if each.requires_grad)

    def batches(self, data: Any, rows: int | None = None) -> Iterator[Any]:
        """A data set in its own order, on the device, some rows at a time."""
        rows = rows or max(self.batch_rows, 256)
        for start in range(0, len(data), rows):
            yield move(rows_of(data, range(start, min(start + rows, len(data))), self.collate), self.device)

    def save(self, folder: Path | str) -> None:
        """Write model, optimizer, methods and place into a folder, as safetensors and JSON. May be called in the middle.

        Of several processes the first one writes, so that all go on with its methods' memories.
        """
        if not self.accelerator.is_main_process:
            return
        tree = {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "methods": [{"name": type(method).__name__, "state": method.state} for method in self.methods],
            "random": random_states(self.device) if self._learning else self._random,
            "task": self.task_name,
            "place": [self.step, self.num_steps, self.total_steps, self.seed],
            "learned": self.learned,
            "scores": self.scores,
        }
        save_tree(tree, Path(folder), "learner")

    def load(self, folder: Path | str) -> None:
        """Go back to what was saved; the learner must have been made as the saved one was.

        `learn` with the task that was being learned then goes on in the middle. Raises Conflict when the methods or the
        seed are others, or the model has another shape.
        """
        tree = load_tree(Path(folder), "learner", self.device)
        names = [type(method).__name__ for method in self.methods]
        if names != [each["name"] for each in tree["methods"]]:
            raise Conflict(f"methods: {', '.join(names) or 'none'} are not those that were saved; give the same ones.")
        if tree["place"][3] != self.seed:
            raise Conflict(f"seed: {self.seed} is not the saved one; use seed={tree['place'][3]}.")
        try:
            self.model.load_state_dict(tree["model"])
        except RuntimeError as error:
            raise Conflict(
                f"model: is not shaped as the saved one ({str(error).splitlines()[-1].strip():.120})."
            ) from None
        for method, saved in zip(self.methods, tree["methods"], strict=True):
            method.state = saved["state"]
        self.step, self.num_steps, self.total_steps, _ = tree["place"]
        self.task_name, self.learned, self.scores = tree["task"], tree["learned"], tree["scores"]
        self._random = [each.cpu() for each in tree["random"]] if tree["random"] else None
        self.optimizer = None
        if tree["optimizer"]:
            self._prepare()
            assert self.optimizer is not None
            self.optimizer.load_state_dict(tree["optimizer"])

    def _begin(self, task: Task) -> None:
        """Start a task, unless it is the one that is half learned."""
        self.task = task
        if self.task_name:
            if self.task_name != task.name:
                raise Conflict(f"task: {self.task_name!r:.40} is half learned; go on with it before {task.name!r:.40}.")
            return
        if not len(task.train):
            raise InvalidInput(f"task: {task.name!r:.40} has no rows to train on; leave it out.")
        self.task_name = task.name
        self.num_steps = self.wanted_steps or self.num_epochs * self._steps_an_epoch(task)
        for method in self.methods:
            method.before_task(self, task)
        self._prepare()

    def _prepare(self) -> None:
        """An optimizer of the parameters that are trained: a new one, or the last one with the new parameters added."""
        parameters = [each for _, each in self.named_parameters()]
        if self.optimizer is None or not self.keep_optimizer:
            self.optimizer = self.accelerator.prepare(self.make_optimizer(parameters))
            return
        known = {id(each) for group in self.optimizer.param_groups for each in group["params"]}
        if new := [each for each in parameters if id(each) not in known]:
            self.optimizer.add_param_group({"params": new})

    def _steps_an_epoch(self, task: Task) -> int:
        return -(-len(task.train) // (self.batch_rows * self.accelerator.num_processes))

    def _next_batch(self, task: Task) -> Any:
        """The rows of this step: each epoch in an order of its own that depends on seed, task and epoch only."""
        self.epoch, place = divmod(self.step, self._steps_an_epoch(task))
        text = f"{self.seed} order {len(self.learned)} {self.epoch}"
        if self._order is None or self._order[0] != text:
            self._order = text, torch.randperm(len(task.train), generator=generator_of(text))
        rows, several = self.batch_rows * self.accelerator.num_processes, self.accelerator.num_processes
        mine = self._order[1][place * rows : (place + 1) * rows][self.accelerator.process_index :: several]
        self.places = mine.tolist()
        return move(rows_of(task.train, self.places, self.collate), self.device)

    def _take_step(self, task: Task) -> None:
        assert self.optimizer is not None
        batch = self._next_batch(task)
        for method in self.methods:
            batch = method.before_step(self, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.total_loss(batch, task)
        self.accelerator.backward(loss)
        for method in self.methods:
            method.after_backward(self)
        if self.clip_norm is not None:
            trained = [each for _, each in self.named_parameters()]  # others may hold gradients of earlier learning
            self.accelerator.clip_grad_norm_(trained, self.clip_norm)
        self.optimizer.step()
        for method in self.methods:
            method.after_step(self, batch)
        self.last_loss = loss.detach()
        self.step += 1
        self.total_steps += 1

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Whatever draws from torch's random state in the body draws from the learner's; outside, nothing is changed."""
        outside = random_states(self.device)
        if self._random is None:
            torch.manual_seed(self.seed)
        else:
            set_random_states(self.device, self._random)
        self._learning = True
        try:
            yield
        finally:
            self._random = random_states(self.device)
            self._learning, self.task = False, None
            set_random_states(self.device, outside)


class _OneDevice:
    """What the learner asks of an accelerator, for one device and full precision."""

    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def prepare(self, part: Any) -> Any:
        return part

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: list[nn.Parameter], norm: float) -> None:
        nn.utils.clip_grad_norm_(parameters, norm)


def train_only(model: nn.Module, pattern: str = "") -> list[str]:
    """Require gradients of the parameters whose name the pattern is found in, and of no others; returns their names.

    Raises InvalidInput when there are none.
    """
    names = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(re.search(pattern, name)))
        if parameter.requires_grad:
            names.append(name)
    if not names:
        raise InvalidInput(f"pattern: {pattern!r:.40} is in no parameter's name; see model.named_parameters().")
    return names


def accuracy(learner: Learner, task: Task) -> float:
    """Share of held-out labels that get the highest logit among all classes; of texts, of all next tokens.

    A task that is `told` (task-incremental) is asked about its own classes only.
    """
    return _accuracy(learner, task, classes_of(task) if getattr(task, "told", False) else None)


def _accuracy(learner: Learner, task: Task, classes: list[int] | None) -> float:
    right = total = 0
    for batch in learner.batches(task.test):
        logits, labels = aligned(learner.predict(batch), batch)
        logits = logits if classes is None else only(logits, classes)
        asked = labels != IGNORED
        right += int(((logits.argmax(-1) == labels) & asked).sum())
        total += int(asked.sum())
    return right / max(1, total)
