"""The bank: retrieval equals brute force, pieces equal one write, the ring forgets whole chunks, files are exact."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch

from recollect.errors import InvalidInput, NotFound
from recollect.state.bank import MemoryBank

G, H, D = 2, 4, 8
needs_usearch = pytest.mark.skipif(find_spec("usearch") is None, reason="needs usearch")


def made(rows: int, length: int, heads: int = G, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, heads, length, D, generator=torch.Generator().manual_seed(seed))


def filled(length: int = 30, rows: int = 2, **options) -> tuple[MemoryBank, torch.Tensor, torch.Tensor]:
    bank = MemoryBank(capacity_tokens=64, chunk_tokens=4, **options)
    keys, values = made(rows, length), made(rows, length, seed=1)
    bank.add(keys, values)
    return bank, keys, values


def brute_force(keys, values, queries, num_chunks, chunk_tokens=4):
    """Attention of each query to the tokens of its best chunks, by loops over everything."""
    B, _, T, _ = queries.shape
    output = torch.zeros_like(queries)
    for b in range(B):
        for h in range(H):
            k, v = keys[b, h // (H // G)], values[b, h // (H // G)]
            chunks = [range(start, min(start + chunk_tokens, len(k))) for start in range(0, len(k), chunk_tokens)]
            for t in range(T):
                q = queries[b, h, t]
                best = sorted(chunks, key=lambda each: -float(q @ k[list(each)].mean(0)))[:num_chunks]
                at = [token for chunk in best for token in chunk]
                output[b, h, t] = torch.softmax(k[at] @ q * 0.3, dim=0) @ v[at]
    return output


def test_retrieval_equals_brute_force():
    bank, keys, values = filled()
    queries = made(2, 5, heads=H, seed=2)
    output, slots = bank.attend(queries, 3, scaling=0.3)
    assert slots.shape == (2, H, 5, 3)
    torch.testing.assert_close(output, brute_force(keys, values, queries, 3), atol=1e-5, rtol=1e-5)


def test_all_chunks_equal_a_softmax_over_the_whole_bank():
    bank, keys, values = filled()
    queries = made(2, 5, heads=H, seed=2)
    output, _ = bank.attend(queries, 100, scaling=0.3)
    keys, values = (each.repeat_interleave(H // G, dim=1) for each in (keys, values))
    expected = torch.softmax(queries @ keys.transpose(-1, -2) * 0.3, dim=-1) @ values
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [3, 30, 64, 90])
def test_written_in_pieces_equals_written_at_once(length):
    bank, keys, values = filled(length)
    pieces = MemoryBank(capacity_tokens=64, chunk_tokens=4)
    cuts = [0, 1, 4, 5, 11, 20, 33, length]
    for start, end in pairwise(cuts):
        pieces.add(keys[:, :, start:end], values[:, :, start:end])
    queries = made(2, 5, heads=H, seed=2)
    torch.testing.assert_close(pieces.attend(queries, 3, 0.3)[0], bank.attend(queries, 3, 0.3)[0])
    assert len(pieces) == len(bank)


def test_past_the_capacity_the_oldest_chunks_make_room():
    bank, keys, values = filled(90)
    assert len(bank) == 2 * (64 - 2)  # the newest chunk has 2 of 4
    queries = made(2, 5, heads=H, seed=2)
    output, slots = bank.attend(queries, 3, scaling=0.3)
    kept = 90 - 62
    torch.testing.assert_close(
        output, brute_force(keys[:, :, kept:], values[:, :, kept:], queries, 3), atol=1e-5, rtol=1e-5
    )
    places = bank.positions(slots)
    assert places.min() >= kept
    assert places.max() <= 88
    assert (places % 4 == 0).all()


def test_positions_name_the_tokens_that_were_found():
    bank, keys, _ = filled(90)
    query = keys[:, :, 70:71].repeat_interleave(H // G, dim=1) * 10
    slots = bank.search(query, 1)[0]
    row, head = bank.keys[0, 0], int(slots[0, 0, 0, 0])
    place = int(bank.positions(slots)[0, 0, 0, 0])
    torch.testing.assert_close(row[head], keys[0, 0, place : place + 4])


def test_what_is_passed_over_leaves_no_gap():
    keys, values = made(2, 20), made(2, 20, seed=1)
    keep = torch.rand(2, 20, generator=torch.Generator().manual_seed(3)) > 0.4
    bank = MemoryBank(64, 4)
    bank.add(keys, values, keep)
    queries = made(2, 5, heads=H, seed=2)
    for row in range(2):
        alone = MemoryBank(64, 4)
        alone.add(keys[row : row + 1, :, keep[row]], values[row : row + 1, :, keep[row]])
        expected = alone.attend(queries[row : row + 1], 2, 0.3)[0]
        torch.testing.assert_close(bank.attend(queries, 2, 0.3)[0][row : row + 1], expected)


def test_a_row_without_memory_reads_nothing():
    bank, _, _ = filled()
    bank.clear([1])
    assert bank.held(2).tolist() == [True, False]
    output, _ = bank.attend(made(2, 5, heads=H, seed=2), 3, 0.3)
    assert output[0].abs().min() > 0
    assert not output[1].any()
    bank.add(made(2, 4), made(2, 4))
    assert bank.written == [34, 4]


def test_one_row_may_be_read_by_many_but_not_written_by_them():
    bank, keys, values = filled(rows=1)
    queries = made(3, 5, heads=H, seed=2)
    expected = brute_force(keys.expand(3, -1, -1, -1), values.expand(3, -1, -1, -1), queries, 2)
    torch.testing.assert_close(bank.attend(queries, 2, 0.3)[0], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InvalidInput, match="memory: it holds 1 streams; 3 cannot be written"):
        bank.add(made(3, 4), made(3, 4))
    with pytest.raises(InvalidInput, match="2 streams, which 3 rows of queries cannot read"):
        filled()[0].held(3)


def test_gradients_pass_through_the_queries_only():
    bank, keys, values = filled()
    queries = made(2, 5, heads=H, seed=2).requires_grad_()
    bank.attend(queries, 100, 0.3)[0].square().sum().backward()
    again = queries.detach().clone().requires_grad_()
    keys, values = (each.repeat_interleave(H // G, dim=1) for each in (keys, values))
    (torch.softmax(again @ keys.transpose(-1, -2) * 0.3, dim=-1) @ values).square().sum().backward()
    torch.testing.assert_close(queries.grad, again.grad, atol=1e-5, rtol=1e-4)
    assert not bank.keys.requires_grad


@pytest.mark.parametrize("search", ["exact", pytest.param("usearch", marks=needs_usearch)])
def test_a_saved_bank_is_exact(tmp_path, search):
    bank, _, _ = filled(90, search=search)
    bank.save(tmp_path / "bank.safetensors")
    other = MemoryBank(64, 4, search)
    other.load(tmp_path / "bank.safetensors")
    queries = made(2, 5, heads=H, seed=2)
    for each in (bank, other):
        each.add(made(2, 3, seed=5), made(2, 3, seed=6))
    assert torch.equal(bank.attend(queries, 3, 0.3)[0], other.attend(queries, 3, 0.3)[0])
    assert other.written == bank.written
    assert other.size_bytes() == bank.size_bytes()


def test_a_file_of_another_kind_is_refused_and_nothing_changes(tmp_path):
    bank, _, _ = filled()
    bank.save(tmp_path / "bank.safetensors")
    other = MemoryBank(64, 8)
    other.add(made(1, 4), made(1, 4))
    with pytest.raises(InvalidInput, match="is no memory of 64 tokens in chunks of 8"):
        other.load(tmp_path / "bank.safetensors")
    with pytest.raises(NotFound, match="there is no memory in"):
        other.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no")
    with pytest.raises(InvalidInput, match="cannot be read"):
        other.load(tmp_path / "text")
    assert len(other) == 4


@needs_usearch
def test_the_graph_finds_what_exact_search_finds():
    exact, keys, values = filled(400)
    exact, graph = (MemoryBank(256, 4, search) for search in ("exact", "usearch"))
    for bank in (exact, graph):
        for start in range(0, 400, 37):
            bank.add(keys[:, :, start : start + 37], values[:, :, start : start + 37])
    queries = made(2, 50, heads=H, seed=2)
    found, there = graph.search(queries, 4)
    assert there.all()
    wanted = exact.search(queries, 4)[0]
    shared = (found[..., :, None] == wanted[..., None, :]).any(dim=-1).float().mean(dim=-1)
    assert shared.mean() > 0.97
    same = shared == 1
    ours, theirs = (bank.attend(queries, 4, 0.3)[0] for bank in (graph, exact))
    torch.testing.assert_close(ours[same], theirs[same])
    one = graph.search(queries[:1, :, :1], 4)[0]  # a single query for each head
    assert one.shape == (1, H, 1, 4)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InvalidInput, match="capacity_tokens: 3 holds no chunk of 4"):
        MemoryBank(3, 4)
    with pytest.raises(InvalidInput, match="search: 'fast' is not known; use one of exact, usearch"):
        MemoryBank(search="fast")
