"""`recollect bench`: recall on LoCoMo, LongMemEval and multi-hop questions, speed beside vector stores, context memories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recollect.cli.common import EmbedderName, Json, err, escape, out, print_json, progress, settings
from recollect.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Measure recall and speed; see recollect bench COMMAND --help.")

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
    from recollect.benchmarks.provenance import write_json
    from recollect.benchmarks.report import show

    if results is not None:
        write_json(result, results / f"{result['benchmark']}.json")
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
    if results is not None:
        from recollect.benchmarks.provenance import write_json

        write_json(result, results / "locomo-methods.json")
    if json:
        print_json(result)
    else:
        methods.show(result, out)


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
    from recollect.store.openie import OpenIECache

    names = names_of(method)
    sets = bench.load(data) if data is not None else [bench.generate(made, seed)]
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
    if results is not None:
        from recollect.benchmarks.provenance import write_json

        write_json(result, results / "multihop.json")
    if json:
        print_json(result)
    else:
        bench.show(result, out)


@app.command(epilog="Example:  recollect bench speed --sizes 1k,10k,100k --results results --plots docs")
def speed(
    sizes: Annotated[
        str, typer.Option(help="How many memories, as 1k,10k,100k,1M; 1M takes about 20 minutes.")
    ] = "1k,10k,100k,1M",
    embedder: EmbedderName = None,
    results: Results = None,
    plots: Annotated[Path | None, typer.Option("--plots", help="Draw the figures into this folder.")] = None,
    json: Json = False,
) -> None:
    """Ingest rate and recall latency as the memory grows, beside Chroma and a plain vector index, in one run."""
    from recollect.benchmarks import speed as bench

    with err.status("starting") as status:
        result = bench.run(bench.parse_sizes(sizes), embedder, lambda line: status.update(escape(line)))
    if results is not None:
        from recollect.benchmarks.provenance import write_json

        write_json(result, results / "speed.json")
    if plots is not None:
        bench.plot(result, plots)
    if json:
        print_json(result)
    else:
        bench.show(result, out)


@app.command(
    epilog="Example:  recollect bench needle --policy infllm,streaming-llm --lengths 1k,4k,16k --model my-llama"
)
def needle(
    policy: Annotated[
        str, typer.Option(help="Policies, as infllm,streaming-llm; see recollect systems. all: every one.")
    ] = "infllm,streaming-llm",
    lengths: Annotated[str, typer.Option(help="Tokens of input, as 1k,4k,16k.")] = "256,512,1k,2k",
    task: Annotated[str, typer.Option(help="passkey, needle, key-value, number, mqar; with commas.")] = "passkey",
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a checkpoint of transformers. Default: the testbed, trained when missing."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Keys a token may attend to. Default: half of the trained length.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Questions for each task and length.")] = 10,
    haystack: Annotated[Path | None, typer.Option(help="A text to hide things in. Default: made sentences.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. Default: float32 on a CPU, else bfloat16.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Questions that are read at once.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the questions.")] = 0,
    resume: Annotated[
        list[Path] | None,
        typer.Option(help="A result whose rows are taken over and not measured again; may be given several times."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the files that are written.")] = "needle",
    results: Annotated[
        Path | None, typer.Option("--results", help="Write <name>.json into this folder, after each measured row.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Draw accuracy against length into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """How far each context memory carries a model: accuracy of recall by length, at equal attended tokens."""
    from recollect.benchmarks import needle as bench
    from recollect.benchmarks.haystack import Haystacks, parse_lengths, parse_names
    from recollect.benchmarks.provenance import write_json
    from recollect.benchmarks.testbed import load, load_or_train

    keys = bench.policies() if policy == "all" else parse_names(policy, bench.policies(), "policy")
    tasks, sizes = parse_names(task, bench.ALL_TASKS, "task"), parse_lengths(lengths)
    text = None
    if haystack is not None:
        try:
            text = haystack.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise InvalidInput(f"haystack: {haystack} is not a text file in UTF-8.") from None
    earlier = [_result(path) for path in resume or ()]
    with err.status("the model") as status:
        if model is not None:
            network, tokenizer = load(model, device, dtype)
        else:
            network, tokenizer = load_or_train(
                device=device,
                progress=lambda step, total, what: status.update(f"training the testbed, {step} of {total}: {what}"),
                dtype=dtype,
            )
        result = bench.run(
            network,
            Haystacks(tokenizer, network.config.bos_token_id, text, seed),
            [bench.PLAIN, *keys],
            sizes,
            tasks,
            samples,
            budget,
            seed,
            lambda what, done, total: status.update(f"{what} ({done} of {total})"),
            batch,
            earlier,
            lambda found: write_json(found, results / f"{name}.json") if results is not None else None,
        )
    if results is not None:
        write_json(result, results / f"{name}.json")
    if plots is not None:
        bench.plot(result, plots, name)
    if json:
        print_json(result)
    else:
        bench.show(result, out)


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
    if results is not None:
        from recollect.benchmarks.provenance import write_json

        write_json({"benchmark": "load", "runs": found}, results / "load.json")
    if json:
        print_json({"runs": found})
    else:
        bench.show(found, out)


@app.command(epilog="Example:  recollect bench context --policy infllm,lm-infinite --lengths 8k,32k,128k --device cuda")
def context(
    policy: Annotated[str, typer.Option(help="Policies, as infllm,streaming-llm. all: every one.")] = "all",
    lengths: Annotated[str, typer.Option(help="Tokens of input, as 8k,32k,128k.")] = "8k,32k",
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model; a Llama 7B has 32.")] = 32,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    width: Annotated[int, typer.Option(help="Width of the model; a Llama 7B has 4096.")] = 4096,
    look_up_tokens: Annotated[int, typer.Option(min=1, help="Tokens that block memories decode with one look-up.")] = 1,
    copied: Annotated[
        float | None,
        typer.Option(
            help="Share of what a look-up finds that is copied from host memory, as `bench look-ups` has it; "
            "default: as random weights have it."
        ),
    ] = None,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds of reading after which a policy is stopped.")] = 120.0,
    results: Annotated[
        Path | None, typer.Option("--results", help="Write context-speed.json into this folder.")
    ] = None,
    plots: Annotated[Path | None, typer.Option("--plots", help="Draw the figures into this folder.")] = None,
    json: Json = False,
) -> None:
    """Speed and memory of context policies beside full attention, on a Llama of random weights."""
    from recollect.benchmarks import context_speed as bench
    from recollect.benchmarks.haystack import parse_lengths, parse_names
    from recollect.benchmarks.provenance import write_json

    keys = bench.policies() if policy == "all" else parse_names(policy, bench.policies(), "policy")
    with err.status("starting") as status:
        result = bench.run(
            keys,
            parse_lengths(lengths),
            layers,
            device,
            dtype,
            width,
            settings={key: {"look_up_tokens": look_up_tokens} for key in keys if bench.looks_up(key)},
            copied=copied,
            limit_s=limit_s,
            progress=lambda line: status.update(escape(line)),
            save=lambda found: None if results is None else write_json(found, results / "context-speed.json"),
        )
    if plots is not None:
        bench.plot(result, plots)
    if json:
        print_json(result)
    else:
        bench.show(result, out)


@app.command(
    "look-ups", epilog="Example:  recollect bench look-ups --data folder-of-model-and-novels --results results"
)
def look_ups(
    data: Annotated[Path, typer.Option("--data", help="Folder with a checkpoint of transformers and novels.")],
    length: Annotated[int, typer.Option(min=4096, help="Tokens of the novel.")] = 16_384,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cpu",
    results: Annotated[Path | None, typer.Option("--results", help="Write look-ups.json into this folder.")] = None,
    json: Json = False,
) -> None:
    """How much the look-ups of block memories change while a trained model reads a novel."""
    from recollect.benchmarks import look_ups as bench
    from recollect.benchmarks.provenance import write_json
    from recollect.claims.claim import Setting

    with err.status("starting") as status:
        where = Setting(data=data, device=device)
        result = bench.on_a_novel(where, length, lambda line: status.update(escape(line)))
    if results is not None:
        write_json(result, results / "look-ups.json")
    if json:
        print_json(result)
    else:
        bench.show(result, out)


@app.command(
    epilog="Examples:  recollect bench sirllm   |   recollect bench sirllm --task dailydialog,grocery --data sirllm --limit 500"
)
def sirllm(
    task: Annotated[
        str, typer.Option(help="dailydialog, grocery (both need --data), rock-paper-scissors; with commas.")
    ] = "rock-paper-scissors",
    policy: Annotated[
        str, typer.Option(help="Policies, as sirllm,streaming-llm. all: every one.")
    ] = "sirllm,streaming-llm",
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder with the published files. Default: a made match.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Rounds of each task and match; dialogues are played to their end.")
    ] = 200,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a checkpoint of transformers. Default: the testbed, trained when missing."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Keys a token may attend to. Default: half of the trained length.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    by: Annotated[
        str, typer.Option(help="letter, or text for a model that has not learned to answer by letters.")
    ] = "letter",
    seed: Annotated[int, typer.Option(help="Seed of a made match.")] = 0,
    results: Annotated[Path | None, typer.Option("--results", help="Write sirllm-tasks.json into this folder.")] = None,
    json: Json = False,
) -> None:
    """SirLLM's tasks of dialogue in a small cache: small talk, a fact among other questions, an opponent's habit."""
    from recollect.benchmarks import needle
    from recollect.benchmarks import sirllm_tasks as bench
    from recollect.benchmarks.haystack import parse_names
    from recollect.benchmarks.provenance import write_json
    from recollect.benchmarks.testbed import load, load_or_train

    keys = needle.policies() if policy == "all" else parse_names(policy, needle.policies(), "policy")
    tasks = parse_names(task, bench.TASKS, "task")
    with err.status("the model") as status:
        network, tokenizer = load(model, device) if model is not None else load_or_train(device=device)
        result = bench.run(
            network,
            tokenizer,
            keys,
            tasks,
            data,
            limit,
            budget,
            seed,
            by,
            lambda what, done, total: status.update(f"{what} ({done} of {total})"),
        )
    if results is not None:
        write_json(result, results / "sirllm-tasks.json")
    if json:
        print_json(result)
    else:
        bench.show(result, out)


@app.command(
    epilog="Examples:  recollect bench recall --layers 'attention,linear attention,MoM'"
    "   |   recollect bench recall --device cuda --workers 6 --rates 1e-3,3e-3 --results results --plots docs"
)
def recall(
    layers: Annotated[
        str,
        typer.Option(
            help="Lines of the plot, as attention,linear attention (Taylor); all: every one. A wrong name lists them."
        ),
    ] = "all",
    task: Annotated[
        str,
        typer.Option(
            help="mqar, selective-copying, induction, listops, or a kind of stories: qa1, qa2, qa3, qa5, qa6, qa7, qa19."
        ),
    ] = "mqar",
    pairs: Annotated[int, typer.Option(min=1, help="Pairs to be kept, of mqar.")] = 16,
    length: Annotated[int, typer.Option(min=8, help="Tokens of a sequence.")] = 128,
    width: Annotated[int, typer.Option(min=8, help="Width of the model.")] = 64,
    rows: Annotated[int, typer.Option(min=1, help="Sequences a step.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 1000,
    rates: Annotated[str, typer.Option(help="Learning rates, of which the best counts, as 1e-3,3e-3.")] = "3e-3",
    workers: Annotated[int, typer.Option(min=1, help="Processes that train side by side.")] = 1,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds after which no further run is begun.")] = 1e6,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights and sequences.")] = 0,
    resume: Annotated[Path | None, typer.Option(help="A result whose rows are taken over.")] = None,
    name: Annotated[str, typer.Option(help="Name of the files that are written.")] = "state-recall",
    results: Annotated[
        Path | None, typer.Option("--results", help="Write <name>.json into this folder, after each run.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Draw accuracy against bytes of state into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Layers with a state: accuracy of recall against the bytes of their state, each trained on the same made task."""
    from recollect.benchmarks import state_recall as bench
    from recollect.benchmarks.provenance import write_json

    try:
        chosen = tuple(float(rate) for rate in rates.split(","))
    except ValueError:
        raise InvalidInput(f"rates: {rates!r:.40} are no numbers; write them as 1e-3,3e-3.") from None
    setup = bench.Setup(task, pairs, length, width, rows, steps, chosen, seed)
    setup.make_task()
    earlier = _earlier(resume, "state-recall") if resume is not None and resume.exists() else None
    with err.status("starting") as status:
        result = bench.run(
            setup,
            None if layers == "all" else [line.strip() for line in layers.split(",")],
            device,
            workers,
            limit_s,
            earlier,
            lambda what, done, total: status.update(f"{escape(what)} ({done} of {total})"),
            lambda found: None if results is None else write_json(found, results / f"{name}.json"),
        )
    if plots is not None:
        bench.plot(result, plots, name)
    if json:
        print_json(result)
    else:
        bench.show(result, out)


@app.command(
    "state-speed",
    epilog="Example:  recollect bench state-speed --lengths 1k,4k,16k,64k --device cuda --results results --plots docs",
)
def state_speed(
    layers: Annotated[
        str, typer.Option(help="Layers, as linear attention,MoM; all: every one. A wrong name lists them.")
    ] = "all",
    lengths: Annotated[str, typer.Option(help="Tokens of a sequence, as 1k,8k,64k.")] = "1k,4k",
    width: Annotated[int, typer.Option(min=8, help="Width of a layer.")] = 512,
    heads: Annotated[int, typer.Option(min=1, help="Heads of a layer.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens a training step, over all rows.")] = 65_536,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    limit_s: Annotated[float, typer.Option(min=0, help="Seconds of a step after which a layer is stopped.")] = 2.0,
    total_s: Annotated[float, typer.Option(min=1, help="Seconds after which no further measurement is begun.")] = 240.0,
    configs: Annotated[int, typer.Option(min=1, help="Configurations among which fused kernels are tuned.")] = 3,
    results: Annotated[Path | None, typer.Option("--results", help="Write state-speed.json into this folder.")] = None,
    plots: Annotated[Path | None, typer.Option("--plots", help="Draw the ratios into this folder.")] = None,
    json: Json = False,
) -> None:
    """Layers with a state: training and decoding speed as ratios to attention, as the sequence grows."""
    from recollect.benchmarks import state_speed as bench
    from recollect.benchmarks.haystack import parse_lengths
    from recollect.benchmarks.provenance import write_json

    with err.status("starting") as status:
        result = bench.run(
            bench.layers() if layers == "all" else [each.strip() for each in layers.split(",")],
            parse_lengths(lengths),
            width,
            heads,
            tokens,
            device,
            dtype,
            limit_s,
            total_s,
            configs,
            progress=lambda line: status.update(escape(line)),
            save=lambda found: None if results is None else write_json(found, results / "state-speed.json"),
        )
    if plots is not None:
        bench.plot(result, plots)
    if json:
        print_json(result)
    else:
        bench.show(result, out)


def _earlier(path: Path, benchmark: str) -> dict[str, Any]:
    """A result that this benchmark wrote. Raises InvalidInput for anything else."""
    import json

    try:
        found = json.loads(path.read_text("utf-8"))
        if found["benchmark"] == benchmark and {"rows", "setup", "total_seconds"} <= found.keys():
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InvalidInput(f"resume: {path} is not a result of `recollect bench {benchmark.removeprefix('state-')}`.")


def _result(path: Path) -> dict[str, Any]:
    """A result that `bench needle` wrote. Raises InvalidInput for anything else."""
    import json

    try:
        found = json.loads(path.read_text("utf-8"))
        if found["benchmark"] == "needle" and {"rows", "haystack", "earlier"} <= found.keys():
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InvalidInput(f"resume: {path} is not a result of `recollect bench needle`.")
