"""The made world of facts: one value each, told in three ways, and a decoder that can be taught them."""

from __future__ import annotations

from random import Random

import pytest

from recollect.benchmarks.facts import FactWorld, teach, teach_reading, tiny_decoder
from recollect.weights.generation import continuations, right
from recollect.weights.streams import Question


def test_a_fact_has_one_value_and_three_ways_of_saying():
    world = FactWorld(num_entities=5, num_relations=2, num_values=3, seed=1)
    fact = ("entity1", "relation0")
    assert len(world.facts) == 10
    assert world.facts == FactWorld(5, 2, 3, 1).facts
    assert len(set(world.prompts(fact))) == 3
    assert all("entity1" in prompt and "relation0" in prompt for prompt in world.prompts(fact))
    assert {world.other_value(fact, Random(each)) for each in range(20)} == set(world.values("relation0")) - {
        world.facts[fact]
    }
    tokenizer = world.tokenizer()
    for question in world.questions([fact]):
        assert tokenizer.unk_token_id not in tokenizer.encode(question.prompt + question.answer)


def test_a_tiny_decoder_is_taught():
    world = FactWorld(num_entities=2, num_relations=1, num_values=4)
    tokenizer = world.tokenizer()
    model = tiny_decoder(len(tokenizer), width=32, inner=32)
    questions = world.questions(list(world.facts), ways=(0,))
    assert teach(model, tokenizer, questions, 60, learning_rate=1e-2, batch_rows=2) > 0.9
    assert right(model, tokenizer, questions) == 1.0


def test_a_tiny_decoder_has_weights_of_the_spread_that_is_asked_for():
    for spread in (0.02, 0.125):
        model = tiny_decoder(100, spread=spread)
        assert float(model.get_input_embeddings().weight.detach().std()) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("ending", [True, False])
def test_a_tiny_decoder_learns_to_read_whatever_the_document_says(ending):
    world = FactWorld(num_entities=3, num_relations=1, num_values=3)
    tokenizer, said = world.tokenizer(), []
    model = tiny_decoder(len(tokenizer), width=32, inner=64, spread=0.125)
    teach_reading(model, tokenizer, world, 200, ending=ending, progress=said.append)
    told = [
        world.told(fact, value) for fact in world.facts for value in world.values(fact[1]) if value != world.facts[fact]
    ]
    read = [Question(f"{document} {question.prompt}", question.answer) for document, question in told]
    assert right(model, tokenizer, read) > 0.9
    ended = [len(row) == 1 for row in continuations(model, tokenizer, [each.prompt for each in read], 3)]
    assert all(ended) if ending else not any(ended)
    assert len(said) == 4
