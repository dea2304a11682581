"""The thesis' claims: importances without labels, gates, and memories that choose what they keep and what they replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import mean
from typing import Any

from recollect.benchmarks.continual import over_seeds, run
from recollect.benchmarks.digits import Perceptron, load_digits, noisy_prototypes
from recollect.claims.claim import Claim, Progress, Row, Setting

NOTHING, LOCAL, MAS_, FREE, ER, MIR_, GSS_, GATE = (
    "nothing",
    "local loss",
    "MAS",
    "task-free MAS",
    "replay",
    "MIR",
    "GSS",
    "Expert Gate",
)
UNEVEN = ", tasks 10:1"
STRENGTHS = {MAS_: (0.1, 0.3, 1.0, 2.0), FREE: (0.5, 1.0, 2.0, 4.0)}
MEMORY = 50  # rows


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """Accuracy over all classes after a single pass over five tasks of two classes, batches of ten."""
    import torch
    from torch.utils.data import TensorDataset

    from recollect.weights.batches import cross_entropy, local_cross_entropy
    from recollect.weights.expert_gate import ExpertGate
    from recollect.weights.gss import GSS
    from recollect.weights.learner import Learner
    from recollect.weights.mas import MAS, TaskFreeMAS
    from recollect.weights.mir import MIR
    from recollect.weights.replay import BalancedReplay, Replay
    from recollect.weights.streams import split_classes

    full = setting.scale == "full"
    num_seeds, rows = (8, 400) if full else (5, 300)
    digits, _ = load_digits()

    def stream_of(seed: int, uneven: bool) -> list[Any]:
        train = noisy_prototypes(digits, (5 if uneven else 1) * rows, noise=0.3, seed=2 * seed)
        tasks = split_classes(train, noisy_prototypes(digits, 100, noise=0.3, seed=2 * seed + 1), 2, seed=seed)
        if not uneven:
            return tasks
        few = []
        for number, task in enumerate(tasks):
            inputs, labels = task.train.tensors  # type: ignore[attr-defined]
            source = torch.Generator().manual_seed(seed)
            kept = torch.randperm(len(labels), generator=source)[: len(labels) // (10 if number else 1)]
            few.append(type(task)(task.name, TensorDataset(inputs[kept], labels[kept]), task.test, task.classes))
        return few

    def stream(seed: int, make: Callable[[], Any], local: bool = False, uneven: bool = False) -> dict[str, float]:
        method, tasks = make(), stream_of(seed, uneven)
        learner = Learner(
            Perceptron(width=100, hidden=2, seed=seed).to(setting.device),
            [method] if method else [],
            optimizer=partial(torch.optim.SGD, lr=0.1),
            objective=local_cross_entropy if local else cross_entropy,
            batch_rows=10,
            num_epochs=4 if uneven else 1,
            keep_optimizer=True,
            seed=seed,
        )
        figures = run(learner, tasks)
        if isinstance(method, TaskFreeMAS):
            figures["plateaus"] = float(method.num_consolidations)
        if isinstance(method, ExpertGate):
            figures["routed right"] = mean(
                float((method.gate(batch).argmax(1) == number).float().mean())
                for number, task in enumerate(tasks)
                for batch in learner.batches(task.test, len(task.test))  # type: ignore[arg-type]
            )
        return figures

    def best(kind: str, make: Callable[[float], Any]) -> float:
        found = {}
        for strength in STRENGTHS[kind]:
            progress(f"choosing a strength: {kind}, {strength}")
            tried = (stream(setting.seed + 1000 + each, partial(make, strength), local=True) for each in range(2))
            found[strength] = mean(each["accuracy"] for each in tried)
        return max(found, key=found.__getitem__)

    held, free = best(MAS_, partial(MAS, num_rows=64)), best(FREE, TaskFreeMAS)
    memory: dict[str, Callable[[], Any]] = {
        ER: lambda: Replay(MEMORY),
        MIR_: lambda: MIR(MEMORY),
        GSS_: lambda: GSS(MEMORY, num_references=5),
    }
    arms: dict[str, tuple[Callable[[], Any], bool, bool]] = {
        NOTHING: (lambda: None, False, False),
        LOCAL: (lambda: None, True, False),
        MAS_: (lambda: MAS(held, num_rows=64), True, False),
        FREE: (lambda: TaskFreeMAS(free), True, False),
        **{name: (make, False, False) for name, make in memory.items()},
        GATE: (lambda: ExpertGate(code=10), False, False),
        **{name + UNEVEN: (memory[name], False, True) for name in (ER, GSS_)},
        "balanced replay" + UNEVEN: (lambda: BalancedReplay(MEMORY), False, True),
    }
    for name, (make, local, uneven) in arms.items():
        runs = []
        for seed in range(setting.seed, setting.seed + num_seeds):
            progress(f"{name}, seed {seed}")
            runs.append(stream(seed, make, local, uneven))
        values = over_seeds(runs)
        values |= {"strength": {MAS_: held, FREE: free}[name]} if name in STRENGTHS else {}
        systems = (MAS_, FREE, MIR_, GSS_, GATE, GSS_ + UNEVEN)
        yield Row(name, "system" if name in systems else "baseline", values)


def decide(rows: Mapping[str, Row]) -> bool:
    """All of the directions that the thesis gives, each by the measured means."""
    value = {name: row.values for name, row in rows.items() if row.role != "paper"}
    accuracy = {name: each["accuracy"] for name, each in value.items()}
    importances = accuracy[MAS_] >= accuracy[LOCAL] + 0.05 and accuracy[FREE] >= accuracy[MAS_] - 0.05
    plateaus = 3 <= value[FREE]["plateaus"] <= 7
    interference = accuracy[MIR_] >= accuracy[ER] and value[MIR_]["BWT"] >= value[ER]["BWT"]
    diversity = accuracy[GSS_ + UNEVEN] > accuracy[ER + UNEVEN]
    gate = accuracy[GATE] > accuracy[LOCAL] and value[GATE]["routed right"] >= 0.8
    return accuracy[NOTHING] <= 0.3 and importances and plateaus and interference and diversity and gate


CLAIM = Claim(
    key="cl-thesis",
    sentence="Importances measured without labels hold old tasks, even where a plateau of the loss stands in for a task's end; a "
    "gate of autoencoders finds the right expert; replay of the rows that a step would hurt most, and memories of unlike "
    "gradients where tasks are of unequal size, forget less than random ones.",
    figure="in words only: MAS matches or beats EWC and SI on object recognition, GSS beats reservoirs on imbalanced streams, MIR "
    "beats random retrieval with small buffers; figures could not be verified.",
    experiment="One pass in batches of ten over five tasks of two classes, made of the class means of the real 8x8 digits with "
    "noise; a perceptron, memories of 50 rows, five seeds. MAS and task-free MAS with a softmax over the task's own classes, as "
    "the row beside them, at the best of four strengths on seeds of their own. Unequal tasks: the first has ten times the rows of "
    "the others, four epochs.",
    rule="nothing ends at 0.3 or below; MAS is 0.05 above the local loss alone, task-free MAS at most 0.05 below MAS with three to "
    "seven plateaus for five tasks; MIR is not below replay in accuracy and BWT; GSS is above replay on unequal tasks; the gate "
    "routes 0.8 of the rows right and is above the local loss.",
    measure=measure,
    decide=decide,
)
