"""SirLLM's three tasks of dialogue: small talk, one fact among many questions, and the habit of an opponent.

All are streams of rounds with a choice between lettered options, answered by the likeliest letter, or, for a model that has
not learned to answer by letters, by the option whose first token is likeliest; what the model chose goes on in the
stream. DailyDialog asks for the reply that fits and forgets between dialogues; Grocery tells an item, asks twenty other
questions, and then for the item; Rock-Paper-Scissors plays one long match against a biased player.

Paper: SirLLM: Streaming Infinite Retentive LLM, arXiv:2405.12528 (2024), section 4. The published files are read where
given; the match is made here otherwise. Differs: where the authors first look whether the greedy reply is one of the
letters and then compare letters, comparing letters is enough, since a greedy letter is the likeliest one too.
"""

from __future__ import annotations

import json
import lzma
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from recollect.benchmarks.haystack import Tokenizer
from recollect.benchmarks.needle import make_policy
from recollect.benchmarks.provenance import provenance
from recollect.errors import InvalidInput

MOVES = ("rock", "paper", "scissors")
BIAS = (0.5, 0.3, 0.2)  # of the player's favourite, the next and the one after
DECAYS = {"dailydialog": 0.7, "grocery": 1.0, "rock-paper-scissors": 0.9}  # the paper's, for SirLLM
FILES = {
    "dailydialog": ("dailydialog.jsonl",),
    "grocery": ("keys.jsonl",),
    "rock-paper-scissors": tuple(f"rock_paper_scissors_dominant_{move}.jsonl" for move in MOVES),
}
TASKS = tuple(FILES)
LETTERS = "ABCDE"
Progress = Callable[[str, int, int], None]  # what is measured, done, of


@dataclass(frozen=True)
class Round:
    """One turn: the text that ends before the answer, the options, and what choosing each of them means."""

    text: str
    options: tuple[str, ...]
    outcomes: tuple[str, ...]
    part: str = "rounds"  # of the task, scored apart


def conversations(task: str, data: Path | None, limit: int, seed: int = 0) -> list[list[Round]]:
    """Streams of rounds, the memory being emptied between them; whole dialogues until there are `limit` rounds, or that
    many rounds of each match.

    `data` is a folder with the published files, plain or as .xz. Raises InvalidInput when they are missing and the task
    cannot be made.
    """
    if task not in TASKS:
        raise InvalidInput(f"task: {task!r:.20} is not known; use one of {', '.join(TASKS)}.")
    if task == "rock-paper-scissors":
        matches = (
            [[MOVES["ABC".index(each["user_choice"])] for each in _lines(data / file)] for file in FILES[task]]
            if data is not None
            else [made_match(move, limit, seed) for move in MOVES]
        )
        return [_match(moves[:limit]) for moves in matches]
    if data is None:
        raise InvalidInput(f"data: {task} needs the published file {FILES[task][0]}; name its folder.")
    groups, last = [], ""
    for each in _lines(data / FILES[task][0]):
        id_ = str(each["id"])
        begins = id_.startswith("key") or (task == "dailydialog" and id_.split("_")[0] != last)
        last = id_.split("_")[0]
        if begins:
            if sum(map(len, groups)) >= limit:
                break
            groups.append([])
        if task == "dailydialog":
            groups[-1].append(_choice(each, "Choose the best response for the input"))
        else:
            part = {"key": "told", "answer": "key"}.get(last, "filler")
            groups[-1].append(replace(_choice(each, "Answer the question"), part=part))
    return groups


def made_match(favourite: str, num_rounds: int, seed: int = 0) -> list[str]:
    """The moves of a player that plays its favourite half of the time, and the next two with 0.3 and 0.2."""
    first = MOVES.index(favourite)
    return Random(f"{seed} {favourite}").choices([MOVES[(first + each) % 3] for each in range(3)], BIAS, k=num_rounds)


def _match(moves: Sequence[str]) -> list[Round]:
    rounds, last = [], "\nPlease play a game of rock, paper, scissors with me."
    for move in moves:
        theirs = MOVES.index(move)
        outcomes = tuple(("tie", "win", "lose")[(mine - theirs) % 3] for mine in range(3))
        rounds.append(
            Round(f"{last} Choices: (A) rock (B) paper (C) scissors. The move that beats me is", MOVES, outcomes)
        )
        last = f"\nI played {move}. Think of what I like to play, and choose again."
    return rounds


def _choice(record: Mapping[str, Any], ask: str) -> Round:
    question = record["question"]
    options = tuple(each["text"].strip() for each in question["choices"])
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    right = tuple("right" if each["label"] == record["answerKey"] else "wrong" for each in question["choices"])
    return Round(f"\n{ask}: {question['stem'].strip()} Choices: {listed}. The answer is", options, right)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    packed = path.with_name(f"{path.name}.xz")
    try:
        with path.open(encoding="utf-8") if path.is_file() else lzma.open(packed, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError, lzma.LZMAError):
        raise InvalidInput(f"data: {path.name} cannot be read in the folder given; see SirLLM's repository.") from None


def play(
    model: Any,
    tokenizer: Tokenizer,
    policy: Any,
    rounds: Iterable[Round],
    first: Sequence[int] = (),
    by: str = "letter",
) -> Iterator[int]:
    """The option chosen in each round of one stream under a policy (None: the model alone); `first` tokens begin it."""
    import torch

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    said, cache, end = list(first), None, " (" if by == "letter" else ""
    with torch.no_grad(), nullcontext() if policy is None else policy.attach(model):
        for each in rounds:
            options = LETTERS[: len(each.options)] if by == "letter" else [f" {option}" for option in each.options]
            answers = [encode(option) for option in options]
            ids = torch.tensor([[*said, *encode(each.text + end)]], device=model.device)
            output = model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
            cache = output.cache
            choice = int(output.logits[0, -1, [answer[0] for answer in answers]].argmax())
            yield choice
            said = [*answers[choice], *encode(")." if by == "letter" else ".")]


def run(
    model: Any,
    tokenizer: Tokenizer,
    policies: Sequence[str],
    tasks: Sequence[str] = TASKS,
    data: Path | None = None,
    limit: int = 100,
    budget: int | None = None,
    seed: int = 0,
    by: str = "letter",
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Play each task under each policy; one plain JSON object with the shares of outcomes, and what chance gives.

    `budget` is in attended tokens (None: half of the length that the model was trained to); SirLLM decays as the paper
    says for the task. `by` is "letter" or "text", see above. For the match, `most frequent` counters the move that was
    played most so far, without a model.
    """
    if by not in ("letter", "text"):
        raise InvalidInput(f"by: {by!r:.20} is not known; use letter or text.")
    began, rows = time.perf_counter(), []
    budget = int(model.config.max_position_embeddings) // 2 if budget is None else budget
    first = [] if model.config.bos_token_id is None else [model.config.bos_token_id]
    for task in tasks:
        streams = conversations(task, data, limit, seed)
        for key in policies:
            policy, found, start = make_policy(key, budget), [], time.perf_counter()
            if key == "sirllm" and policy is not None:
                policy = replace(policy, decay=DECAYS[task])
            for number, rounds in enumerate(streams):
                progress(f"{task}, {key}", number, len(streams))
                found += zip(rounds, play(model, tokenizer, policy, rounds, first, by), strict=True)
            rows += _rows(task, key, found, round(time.perf_counter() - start, 1))
        every = [each for rounds in streams for each in rounds]
        rows += _rows(task, "chance", [(each, choice) for each in every for choice in range(len(each.options))])
        if task == "rock-paper-scissors":
            rows += _rows(task, "most frequent", [pair for rounds in streams for pair in _countered(rounds)])
    return {
        "benchmark": "sirllm-tasks",
        "model": {
            "type": model.config.model_type,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "trained_tokens": int(model.config.max_position_embeddings),
            "device": model.device.type,
        },
        "budget_tokens": budget,
        "num_rounds": limit,
        "data": "made" if data is None else "published",
        "by": by,
        "seed": seed,
        "rows": rows,
        "total_seconds": round(time.perf_counter() - began, 1),
        **provenance(),
    }


def _countered(rounds: Sequence[Round]) -> Iterator[tuple[Round, int]]:
    """Each round with the move that counters the most frequent one so far; at first rock's."""
    seen: Counter[int] = Counter({0: 0, 1: 0, 2: 0})
    for each in rounds:
        yield each, (seen.most_common(1)[0][0] + 1) % 3
        seen[each.outcomes.index("tie")] += 1


def _rows(
    task: str, key: str, found: Sequence[tuple[Round, int]], seconds: float | None = None
) -> list[dict[str, Any]]:
    """One row for each part of the task that can be answered wrongly: shares of outcomes, and of the commonest choice."""
    rows = []
    for part in dict.fromkeys(each.part for each, _ in found):
        own = [(each, choice) for each, choice in found if each.part == part]
        names = sorted({name for each, _ in own for name in each.outcomes})
        if len(names) > 1:
            counts = Counter(each.outcomes[choice] for each, choice in own)
            rows.append(
                {
                    "task": task,
                    "part": part,
                    "policy": key,
                    "num_rounds": len(own),
                    "shares": {name: counts[name] / len(own) for name in names},
                    "commonest_choice": max(Counter(choice for _, choice in own).values()) / len(own),
                    "seconds": seconds,
                }
            )
    return rows


def show(result: Mapping[str, Any], console: Any) -> None:
    """Print a table for each task: policies down, shares of outcomes across."""
    from rich.table import Table

    for task, part in dict.fromkeys((row["task"], row["part"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["task"], row["part"]) == (task, part)]
        names = list(rows[0]["shares"])
        table = Table(task if part == "rounds" else f"{task}, {part}", *names, "same option", "rounds", "seconds")
        for row in rows:
            seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
            same = "" if row["policy"] == "chance" else f"{row['commonest_choice']:.3f}"
            count = "" if row["policy"] == "chance" else f"{row['num_rounds']:,}"
            table.add_row(row["policy"], *(f"{row['shares'][name]:.3f}" for name in names), same, count, seconds)
        console.print(table)
    console.print(
        f"Share of rounds by outcome; a {result['model']['type']} of {result['model']['parameters']:,} parameters, no token "
        f"attending to more than {result['budget_tokens']:,} keys. Same option: how often the option in the commonest place was chosen."
    )
