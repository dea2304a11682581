"""`recollect learn`: keep a local model learning, edit facts in it, and probe what it retains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recollect.cli.common import Device, Json, Seed, err, escape, out, print_json, progress, size
from recollect.errors import InvalidInput

app = typer.Typer(
    no_args_is_help=True,
    help="Keep a local model learning without forgetting, edit facts in it, probe what it retains.\n\nSee docs/learning.md.",
)

Model = Annotated[Path, typer.Option("--model", help="Folder of a model of transformers, with its tokenizer.")]
Rate = Annotated[float, typer.Option(help="Learning rate of AdamW.")]


def _opened(model: Path, device: str) -> tuple[Any, Any]:
    from recollect.benchmarks.real_data import with_ends
    from recollect.benchmarks.testbed import load

    return with_ends(*load(model, device, "float32"))


@app.command(epilog="Examples:  recollect learn example tasks")
def example(
    folder: Annotated[Path, typer.Argument(help="Where to write homes.jsonl, trades.jsonl and pets.jsonl.")],
    json: Json = False,
) -> None:
    """Write three small files of instructions to try `recollect learn tune` on."""
    from recollect.weights.recipes import write_example

    paths = [str(path) for path in write_example(folder)]
    if json:
        print_json(paths)
    else:
        out.print("Wrote " + escape(", ".join(paths)))


@app.command(
    epilog="Examples:  recollect learn tune homes.jsonl trades.jsonl pets.jsonl --model small --out plain"
    "   |   recollect learn tune homes.jsonl trades.jsonl pets.jsonl --model small --out kept --method replay"
    "   |   recollect learn tune novels/ letters/ --model small --out read --method continual-pretraining:share=0.1"
)
def tune(
    tasks: Annotated[
        list[Path],
        typer.Argument(help="Tasks in order: JSONL of instructions, or folders of text.", metavar="TASK..."),
    ],
    model: Model,
    folder: Annotated[Path, typer.Option("--out", help="Write the model, its scores and its state here.")],
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="replay, or a key of recollect systems --home weights; name:setting=value,..."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over each task.")] = 3,
    rate: Rate = 1e-3,
    rows: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 8,
    tokens: Annotated[int, typer.Option(min=8, help="Longest row.")] = 256,
    held_out: Annotated[float, typer.Option(help="Share of each task to test on; 0 tests on what was learned.")] = 0.2,
    adapter: Annotated[
        int, typer.Option(min=0, help="Train an adapter (LoRA) of this rank; 0 trains all weights.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw scores.svg into --out.")] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Fine-tune a local model on one task after another, and see after each what is left of the ones before.

    Instructions are scored by the share of held-out questions that the model answers word for word by itself, texts by the
    share of next tokens. The state is saved as it goes: a run that was broken off goes on with --resume, exactly.
    """
    import json as jsonlib
    from functools import partial

    import torch

    from recollect.weights.learner import Learner
    from recollect.weights.recipes import AnswerScore, go_on, make_method, serving, task_from
    from recollect.weights.streams import level

    state = folder / "state"
    if (state / "learner.json").exists() and not resume:
        raise InvalidInput(f"out: {folder} holds a run already; go on with --resume, or name another folder.")
    chosen = [make_method(text) for text in methods or []]
    network, tokenizer = _opened(model, device)
    stream = level([task_from(path, tokenizer, tokens, held_out) for path in tasks])
    if adapter:
        network = _adapted(network, adapter, seed)
    learner = Learner(
        network,
        chosen,
        optimizer=partial(torch.optim.AdamW, lr=rate),
        score=AnswerScore(tokenizer),
        batch_rows=rows,
        num_epochs=epochs,
        clip_norm=1.0,
        seed=seed,
    )
    if resume and (state / "learner.json").exists():
        learner.load(state)
    steps = [epochs * -(-len(task.train) // rows) for task in stream]  # type: ignore[arg-type]
    with progress("learning", sum(steps), show=not json) as advance:
        for name, count in zip([task.name for task in stream], steps, strict=True):
            advance(count if name in learner.learned else learner.step if name == learner.task_name else 0)
        for _ in go_on(learner, stream, state, progress=lambda each: advance(1), save_every_steps=50):
            pass
    scores = learner.report()
    with serving(learner):
        network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    report = scores.to_json() | {"methods": methods or [], "model": model.name, "seed": seed}
    (folder / "scores.json").write_text(jsonlib.dumps(report, indent=2) + "\n", "utf-8")
    if plot:
        from recollect.benchmarks.learning_plots import draw_tasks

        report["plot"] = str(draw_tasks({", ".join(methods or ["plain"]): scores}, folder, "scores"))
    if json:
        print_json(report | {"folder": str(folder)})
        return
    out.print(scores)
    out.print(f"In {escape(str(folder))}")


@app.command(epilog="Examples:  recollect learn compare plain kept --out plots")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `recollect learn tune` wrote.", metavar="RUN...")],
    folder: Annotated[Path, typer.Option("--out", help="Write learning.svg here.")] = Path(),
    json: Json = False,
) -> None:
    """Draw several runs side by side, and print what each kept and forgot."""
    import json as jsonlib

    from rich.table import Table

    from recollect.benchmarks.learning_plots import draw_tasks
    from recollect.weights.metrics import Scores

    found: dict[str, Scores] = {}
    for run in folders:
        if not (run / "scores.json").is_file():
            raise InvalidInput(
                f"run: there is no scores.json in {run}; name a folder that `recollect learn tune` wrote."
            )
        found[run.name] = Scores.from_json(jsonlib.loads((run / "scores.json").read_text("utf-8")))
    path = draw_tasks(found, folder, "learning")
    measured = {name: scores.summary() for name, scores in found.items()}
    if json:
        print_json({"plot": str(path), "measures": measured})
        return
    names = list(dict.fromkeys(name for values in measured.values() for name in values))
    table = Table("run", *names)
    for name, values in measured.items():
        table.add_row(escape(name), *(f"{values[each]:.3f}" if each in values else "" for each in names))
    out.print(table)
    out.print(f"Drawn in {escape(str(path))}")


@app.command(epilog="Examples:  recollect learn edit facts.jsonl --model small --out facts.safetensors")
def edit(
    edits: Annotated[Path, typer.Argument(help='JSONL of {"prompt", "target", "paraphrases", "unrelated"}.')],
    model: Model,
    file: Annotated[Path, typer.Option("--out", help="Write the edits here; those that are there are kept.")],
    rate: Annotated[float, typer.Option(help="Learning rate, in units of the activations.")] = 10.0,
    steps: Annotated[int, typer.Option(min=1, help="Most steps an edit.")] = 70,
    prefixes: Annotated[int, typer.Option(min=0, help="Texts that an edit is also learned behind.")] = 10,
    undo: Annotated[
        list[str] | None, typer.Option("--undo", help="Take edits with these ids out of --out, and add none.")
    ] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Edit facts into a model with WISE: its weights stay, the edits lie in a file, and each can be undone.

    Reliability, generalisation and locality are measured by what the model then says.
    """
    from recollect.weights.editing import Unchanged, measure_edits
    from recollect.weights.texts import read_edits
    from recollect.weights.wise import WISE

    wanted = read_edits(edits)
    network, tokenizer = _opened(model, device)
    prompts = [prompt for each in wanted for prompt in each.unrelated]
    unchanged = Unchanged.of(network, tokenizer, prompts)
    memory = WISE(network, tokenizer, learning_rate=rate, num_steps=steps, num_prefixes=prefixes, seed=seed)
    if file.exists():
        memory.load(file)
    if undo:
        for each in undo:
            memory.undo(each)
        wanted = []
    ids = []
    with progress("editing", len(wanted), show=not json) as advance:
        for each in wanted:
            ids.append(memory.edit(each.prompt, each.target, each.unrelated[0] if each.unrelated else None).id)
            memory.save(file)
            advance(1)
    memory.save(file)
    measured = measure_edits(network, tokenizer, wanted, unchanged) if wanted else {}
    if json:
        print_json({"ids": ids, "edits": len(memory.edits), "bytes": memory.size_bytes(), **measured})
        return
    for id_, each in zip(ids, wanted, strict=True):
        out.print(f"{id_}  {escape(each.prompt.strip())}[bold]{escape(each.target)}[/]")
    told = ", ".join(f"{name} {value:.2f}" for name, value in measured.items())
    out.print(
        f"{len(memory.edits)} edits, {size(memory.size_bytes())}, in {escape(str(file))}"
        + (f"; {told}" if told else "")
    )


@app.command(epilog="Examples:  recollect learn probe study.txt --model small --foils others.txt --then news/")
def probe(
    study: Annotated[Path, typer.Argument(help="Text file: one text to study a line.")],
    model: Model,
    foils: Annotated[Path, typer.Option(help="Text file: other texts, as many lines.")],
    then: Annotated[Path, typer.Option(help="Folder or file of text that is read afterwards.")],
    exposures: Annotated[int, typer.Option(min=1, help="How often each text is seen.")] = 3,
    updates: Annotated[int, typer.Option(min=0, help="Steps on the text that is read afterwards.")] = 100,
    rate: Rate = 1e-4,
    plot: Annotated[Path | None, typer.Option(help="Draw retention.svg into this folder.")] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Probe what a model retains: it studies texts, then reads on, and is asked to recognise and to recall them.

    Nothing is written: the model in --model stays as it is.
    """
    from rich.table import Table

    from recollect.weights.few_shot_memories import CHECKPOINTS, FewShotMemories, WeightsMemory
    from recollect.weights.texts import read_texts

    texts, others = ([line.strip() for line in _lines(path) if line.strip()] for path in (study, foils))
    network, tokenizer = _opened(model, device)
    bench = FewShotMemories(texts, {"recognition": others[: len(texts)]}, tokenizer)
    memory = WeightsMemory(network, tokenizer, rate)
    passages = [part for text in read_texts(then) for part in text.split("\n") if len(part) > 40]
    if not passages:
        raise InvalidInput(f"then: {then} holds no line of more than 40 characters; name a longer text.")
    stream = ([passages[(4 * step + each) % len(passages)] for each in range(4)] for step in range(updates))
    before = bench.recognition(memory.score)["recognition"]
    memory.study(texts, exposures, seed=seed)
    wanted = [each for each in CHECKPOINTS if each <= updates]
    found = []
    with progress("probing", len(wanted) + 1, show=not json) as advance:
        for row in bench.retention(memory.score, memory.complete, memory.write, stream, wanted):
            found.append(row)
            advance(1)
    if plot:
        from recollect.benchmarks.learning_plots import draw_curves

        places = [row["updates"] for row in found]
        curves = {name: (places, [row[name] for row in found]) for name in ("recognition", "exact", "rouge-L")}
        err.print(f"Drawn in {draw_curves(curves, plot, 'retention', ('updates afterwards', 'share'), True)}")
    if json:
        print_json({"before studying": before, "rows": found})
        return
    names = ("updates", "recognition", "exact", "rouge-L")
    table = Table(*names)
    for row in found:
        table.add_row(f"{row['updates']:.0f}", *(f"{row[name]:.3f}" for name in names[1:]))
    out.print(f"Recognition before studying: {before:.3f} (chance 0.5)")
    out.print(table)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InvalidInput(f"file: there is no {path}; name a text file with one text a line.")
    return path.read_text("utf-8").splitlines()


def _adapted(model: Any, rank: int, seed: int) -> Any:
    """The model with an adapter of peft on the projections of its attention."""
    from recollect.errors import Unavailable

    try:
        from recollect.weights.lora import adapted
    except ImportError:
        raise Unavailable('adapter: peft is not installed; `pip install "recollect[learn]"` brings it.') from None
    return adapted(model, rank, seed=seed)
