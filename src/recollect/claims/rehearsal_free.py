"""The claim of the rehearsal-free study: with a pretrained backbone, plain L2 to the old weights on the attention is the best hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from recollect.benchmarks.continual import over_seeds, run
from recollect.benchmarks.digits import Perceptron, known_and_new, load_digits
from recollect.claims.claim import Claim, Progress, Row, Setting

ALONE, PREDICTION, L2, EWC, FEATURES, ATTENTION_L2, MEANS = (
    "nothing but the local loss",
    "prediction",
    "prediction + L2",
    "prediction + EWC",
    "prediction + features",
    "prediction + L2, attention only",
    "class means of frozen features",
)
GLOBAL, LOCAL, LOCAL_PREDICTION = (
    "digits: loss over all classes",
    "digits: local loss",
    "digits: local loss, prediction",
)
SCRATCH = " (from scratch)"
SWEEP = {  # settings of RehearsalFree by arm; the strength is the last one's
    L2: ("l2", (0.1, 1.0, 10.0)),
    EWC: ("ewc", (10.0, 100.0, 1000.0)),
    FEATURES: ("features", (0.003, 0.01, 0.03)),
    ATTENTION_L2: ("l2", (0.1, 1.0, 10.0)),
}


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """Final accuracy on all classes of class-incremental streams, over seeds, at the best of three strengths."""
    import torch

    from recollect.weights.batches import cross_entropy, local_cross_entropy
    from recollect.weights.learner import Learner, train_only
    from recollect.weights.rehearsal_free import ATTENTION, RehearsalFree
    from recollect.weights.streams import split_classes

    full = setting.scale == "full"
    seeds = range(setting.seed, setting.seed + 3)
    known, new, a_task = (100, 40, 8) if full else (60, 25, 5)
    progress("pretraining a vision transformer on made signs")
    signs = known_and_new(known, new, full, setting.seed, setting.device)
    tasks = split_classes(signs.train, signs.test, a_task)
    adam = partial(torch.optim.Adam, lr=1e-3)

    def stream(seed: int, pretrained: bool, trained: str = "", **terms: Any) -> dict[str, float]:
        model = signs.model(seed) if pretrained else signs.untaught(seed)
        train_only(model, trained)
        method = RehearsalFree(**{"prediction": 1.0, "fisher_rows": 64} | terms)
        learner = Learner(model, [method], optimizer=adam, objective=local_cross_entropy, num_epochs=6, seed=seed)
        return run(learner, tasks)

    def settings(name: str, strength: float | None) -> dict[str, Any]:
        if name == ALONE:
            return {"prediction": 0.0}
        terms: dict[str, Any] = {SWEEP[name][0]: strength} if name in SWEEP else {}
        if name == ATTENTION_L2:
            terms |= {"pattern": ATTENTION, "trained": rf"{ATTENTION}|classifier"}
        return terms

    def arm(name: str, pretrained: bool) -> Row:
        strength = None
        if name in SWEEP:
            tried = {}
            for each in SWEEP[name][1]:
                progress(f"{name}, strength {each}")
                tried[each] = stream(setting.seed + 1000, pretrained, **settings(name, each))["accuracy"]
            strength = max(tried, key=tried.__getitem__)
        progress(f"{name}, {'pretrained' if pretrained else 'from scratch'}")
        values = over_seeds(stream(seed, pretrained, **settings(name, strength)) for seed in seeds)
        values |= {"strength": strength} if strength is not None else {}
        role = "system" if name == ATTENTION_L2 and pretrained else "baseline"
        return Row(name if pretrained else name + SCRATCH, role, values)

    def on_digits(seed: int, objective: Any, prediction: float) -> dict[str, float]:
        model, method = Perceptron(seed=seed).to(setting.device), RehearsalFree(prediction=prediction)
        learner = Learner(model, [method], optimizer=adam, objective=objective, num_epochs=5, seed=seed)
        return run(learner, digits)

    for name in (ATTENTION_L2, PREDICTION, EWC, L2, ALONE, FEATURES):
        yield arm(name, True)
    yield Row(MEANS, "baseline", {"accuracy": signs.class_means()})
    digits = split_classes(*load_digits(), 2)
    for name, objective, prediction in (
        (GLOBAL, cross_entropy, 0.0),
        (LOCAL, local_cross_entropy, 0.0),
        (LOCAL_PREDICTION, local_cross_entropy, 1.0),
    ):
        progress(name)
        yield Row(name, "baseline", over_seeds(on_digits(seed, objective, prediction) for seed in seeds))
    for name in (PREDICTION, L2, EWC):
        yield arm(name, False)


def decide(rows: Mapping[str, Row]) -> bool:
    """L2 on attention is above EWC and prediction alone, and the best or within 0.02; the local loss is far above the other."""
    accuracy = {name: row.values["accuracy"] for name, row in rows.items() if row.role != "paper"}
    ours = accuracy[ATTENTION_L2]
    regular = ours >= accuracy[PREDICTION] + 0.05 and ours > accuracy[EWC]
    best = all(ours >= accuracy[name] - 0.02 for name in (ALONE, L2, FEATURES))
    return regular and best and accuracy[LOCAL] >= accuracy[GLOBAL] + 0.25


CLAIM = Claim(
    key="rehearsal-free",
    sentence="Without any stored data, regularising parameters does work in class-incremental learning; with a pretrained "
    "backbone, prediction distillation with plain L2 to the old weights, on the self-attention alone, beats EWC.",
    figure="with pretraining, L2 above EWC and above feature distillation, and L2 on self-attention weights above prompt pools "
    "on ImageNet-R (abstract); margins could not be verified.",
    experiment="A small vision transformer is pretrained on made 8x8 signs and learns new signs, five a task, with a softmax over "
    "the task's own classes; strengths are the best of three on a seed of their own. Accuracy over all classes at the end, with "
    "its standard deviation over seeds. Beside it the same from scratch, class means of frozen features, and the loss over all "
    "classes against the local one on the real 8x8 digits (two a task, a small perceptron).",
    rule="with the pretrained backbone, prediction distillation with L2 on attention is at least 0.05 above distillation alone, "
    "above it with EWC, and at most 0.02 below any other arm; on the digits the local loss is at least 0.25 above the loss over "
    "all classes.",
    measure=measure,
    decide=decide,
)
