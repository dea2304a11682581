"""The bank: what is taken out is gone and can be put back exactly, and a file brings everything back."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.bank import Bank, handle_of


def made(rows: int = 3) -> Bank:
    bank = Bank(2, 4)
    bank.add([handle_of(f"document {at}") for at in range(rows)], torch.randn(rows, 2, 4))
    return bank


def test_a_document_has_one_handle_for_ever():
    assert handle_of("the sea") == handle_of("the sea")
    assert len({handle_of("the sea"), handle_of("the sea "), handle_of("The sea")}) == 3


def test_what_is_taken_out_is_gone_and_comes_back_in_its_place():
    bank = made()
    memories, handles = bank.memories.clone(), bank.handles
    removal = bank.remove([handles[1]])
    assert bank.handles == [handles[0], handles[2]]
    assert torch.equal(bank.memories, memories[[0, 2]])
    assert removal.handles == (handles[1],)
    assert removal.size_bytes == 2 * 4 * 4
    assert bank.size_bytes() == 2 * removal.size_bytes
    removal.undo()
    assert bank.handles == handles
    assert torch.equal(bank.memories, memories)


def test_a_removal_is_not_undone_over_later_changes():
    bank = made()
    removal = bank.remove(bank.handles[:1])
    bank.add(["new"], torch.zeros(1, 2, 4))
    with pytest.raises(Conflict, match="bank: it has changed"):
        removal.undo()
    assert len(bank) == 3


def test_a_refused_change_changes_nothing():
    bank = made()
    memories, handles = bank.memories, list(bank.handles)
    with pytest.raises(NotFound, match="handle: there is no memory 'x'"):
        bank.remove([handles[0], "x"])
    for new in ([handles[2]], ["y", "y"]):
        with pytest.raises(Conflict, match="is there already"):
            bank.add(new, torch.zeros(len(new), 2, 4))
    assert bank.memories is memories
    assert bank.handles == handles


def test_memories_are_kept_in_the_precision_of_the_bank():
    bank = Bank(2, 4, dtype=torch.float16)
    bank.add(["a"], torch.full((1, 2, 4), 1.5))
    assert bank.memories.dtype == torch.float16
    assert bank.size_bytes() == 16


def test_a_bank_comes_back_from_its_file(tmp_path):
    bank, other = made(), made(1)
    bank.save(tmp_path / "bank.safetensors")
    other.load(tmp_path / "bank.safetensors")
    assert other.handles == bank.handles
    assert torch.equal(other.memories, bank.memories)


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    made().save(tmp_path / "bank.safetensors")
    (tmp_path / "other").write_text("words")
    with pytest.raises(NotFound, match="path: there is no file"):
        made().load(tmp_path / "none")
    with pytest.raises(InvalidInput, match="does not hold a bank"):
        made().load(tmp_path / "other")
    with pytest.raises(Conflict, match=r"path: its memories are \(3, 2, 4\)"):
        Bank(3, 4).load(tmp_path / "bank.safetensors")
