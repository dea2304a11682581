"""Speed: how fast memories go in and come back as their number grows, beside plain vector stores with the same vectors.

One run measures everything, so that ratios between columns can be trusted where absolute times depend on the machine.

- The embedder alone, and `add_many` with it: what the store adds to the embedder's time, measured on the first REAL_TEXTS.
- Beyond those, embeddings are replayed: the vectors and token vectors of real texts, each moved a little at random, so that
  a million memories can be stored without a million passes of the encoder. Queries are always really embedded.
- Latency of `recall`, of its parts (embedding the query, searching the vectors), and of plain searches with the same query
  vectors: NumPy over a float32 matrix, usearch's graph, a Chroma collection. Chroma stops at CHROMA_LIMIT memories, since
  building its graph takes too long beyond.
- Memory of the process before the others are built, so that the figure is the store's own.

What it costs on two cores: sizes up to 10k half a minute, 100k 2 minutes more; by the rates there, Chroma 4 and 1M 20 more:
6 to store, 5 for the store's approximate index, 7 for usearch's graph. Memory 4 GB at 1M, for NumPy's matrix most of all.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import recollect
from recollect.benchmarks import plots
from recollect.benchmarks.provenance import provenance
from recollect.errors import InvalidInput
from recollect.store import approximate
from recollect.store.embedders import Embedder, Embeddings, make_embedder

REAL_TEXTS = 2048
NUM_QUERIES = 100
CHROMA_LIMIT = 100_000
TOP = 10
Progress = Callable[[str], None]

_NAMES = "Ana Ben Chloe Dmitri Elif Farid Greta Hugo Ines Jonas Keiko Lena Mateo Nadia Omar Priya Quinn Rosa Sven Tara".split()
_PLACES = (
    "Lisbon Ghent Porto Oslo Kyoto Quito Turin Leeds Cork Graz Lima Perth Basel Tunis Malmo Austin Dakar Split".split()
)
_THINGS = (
    "a leaning mug|the used kiln|a rye starter|two bicycles|the old cello|a box of letters|the ferry tickets|a red raincoat|"
    "her first telescope|the garden shed|a stubborn cat|the school choir|a chess clock|the broken printer|a jar of honey"
).split("|")
_SYLLABLES = "ka lo mi ru te zan vel dor pia nus fer gol tri sha bek ura wim oth hal cey".split()
_DEEDS = "sold bought lost found repaired painted borrowed described photographed returned packed praised".split()
_WHY = (
    "because the winter was long|after the wedding|for the spring fair|although it rained|to please a neighbour|"
    "before the exam|while the train was late|since nobody else would|on the way to the dentist|during the heat wave"
).split("|")


def text(number: int) -> str:
    """The n-th sentence of an endless varied diary."""
    rng = random.Random(number)
    first, second = rng.sample(_NAMES, 2)
    return (
        f"{first} {rng.choice(_DEEDS)} {rng.choice(_THINGS)} and {_word(rng)} with {second} in {rng.choice(_PLACES)} "
        f"{rng.choice(_WHY)}, and spoke of {_word(rng)} for {rng.randint(2, 90)} minutes."
    )


def _word(rng: random.Random) -> str:
    """A made-up word; some of the 20,000 come up often, most of them hardly ever, as words do."""
    rank = int(20_000 * rng.random() ** 4)
    return "".join(_SYLLABLES[rank // 20**place % 20] for place in range(4))


def question(number: int) -> str:
    """A question about the diary."""
    rng = random.Random(-1 - number)
    return f"When did {rng.choice(_NAMES)} speak of {_word(rng)} or {rng.choice(_THINGS)} in {rng.choice(_PLACES)}?"


@dataclass
class Replay:
    """An embedder that gives each text a real text's embedding, moved a little; queries are embedded for real."""

    real: Embedder
    texts: Sequence[str]
    base: Embeddings = field(init=False)

    def __post_init__(self) -> None:
        self.base = self.real.embed(list(self.texts))
        self._next = 0
        self._rng = np.random.default_rng(0)

    @property
    def name(self) -> str:
        return f"replay-{self.real.name}"

    @property
    def dim(self) -> int:
        return self.real.dim

    @property
    def has_tokens(self) -> bool:
        return self.real.has_tokens

    def split(self, text: str) -> list[tuple[int, int]]:
        return self.real.split(text)

    def embed(self, texts: Sequence[str], kind: Any = "document") -> Embeddings:
        if kind == "query":
            return self.real.embed(texts, kind)
        chosen = [(self._next + number) % len(self.texts) for number in range(len(texts))]
        self._next += len(texts)
        noise = self._rng.standard_normal((len(texts), self.dim), np.float32) * (0.5 / np.sqrt(self.dim))
        vectors = self.base.vectors[chosen] + noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        tokens, ids = self.base.tokens, self.base.token_ids
        return Embeddings(
            vectors,
            None if tokens is None else [tokens[number] for number in chosen],
            None if ids is None else [ids[number] for number in chosen],
        )


def parse_sizes(sizes: str) -> list[int]:
    """Sizes such as "1k,10k,1M" as numbers, ascending. Raises InvalidInput."""
    found = []
    for part in sizes.split(","):
        number, unit = part.strip()[:-1], {"k": 1000, "M": 1_000_000}.get(part.strip()[-1:], 0)
        whole = part.strip() if not unit else number
        if not whole.isdigit() or int(whole) < 1:
            raise InvalidInput(f"sizes: {part!r:.20} is not a size; write 1k, 10k or 1M.")
        found.append(int(whole) * (unit or 1))
    return sorted(set(found))


def run(
    sizes: Sequence[int], embedder: str | Embedder | None = None, progress: Progress = lambda line: None
) -> dict[str, Any]:
    """Measure every size; one plain JSON object."""
    began = time.perf_counter()
    real = make_embedder(embedder)
    progress("the embedder alone")
    ingest = _real_ingest(real, progress)
    replay = Replay(real, [text(number) for number in range(REAL_TEXTS)])
    queries = [question(number) for number in range(NUM_QUERIES)]
    with tempfile.TemporaryDirectory(prefix="recollect-speed-") as folder:
        rows = []
        memory = recollect.open(Path(folder) / "memory.db", embedder=replay)
        for size in sizes:
            rows.append(_measure(memory, size, queries, progress))
        memory.close()
    return {
        "benchmark": "speed",
        "embedder": real.name,
        "ingest": ingest,
        "sizes": rows,
        "num_queries": NUM_QUERIES,
        "chroma_limit": CHROMA_LIMIT,
        **provenance(),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _real_ingest(real: Embedder, progress: Progress) -> dict[str, float]:
    """Rates in episodes a second, the embedder alone and `add_many` with it, in turns so that both see the same machine."""
    texts = [text(number) for number in range(REAL_TEXTS)]
    real.embed(texts[:256])
    alone = together = 0.0
    step = 512
    with tempfile.TemporaryDirectory(prefix="recollect-speed-") as folder:
        memory = recollect.open(Path(folder) / "memory.db", embedder=real)
        for start in range(0, REAL_TEXTS, step):
            progress(f"ingest with the real embedder, {start} of {REAL_TEXTS}")
            part = texts[start : start + step]
            began = time.perf_counter()
            for first in range(0, step, 256):
                real.embed(part[first : first + 256])
            middle = time.perf_counter()
            memory.add_many(_items(start, part))
            together += time.perf_counter() - middle
            alone += middle - began
        memory.close()
    return {
        "embedder_per_s": REAL_TEXTS / alone,
        "add_many_per_s": REAL_TEXTS / together,
        "share_of_embedder": alone / together,
    }


def _items(start: int, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(texts, start=start):
        day = f"{2000 + number // 10_000 % 100}-{1 + number // 800 % 12:02}-{1 + number // 30 % 28:02}T{number % 24:02}:00+00:00"
        yield {
            "text": line,
            "session": f"day {number // 30}",
            "speaker": _NAMES[number % 2],
            "at": day,
            "source_id": str(number),
        }


def _measure(memory: recollect.Memory, size: int, queries: Sequence[str], progress: Progress) -> dict[str, Any]:
    engine = memory.engine
    before = memory.stats().num_episodes
    began = storing = time.perf_counter()
    memory.add_many(
        _items(before, [text(number) for number in range(before, size)]),
        batch_size=1024,
        progress=lambda count: progress(f"{size:,} memories: storing"),
    )
    stored_s = time.perf_counter() - storing
    progress(f"{size:,} memories: first recall")
    recalling = time.perf_counter()
    memory.recall(queries[0])
    first_recall_s = time.perf_counter() - recalling
    vectors = [engine.embed_query(query)[0] for query in queries]
    progress(f"{size:,} memories: recalling")
    times: dict[str, list[float]] = {}
    for query, vector in zip(queries, vectors, strict=True):
        for name, call in (
            ("embed_query", lambda query=query: engine.embed_query(query)),
            ("vector_search", lambda vector=vector: engine.index.search(vector, TOP, allowed=None)),
            ("recall", lambda query=query: memory.recall(query, TOP)),
        ):
            start = time.perf_counter()
            call()
            times.setdefault(name, []).append(time.perf_counter() - start)
    process_mb = _process_mb()
    matrix = np.concatenate([part for _, part in engine.db.fetch_vectors(1, engine.db.last_chunk())])
    progress(f"{size:,} memories: NumPy")
    times["numpy"] = _timed(lambda vector: np.argpartition(-(matrix @ vector), TOP)[:TOP], vectors)
    others = {"usearch": _usearch(matrix, vectors, progress), "chroma": _chroma(matrix, vectors, progress)}
    latency = {name: _percentiles(values) for name, values in times.items()}
    for name, (rate, values) in others.items():
        if values:
            latency[name] = _percentiles(values) | {"build_per_s": rate}
    bare = latency["vector_search"]["p50_ms"] + latency["embed_query"]["p50_ms"]
    plain = latency["numpy"]["p50_ms"] + latency["embed_query"]["p50_ms"]
    stats = memory.stats()
    return {
        "memories": size,
        "store_per_s": (size - before) / stored_s,
        "first_recall_ms": first_recall_s * 1e3,
        "latency": latency,
        "recall_over_bare": latency["recall"]["p50_ms"] / bare,
        "recall_over_numpy": latency["recall"]["p50_ms"] / plain,
        "bytes_per_memory": stats.bytes_per_episode,
        "process_mb": process_mb,
        "seconds": time.perf_counter() - began,
        "approximate": engine.index.approximate,
    }


def _timed(call: Callable[[np.ndarray], Any], vectors: Sequence[np.ndarray]) -> list[float]:
    times = []
    call(vectors[0])
    for vector in vectors:
        start = time.perf_counter()
        call(vector)
        times.append(time.perf_counter() - start)
    return times


def _usearch(matrix: np.ndarray, vectors: Sequence[np.ndarray], progress: Progress) -> tuple[float, list[float]]:
    if not approximate.available():
        return 0.0, []
    progress(f"{len(matrix):,} memories: usearch")
    index = approximate.make_index(matrix.shape[1], "ip", "f16")
    began = time.perf_counter()
    index.add(np.arange(len(matrix)), matrix)
    rate = len(matrix) / (time.perf_counter() - began)
    return rate, _timed(lambda vector: index.search(vector, TOP), vectors)


def _chroma(matrix: np.ndarray, vectors: Sequence[np.ndarray], progress: Progress) -> tuple[float, list[float]]:
    if len(matrix) > CHROMA_LIMIT:
        return 0.0, []
    try:
        import chromadb  # type: ignore[import-not-found]
        from chromadb.config import Settings  # type: ignore[import-not-found]
    except ImportError:
        return 0.0, []
    with tempfile.TemporaryDirectory(prefix="recollect-chroma-", ignore_cleanup_errors=True) as folder:
        client = chromadb.PersistentClient(folder, Settings(anonymized_telemetry=False))
        collection = client.create_collection("memories", embedding_function=None, metadata={"hnsw:space": "ip"})
        began = time.perf_counter()
        for start in range(0, len(matrix), 2000):
            progress(f"{len(matrix):,} memories: Chroma, {start:,}")
            ids = [str(number) for number in range(start, min(start + 2000, len(matrix)))]
            collection.add(ids=ids, embeddings=matrix[start : start + 2000], documents=[text(int(id_)) for id_ in ids])
        rate = len(matrix) / (time.perf_counter() - began)
        return rate, _timed(lambda vector: collection.query(query_embeddings=[vector], n_results=TOP), vectors)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50_ms": float(np.percentile(seconds, 50)) * 1e3, "p95_ms": float(np.percentile(seconds, 95)) * 1e3}


def _process_mb() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    return psutil.Process().memory_info().rss / 1e6


def show(result: dict[str, Any], console: Console) -> None:
    """Print the result as tables."""
    ingest = result["ingest"]
    console.print(
        f"Ingest with {result['embedder']}: {ingest['add_many_per_s']:.0f} episodes a second, "
        f"{ingest['share_of_embedder']:.0%} of the embedder's own {ingest['embedder_per_s']:.0f}."
    )
    names = list(dict.fromkeys(name for row in result["sizes"] for name in row["latency"]))
    table = Table("memories", "store/s", *[f"{name} p50 (p95) ms" for name in names], "recall / bare", "bytes each")
    for row in result["sizes"]:
        cells = [
            f"{row['latency'][name]['p50_ms']:.1f} ({row['latency'][name]['p95_ms']:.1f})"
            if name in row["latency"]
            else "-"
            for name in names
        ]
        table.add_row(
            f"{row['memories']:,}",
            f"{row['store_per_s']:.0f}",
            *cells,
            f"{row['recall_over_bare']:.2f}",
            f"{row['bytes_per_memory']:.0f}",
        )
    console.print(table)
    console.print(
        f"Bare: embedding the query and searching its own vectors, top 10. Chroma is measured up to {CHROMA_LIMIT:,} memories."
    )


def plot(result: dict[str, Any], folder: Path) -> Path:
    """Draw latency over the number of memories as `speed.svg` in `folder`. Raises Unavailable without matplotlib."""
    pyplot = plots.plotter()
    labels = {
        "recall": "recollect: recall",
        "vector_search": "recollect: its vector search alone",
        "embed_query": "embedding the query",
        "numpy": "NumPy, exact",
        "usearch": "usearch, approximate",
        "chroma": "Chroma, approximate",
    }
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for name, label in labels.items():
        points = [
            (row["memories"], row["latency"][name]["p50_ms"]) for row in result["sizes"] if name in row["latency"]
        ]
        if points:
            wide = name == "recall"
            axes.plot(
                *zip(*points, strict=True),
                marker="o",
                linewidth=3 if wide else 1.3,
                markersize=6 if wide else 4,
                label=label,
            )
    axes.set(xscale="log", yscale="log", xlabel="memories", ylabel="milliseconds, median", title="Time of one recall")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    return plots.save(figure, folder, "speed")
