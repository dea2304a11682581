"""MOS's claim: merged adapters, found by the model's own answers, learn class after class far better than one adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

from recollect.benchmarks.continual import over_seeds, run
from recollect.benchmarks.digits import STYLES, make_glyphs, pretrain, small_vit
from recollect.claims.claim import Claim, Progress, Row, Setting

SYSTEM, SEQUENTIAL, MEANS, ORACLE, FIRST, ALONE, UNALIGNED = (
    "MOS",
    "one adapter, task after task",
    "class means of frozen features",
    "MOS, the task's adapter told",
    "MOS, first guess only",
    "MOS, no ensemble",
    "MOS, head not aligned",
)
MERGES = (0.0, 0.05, 0.3, 1.0)  # beside the paper's 0.1


def measure(setting: Setting, progress: Progress) -> Sequence[Row]:
    """Accuracy over all classes of a class-incremental stream on a frozen backbone, and how often the adapter is right."""
    import torch
    from torch.utils.data import TensorDataset

    from recollect.weights.adapters import add_adapters
    from recollect.weights.batches import local_cross_entropy
    from recollect.weights.learner import Learner
    from recollect.weights.mos import MOS
    from recollect.weights.streams import split_classes

    full = setting.scale == "full"
    known, num_tasks, rows, num_seeds = (100, 9, 60, 3) if full else (60, 6, 60, 3)
    shape = {"width": 96, "layers": 4, "heads": 4} if full else {"width": 32, "layers": 2, "heads": 2}
    styles, new = list(STYLES.values())[:3], 5 * num_tasks
    pictures, labels = make_glyphs(known + new, rows, seed=setting.seed).tensors
    for label in range(known + new):  # three styles in turn: two tasks or more share each
        style = label % 3 if label < known else (label - known) // 5 % 3
        pictures[labels == label] = styles[style](pictures[labels == label])
    old = labels < known
    progress("pretraining a vision transformer on made signs")
    base: Any = pretrain(
        small_vit(known, seed=setting.seed, **shape).to(setting.device),
        TensorDataset(pictures[old], labels[old]),
        num_epochs=20 if full else 12,
    )
    held = torch.arange(len(labels)) % 3 == 0
    train, test = (TensorDataset(pictures[~old & part], labels[~old & part] - known) for part in (~held, held))
    tasks = split_classes(train, test, 5)

    def stream(seed: int, method: MOS) -> tuple[Learner, dict[str, float]]:
        model = small_vit(new, seed=seed, **shape).to(setting.device)
        model.vit.load_state_dict(base.vit.state_dict())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_adapters(model)
        learner = Learner(
            model,
            [method],
            optimizer=partial(torch.optim.SGD, lr=0.03, momentum=0.9, weight_decay=5e-4),
            objective=local_cross_entropy,
            num_epochs=8,
            seed=seed,
        )
        return learner, run(learner, tasks)

    def everything(learner: Learner) -> float:
        return mean(learner.evaluate(task) for task in tasks)

    @torch.no_grad()
    def found_right(learner: Learner, method: MOS) -> dict[str, float]:
        learner.model.eval()
        first, last, told = [], [], []
        for number, task in enumerate(tasks):
            batch = next(learner.batches(task.test, len(task.test)))  # type: ignore[arg-type]
            found = method.search(learner, batch)
            first.append(float((found["first"] == number).float().mean()))
            last.append(float((found["task"] == number).float().mean()))
            logits = method.under(learner, number, lambda batch=batch: learner.model(batch[0]).logits)
            told.append(float((logits[:, : 5 * num_tasks].argmax(1) == batch[1]).float().mean()))
        return {"adapter right at first": mean(first), "adapter right": mean(last), "told": mean(told)}

    runs: dict[str, list[dict[str, float]]] = {}
    for seed in range(setting.seed, setting.seed + num_seeds):
        progress(f"{SYSTEM}, seed {seed}")
        learner, figures = stream(seed, method := MOS())
        figures |= found_right(learner, method)
        runs.setdefault(ORACLE, []).append({"accuracy": figures.pop("told")})
        runs.setdefault(SYSTEM, []).append(figures)
        method.num_rounds = 0
        runs.setdefault(FIRST, []).append({"accuracy": everything(learner)})
        method.num_rounds, method.ensemble = 4, False
        runs.setdefault(ALONE, []).append({"accuracy": everything(learner)})
        others = {UNALIGNED: partial(MOS, align_epochs=0), SEQUENTIAL: MOS.idle}
        others |= {f"MOS, merging {each}": partial(MOS, merge=each) for each in MERGES}
        others |= {"MOS, merging in all layers of a pass": partial(MOS, merges_a_step=2 * shape["layers"])}
        for name, make in others.items():
            progress(f"{name}, seed {seed}")
            learner, figures = stream(seed, method := make())
            if name not in (SEQUENTIAL,):
                figures |= found_right(learner, method)
                figures.pop("told")
            runs.setdefault(name, []).append(figures)
    values = {name: over_seeds(each) for name, each in runs.items()}
    values[MEANS] = {"accuracy": _class_means(base, train, test)}
    return [Row(name, "system" if name == SYSTEM else "baseline", each) for name, each in values.items()]


def _class_means(base: Any, train: Any, test: Any) -> float:
    """Accuracy of the nearest class mean by cosine on the features of the pretrained backbone."""
    import torch
    import torch.nn.functional as F

    device = next(base.parameters()).device
    with torch.no_grad():
        parts = (base.vit(pixel_values=part.tensors[0].to(device)).last_hidden_state[:, 0] for part in (train, test))
        seen, asked = (F.normalize(part, dim=1) for part in parts)
    labels = train.tensors[1].to(device)
    means = torch.stack([seen[labels == each].mean(0) for each in range(int(labels.max()) + 1)])
    return float(((asked @ F.normalize(means, dim=1).T).argmax(1).cpu() == test.tensors[1]).float().mean())


def decide(rows: Mapping[str, Row]) -> bool:
    """Far above one adapter, above class means, refinement finds the adapter more often, and alignment helps."""
    accuracy = {name: row.values["accuracy"] for name, row in rows.items() if row.role != "paper"}
    ours = accuracy[SYSTEM]
    found = rows[SYSTEM].values
    above = ours >= accuracy[SEQUENTIAL] + 0.2 and ours > accuracy[MEANS] and ours > accuracy[UNALIGNED]
    return above and found["adapter right"] > found["adapter right at first"]


CLAIM = Claim(
    key="mos",
    sentence="On a frozen pretrained transformer, adapters that are merged while they are learned and found by the model's own answers "
    "learn class after class without stored rows, far above one adapter and above class means.",
    figure="CIFAR-100, 5 classes a task: 93.30 on average and 89.25 at the end, where one adapter ends at 49.32 and class means at "
    "81.26 (tables).",
    experiment="A small vision transformer is pretrained on made 8x8 signs in three styles and frozen; six tasks of five new signs, "
    "two tasks to a style, adapters of 16 units. Accuracy over all classes at the end over three seeds; how often the first guess "
    "and the refined search name the right task's adapter; the parts taken away; merging from none to all the way, and as often as "
    "the authors' program merges.",
    rule="MOS is at least 0.2 above one adapter, above class means and above itself without alignment, and the refined search is right "
    "more often than the first guess.",
    measure=measure,
    decide=decide,
)
