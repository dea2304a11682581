"""How well facts were edited, measured by what the model says, not by the probability that it gives to what it is shown.

Reliability: share of edits whose prompt is followed by the target. Generalisation: the same of paraphrases. Locality: share
of unrelated prompts whose continuation is what it was before. Teacher forcing overstates all three, since the model is handed
the target's first tokens.

Source: the measures of ZsRE as WISE uses them, arXiv:2405.14768, section 3.1, there with teacher forcing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean
from typing import Any, Self

from recollect.weights.generation import answers, continuations
from recollect.weights.streams import Question
from recollect.weights.texts import Edit


@dataclass(frozen=True)
class Unchanged:
    """What a model says after unrelated prompts, before it is edited."""

    prompts: tuple[str, ...]
    said: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: Any, tokenizer: Any, prompts: Sequence[str], num_tokens: int = 8) -> Self:
        """Note the continuations of `num_tokens` tokens; raises InvalidInput for an empty prompt."""
        said = continuations(model, tokenizer, prompts, num_tokens)
        return cls(tuple(prompts), tuple(tuple(tokens) for tokens in said))

    def locality(self, model: Any, tokenizer: Any) -> float:
        """Share of the prompts after which the model still says the same; 1 without prompts."""
        now = continuations(model, tokenizer, self.prompts, max((len(each) for each in self.said), default=1) or 1)
        same = [tuple(tokens[: len(old)]) == old for tokens, old in zip(now, self.said, strict=True)]
        return mean(same) if same else 1.0


def measure_edits(model: Any, tokenizer: Any, edits: Sequence[Edit], unchanged: Unchanged) -> dict[str, float]:
    """Reliability, generalisation and locality of edits, and their mean; generalisation only where there are paraphrases."""
    asked = [Question(edit.prompt, edit.target) for edit in edits]
    again = [Question(prompt, edit.target) for edit in edits for prompt in edit.paraphrases]
    values = {"reliability": mean(answers(model, tokenizer, asked))}
    if again:
        values["generalisation"] = mean(answers(model, tokenizer, again))
    values["locality"] = unchanged.locality(model, tokenizer)
    return values | {"average": mean(values.values())}


COLOURS = "red blue green white black grey brown yellow".split()
FIRST = "Ambrose Beatrix Cuthbert Dorothea Ephraim Felicity Gideon Hester Ignatius Jocasta Lavinia Mortimer Octavia Prudence".split()
LAST = "Ashdown Bellweather Crickmore Dunstable Eaglesham Fotherby Gathercole Hatherley Inkpen Jessamy Lockyer Marchbank".split()


def made_edits(number: int, seed: int = 0) -> list[Edit]:
    """Facts about made people, for a model of English: what they like, and a paraphrase; none is true."""
    rng = Random(f"made edits {seed}")
    names = [f"{one} {letter}. {two}" for one in FIRST for letter in "ABCDEFGH" for two in LAST]
    people = rng.sample(names, number)
    edits = []
    for name in people:
        prompt = f"\nWhat is {name}'s favourite colour? {name}'s favourite colour is"
        again = f"\nThe colour that {name} likes best of all is"
        edits.append(Edit(prompt, f" {rng.choice(COLOURS)}", (again,)))
    return edits
