"""States as trees: select, reset, save and load, sizes; and what a file that holds none is told."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from recollect.errors import InvalidInput, NotFound
from recollect.state.layer import (
    StateLayer,
    load_state,
    map_state,
    num_rows,
    save_state,
    select,
    size_bytes,
    tensors,
    where,
)

STATE = {
    "b": {"two": torch.arange(6.0).view(3, 2), "one": torch.ones(3, 0, dtype=torch.bfloat16), "none": {}},
    "a": torch.arange(3),
    "nothing": {},
}


def test_a_tree_comes_back_in_its_order_with_empty_parts(tmp_path):
    save_state(STATE, tmp_path / "s")
    loaded = load_state(tmp_path / "s")
    assert list(loaded) == ["b", "a", "nothing"]
    assert list(loaded["b"]) == ["two", "one", "none"]
    assert loaded["b"]["none"] == loaded["nothing"] == {}
    assert loaded["b"]["one"].dtype == torch.bfloat16
    assert torch.equal(loaded["b"]["two"], STATE["b"]["two"])


def test_a_file_that_holds_no_state_is_refused(tmp_path):
    with pytest.raises(NotFound, match="path: there is no file"):
        load_state(tmp_path / "s")
    (tmp_path / "s").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="is not a safetensors file"):
        load_state(tmp_path / "s")
    save_file({"x": torch.ones(1)}, tmp_path / "s")
    with pytest.raises(InvalidInput, match="holds no state"):
        load_state(tmp_path / "s")


def test_rows_of_every_tensor_move_together():
    chosen = select(STATE, torch.tensor([2, 2]))
    assert chosen["a"].tolist() == [2, 2]
    assert chosen["b"]["two"].tolist() == [[4, 5], [4, 5]]
    mixed = where(torch.tensor([True, False, False]), map_state(torch.zeros_like, STATE), STATE)
    assert mixed["b"]["two"].tolist() == [[0, 0], [2, 3], [4, 5]]
    assert num_rows(STATE) == 3
    assert num_rows({"x": {}}) is None
    assert [name for name, _ in tensors(STATE)] == ["b.two", "b.one", "a"]
    assert size_bytes(STATE) == 6 * 4 + 3 * 8


def test_a_layer_says_what_it_lacks():
    with pytest.raises(InvalidInput, match="dim: 0 is too small"):
        StateLayer(0)
    layer = StateLayer(4)
    with pytest.raises(NotImplementedError):
        layer(torch.zeros(1, 1, 4))
