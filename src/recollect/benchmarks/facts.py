"""A made world of facts, a tokenizer of its words, and a tiny decoder that is taught them: what can be edited and asked.

Entities have relations, each with one value. A fact is said in three ways that end in the value, so that one can be taught or
edited and the others asked. Words are whole tokens; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import torch
import torch.nn.functional as F

from recollect.weights.generation import left_padded, prompt_ids
from recollect.weights.learner import Learner
from recollect.weights.streams import Question, Task
from recollect.weights.texts import answer_rows

TEMPLATES = ("the {relation} of {entity} is", "{entity} has as {relation}", "asked for {entity} : {relation} =")
SPECIAL = ("<bos>", "<eos>", "<pad>", "<unk>")
Fact = tuple[str, str]  # (entity, relation)


@dataclass(frozen=True)
class FactWorld:
    """`num_entities` x `num_relations` facts, each with one of `num_values` values of its relation."""

    num_entities: int = 100
    num_relations: int = 4
    num_values: int = 20
    seed: int = 0

    @cached_property
    def entities(self) -> list[str]:
        """Names of the entities, one word each."""
        return [f"entity{number}" for number in range(self.num_entities)]

    @cached_property
    def relations(self) -> list[str]:
        """Names of the relations, one word each."""
        return [f"relation{number}" for number in range(self.num_relations)]

    def values(self, relation: str) -> list[str]:
        """The values that a relation can have, one word each."""
        return [f"{relation.replace('relation', 'value')}x{number}" for number in range(self.num_values)]

    @cached_property
    def facts(self) -> dict[Fact, str]:
        """The value of each fact, drawn by the seed."""
        rng = Random(f"facts {self.seed}")
        pairs = [(entity, relation) for entity in self.entities for relation in self.relations]
        return {fact: rng.choice(self.values(fact[1])) for fact in pairs}

    def other_value(self, fact: Fact, rng: Random) -> str:
        """A value of the relation that is not the fact's."""
        return rng.choice([value for value in self.values(fact[1]) if value != self.facts[fact]])

    def prompts(self, fact: Fact) -> tuple[str, ...]:
        """The fact without its value, in each of the three ways."""
        return tuple(template.format(entity=fact[0], relation=fact[1]) for template in TEMPLATES)

    def questions(self, facts: Sequence[Fact], ways: Sequence[int] = (0, 1, 2)) -> list[Question]:
        """The facts asked in these ways."""
        return [Question(self.prompts(fact)[way], f" {self.facts[fact]}") for fact in facts for way in ways]

    def told(self, fact: Fact, value: str) -> tuple[str, Question]:
        """A document that tells that a fact has a value, and a question that asks it in other words."""
        telling, _, asking = self.prompts(fact)
        return f"{telling} {value}", Question(asking, f" {value}")

    def tokenizer(self) -> Any:
        """A tokenizer of transformers whose tokens are the words of this world."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = {word for template in TEMPLATES for word in template.split() if "{" not in word}
        values = [value for relation in self.relations for value in self.values(relation)]
        known = [*SPECIAL, *sorted(words), *self.entities, *self.relations, *values]
        made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token=SPECIAL[3]))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))


def tiny_decoder(
    vocabulary: int,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    inner: int = 256,
    tokens: int = 64,
    seed: int = 0,
    spread: float = 0.02,
) -> Any:
    """A Llama with random weights by the seed, tied embeddings and tokens 0, 1, 2 that begin, end and pad.

    `inner` is the width of the feed-forward layers, `tokens` the longest text, `spread` the deviation of the weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=tokens,
        tie_word_embeddings=True,
        initializer_range=spread,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def teach(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    num_steps: int,
    seed: int = 0,
    learning_rate: float = 3e-3,
    batch_rows: int = 64,
    progress: Callable[[str], None] = lambda line: None,
) -> float:
    """Train a model in place to give these answers and to say these sentences; the share of answers that it then gives.

    Every token is learned, so that the model can also make such sentences. The rate falls to zero along a cosine.
    """
    rows = answer_rows(tokenizer, questions, 64)
    rows.tensors["labels"] = rows.tensors["input_ids"].masked_fill(rows.tensors["attention_mask"] == 0, -100)
    test = answer_rows(tokenizer, questions, 64)
    task = Task("facts", rows, test)
    schedule: list[Any] = []

    def optimizer(parameters: list[Any]) -> Any:
        made = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
        schedule[:] = [torch.optim.lr_scheduler.CosineAnnealingLR(made, num_steps)]
        return made

    def step(learner: Learner) -> None:
        schedule[0].step()
        if learner.step % 50 == 0 and learner.last_loss is not None:
            progress(f"teaching facts, {learner.step} of {num_steps}: loss {float(learner.last_loss):.2f}")

    learner = Learner(model, optimizer=optimizer, batch_rows=batch_rows, num_steps=num_steps, clip_norm=1.0, seed=seed)
    return learner.learn(task, progress=step)["facts"]


def teach_reading(
    model: Any,
    tokenizer: Any,
    world: FactWorld,
    num_steps: int,
    seed: int = 0,
    ending: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Train a model in place to answer from a document before the question; values are drawn anew, so that it knows none by heart.

    Of each row the answer is learned and, with `ending`, that the text ends there. The rate falls to zero along a cosine.
    """
    rng, facts = Random(f"reading {seed}"), list(world.facts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for step in range(num_steps):
        told = [world.told(fact, world.other_value(fact, rng)) for fact in rng.choices(facts, k=32)]
        read = [Question(f"{document} {question.prompt}", question.answer) for document, question in told]
        if ending:
            rows = answer_rows(tokenizer, read, 64).tensors
            loss = model(**{name: each.to(model.device) for name, each in rows.items()}, use_cache=False).loss
        else:
            loss = _answer_loss(model, tokenizer, read)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            progress(f"teaching to read, {step} of {num_steps}: loss {float(loss.detach()):.2f}")


def _answer_loss(model: Any, tokenizer: Any, questions: Sequence[Question]) -> torch.Tensor:
    """The mean loss of answers of one token."""
    ids, mask = left_padded([prompt_ids(tokenizer, each.prompt + each.answer) for each in questions], 0)
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=2).logits[:, 0]
    return F.cross_entropy(logits, ids[:, -1])
