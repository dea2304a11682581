"""How far a policy carries a model: accuracy of recall against the length of the input, at equal attended tokens.

Every policy of `recollect.context` is made by its `with_budget`, so that no token attends to more than `budget` keys; the
plain model, which attends to all, stands beside them. Answers are decoded greedily, each prompt with a memory of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.benchmarks import plots
from recollect.benchmarks.haystack import TASKS, Haystacks, Prompt, mqar
from recollect.benchmarks.jobs import each as each_of
from recollect.benchmarks.provenance import provenance
from recollect.benchmarks.testbed import INSTALL
from recollect.catalogue import SYSTEMS, system
from recollect.errors import Conflict, InvalidInput, Unavailable

if TYPE_CHECKING:
    from recollect.context.policy import ContextMemory

PLAIN = "plain"  # the model without a policy
ALL_TASKS = (*TASKS, "mqar")
ANSWER_TOKENS = 12
Progress = Callable[[str, int, int], None]  # what is measured, done, of
Open = Callable[[], tuple[Any, Any]]  # (model, tokenizer)
Job = tuple[tuple[str, int, str], list[Any]]  # task, length and policy, and questions that are read as one batch


def policies() -> list[str]:
    """The keys of the policies in the catalogue that have a budget. Raises Unavailable without torch."""
    try:
        return [each.key for each in SYSTEMS if each.home == "context" and hasattr(_class_of(each.key), "with_budget")]
    except ImportError:
        raise Unavailable(INSTALL) from None


def make_policy(key: str, budget: int) -> ContextMemory | None:
    """The policy with this key and budget; None for the plain model."""
    if key == PLAIN:
        return None
    return _class_of(key).with_budget(budget)


def _class_of(key: str) -> Any:
    module, name = system(key).target.split(":")
    return getattr(import_module(module), name)


def run(
    model: Any,
    haystacks: Haystacks,
    policies: Sequence[str],
    lengths: Sequence[int],
    tasks: Sequence[str] = ("passkey",),
    num_samples: int = 10,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    batch_rows: int = 1,
    earlier: Sequence[Mapping[str, Any]] = (),
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
    workers: int = 1,
    reopen: Open | None = None,
) -> dict[str, Any]:
    """Measure every policy (PLAIN: the model without one) on every task and length; one plain JSON object.

    `budget` is in attended tokens (None: half of the length that the model was trained to). All policies are asked the
    same `num_samples` prompts, with what is asked for spread evenly from the first token to the last, `batch_rows` of
    them at once. Rows of `earlier` results are taken over and not measured again; `keep` is given the result after each
    new row. Several `workers` are processes that share the questions; each has its own copy of the model, from `reopen`.
    Raises Conflict when an earlier result was measured with another model, budget, seed or haystack.
    """
    began = time.perf_counter()
    trained = int(model.config.max_position_embeddings)
    budget = trained // 2 if budget is None else budget
    if budget < 16:
        raise InvalidInput(f"budget: {budget} tokens are too few to hold a window and a memory; use 16 or more.")
    if batch_rows < 1:
        raise InvalidInput(f"batch: {batch_rows} is too small; use 1 or more.")
    if workers > 1 and reopen is None:
        raise InvalidInput("reopen: is missing; several workers need it to load the model.")
    setting = {
        "model": {
            "type": model.config.model_type,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "trained_tokens": trained,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        },
        "budget_tokens": budget,
        "seed": seed,
        "haystack": haystacks.source,
    }
    for each in earlier:
        for name, value in setting.items():
            if each[name] != value:
                raise Conflict(f"{name}: an earlier result was measured with {each[name]}, not {value}; leave it out.")
    found = {_place(row): dict(row) for each in earlier for row in each["rows"]}
    sources: list[dict[str, Any]] = []
    for each in earlier:
        own = {name: each[name] for name in ("commit", "machine", "versions")}
        sources += [source for source in (*each["earlier"], own) if source not in sources]
    spent = sum(each["total_seconds"] for each in earlier)
    wanted = [(task, length, key) for task in tasks for length in lengths for key in policies]
    missing = [each for each in wanted if each not in found]
    done, total = 0, len(missing) * num_samples

    def result() -> dict[str, Any]:
        return {
            "benchmark": "needle",
            **setting,
            "rows": sorted(found.values(), key=_order),
            "total_seconds": round(spent + time.perf_counter() - began, 1),
            **provenance(),
            "earlier": sources,
        }

    asked: dict[tuple[str, int], list[Any]] = {}
    jobs: list[Job] = []
    for place in missing:
        task, length, _ = place
        if (task, length) not in asked:
            asked[task, length] = questions(model, haystacks, task, length, num_samples, seed)
        whole = asked[task, length]
        jobs += [(place, whole[first : first + batch_rows]) for first in range(0, num_samples, batch_rows)]

    def told(place: tuple[str, int, str]) -> None:
        progress(f"{place[0]}, {place[1]} tokens, {place[2]}", done, total)

    def here(job: Job) -> tuple[list[float], dict[str, Any], float]:
        told(job[0])
        return _timed(model, haystacks, budget, job)

    work = here if reopen is None or workers == 1 else partial(_elsewhere, reopen, budget)
    scores: dict[tuple[str, int, str], list[float]] = {place: [] for place in missing}
    seconds = dict.fromkeys(missing, 0.0)
    if workers > 1 and missing:
        told(missing[0])
    for (place, _), (right, stats, took) in each_of(work, jobs, workers):
        scores[place] += right
        seconds[place] += took
        done += len(right)
        if workers > 1:
            told(place)
        if len(scores[place]) == num_samples:
            found[place] = make_row(*place, scores[place], stats, seconds[place])
            keep(result())
    return result()


def _timed(model: Any, haystacks: Haystacks, budget: int, job: Job) -> tuple[list[float], dict[str, Any], float]:
    """`answers` to a job, and the seconds that they took."""
    (_, _, key), asked = job
    start = time.perf_counter()
    return *answers(model, haystacks, make_policy(key, budget), asked), time.perf_counter() - start


_opened: list[tuple[Any, Haystacks]] = []  # by this process, if it is a worker


def _elsewhere(reopen: Open, budget: int, job: Job) -> tuple[list[float], dict[str, Any], float]:
    """As `_timed`, in a process of its own, which loads the model once."""
    if not _opened:
        model, tokenizer = reopen()
        _opened.append((model, Haystacks(tokenizer)))
    return _timed(*_opened[0], budget, job)


def make_row(
    task: str, length: int, key: str, scores: Sequence[float], stats: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """The row of one policy at one length; bytes and seconds are those of one question."""
    sizes = {name: stats[name] // stats["rows"] if name in stats else None for name in ("device_bytes", "host_bytes")}
    return {
        "task": task,
        "length": length,
        "policy": key,
        "num_samples": len(scores),
        "accuracy": sum(scores) / len(scores),
        "interval": _wilson(sum(scores), len(scores)),
        "attended_tokens": stats.get("attended_tokens", length),
        **sizes,
        "seconds": round(seconds / len(scores), 3),
    }


def questions(model: Any, haystacks: Haystacks, task: str, length: int, num_samples: int, seed: int = 0) -> list[Any]:
    """The questions that every policy is asked, with what is asked for spread evenly from the first token to the last."""
    rng = Random(f"{seed} {task} {length}")
    return [_question(model, haystacks, task, length, rng, number, num_samples) for number in range(num_samples)]


def _place(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["task"], row["length"], row["policy"]


def _order(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return ALL_TASKS.index(row["task"]), row["length"], [PLAIN, *policies()].index(row["policy"])


def answer(
    model: Any, haystacks: Haystacks, policy: ContextMemory | None, question: Any
) -> tuple[float, dict[str, Any]]:
    """(share of right answers, statistics of the memory) of one question under a policy, or of the plain model."""
    scores, stats = answers(model, haystacks, policy, [question])
    return scores[0], stats


def answers(
    model: Any, haystacks: Haystacks, policy: ContextMemory | None, asked: Sequence[Any]
) -> tuple[list[float], dict[str, Any]]:
    """As `answer`, of questions of one task and length that are read as one batch; statistics are those of the batch."""
    import torch

    with torch.no_grad(), nullcontext() if policy is None else policy.attach(model) as memory:
        if isinstance(asked[0], Prompt):
            ids = torch.tensor([question.tokens for question in asked], device=model.device)
            options = {
                "max_new_tokens": ANSWER_TOKENS,
                "do_sample": False,
                "pad_token_id": model.config.pad_token_id or 0,
            }
            output = model.generate(ids, attention_mask=torch.ones_like(ids), max_length=None, **options)
            replies = [haystacks.tokenizer.decode(reply) for reply in output[:, ids.shape[1] :].tolist()]
            scores = [float(each.correct(reply)) for each, reply in zip(asked, replies, strict=True)]
        else:
            tokens, labels, low, high = zip(*asked, strict=True)
            scores = _mqar_scores(model, np.concatenate(tokens), np.concatenate(labels), low[0], high[0])
        return scores, {} if memory is None else memory.stats()


def _question(model: Any, haystacks: Haystacks, task: str, length: int, rng: Random, number: int, count: int) -> Any:
    """A prompt, or tokens, labels and vocabulary of MQAR with one pair for 16 tokens (64 at most) and even gaps."""
    if task != "mqar":
        return haystacks.prompt(task, length, rng, depth=(number + 0.5) / count)
    vocabulary = min(model.config.vocab_size - 4, 4096)
    pairs = min(length // 16, 64, vocabulary // 2 - 1)
    tokens, labels = mqar(
        1, length, pairs, vocabulary, rng.randrange(1 << 30), power=1.0, first=3, fill=vocabulary > 1000
    )
    return tokens, labels, 3 + vocabulary // 2, 3 + vocabulary


def _mqar_scores(model: Any, tokens: np.ndarray, labels: np.ndarray, low: int, high: int) -> list[float]:
    """Share, in each row, of the labels at which the likeliest of all values (tokens low to high - 1) is the right one."""
    import torch

    right, cache, piece = np.zeros(len(tokens)), None, 512
    for start in range(0, tokens.shape[1], piece):
        ids = torch.from_numpy(tokens[:, start : start + piece]).to(model.device)
        output = model(input_ids=ids, cache=cache, use_cache=True)
        cache = output.cache
        guess = output.logits[..., low:high].argmax(-1).cpu().numpy() + low
        right += (guess == labels[:, start : start + piece]).sum(axis=1)
    return (right / (labels >= 0).sum(axis=1)).tolist()


def _wilson(successes: float, count: int) -> list[float]:
    """The 95% Wilson interval of a share."""
    z, share = 1.96, successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return [round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)]


def show(result: dict[str, Any], console: Any) -> None:
    """Print a table for each task: policies down, lengths across."""
    from rich.table import Table

    model = result["model"]
    for task in dict.fromkeys(row["task"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["task"] == task]
        lengths = sorted({row["length"] for row in rows})
        table = Table(task, *(f"{length:,}" for length in lengths), "attended", "device MB", "host MB", "s each")
        for key in dict.fromkeys(row["policy"] for row in rows):
            own = {row["length"]: row for row in rows if row["policy"] == key}
            longest = own[max(own)]
            sizes = [
                f"{longest[name] / 1e6:.1f}" if longest[name] is not None else ""
                for name in ("device_bytes", "host_bytes")
            ]
            accuracies = [f"{own[length]['accuracy']:.2f}" if length in own else "" for length in lengths]
            table.add_row(key, *accuracies, f"{longest['attended_tokens']:,}", *sizes, f"{longest['seconds']:.1f}")
        counts = [sorted({row["num_samples"] for row in rows if row["length"] == length}) for length in lengths]
        table.add_row("questions", *("-".join(map(str, each)) for each in counts))
        console.print(table)
    console.print(
        f"Share of questions answered, by tokens of input; a {model['type']} of {model['parameters']:,} parameters trained to "
        f"{model['trained_tokens']:,} tokens. No token attends to more than {result['budget_tokens']:,} keys, but in the plain "
        f"model. Right of the lengths: of the longest. {result['total_seconds']:.0f} s."
    )


def plot(result: dict[str, Any], folder: Path, name: str = "needle") -> Path:
    """Draw accuracy against length as `<name>.svg` in `folder`. Raises Unavailable without matplotlib."""
    pyplot = plots.plotter()
    tasks = list(dict.fromkeys(row["task"] for row in result["rows"]))
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=(1.5 + 4 * columns, 3.8 * lines), sharey=True, squeeze=False
    )
    for axes in panels.flat[len(tasks) :]:
        axes.set_axis_off()
    for task, axes in zip(tasks, panels.flat, strict=False):
        for key in dict.fromkeys(row["policy"] for row in result["rows"]):
            points = [
                (row["length"], row["accuracy"])
                for row in result["rows"]
                if (row["task"], row["policy"]) == (task, key)
            ]
            style = {"color": "black", "linestyle": "--"} if key == PLAIN else {}
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=key, **style)
        axes.axvline(result["model"]["trained_tokens"], color="grey", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="tokens of input", title=task, ylim=(-0.03, 1.03))
        axes.grid(True, alpha=0.3)
    for line in panels:
        line[0].set_ylabel("share of questions answered")
    panels.flat[len(tasks) - 1].legend(fontsize=8)
    return plots.save(figure, folder, name)


def testbed_of(data: Path | None, device: str, progress: Callable[[str], None]) -> tuple[Any, Any]:
    """(model, tokenizer) to measure on: the checkpoint in `data`, or in its folder testbed-28m; else the own testbed."""
    from recollect.benchmarks.testbed import load, load_or_train

    for folder in () if data is None else (data, data / "testbed-28m", data / "models" / "testbed-28m"):
        if (folder / "config.json").is_file():
            progress("loading the checkpoint")
            return load(folder, device)
    return load_or_train(
        device=device, progress=lambda step, total, what: progress(f"training the testbed, {step} of {total}: {what}")
    )


def losses(model: Any, policy: ContextMemory | None, tokens: Sequence[int], piece: int = 256) -> list[float]:
    """-log P of each token but the first, in nats, read piece by piece under a policy, or by the plain model."""
    import torch

    ids, cache, last, found = torch.tensor([list(tokens)], device=model.device), None, None, []
    with torch.no_grad(), nullcontext() if policy is None else policy.attach(model):
        for start in range(0, ids.shape[1], piece):
            chunk = ids[:, start : start + piece]
            output = model(input_ids=chunk, cache=cache, use_cache=True)
            cache, scores = output.cache, output.logits[0].float().log_softmax(-1)
            before = scores[:-1] if last is None else torch.cat([last, scores[:-1]])
            found.append(-before.gather(1, chunk[0, chunk.shape[1] - len(before) :, None])[:, 0])
            last = scores[-1:]
    return torch.cat(found).tolist()
