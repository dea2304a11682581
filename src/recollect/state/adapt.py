"""Memory-augmented adaptation: how the side network of LongMem learns to read the bank (arXiv:2306.07174, section 3.1).

Documents are read by `Streams` as rows that go on from batch to batch, so that a row's bank holds what came before in its
document. The loss is next-token cross-entropy on the side network's logits; only the side network is trained.
`suggest_memory_layer` says at which layer a backbone itself looks up what it read before, which decides what a bank of that
layer is good for.

Shapes: B rows, T tokens of a segment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recollect.errors import InvalidInput
from recollect.state.decoder import decoder_of, read

if TYPE_CHECKING:
    from recollect.state.longmem import LongMem

Progress = Callable[[int, int, float], None]  # step, of, loss in nats averaged over the last steps


class Streams:
    """Documents as segments for rows that go on: iterating gives (tokens [B, T], rows that begin a document) without end.

    Each row reads a document segment by segment and then the next one of an order that is drawn anew for each pass; what
    is left at a document's end and fills no segment is dropped.
    """

    def __init__(self, documents: Sequence[Sequence[int]], rows: int, segment_tokens: int, seed: int = 0):
        """`documents` are token numbers. Raises InvalidInput when none fills a segment."""
        self.documents = [each for each in documents if len(each) >= segment_tokens]
        self.rows, self.segment_tokens, self.seed = rows, segment_tokens, seed
        if not self.documents:
            raise InvalidInput(f"documents: none has the {segment_tokens} tokens of a segment.")

    def __iter__(self) -> Iterator[tuple[Tensor, list[int]]]:
        order = self._order()
        segments = [self._segments(order) for _ in range(self.rows)]
        while True:
            drawn = [next(row) for row in segments]
            yield torch.tensor([tokens for tokens, _ in drawn]), [row for row, (_, new) in enumerate(drawn) if new]

    def _order(self) -> Iterator[Sequence[int]]:
        rng = Random(f"streams {self.seed}")
        while True:
            yield from rng.sample(self.documents, len(self.documents))

    def _segments(self, order: Iterator[Sequence[int]]) -> Iterator[tuple[Sequence[int], bool]]:
        for document in order:
            for start in range(0, len(document) - self.segment_tokens + 1, self.segment_tokens):
                yield document[start : start + self.segment_tokens], start == 0


def adapt(
    model: LongMem,
    streams: Streams,
    num_steps: int,
    learning_rate: float = 2e-4,
    weight_decay: float = 0.01,
    warmup_steps: int = 0,
    use_memory: bool = True,
    progress: Progress = lambda *_: None,
    checkpoint: str | Path | None = None,
    every_steps: int = 100,
    stop_after: int | None = None,
) -> float:
    """Train the side network in place; returns the loss in nats, averaged over the last steps.

    The paper's recipe: Adam (0.9, 0.98), the rate falling linearly to 0. `use_memory` False trains the side network
    without the bank, for comparison. With a `checkpoint` folder, everything is written there each `every_steps` and at the
    end, and a run that finds one there goes on from it as if it had not stopped; `stop_after` ends a run early, at that
    step. The loss of tokens at the head of a segment, whose predecessor is in the last one, is not counted. Raises
    InvalidInput for a segment that is longer than what the window takes at once, or a checkpoint of another recipe.
    """
    room = model.settings.segment_tokens - model.settings.overlap_tokens
    if streams.segment_tokens > room:
        raise InvalidInput(f"streams: a segment of {streams.segment_tokens} tokens does not fit; use at most {room}.")
    optimizer = torch.optim.AdamW(
        model.side.parameters(), lr=learning_rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=weight_decay
    )
    recipe = {
        "num_steps": num_steps,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "warmup_steps": warmup_steps,
        "use_memory": use_memory,
        "rows": streams.rows,
        "segment_tokens": streams.segment_tokens,
        "seed": streams.seed,
    }
    model.reset()
    done, mean = 0, math.nan
    if checkpoint is not None and (Path(checkpoint) / "adapt.json").is_file():
        done, mean = _load(model, optimizer, Path(checkpoint), recipe)
    model.train()
    for step, (ids, new) in enumerate(streams):
        if step < done:
            continue
        if step == min(num_steps, stop_after or num_steps):
            break
        if new and model.memory.num_rows:
            model.reset(new)
        rate = min((step + 1) / (warmup_steps + 1), 1.0) * (1 - step / num_steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        ids = ids.to(model.device)
        loss = model(ids, labels=ids, use_memory=use_memory).loss
        assert loss is not None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.side.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if math.isnan(mean) else 0.95 * mean + 0.05 * loss.item()
        done = step + 1
        progress(done, num_steps, mean)
        if checkpoint is not None and (done % every_steps == 0 or done in (num_steps, stop_after)):
            _save(model, optimizer, Path(checkpoint), recipe, done, mean)
    model.eval()
    model.reset()
    return mean


def _save(model: LongMem, optimizer: Any, folder: Path, recipe: dict[str, Any], done: int, mean: float) -> None:
    """Side network, moments, bank, window and progress; `adapt.json`, written last, makes them count."""
    from safetensors.torch import save_file

    assert model.window is not None
    (folder / "adapt.json").unlink(missing_ok=True)
    model.save_pretrained(folder)
    model.memory.save(folder / "memory.safetensors")
    tensors = {"ids": model.window.ids, "mask": model.window.mask}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{number}.{name}": value for name, value in state.items()}
    save_file({name: each.cpu().contiguous() for name, each in tensors.items()}, str(folder / "training.safetensors"))
    (folder / "adapt.json").write_text(json.dumps({"recipe": recipe, "done": done, "loss": mean}) + "\n", "utf-8")


def _load(model: LongMem, optimizer: Any, folder: Path, recipe: dict[str, Any]) -> tuple[int, float]:
    """(steps done, their loss), with everything else of a checkpoint put in place."""
    from safetensors.torch import load_file

    from recollect.state.longmem import Window

    about = json.loads((folder / "adapt.json").read_text("utf-8"))
    if about["recipe"] != recipe:
        raise InvalidInput(f"checkpoint: {folder} holds a run of another recipe; name an empty folder.")
    model.side.load_state_dict(load_file(str(folder / "side.safetensors")))
    model.memory.load(folder / "memory.safetensors", model.device)
    tensors = load_file(str(folder / "training.safetensors"))
    model.window = Window(tensors.pop("ids").to(model.device), tensors.pop("mask").to(model.device))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, part = name.split(".")
        state.setdefault(int(number), {})[part] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about["done"], about["loss"]


def suggest_memory_layer(model: Any, num_tokens: int = 256, rows: int = 8, seed: int = 0) -> tuple[int, list[float]]:
    """(the layer whose bank finds most, what each layer finds) of a decoder of transformers, on random tokens said twice.

    What a layer finds is the share of attention, positions left out as in the bank, that a token of the second saying
    pays to the one that followed it in the first; mean over tokens and heads.
    """
    decoder = decoder_of(model)
    half = num_tokens // 2
    generator = torch.Generator().manual_seed(seed)
    said = torch.randint(0, decoder.config.vocab_size, (rows, half), generator=generator)
    ids = torch.cat([said, said], dim=1).to(next(model.parameters()).device)
    layers = range(len(decoder.layers))
    heads = read(decoder, layers, input_ids=ids).heads
    found = []
    for layer in layers:
        queries, keys, _ = heads[layer]
        queries, keys = queries[:, :, half : 2 * half - 1].float(), keys[:, :, :half].float()
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
        scores = torch.softmax(queries @ keys.transpose(-1, -2) * decoder.layers[layer].self_attn.scaling, dim=-1)
        found.append(scores.diagonal(1, dim1=-2, dim2=-1).mean().item())
    return max(layers, key=found.__getitem__), found
