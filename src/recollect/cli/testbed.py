"""`recollect testbed`: make the small model on which memories in the attention cache are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recollect.cli.common import Json, escape, out, print_json, progress

app = typer.Typer(no_args_is_help=True, help="Make the small model that context memories are measured on.")


@app.command(
    epilog="Examples:  recollect testbed train   |   recollect testbed train --steps 3000 --tokens 512 --out my-model"
)
def train(
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training.")] = None,
    tokens: Annotated[int | None, typer.Option(min=64, help="Trained length.")] = None,
    width: Annotated[int | None, typer.Option(min=32, help="Hidden size; a multiple of 32.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
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
