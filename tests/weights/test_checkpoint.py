"""A tree comes back as it was, and what cannot be saved or read is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from recollect.errors import InvalidInput, NotFound
from recollect.weights.checkpoint import load_tree, read_tensors, save_tree


def test_a_tree_comes_back_as_it_was(tmp_path):
    shared = torch.arange(4.0)
    tree = {
        "a": shared,
        "same": shared[1:],
        3: {"b": [1, 2.5, None, True, "text"], "t": (0.9, 0.999)},
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": {},
        "infinite": float("inf"),
    }
    save_tree(tree, tmp_path / "new", "state")
    back = load_tree(tmp_path / "new", "state")
    assert list(back) == list(tree)
    assert torch.equal(back["same"], tree["same"])
    assert back[3] == tree[3]
    assert back["half"].dtype == torch.bfloat16
    assert (back["empty"], back["infinite"]) == ({}, float("inf"))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["state.json", "state.safetensors"]


def test_what_lay_on_the_cpu_stays_there_and_the_rest_goes_to_the_device(tmp_path):
    tree = {"here": torch.ones(2), "there": torch.ones(2)}
    save_tree(tree, tmp_path, "state")
    path = tmp_path / "state.json"
    text = path.read_text("utf-8")
    second = text.rindex('"cpu"')
    path.write_text(text[:second] + '"cuda"' + text[second + 5 :], "utf-8")  # as if it had been saved from a GPU
    back = load_tree(tmp_path, "state", "meta")
    assert (back["here"].device.type, back["there"].device.type) == ("cpu", "meta")


def test_what_cannot_be_saved_or_read_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="a set cannot be saved"):
        save_tree({"a": {1}}, tmp_path, "state")
    with pytest.raises(NotFound, match=r"no state\.json"):
        load_tree(tmp_path, "state")
    save_tree({"a": torch.ones(1)}, tmp_path, "state")
    (tmp_path / "state.safetensors").write_bytes(b"broken")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_tree(tmp_path, "state")


def test_tensors_are_read_with_the_plain_values_of_their_kind_or_refused(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"x": torch.ones(2)}, path, {"bank": '{"next": 3}'})
    tensors, plain = read_tensors(path, "a bank", "bank")
    assert torch.equal(tensors["x"], torch.ones(2))
    assert plain == {"next": 3}
    assert read_tensors(path, "a bank")[1] is None
    with pytest.raises(InvalidInput, match="does not hold an edit"):
        read_tensors(path, "an edit", "edit")
    with pytest.raises(NotFound, match="name one that a bank was saved to"):
        read_tensors(tmp_path / "none", "a bank")
