"""Layers by name: those of the catalogue by their key, and the baselines and variants that have no row of their own."""

from __future__ import annotations

from importlib import import_module

from recollect.catalogue import SYSTEMS
from recollect.errors import InvalidInput
from recollect.state.layer import StateLayer

VARIANTS = {
    "attention": "recollect.state.attention:Attention",
    "linear-attention": "recollect.state.linear_attention:LinearAttention",
    "elman-rnn": "recollect.state.rnn:ElmanRNN",
    "lstm": "recollect.state.rnn:LSTM",
    "gru": "recollect.state.rnn:GRU",
    "titans": "recollect.state.titans:Titans",
    "mom": "recollect.state.mom:MixtureOfMemories",
    "jrt-rnn": "recollect.state.jrt:PrefixLinearAttention",
    "titans-mag": "recollect.state.titans:TitansMAG",
    "titans-mal": "recollect.state.titans:TitansMAL",
    "titans-lmm": "recollect.state.neural_memory:NeuralMemory",
    "s4d": "recollect.state.s4d:S4D",
    "s5": "recollect.state.s5:S5",
    "bidirectional-rnn": "recollect.state.rnn:BidirectionalRNN",
}


def layers() -> dict[str, type[StateLayer]]:
    """Every layer with a state, by name: the catalogue's rows of this home that are layers, and VARIANTS.

    A system of this home that is no `StateLayer` wraps a whole model, such as LongMem, and is not among them.
    """
    targets = {each.key: each.target for each in SYSTEMS if each.home == "state"} | VARIANTS
    found = {}
    for name, target in targets.items():
        module, _, kind = target.partition(":")
        layer = getattr(import_module(module), kind)
        if issubclass(layer, StateLayer):
            found[name] = layer
    return found


def make_layer(name: str, dim: int, **settings: object) -> StateLayer:
    """A layer of width `dim` by its name in `layers`. Raises InvalidInput for an unknown name or setting."""
    known = layers()
    if name not in known:
        raise InvalidInput(f"layer: {name!r:.40} is not known; use one of {', '.join(sorted(known))}.")
    try:
        return known[name](dim, **settings)
    except TypeError as error:
        raise InvalidInput(f"settings: {name} does not take them ({error}).") from None
