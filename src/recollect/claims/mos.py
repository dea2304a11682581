"""MOS's claim: merged adapters, found by the model's own answers, learn class after class far better than one adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import mean

from recollect.benchmarks.continual import over_seeds, run
from recollect.benchmarks.digits import STYLES, known_and_new
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
MERGES = (0.0, 1.0, 0.05, 0.3)  # beside the paper's 0.1


def measure(setting: Setting, progress: Progress) -> Iterator[Row]:
    """Accuracy over all classes of a class-incremental stream on a frozen backbone, and how often the adapter is right."""
    import torch
    import torch.nn.functional as F

    from recollect.weights.adapters import add_adapters
    from recollect.weights.batches import local_cross_entropy
    from recollect.weights.learner import Learner
    from recollect.weights.mos import MOS
    from recollect.weights.streams import split_classes

    full = setting.scale == "full"
    known, num_tasks = (100, 9) if full else (60, 6)
    seeds = range(setting.seed, setting.seed + 3)
    styles, new = list(STYLES)[:3], 5 * num_tasks

    def style_of(label: int) -> str:
        """Three styles in turn: two tasks or more share each."""
        return styles[label % 3 if label < known else (label - known) // 5 % 3]

    progress("pretraining a vision transformer on made signs")
    signs = known_and_new(known, new, full, setting.seed, setting.device, style_of)
    tasks = split_classes(signs.train, signs.test, 5)

    def stream(seed: int, method: MOS) -> tuple[Learner, dict[str, float]]:
        model = signs.model(seed)
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

    def whole(seed: int) -> dict[str, dict[str, float]]:
        """The system, and what it is with a part of its search taken away."""
        progress(f"{SYSTEM}, seed {seed}")
        learner, figures = stream(seed, method := MOS())
        figures |= found_right(learner, method)
        found = {SYSTEM: figures, ORACLE: {"accuracy": figures.pop("told")}}
        method.num_rounds = 0
        found[FIRST] = {"accuracy": everything(learner)}
        method.num_rounds, method.ensemble = 4, False
        return found | {ALONE: {"accuracy": everything(learner)}}

    def other(name: str, make: Callable[[], MOS], seed: int) -> dict[str, float]:
        progress(f"{name}, seed {seed}")
        learner, figures = stream(seed, method := make())
        if name != SEQUENTIAL:
            figures |= found_right(learner, method)
            figures.pop("told")
        return figures

    runs = [whole(seed) for seed in seeds]
    for name in runs[0]:
        yield Row(name, "system" if name == SYSTEM else "baseline", over_seeds(each[name] for each in runs))
    yield Row(MEANS, "baseline", {"accuracy": signs.class_means(partial(F.normalize, dim=1))})
    others: dict[str, Callable[[], MOS]] = {UNALIGNED: partial(MOS, align_epochs=0), SEQUENTIAL: MOS.idle}
    others |= {f"MOS, merging {each}": partial(MOS, merge=each) for each in (MERGES[:2] if full else MERGES)}
    if not full:
        in_all = partial(MOS, merges_a_step=2 * signs.shape["layers"])
        others |= {"MOS, merging in all layers of a pass": in_all}
    for name, make in others.items():
        yield Row(name, "baseline", over_seeds(other(name, make, seed) for seed in seeds))


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
