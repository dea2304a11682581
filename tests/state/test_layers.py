"""Layers by name, and that none is missing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import recollect.state
from recollect.catalogue import SYSTEMS
from recollect.errors import InvalidInput
from recollect.state.layer import StateLayer
from recollect.state.layers import VARIANTS, layers, make_layer


def test_every_layer_of_the_home_has_a_name():
    named = set(layers().values())
    for path in sorted(Path(recollect.state.__path__[0]).glob("*.py")):
        module = import_module(f"recollect.state.{path.stem}")
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, StateLayer) and value.__module__ == module.__name__:
                assert value in named or name.startswith("_") or value is StateLayer, f"{name} is in no table"


def test_no_name_stands_twice():
    assert not set(VARIANTS) & {system.key for system in SYSTEMS}


def test_a_layer_that_is_not_known_is_refused():
    with pytest.raises(InvalidInput, match=r"layer: 'lstn' is not known; use one of .*lstm"):
        make_layer("lstn", 4)
    with pytest.raises(InvalidInput, match="settings: lstm does not take them"):
        make_layer("lstm", 4, holes=True)
    assert make_layer("gru", 4, state_size=3).state_bytes() == 12
