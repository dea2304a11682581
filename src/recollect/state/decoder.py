"""What a side network needs of a decoder of transformers: its parts, its hidden states, its attention without positions.

Nothing of the model is changed: hidden states are caught by hooks that are there for one pass only, and attention without
positions is computed by a shallow copy of the attention module, which shares its weights.

Shapes: B rows, T tokens, E width, H query heads, G key-value heads, D head size, R rotated part of the head.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recollect.errors import InvalidInput

_CATCH = "recollect-catch"


@dataclass
class Reading:
    """What was caught of one pass: the input of each layer and the output of the last [B, T, E], the layers' options,
    and of some layers the queries [B, H, T, D], keys and values [B, G, T, D] as if at position 0."""

    hidden: list[Tensor] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)
    heads: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)


def decoder_of(model: Any) -> Any:
    """The decoder within a model: what has layers and rotary positions. Raises InvalidInput without one."""
    for part in model.modules():
        attentions = [getattr(layer, "self_attn", None) for layer in getattr(part, "layers", ())]
        if hasattr(part, "rotary_emb") and attentions and all(hasattr(each, "layer_idx") for each in attentions):
            return part
    raise InvalidInput(f"model: {type(model).__name__} is not a decoder with rotary positions.")


def final_norm(decoder: Any) -> nn.Module:
    """The norm behind the last layer. Raises InvalidInput where it has no usual name."""
    for name in ("norm", "final_layernorm"):
        if hasattr(decoder, name):
            return getattr(decoder, name)
    raise InvalidInput(f"model: {type(decoder).__name__} has no norm behind its last layer.")


def first_layers(decoder: Any, count: int) -> Any:
    """A view of a decoder that ends after `count` layers; it shares all weights."""
    view = copy.copy(decoder)
    view._modules = dict(decoder._modules)
    view._modules["layers"] = decoder.layers[:count]
    return view


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Logits [B, T, V] of normed hidden states [B, T, E] by the model's head; gradients pass to the states only."""
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    logits = linear(hidden.to(head.weight.dtype), head.weight.detach(), None if bias is None else bias.detach())
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def read(decoder: Any, attend: Sequence[int] = (), **inputs: Any) -> Reading:
    """One pass of a decoder without gradients; `attend` are the layers whose queries, keys and values are caught.

    `inputs` are those of the decoder's forward.
    """
    reading = Reading()

    def enters(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        reading.hidden.append(args[0] if args else options["hidden_states"])
        reading.options.append({name: value for name, value in options.items() if name != "hidden_states"})

    def attends(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = args[0] if args else options["hidden_states"]
        reading.heads[module.layer_idx] = unrotated(module, given, options["position_embeddings"])

    def leaves(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        reading.hidden.append(output[0] if isinstance(output, tuple) else output)

    with torch.no_grad(), ExitStack() as hooks:
        for layer in decoder.layers:
            hooks.callback(layer.register_forward_pre_hook(enters, with_kwargs=True).remove)
        for number in attend:
            part = decoder.layers[number].self_attn
            hooks.callback(part.register_forward_pre_hook(attends, with_kwargs=True).remove)
        hooks.callback(decoder.layers[-1].register_forward_hook(leaves).remove)
        decoder(**inputs)
    return reading


def unrotated(attention: Any, hidden: Tensor, turn: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, H, T, D], keys and values [B, G, T, D] of an attention module, all as if at position 0.

    `turn` are the cosines and sines [.., T, R] of the true positions; a scaling of attention that they carry is kept.
    """
    cos, sin = turn
    view = copy.copy(attention)
    view.config = renamed(attention.config, _CATCH)
    view.caught = caught = []
    view.forward(  # not by a call, which would run the hooks that are on the module
        hidden_states=hidden,
        position_embeddings=((cos.square() + sin.square()).sqrt(), torch.zeros_like(sin)),
        attention_mask=None,
    )
    return caught[0]


def renamed(config: Any, attention: str) -> Any:
    """A shallow copy of a configuration that names another attention function."""
    other = copy.copy(config)
    other._attn_implementation_internal = attention
    return other


def attention_function(module: nn.Module, name: str) -> Callable[..., Any]:
    """The attention function of this name, or the module's own plain one."""
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, sys.modules[type(module).__module__].eager_attention_forward)


def _catch(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> tuple[Tensor, None]:
    module.caught.append((query, key, value))
    return query.new_zeros(*query.shape[:3], value.shape[-1]).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS[_CATCH] = _catch  # by its name only; no model is touched
