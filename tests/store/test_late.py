"""Token vectors squeezed to signs, and the fast scoring against its readable twin."""

import numpy as np
import pytest

from recollect.errors import InvalidInput
from recollect.store import late


def rows(seed, count):
    made = np.random.default_rng(seed).normal(size=(count, late.TOKEN_DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def readable(query, blobs):
    turned = query @ late.projection()
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return np.array([[max(token @ other for other in late.decompress(blob)) for blob in blobs] for token in turned])


def test_bytes_a_token():
    assert len(late.compress(rows(0, 30))) == 1 + 24 * 30
    assert late.num_tokens(late.compress(rows(0, 30))) == 30
    assert late.num_tokens(late.compress(rows(0, 0))) == 0


def test_projection_keeps_lengths():
    projection = late.projection()
    assert np.allclose(projection.T @ projection, np.eye(192), atol=2e-3)


def test_decompressed_rows_are_unit_and_near_what_was_compressed():
    tokens = rows(1, 200)
    kept = late.decompress(late.compress(tokens))
    assert np.allclose(np.linalg.norm(kept, axis=1), 1, atol=1e-5)
    turned = tokens @ late.projection()
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    assert (
        0.75 < float((kept * turned).sum(axis=1).mean()) < 0.85
    )  # the square root of 2/pi for signs of normal numbers


def test_best_matches_equal_the_readable_twin_over_several_slices(monkeypatch):
    monkeypatch.setattr(late, "_SLICE_TOKENS", 16)
    blobs = [late.compress(rows(seed, 1 + seed % 40)) for seed in range(60)]
    query = rows(99, 7)
    assert np.allclose(late.best_matches(query, blobs), readable(query, blobs), atol=1e-5)


def test_a_token_finds_itself():
    texts = [rows(seed, 12) for seed in range(20)]
    found = late.best_matches(texts[13][4:5], [late.compress(tokens) for tokens in texts])
    assert int(found.argmax()) == 13


def test_texts_without_token_vectors_score_zero():
    blob = late.compress(rows(0, 5))
    found = late.best_matches(rows(1, 3), [None, blob, late.compress(rows(0, 0))])
    assert found.shape == (3, 3)
    assert not found[:, [0, 2]].any()
    assert np.allclose(found[:, 1], late.best_matches(rows(1, 3), [blob])[:, 0])


@pytest.mark.parametrize(("num_query", "blobs"), [(0, [b"\x01"]), (2, []), (2, [None])])
def test_nothing_to_score(num_query, blobs):
    assert late.best_matches(rows(0, num_query), blobs).shape == (num_query, len(blobs))


def test_wrong_shapes_and_foreign_bytes_are_refused():
    with pytest.raises(InvalidInput, match=r"tokens: expected shape \(T, 384\)"):
        late.compress(np.zeros((3, 5), np.float32))
    for foreign in (b"\x07" + bytes(24), late.compress(rows(0, 2))[:-1]):
        with pytest.raises(InvalidInput, match="reindex"):
            late.decompress(foreign)
        with pytest.raises(InvalidInput, match="reindex"):
            late.best_matches(rows(0, 1), [foreign])
