"""`recollect bench`, for what lies in models: context memories and layers with a state."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from recollect.cli.common import Checkpoint, Device, Json, Plots, Rows, err, escape, saver, show_result
from recollect.errors import InvalidInput

app = typer.Typer()


Budget = Annotated[int | None, typer.Option(help="Keys a token may attend to. Default: half of the trained length.")]
Dtype = Annotated[str, typer.Option(help="bfloat16, float16 or float32.")]
Name = Annotated[str, typer.Option(help="Name of the files that are written.")]


@app.command(
    epilog="Example:  recollect bench needle --policy infllm,streaming-llm --lengths 1k,4k,16k --model my-llama"
)
def needle(
    policy: Annotated[
        str, typer.Option(help="Policies, as infllm,streaming-llm; see recollect systems. all: every one.")
    ] = "infllm,streaming-llm",
    lengths: Annotated[str, typer.Option(help="Tokens of input, as 1k,4k,16k.")] = "256,512,1k,2k",
    task: Annotated[str, typer.Option(help="passkey, needle, key-value, number, mqar; with commas.")] = "passkey",
    plain: Annotated[bool, typer.Option(help="Ask the model without a policy, too; slow at long inputs.")] = True,
    model: Checkpoint = None,
    budget: Budget = None,
    samples: Annotated[int, typer.Option(min=1, help="Questions for each task and length.")] = 10,
    haystack: Annotated[Path | None, typer.Option(help="A text to hide things in. Default: made sentences.")] = None,
    device: Device = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. Default: float32 on a CPU, else bfloat16.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Questions that are read at once.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the questions, one thread each.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the questions.")] = 0,
    resume: Annotated[
        list[Path] | None,
        typer.Option(help="A result whose rows are taken over and not measured again; may be given several times."),
    ] = None,
    name: Name = "needle",
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
    from recollect.benchmarks.testbed import Recipe, folder_of, load, load_or_train

    keys = bench.policies() if policy == "all" else parse_names(policy, bench.policies(), "policy")
    tasks, sizes = parse_names(task, bench.ALL_TASKS, "task"), parse_lengths(lengths)
    text = None
    if haystack is not None:
        try:
            text = haystack.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise InvalidInput(f"haystack: {haystack} is not a text file in UTF-8.") from None
    earlier = [_earlier(path, "needle", {"rows", "haystack", "earlier"}) for path in resume or ()]
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
            [bench.PLAIN, *keys] if plain else keys,
            sizes,
            tasks,
            samples,
            budget,
            seed,
            lambda what, done, total: status.update(f"{what} ({done} of {total})"),
            batch,
            earlier,
            saver(results, name),
            workers,
            partial(load, folder_of(Recipe()) if model is None else model, device, dtype),
        )
    saver(results, name)(result)
    if plots is not None:
        bench.plot(result, plots, name)
    show_result(bench, result, json)


@app.command(epilog="Example:  recollect bench context --policy infllm,lm-infinite --lengths 8k,32k,128k --device cuda")
def context(
    policy: Annotated[str, typer.Option(help="Policies, as infllm,streaming-llm. all: every one.")] = "all",
    lengths: Annotated[str, typer.Option(help="Tokens of input, as 8k,32k,128k.")] = "8k,32k",
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model; a Llama 7B has 32.")] = 32,
    device: Device = "cuda",
    dtype: Dtype = "bfloat16",
    width: Annotated[int, typer.Option(help="Width of the model; a Llama 7B has 4096.")] = 4096,
    look_up_tokens: Annotated[int, typer.Option(min=1, help="Tokens that block memories decode with one look-up.")] = 1,
    copied: Annotated[
        float | None,
        typer.Option(
            help="Share of what a look-up finds that is copied from host memory, as `bench look-ups` has it; "
            "default: as random weights have it."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of a policy, as infllm.num_blocks=32; may be given several times."),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Inputs that are read side by side; full attention gets as many as fit.")
    ] = 1,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds of reading after which a policy is stopped.")] = 120.0,
    name: Name = "context-speed",
    results: Annotated[Path | None, typer.Option("--results", help="Write <name>.json into this folder.")] = None,
    plots: Plots = None,
    json: Json = False,
) -> None:
    """Speed and memory of context policies beside full attention, on a Llama of random weights."""
    from recollect.benchmarks import context_speed as bench
    from recollect.benchmarks.haystack import parse_lengths, parse_names

    keys = bench.policies() if policy == "all" else parse_names(policy, bench.policies(), "policy")
    settings = {key: {"look_up_tokens": look_up_tokens} for key in keys if bench.looks_up(key)}
    for key, own in bench.parse_settings(setting or [], keys).items():
        settings[key] = settings.get(key, {}) | own
    with err.status("starting") as status:
        result = bench.run(
            keys,
            parse_lengths(lengths),
            layers,
            device,
            dtype,
            width,
            settings=settings,
            copied=copied,
            limit_s=limit_s,
            num_rows=rows,
            progress=lambda line: status.update(escape(line)),
            save=saver(results, name),
        )
    if plots is not None:
        bench.plot(result, plots, name)
    show_result(bench, result, json)


@app.command(
    "look-ups", epilog="Example:  recollect bench look-ups --data folder-of-model-and-novels --results results"
)
def look_ups(
    data: Annotated[Path, typer.Option("--data", help="Folder with a checkpoint of transformers and novels.")],
    length: Annotated[int, typer.Option(min=4096, help="Tokens of the novel.")] = 16_384,
    device: Device = "cpu",
    results: Annotated[Path | None, typer.Option("--results", help="Write look-ups.json into this folder.")] = None,
    json: Json = False,
) -> None:
    """How much the look-ups of block memories change while a trained model reads a novel."""
    from recollect.benchmarks import look_ups as bench
    from recollect.claims.claim import Setting

    with err.status("starting") as status:
        where = Setting(data=data, device=device)
        result = bench.on_a_novel(where, length, lambda line: status.update(escape(line)))
    saver(results, "look-ups")(result)
    show_result(bench, result, json)


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
    model: Checkpoint = None,
    budget: Budget = None,
    device: Device = "cpu",
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
    saver(results, "sirllm-tasks")(result)
    show_result(bench, result, json)


@app.command(
    epilog="Examples:  recollect bench recall --layers 'attention,linear attention,MoM'"
    "   |   recollect bench recall --device cuda --rows 128 --steps 3000 --rates 1e-3,3e-3,1e-2 --limit-s 900 --results results"
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
    rows: Rows = 64,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training at most; fewer once it is learned.")] = 1000,
    rates: Annotated[
        str, typer.Option(help="Learning rates, of which the best counts, as 1e-3,3e-3; the middle one first.")
    ] = "3e-3",
    workers: Annotated[int, typer.Option(min=1, help="Processes that train side by side.")] = 1,
    limit_s: Annotated[float, typer.Option(min=1, help="Seconds after which no further run is begun.")] = 1e6,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights and sequences.")] = 0,
    resume: Annotated[Path | None, typer.Option(help="A result whose rows are taken over.")] = None,
    name: Name = "state-recall",
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

    try:
        chosen = tuple(float(rate) for rate in rates.split(","))
    except ValueError:
        raise InvalidInput(f"rates: {rates!r:.40} are no numbers; write them as 1e-3,3e-3.") from None
    setup = bench.Setup(task, pairs, length, width, rows, steps, chosen, seed)
    setup.make_task()
    earlier = None
    if resume is not None and resume.exists():
        earlier = _earlier(resume, "state-recall", {"rows", "setup", "total_seconds"})
    with err.status("starting") as status:
        result = bench.run(
            setup,
            None if layers == "all" else [line.strip() for line in layers.split(",")],
            device,
            workers,
            limit_s,
            earlier,
            lambda what, done, total: status.update(f"{escape(what)} ({done} of {total})"),
            saver(results, name),
        )
    if plots is not None:
        bench.plot(result, plots, name)
    show_result(bench, result, json)


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
    device: Device = "cuda",
    dtype: Dtype = "bfloat16",
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
            save=saver(results, "state-speed"),
        )
    if plots is not None:
        bench.plot(result, plots)
    show_result(bench, result, json)


def _earlier(path: Path, benchmark: str, parts: set[str]) -> dict[str, Any]:
    """A result that this benchmark wrote, with these parts. Raises InvalidInput for anything else."""
    import json

    try:
        found = json.loads(path.read_text("utf-8"))
        if found["benchmark"] == benchmark and parts <= found.keys():
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InvalidInput(f"resume: {path} is not a result of `recollect bench {benchmark.removeprefix('state-')}`.")
