"""Tensors that grow: what is appended is there, nothing moves in host memory, and what is pinned is let go of."""

from __future__ import annotations

import gc
import math
import mmap
from types import SimpleNamespace

import pytest
import torch

from recollect.context import growing
from recollect.context.growing import Growing, HostRoom


@pytest.mark.parametrize("shape", [(1, 3), (2, 5, 2, 2, 8), (3, 1, 1000), (1, 40, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.bool])
@pytest.mark.parametrize("on_host", [True, False])
def test_what_was_appended_is_there(shape, dtype, on_host):
    parts = [torch.randint(0, 2, (shape[0], n, *shape[2:])).to(dtype) for n in (shape[1], 1, 70, 300)]
    tensor = Growing(parts[0], on_host)
    for part in parts[1:]:
        tensor.append(part)
    whole = torch.cat(parts, dim=1)
    assert torch.equal(tensor.tensor, whole)
    assert torch.equal(tensor.room[:, : whole.shape[1]], whole)
    pages = shape[0] * math.lcm(mmap.PAGESIZE, parts[1][:1].nbytes)
    assert whole.nbytes <= tensor.nbytes() <= 2 * whole.nbytes + pages
    copy = tensor.map(torch.Tensor.clone)
    tensor.shorten(2)
    tensor.append(parts[0])
    assert torch.equal(tensor.tensor, torch.cat([whole[:, :2], parts[0]], dim=1))
    assert torch.equal(copy.tensor, whole)


def test_host_memory_does_not_move_while_it_grows():
    tensor = Growing(torch.zeros(2, 10, 64), on_host=True)
    address = tensor.room.data_ptr()
    for _ in range(50):
        tensor.append(torch.ones(2, 100, 64))
    assert tensor.room.data_ptr() == address
    assert tensor.tensor.sum() == 2 * 5000 * 64


def test_what_outgrows_its_addresses_is_moved(monkeypatch):
    monkeypatch.setattr(growing, "RESERVED_BYTES", 1)
    parts = [torch.randn(2, n, 16) for n in (3, 1, 200, 5000, 1)]
    tensor = Growing(parts[0], on_host=True)
    address = tensor.room.data_ptr()
    for part in parts[1:]:
        tensor.append(part)
    assert tensor.room.data_ptr() != address
    assert torch.equal(tensor.tensor, torch.cat(parts, dim=1))


def test_fewer_addresses_do_where_many_are_refused(monkeypatch):
    asked, give = [], growing._addresses

    def refuse(num_bytes):
        asked.append(num_bytes)
        if num_bytes > 1 << 20:
            raise OSError(12, "Cannot allocate memory")
        return give(num_bytes)

    monkeypatch.setattr(growing, "_addresses", refuse)
    assert torch.equal(Growing(torch.ones(1, 4, 8), on_host=True).tensor, torch.ones(1, 4, 8))
    assert len(asked) == 2
    with pytest.raises(MemoryError, match=r"host memory: there is none for 1[0-9,]* bytes more"):
        Growing(torch.ones(1, 20_000, 8), on_host=True)


@pytest.fixture
def pinned(monkeypatch) -> dict[int, int]:
    """Bytes of pinned memory by address, as a driver keeps them that refuses more than a megabyte."""
    pinned: dict[int, int] = {}

    def register(address, size, flags):
        assert address % mmap.PAGESIZE == size % mmap.PAGESIZE == flags == 0
        assert all(address + size <= other or other + length <= address for other, length in pinned.items())
        if sum(pinned.values()) + size > 1 << 20:
            return 2
        pinned[address] = size
        return 0

    def check(code):
        if code:
            raise RuntimeError("out of memory")

    cuda = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=lambda address: pinned.pop(address))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "check_error", check)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(growing, "TAKEN_BYTES", 1 << 16)
    return pinned


def test_pages_that_cannot_be_pinned_are_an_error_that_changes_nothing(pinned, monkeypatch):
    """Once where one row of two is pinned already, and once where all is moved to where there are more addresses."""
    x = torch.arange(2 * 20 * 8.0).view(2, 20, 8)
    for reserved in (1 << 34, 1 << 12):
        monkeypatch.setattr(growing, "RESERVED_BYTES", reserved)
        kept = Growing(x, on_host=True)
        with pytest.raises(MemoryError, match=r"host memory: [0-9,]+ bytes more cannot be pinned \(out of memory\)"):
            kept.append(torch.ones(2, 20_000, 8))
        gc.collect()
        assert sum(pinned.values()) == kept.nbytes()
        assert torch.equal(kept.tensor, x)
        kept.append(2 * x)
        assert torch.equal(kept.tensor, torch.cat([x, 2 * x], dim=1))
        del kept
        gc.collect()
        assert not pinned


def test_pages_are_pinned_once_and_let_go_of(pinned):
    room, written = HostRoom(torch.zeros(2, 1, 3, 8)), 0
    for n in (1, 50, 700, 3000, 10):
        pieces = list(room.pieces(written, written + n))
        assert [piece.start for piece in pieces] == [written, *(piece.stop for piece in pieces[:-1])]
        written += n
        assert pieces[-1].stop == written
        for piece in pieces:  # each lies in memory that was pinned at once
            for row in room.tensor[:, piece]:
                begin, end = row.data_ptr(), row.data_ptr() + row.nbytes
                assert any(at <= begin and end <= at + size for at, size in pinned.items())
    assert sum(pinned.values()) == 2 * room.taken * 96
    del row, room
    gc.collect()
    assert not pinned
