"""`recollect bench`: recall on LoCoMo, LongMemEval and multi-hop questions, speed beside vector stores, servers under load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recollect.cli import bench_models
from recollect.cli.common import (
    EmbedderName,
    Json,
    Plots,
    err,
    escape,
    out,
    print_json,
    progress,
    saver,
    settings,
    show_result,
)
from recollect.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Measure recall and speed; see recollect bench COMMAND --help.")
app.add_typer(bench_models.app)

Data = Annotated[Path, typer.Option("--data", help="The data set: a file, or a folder that holds it.")]
Results = Annotated[
    Path | None,
    typer.Option("--results", help="Write <benchmark>.json and <benchmark>-questions.jsonl into this folder."),
]
WithLm = Annotated[bool, typer.Option("--lm", help="Also answer with the language model that is configured.")]


def _language_model(wanted: bool) -> Any:
    if not wanted:
        return None
    from recollect.lm import from_settings

    model = from_settings(settings())
    if model is None:
        raise InvalidInput(
            "lm: no language model is configured; set RECOLLECT_LM_MODEL or run `recollect init` (see doctor)."
        )
    return model


def _finish(result: dict[str, Any], results: Path | None, json: bool) -> None:
    from recollect.benchmarks.report import show

    saver(results, result["benchmark"])(result)
    if json:
        print_json(result)
    else:
        show(result, out)


@app.command(
    epilog="Examples:  recollect bench locomo --data locomo10.json --json"
    "   |   recollect bench locomo --data locomo10.json --method all"
)
def locomo(
    data: Data,
    include_adversarial: Annotated[
        bool, typer.Option("--adversarial", help="Count the adversarial questions too.")
    ] = False,
    read: Annotated[
        bool, typer.Option("--read", help="Also answer with the built-in reader, scored by LoCoMo's F1.")
    ] = False,
    method: Annotated[
        str | None, typer.Option("--method", help="A method, several joined by commas, or all, side by side.")
    ] = None,
    lm: WithLm = False,
    embedder: EmbedderName = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Recall on LoCoMo by turn and by session; needs no language model. With --method all, every method in one table."""
    from recollect.benchmarks.locomo import LoCoMo

    if method is not None:
        if include_adversarial or read:
            raise InvalidInput("method: cannot be joined with --adversarial or --read.")
        _compare_methods(data, method, lm, embedder, results, json)
        return

    with progress("LoCoMo", show=not json) as advance:
        done = 0

        def step(name: str, count: int, total: int) -> None:
            nonlocal done
            advance(count - done)
            done = count

        result = LoCoMo(data).run(
            embedder=embedder,
            include_adversarial=include_adversarial,
            lm=_language_model(lm),
            read_answers=read,
            output=results / "locomo-questions.jsonl" if results else None,
            progress=step,
        )
    _finish(result, results, json)


def _compare_methods(data: Path, method: str, lm: bool, embedder: str | None, results: Path | None, json: bool) -> None:
    from recollect.benchmarks import methods

    names = methods.names_of(method)
    with progress("LoCoMo", show=not json) as advance:
        done: dict[str, int] = {}

        def step(name: str, count: int, total: int) -> None:
            advance(count - done.get(name, 0))
            done[name] = count

        result = methods.compare(data, names, embedder=embedder, lm=_language_model(lm), progress=step)
    saver(results, "locomo-methods")(result)
    show_result(methods, result, json)


@app.command(epilog="Example:  recollect bench longmemeval --data longmemeval_s_cleaned.json --limit 50")
def longmemeval(
    data: Annotated[
        Path | None, typer.Option("--data", help="An S, M or oracle file. Default: made histories.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many histories.")] = None,
    made: Annotated[
        int, typer.Option("--made", min=1, help="How many histories to make, where no file is given.")
    ] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the made histories.")] = 0,
    lm: WithLm = False,
    embedder: EmbedderName = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Recall on LongMemEval by turn and by session; with --lm also judged accuracy. Without a file it makes histories."""
    import json as jsonlib
    import tempfile

    from recollect.benchmarks.longmemeval import LongMemEval
    from recollect.benchmarks.synthetic import generate

    with tempfile.TemporaryDirectory() as folder, progress("LongMemEval", show=not json) as advance:
        path = data
        if path is None:
            path = Path(folder) / "made.json"
            path.write_text(jsonlib.dumps(list(generate(made, seed))), "utf-8")
        result = LongMemEval(path).run(
            embedder=embedder,
            lm=_language_model(lm),
            max_histories=limit,
            output=results / "longmemeval-questions.jsonl" if results else None,
            progress=lambda name, count: advance(1),
        )
    result["made"] = data is None
    if not json and data is None:
        err.print(
            f"[dim]Made histories (seed {seed}), not the published data: figures compare with each other only.[/]"
        )
    _finish(result, results, json)


@app.command(
    epilog="Examples:  recollect bench multihop --method all   |   recollect bench multihop --data musique --method hipporag2"
)
def multihop(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A folder with <name>_corpus.json and <name>.json. Default: a made set."),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="A method, several joined by commas, or all, side by side.")
    ] = "all",
    openie: Annotated[
        Path | None, typer.Option("--openie", help="Triples for HippoRAG 2 that were extracted elsewhere, as JSON.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many questions of each set.")] = None,
    made: Annotated[
        int, typer.Option("--made", min=4, help="How many people a made set is about, where no file is given.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the made set.")] = 0,
    lm: WithLm = False,
    embedder: EmbedderName = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Recall on questions that need several passages: MuSiQue, 2WikiMultihopQA, HotpotQA in HippoRAG's form, or a made set."""
    from recollect.benchmarks import multihop as bench
    from recollect.benchmarks.methods import names_of
    from recollect.benchmarks.multihop_sets import generate, load
    from recollect.store.openie import OpenIECache

    names = names_of(method)
    sets = load(data) if data is not None else [generate(made, seed)]
    cache = OpenIECache(openie) if openie is not None else None
    with progress("Multi-hop", show=not json) as advance:
        result = bench.run(
            sets,
            names,
            openie=cache,
            embedder=embedder,
            lm=_language_model(lm),
            limit=limit,
            progress=lambda label, done, total: advance(1),
        )
    saver(results, "multihop")(result)
    show_result(bench, result, json)


@app.command(epilog="Example:  recollect bench speed --sizes 1k,10k,100k --results results --plots docs")
def speed(
    sizes: Annotated[
        str, typer.Option(help="How many memories, as 1k,10k,100k,1M; 1M takes about 20 minutes.")
    ] = "1k,10k,100k,1M",
    embedder: EmbedderName = None,
    results: Results = None,
    plots: Plots = None,
    json: Json = False,
) -> None:
    """Ingest rate and recall latency as the memory grows, beside Chroma and a plain vector index, in one run."""
    from recollect.benchmarks import speed as bench

    with err.status("starting") as status:
        result = bench.run(bench.parse_sizes(sizes), embedder, lambda line: status.update(escape(line)))
    saver(results, "speed")(result)
    if plots is not None:
        bench.plot(result, plots)
    show_result(bench, result, json)


@app.command(
    epilog="Example:  recollect bench load --memories 100k --postgres postgresql://localhost/empty --results results"
)
def load(
    memories: Annotated[str, typer.Option(help="How many memories lie there beforehand, as 10k or 100k.")] = "100k",
    clients: Annotated[int, typer.Option(min=1, max=512, help="Clients at a time.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="How long they work.")] = 30.0,
    postgres: Annotated[str | None, typer.Option(help="An empty PostgreSQL database to measure beside SQLite.")] = None,
    embedder: EmbedderName = None,
    results: Annotated[Path | None, typer.Option("--results", help="Write load.json into this folder.")] = None,
    json: Json = False,
) -> None:
    """A server under many clients that add and recall at once: throughput, latency, and nothing lost by kill -9."""
    from recollect.benchmarks import load as bench
    from recollect.benchmarks.speed import parse_sizes

    if postgres is not None:
        bench.check_empty(postgres)
    with err.status("starting") as status:
        found = [
            bench.run(
                parse_sizes(memories)[0],
                clients,
                seconds,
                database,
                embedder,
                lambda line: status.update(escape(line)),
            )
            for database in ([None] if postgres is None else [None, postgres])
        ]
    saver(results, "load")({"benchmark": "load", "runs": found})
    if json:
        print_json({"runs": found})
    else:
        bench.show(found, out)
