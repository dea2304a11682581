"""`recollect testbed`: make the small model on which memories in the attention cache are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recollect.cli.common import Checkpoint, Device, Json, Rows, Seed, Steps, escape, out, print_json, progress

app = typer.Typer(no_args_is_help=True, help="Make the small model that context memories are measured on.")


@app.command(
    epilog="Examples:  recollect testbed train   |   recollect testbed train --steps 3000 --tokens 512 --out my-model"
)
def train(
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training.")] = None,
    tokens: Annotated[int | None, typer.Option(min=64, help="Trained length.")] = None,
    width: Annotated[int | None, typer.Option(min=32, help="Hidden size; a multiple of 32.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers.")] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Write the model here. Default: your cache folder.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Train even if the model is there already.")] = False,
    json: Json = False,
) -> None:
    """Train a small Llama with a short context on recall tasks and made prose: a few minutes on one core, no download."""
    import json as jsonlib

    from recollect.benchmarks.testbed import Recipe, folder_of
    from recollect.benchmarks.testbed import train as train_testbed

    given: dict[str, Any] = {"num_steps": steps, "trained_tokens": tokens, "hidden_size": width, "num_layers": layers}
    recipe = Recipe(seed=seed, **{name: value for name, value in given.items() if value})
    folder = folder_of(recipe) if folder is None else folder
    log = folder / "training.json"
    if again or not log.is_file():
        with progress("training", recipe.num_steps, show=not json) as advance:
            trained = train_testbed(recipe, folder, device, lambda step, total, what: advance(1))
    else:
        trained = jsonlib.loads(log.read_text("utf-8"))
    if json:
        print_json(trained | {"folder": str(folder)})
        return
    out.print(
        f"{trained['parameters']:,} parameters, trained to {trained['recipe']['trained_tokens']} tokens in {trained['seconds']:.0f} s; "
        f"loss of answers {trained['answer_loss']:.3f} nats. In {escape(str(folder))}"
    )


@app.command(
    epilog="Examples:  recollect testbed extend --tokens 1024 --out longer   |   recollect testbed extend --full --out longer"
)
def extend(
    folder: Annotated[Path, typer.Option("--out", help="Write the model here.")],
    model: Checkpoint = None,
    tokens: Annotated[int, typer.Option(min=64, help="Length to train on to.")] = 1024,
    steps: Steps = 200,
    rows: Rows = 3,
    sinks: Annotated[int, typer.Option(min=0, help="First tokens that a sparse layer keeps.")] = 4,
    window: Annotated[int, typer.Option(min=1, help="Last tokens that a sparse layer keeps.")] = 60,
    full: Annotated[bool, typer.Option("--full", help="Full attention in all layers instead.")] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a model on to longer texts as LongGen does: full attention in the middle third of the layers, sparse elsewhere."""
    import json as jsonlib
    from dataclasses import asdict

    from recollect.benchmarks.testbed import Recipe, load, load_or_train
    from recollect.benchmarks.testbed import extend as train_on
    from recollect.context.longgen import LongGen

    network, tokenizer = load(model, device, "float32") if model else load_or_train(device=device, dtype="float32")
    recipe = Recipe(
        trained_tokens=tokens,
        batch_rows=rows,
        num_steps=steps,
        learning_rate=1e-3,
        seed=seed,
        vocabulary=len(tokenizer),
    )
    policy = None if full else LongGen(num_sink_tokens=sinks, window_tokens=window)
    with progress("training", steps, show=not json) as advance:
        answers = train_on(network, tokenizer, recipe, policy, lambda step, total, what: advance(1))
    network.save_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    log = {
        "tokens": tokens,
        "steps": steps,
        "policy": asdict(policy) if policy else None,
        "answer_loss": round(answers, 4),
    }
    (folder / "training.json").write_text(jsonlib.dumps(log, indent=2) + "\n", "utf-8")
    if json:
        print_json(log | {"folder": str(folder)})
        return
    out.print(f"Trained on to {tokens} tokens; loss of answers {answers:.3f} nats. In {escape(str(folder))}")
