"""A few tokens read behind a long text: the logits of one plain call, without a mask, with nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.bias import CausalBias
from transformers.cache_utils import Cache

from recollect.context import checking
from recollect.context.checking import Reserved, lower_right
from recollect.context.streaming_llm import StreamingLLM

from .conftest import FAMILIES, LENGTH, logits_of, make_model


def reserved(model) -> Cache:
    return Cache(layers=[Reserved(LENGTH + 4) for _ in range(model.config.num_hidden_layers)])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma2"])  # its softcap asks for eager
def test_pieces_give_the_logits_of_one_call(family, ids):
    model = make_model(family, attn_implementation="sdpa")
    plain = logits_of(model, ids)
    with lower_right(model):
        assert model.config._attn_implementation == checking.NAME
        cache = reserved(model)
        pieces = [logits_of(model, ids[:, a:b], cache=cache) for a, b in ((0, 9), (9, 10), (10, 17), (17, LENGTH))]
        cache.crop(-7)
        again = logits_of(model, ids[:, 17:], cache=cache)
    torch.testing.assert_close(torch.cat(pieces, dim=1), plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again, plain[:, 17:], atol=1e-5, rtol=1e-4)
    assert model.config._attn_implementation == "sdpa"


def test_the_full_layers_make_no_mask_and_move_no_keys(ids, monkeypatch):
    seen = []

    def attention(query, key, value, mask, dropout, **options):
        seen.append((type(mask), key.data_ptr()))
        return query

    model = make_model("gemma3", attn_implementation="sdpa")  # a layer with a window, and a full one
    with lower_right(model):
        cache = reserved(model)
        logits_of(model, ids[:, :9], cache=cache)
        place = cache.layers[1].keys.data_ptr()
        monkeypatch.setattr(checking, "scaled_dot_product_attention", attention)
        logits_of(model, ids[:, 9:12], cache=cache)
        logits_of(model, ids[:, 12:15], cache=cache)
    assert seen == [(CausalBias, place)] * 2


def test_other_attention_is_left_alone(ids):
    eager = make_model()
    with lower_right(eager):
        assert eager.config._attn_implementation == "eager"
    model = make_model(attn_implementation="sdpa")
    with StreamingLLM().attach(model):
        name = model.config._attn_implementation
        with lower_right(model):
            assert model.config._attn_implementation == name
        assert model.config._attn_implementation == name


def test_an_error_puts_the_configuration_back():
    model = make_model(attn_implementation="sdpa")
    with pytest.raises(ZeroDivisionError), lower_right(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
