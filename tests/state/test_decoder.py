"""What is read of a decoder: hidden states as transformers gives them, attention without positions, nothing changed."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.decoder import decoder_of, final_norm, first_layers, logits_of, read

from .decoders import FAMILIES, YARN, make_decoder, tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_the_hidden_states_are_those_of_transformers(family):
    model, ids = make_decoder(family), tokens(2, 9)
    reading = read(decoder_of(model), input_ids=ids)
    with torch.no_grad():
        outputs = model(ids, output_hidden_states=True)
    assert len(reading.hidden) == 5
    for ours, theirs in zip(reading.hidden[:4], outputs.hidden_states, strict=False):
        torch.testing.assert_close(ours, theirs)
    last = final_norm(decoder_of(model))(reading.hidden[4])  # theirs is behind the norm
    torch.testing.assert_close(last, outputs.hidden_states[4])
    torch.testing.assert_close(logits_of(model, last), outputs.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_without_positions_are_those_of_the_first_token_everywhere(family):
    """At position 0 nothing is turned: a text of one token shows what every position gives, but for the context."""
    model = make_decoder(family)
    ids = tokens(1, 6)
    whole = read(decoder_of(model), [0], input_ids=ids).heads[0]
    for place in range(6):
        cache: dict = {}

        def caught(module, query, key, value, mask, cache=cache, **options):
            cache["all"] = query, key, value
            return query.new_zeros(*query.shape[:3], value.shape[-1]).transpose(1, 2), None

        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS["caught"] = caught
        other = make_decoder(family)
        other.set_attn_implementation("caught")
        view = first_layers(decoder_of(other), 1)
        with torch.no_grad():
            view(input_ids=ids[:, place : place + 1])
        del ALL_ATTENTION_FUNCTIONS["caught"]
        for ours, theirs in zip(whole, cache["all"], strict=True):
            torch.testing.assert_close(ours[:, :, place : place + 1], theirs)


def test_a_scaling_of_attention_stays():
    plain, scaled = make_decoder(), make_decoder(rope_parameters=YARN)
    factor = decoder_of(scaled).rotary_emb.attention_scaling
    assert factor > 1
    ids = tokens(1, 6)
    ours, expected = (read(decoder_of(each), [0], input_ids=ids).heads[0] for each in (scaled, plain))
    torch.testing.assert_close(ours[1], expected[1] * factor)
    torch.testing.assert_close(ours[2], expected[2])


def test_a_view_of_the_first_layers_shares_weights_and_leaves_the_model():
    model, ids = make_decoder(), tokens(2, 9)
    decoder = decoder_of(model)
    view = first_layers(decoder, 2)
    assert len(view.layers) == 2
    assert len(decoder.layers) == 4
    assert view.layers[1] is decoder.layers[1]
    short, whole = read(view, input_ids=ids), read(decoder, input_ids=ids)
    for ours, theirs in zip(short.hidden, whole.hidden, strict=False):
        assert torch.equal(ours, theirs)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_model_without_rotary_positions_is_refused():
    with pytest.raises(InvalidInput, match="Linear is not a decoder with rotary positions"):
        decoder_of(torch.nn.Linear(2, 2))
    with pytest.raises(InvalidInput, match="has no norm behind its last layer"):
        final_norm(torch.nn.Linear(2, 2))
