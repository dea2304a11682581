"""The claim of the rehearsal-free study: with a pretrained backbone, plain L2 to the old weights on the attention is the best hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from recollect.benchmarks.continual import over_seeds, run
from recollect.benchmarks.digits import Perceptron, load_digits, make_glyphs, pretrain, small_vit
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


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Final accuracy on all classes of class-incremental streams, over seeds, at the best of three strengths."""
    import torch
    from torch.utils.data import TensorDataset

    from recollect.weights.batches import cross_entropy, local_cross_entropy
    from recollect.weights.learner import Learner, train_only
    from recollect.weights.rehearsal_free import ATTENTION, RehearsalFree
    from recollect.weights.streams import split_classes

    full = setting.scale == "full"
    seeds = range(setting.seed, setting.seed + (5 if full else 3))
    shape = {"width": 96, "layers": 4, "heads": 4} if full else {"width": 32, "layers": 2, "heads": 2}
    known, new, a_task, rows, epochs = (100, 80, 8, 100, 10) if full else (60, 25, 5, 60, 6)

    pictures, labels = make_glyphs(known + new, rows, seed=setting.seed).tensors
    old = labels < known
    progress("pretraining a vision transformer on made signs")
    base: Any = pretrain(
        small_vit(known, seed=setting.seed, **shape).to(setting.device),
        TensorDataset(pictures[old], labels[old]),
        num_epochs=20 if full else 12,
    )
    held = torch.arange(len(labels)) % 3 == 0
    train, test = (TensorDataset(pictures[~old & part], labels[~old & part] - known) for part in (~held, held))
    tasks = split_classes(train, test, a_task)

    def stream(seed: int, pretrained: bool, trained: str = "", **terms: Any) -> dict[str, float]:
        model = small_vit(new, seed=seed, **shape).to(setting.device)
        if pretrained:
            model.vit.load_state_dict(base.vit.state_dict())
        train_only(model, trained)
        learner = Learner(
            model,
            [RehearsalFree(**{"prediction": 1.0, "fisher_rows": 64} | terms)],
            optimizer=partial(torch.optim.Adam, lr=1e-3),
            objective=local_cross_entropy,
            num_epochs=epochs,
            seed=seed,
        )
        return run(learner, tasks)

    def arm(name: str, strength: float | None) -> dict[str, Any]:
        if name == ALONE:
            return {"prediction": 0.0}
        terms: dict[str, Any] = {SWEEP[name][0]: strength} if name in SWEEP else {}
        if name == ATTENTION_L2:
            terms |= {"pattern": ATTENTION, "trained": rf"{ATTENTION}|classifier"}
        return terms

    found: list[Row] = []
    for pretrained in (True, False):
        for name in (ALONE, PREDICTION, *SWEEP) if pretrained else (PREDICTION, L2, EWC):
            strength = None
            if name in SWEEP:
                tried = {}
                for each in SWEEP[name][1]:
                    progress(f"{name}, strength {each}")
                    tried[each] = stream(setting.seed + 1000, pretrained, **arm(name, each))["accuracy"]
                strength = max(tried, key=tried.__getitem__)
            progress(f"{name}, {'pretrained' if pretrained else 'from scratch'}")
            values = over_seeds(stream(seed, pretrained, **arm(name, strength)) for seed in seeds)
            values |= {"strength": strength} if strength is not None else {}
            role = "system" if name == ATTENTION_L2 and pretrained else "baseline"
            found.append(Row(name if pretrained else name + SCRATCH, role, values))
    found.append(Row(MEANS, "baseline", {"accuracy": _class_means(base, train, test)}))

    digits = split_classes(*load_digits(), 2)
    for name, objective, prediction in (
        (GLOBAL, cross_entropy, 0.0),
        (LOCAL, local_cross_entropy, 0.0),
        (LOCAL_PREDICTION, local_cross_entropy, 1.0),
    ):
        progress(name)
        values = over_seeds(
            run(
                Learner(
                    Perceptron(seed=seed).to(setting.device),
                    [RehearsalFree(prediction=prediction)],
                    optimizer=partial(torch.optim.Adam, lr=1e-3),
                    objective=objective,
                    num_epochs=5,
                    seed=seed,
                ),
                digits,
            )
            for seed in seeds
        )
        found.append(Row(name, "baseline", values))
    return found


def _class_means(base: Any, train: Any, test: Any) -> float:
    """Accuracy of the nearest class mean on the features of the pretrained backbone."""
    import torch

    device = next(base.parameters()).device
    with torch.no_grad():
        seen, asked = (
            base.vit(pixel_values=part.tensors[0].to(device)).last_hidden_state[:, 0] for part in (train, test)
        )
    labels = train.tensors[1].to(device)
    means = torch.stack([seen[labels == each].mean(0) for each in range(int(labels.max()) + 1)])
    return float((torch.cdist(asked, means).argmin(1).cpu() == test.tensors[1]).float().mean())


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
