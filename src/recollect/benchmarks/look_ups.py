"""How much the look-ups of a block memory change from one to the next, and policies whose look-ups copy a given share.

With random weights every look-up finds other blocks, and decoding copies nearly all of them from host memory; a trained model
repeats itself. `measure` says how much, on a text; `repeating` lets the speed benchmark, whose weights are random, copy no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from recollect.benchmarks.provenance import provenance
from recollect.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from recollect.benchmarks.real_data import Where
    from recollect.context.cache import Layer
    from recollect.context.far import BlockMemory
    from recollect.context.far_ring import Shelf

NUM_STEPS = 256
EVERY = (1, 4, 16, 64)


def measure(
    model: Any,
    ids: Tensor,
    policies: dict[str, BlockMemory],
    every: Sequence[int] = EVERY,
    num_steps: int = NUM_STEPS,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Decode the last `num_steps` tokens of a text [1, T] with one look-up for `every` tokens; one plain JSON object.

    A row has, for each policy and number of tokens, `changed`, the share of what a look-up chose (blocks or events) that the
    look-up before it did not choose, `copied`, the share of the chosen tokens that had to be copied from host memory, and `nats`,
    the mean -log P of the decoded tokens. The text stands in for what the model would write. Raises InvalidInput for a text that
    is too short to look up in.
    """
    import torch
    from torch.nn.functional import cross_entropy

    rows = []
    for name, policy in policies.items():
        seen: dict[int, list[set[int]]] = {}
        watched = _watched(policy, seen)
        with watched.attach(model) as memory, torch.no_grad():
            progress(f"{name}, reading")
            memory.read(ids[:, :-num_steps])
            for tokens in every:
                progress(f"{name}, one look-up for {tokens} tokens")
                watched.look_up_tokens, cache = tokens, memory.memory.copy()
                seen.clear()
                before = cache.stats()
                logits = [model(ids[:, at : at + 1], cache=cache).logits for at in range(-num_steps, -1)]
                after = cache.stats()
                pairs = [pair for found in seen.values() for pair in pairwise(found)]
                if not pairs:
                    raise InvalidInput(f"ids: {ids.shape[1]} tokens are too few to look up twice; give a longer text.")
                chosen, copied = (after[each] - before.get(each, 0) for each in ("tokens_chosen", "tokens_copied"))
                nats = cross_entropy(torch.cat(logits, dim=1).flatten(0, 1).float(), ids[:, 1 - num_steps :].flatten())
                rows.append(
                    {
                        "method": name,
                        "look_up_tokens": tokens,
                        "changed": round(sum(len(new - old) / len(new) for old, new in pairs) / len(pairs), 4),
                        "copied": round(copied / chosen, 4),
                        "nats": round(float(nats), 4),
                        "kept": after.get("blocks", after.get("events")),
                        "settings": asdict(policy) | {"look_up_tokens": tokens},
                    }
                )
    return {"benchmark": "look-ups", "tokens": ids.shape[1], "steps": num_steps, **provenance(), "rows": rows}


def on_a_novel(where: Where, length: int, progress: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """`measure` on `length` tokens of the longest novel of the valid split, with the checkpoint of a data folder.

    Windows, blocks and events are as small as a model trained on a thousand tokens asks for: a window of 512 tokens, 96 blocks of
    16 in a cache of 128, or events of at most 32 tokens.
    """
    from recollect.benchmarks.real_data import checkpoint, novels
    from recollect.context.em_llm import EMLLM
    from recollect.context.infllm import InfLLM

    model, tokenizer = checkpoint(where, "float32" if where.device == "cpu" else None)
    text = max(novels(where, "valid"), key=len)[: 12 * length]
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :length].to(where.device)
    shape: dict[str, Any] = {"num_first_tokens": 16, "window_tokens": 512, "chunk_tokens": 128}
    policies: dict[str, BlockMemory] = {
        "infllm": InfLLM(**shape, block_tokens=16),
        "em-llm": EMLLM(**shape, memory_tokens=768, min_event_tokens=4, max_event_tokens=32),
    }
    trained = {"layers": model.config.num_hidden_layers, "width": model.config.hidden_size}
    return measure(model, ids, policies, progress=progress) | {"model": trained}


def show(result: dict[str, Any], console: Any) -> None:
    """Print a table: one line for each policy and number of tokens."""
    from rich.table import Table

    table = Table("method", "tokens a look-up", "changed", "copied", "nats a token")
    for row in result["rows"]:
        shares = [f"{row[name]:.0%}" for name in ("changed", "copied")]
        table.add_row(row["method"], str(row["look_up_tokens"]), *shares, f"{row['nats']:.3f}")
    console.print(table)
    console.print(
        f"{result['steps']} tokens decoded after {result['tokens'] - result['steps']:,}. changed: share of what a look-up chose "
        "that the one before did not; copied: share of its tokens that came from host memory."
    )


def _watched(policy: BlockMemory, seen: dict[int, list[set[int]]]) -> BlockMemory:
    """The policy, noting what each look-up in each layer chose."""

    class Watched(type(policy)):
        def choose(self, layer: Layer, queries: Tensor, before: Tensor | None) -> Tensor | None:
            chosen = super().choose(layer, queries, before)
            if chosen is not None:
                seen.setdefault(layer.index, []).append(set(chosen[0].tolist()) - {-1})
            return chosen

    return Watched(**asdict(policy))


def repeating(policy: BlockMemory, copied: float) -> BlockMemory:
    """The policy, whose look-ups take as long as ever but find, when decoding in place, what they found before.

    A share of `copied` of that, drawn at random for each look-up, counts as not being there and is copied from host memory again.
    Nothing waits for a GPU. Raises InvalidInput for a share that is none.
    """
    if not 0 <= copied <= 1:
        raise InvalidInput(f"copied: {copied} is no share; use 0 to 1.")

    import torch

    class Repeating(type(policy)):
        _looked_up = False  # what is fetched next was chosen by a look-up

        def choose(self, layer: Layer, queries: Tensor, before: Tensor | None) -> Tensor | None:
            found = super().choose(layer, queries, before)
            if found is None or before is None or queries.shape[2] > 1 or before.shape != found.shape:
                return found
            self._looked_up = True
            return before

        def fetch_into(self, layer: Layer, shelf: Shelf, chosen: Tensor) -> None:
            if self._looked_up:
                for held in (shelf.notes[name] for name in ("block", "tokens") if name in shelf.notes):
                    lots = torch.rand(held.shape, device=held.device).argsort(dim=1)
                    held.scatter_(1, lots[:, : round(copied * held.shape[1])], -1)
            self._looked_up = False
            super().fetch_into(layer, shelf, chosen)

    return Repeating(**asdict(policy))
