"""Multi-hop retrieval: questions whose answer lies in two to four passages of a corpus, in the files of HippoRAG's form.

Each passage ("title, newline, text") goes into a memory as an episode of its own session; each question is asked, and the
passages that come back are scored against those that hold the answer, beside BM25 and plain cosine with the same embedder.
Files, one pair a set: `<name>_corpus.json`, a list of {"title", "text"} or an object title -> sentences, and beside it
`<name>.json` or `<name>_....json`, a list of questions with "paragraphs" (MuSiQue), "supporting_facts" and "context"
(HotpotQA, 2WikiMultihopQA) or "ground_truth", titles of the corpus. Gold passages are matched by their exact text; those
that are in no corpus are counted and dropped. Without files a set is made, see `generate`.

Papers: the corpora are those of HippoRAG 2, arXiv:2502.14802 (2025); MuSiQue, arXiv:2108.00573 (2022); 2WikiMultihopQA,
arXiv:2011.01060 (2020); HotpotQA, arXiv:1809.09600 (2018). None of their data is part of this package.
Differs: shares of the gold passages are not rounded; intervals are added.
Cost: for 1,890 passages about a minute a method on two cores, mostly the embedder's.
"""

from __future__ import annotations

import json
import math
import random
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import recollect
from recollect.benchmarks.cost import ingest_cost, mean_cost, percentiles_ms
from recollect.benchmarks.metrics import bootstrap_intervals, score_ranking
from recollect.benchmarks.provenance import provenance, sha256
from recollect.benchmarks.retrieval import Floor, nest, retrieved
from recollect.errors import InvalidInput, NotFound
from recollect.store.hipporag2 import HippoRAG2
from recollect.store.importers.files import require_list, require_mapping, require_text
from recollect.store.openie import OpenIECache
from recollect.store.views import Filter

if TYPE_CHECKING:
    from recollect.lm import LanguageModel
    from recollect.store.memory import Memory

KS = (1, 2, 5, 10)
GIVEN = "hipporag2, given triples"
Progress = Callable[[str, int, int], None]  # set and method, questions done, questions in all


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the passages that hold its answer."""

    text: str
    gold: tuple[str, ...]  # ids of passages
    num_hops: int | None = None  # where the data say so


@dataclass(frozen=True, slots=True)
class MultihopSet:
    """A corpus and its questions."""

    name: str
    passages: Mapping[str, str]  # id -> title, newline, text
    questions: tuple[Question, ...]
    num_unmatched: int = 0  # gold passages that are not in the corpus
    num_left_out: int = 0  # questions of which no gold passage is in the corpus
    hashes: tuple[str, ...] = ()  # SHA-256 of the files


# Loading


def load(path: str | Path) -> list[MultihopSet]:
    """The sets of a folder, or the one of a corpus file.

    Raises NotFound where there is no corpus, or no question file beside it, and InvalidInput naming what does not fit.
    """
    path = Path(path)
    corpora = [path] if path.is_file() else sorted(path.glob("*corpus*.json"))
    if not corpora or "corpus" not in corpora[0].stem:
        raise NotFound(f"data: {path.name} is no corpus file and holds none; give a folder with <name>_corpus.json.")
    sets = []
    for corpus in corpora:
        key = re.sub(r"_?corpus_?", "", corpus.stem)
        beside = [file for file in sorted(corpus.parent.glob(f"{key}*.json")) if "corpus" not in file.stem]
        exact = [file for file in beside if file.stem == key]
        if not beside:
            raise NotFound(f"data: no question file {key}.json lies beside {corpus.name}.")
        sets += [_load(corpus, file) for file in exact or beside]
    return sets


def _load(corpus: Path, questions: Path) -> MultihopSet:
    documents = _passages(_read(corpus), corpus.name)
    passages = {f"p{number}": document for number, document in enumerate(documents)}
    by_text = {document: id_ for id_, document in passages.items()}
    by_title: dict[str, list[str]] = {}
    for id_, document in passages.items():
        by_title.setdefault(document.partition("\n")[0], []).append(id_)
    loaded, unmatched, left_out = [], 0, 0
    for number, raw in enumerate(require_list(_read(questions), questions.name, "file")):
        where = f"{questions.name}[{number}]"
        record = require_mapping(raw, questions.name, f"[{number}]")
        found, missing = _gold(record, where, by_text, by_title)
        unmatched += missing
        left_out += not found
        if found:
            hops = re.match(r"(\d)hop", str(record.get("id", "")))
            text = require_text(record.get("question"), where, "question")
            loaded.append(Question(text, found, int(hops[1]) if hops else None))
    return MultihopSet(
        questions.stem, passages, tuple(loaded), unmatched, left_out, (sha256(corpus), sha256(questions))
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InvalidInput(f"data: {path.name} is not JSON ({error}).") from None


def _passages(loaded: Any, where: str) -> list[str]:
    if isinstance(loaded, dict):
        return [f"{title}\n{''.join(_sentences(sentences, where))}" for title, sentences in loaded.items()]
    documents = []
    for number, raw in enumerate(require_list(loaded, where, "file")):
        record = require_mapping(raw, where, f"[{number}]")
        title, text = (require_text(record.get(name), f"{where}[{number}]", name) for name in ("title", "text"))
        documents.append(f"{title}\n{text}")
    return documents


def _sentences(value: Any, where: str) -> list[str]:
    return [require_text(part, where, "sentence") for part in require_list(value, where, "sentences")]


def _gold(
    record: Mapping[str, Any], where: str, by_text: Mapping[str, str], by_title: Mapping[str, list[str]]
) -> tuple[tuple[str, ...], int]:
    """(ids of the gold passages, how many more there are that the corpus does not hold)."""
    found: dict[str, None] = {}
    missing = 0
    if "paragraphs" in record:
        for part in require_list(record["paragraphs"], where, "paragraphs"):
            if part.get("is_supporting"):
                id_ = by_text.get(f"{part.get('title')}\n{part.get('paragraph_text', part.get('text'))}")
                missing += id_ is None
                found |= {id_: None} if id_ is not None else {}
    elif "supporting_facts" in record:
        context = dict(require_list(record.get("context"), where, "context"))
        for title in dict.fromkeys(title for title, _ in require_list(record["supporting_facts"], where, "facts")):
            texts = [f"{title}\n{joint.join(context.get(title, ()))}" for joint in ("", " ")]
            id_ = next((by_text[text] for text in texts if text in by_text), None)
            missing += id_ is None
            found |= {id_: None} if id_ is not None else {}
    elif "ground_truth" in record:
        for title in require_list(record["ground_truth"], where, "ground_truth"):
            missing += title not in by_title
            found |= dict.fromkeys(by_title.get(title, ()))
    else:
        raise InvalidInput(f"{where}: has none of paragraphs, supporting_facts and ground_truth.")
    return tuple(found), missing


# Making a set

_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstv" for vowel in "aeio"]
_ENDINGS = {"person": "n r l s th".split(), "firm": "x m k rt nd".split(), "city": "burg ville stad mouth ford".split()}
_TRADES = "pumps lenses carpets ferries clocks tractors organs kilns sails bicycles".split()
_HABITS = "keeps bees,plays the cello,collects maps,swims before work,paints boats,writes letters by hand".split(",")


def generate(num_people: int = 400, seed: int = 0) -> MultihopSet:
    """A set in which every answer is known: who works for which firm, where that has its seat, on which river that lies.

    There are as many firms as people and a fourth as many cities. One question of one hop, one of two and one of three for
    each person. All names are made up; those of people and firms share their words with others', as real ones do.
    """
    return generate_with_triples(num_people, seed)[0]


def generate_with_triples(num_people: int = 400, seed: int = 0) -> tuple[MultihopSet, dict[str, list[list[str]]]]:
    """The same, with what each passage (by its text) says as triples."""
    rng = random.Random(seed)
    used: set[str] = set()

    def name(kind: str, syllables: int) -> str:
        while True:
            made = "".join(rng.choice(_SYLLABLES) for _ in range(syllables)) + rng.choice(_ENDINGS[kind])
            if made not in used:
                used.add(made)
                return made.capitalize()

    def pairs(kind: str) -> list[str]:
        """Names of two words, each of which stands in many of them, as with people's."""
        size = math.isqrt(num_people - 1) + 1
        words = [[name(kind, 2) for _ in range(size)] for _ in range(2)]
        return rng.sample([f"{one} {other}" for one in words[0] for other in words[1]], num_people)

    people, firms = pairs("person"), pairs("firm")
    cities = [name("city", 2) for _ in range(max(num_people // 4, 2))]
    rivers = [name("firm", 2) for _ in cities]
    texts: dict[str, str] = {}
    triples: dict[str, list[list[str]]] = {}

    def write(id_: str, title: str, text: str, said: list[list[str]]) -> None:
        texts[id_] = f"{title}\n{text}"
        triples[texts[id_]] = said

    seats = [rng.randrange(len(cities)) for _ in firms]
    employers = rng.sample(range(num_people), num_people)
    for number, person in enumerate(people):
        firm, born = firms[employers[number]], rng.choice(cities)
        text = f"{person} is employed by {firm}. {person.split()[0]} was born in {born} and {rng.choice(_HABITS)}."
        write(f"person{number}", person, text, [[person, "is employed by", firm], [person, "was born in", born]])
    for number, firm in enumerate(firms):
        city, trade = cities[seats[number]], rng.choice(_TRADES)
        text = f"{firm} makes {trade}. The headquarters of {firm} stands in {city}."
        write(f"firm{number}", firm, text, [[firm, "makes", trade], [firm, "has its headquarters in", city]])
    for number, (city, river) in enumerate(zip(cities, rivers, strict=True)):
        text = f"{city} lies on the river {river}. It has a market and {rng.randint(2, 40)} bridges."
        write(f"city{number}", city, text, [[city, "lies on the river", river]])
    questions = []
    for number, person in enumerate(people):
        firm = employers[number]
        chain = (f"person{number}", f"firm{firm}", f"city{seats[firm]}")
        questions += [
            Question(f"Where was {person} born?", chain[:1], 1),
            Question(f"Where is the headquarters of {person}'s employer?", chain[:2], 2),
            Question(f"On which river is the headquarters of {person}'s employer?", chain, 3),
        ]
    return MultihopSet("made", texts, tuple(questions)), triples


# Measuring


def run(
    sets: Sequence[MultihopSet],
    names: Sequence[str] = ("episodic",),
    *,
    openie: OpenIECache | None = None,
    embedder: str | None = None,
    lm: LanguageModel | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask every question of every set, of each method by name, and return the scores as one plain JSON object.

    openie: triples for HippoRAG 2 that were extracted elsewhere; another row of it uses them on the sets whose passages it
    holds. lm: for the methods' own steps. limit: at most so many questions a set.
    """
    start = time.perf_counter()
    results = []
    name_of_embedder = None
    for data in sets:
        questions = data.questions[:limit]
        floor = Floor(list(data.passages), list(data.passages.values()))
        rankings = {"BM25": [floor.rank(question.text, max(KS)) for question in questions]}
        costs: dict[str, dict[str, Any]] = {}
        methods: list[tuple[str, Any]] = [(name, name) for name in names]
        if openie is not None and all(openie.get(text) is not None for text in data.passages.values()):
            methods.append((GIVEN, HippoRAG2(triples=openie)))
        for label, method in methods:
            with (
                tempfile.TemporaryDirectory(prefix="recollect-bench-") as folder,
                recollect.open(Path(folder) / "memory.db", embedder=embedder, method=method, lm=lm) as memory,
            ):
                seconds = fill(memory, data)
                name_of_embedder = memory.engine.embedder.name
                if "cosine" not in rankings:
                    rankings["cosine"] = [nearest(memory, question.text) for question in questions]
                costs[label] = {"ingest": mean_cost([ingest_cost(memory, seconds)])}
                rankings[label], latencies = ask(memory, questions, f"{data.name}, {label}", progress)
                costs[label]["recall_ms"] = percentiles_ms(latencies)
        results.append(
            {
                "name": data.name,
                "num_passages": len(data.passages),
                "num_questions": len(questions),
                "unmatched_passages": data.num_unmatched,
                "questions_left_out": data.num_left_out,
                "data_sha256": list(data.hashes),
                "baselines": {label: _scores(rankings[label], questions) for label in ("BM25", "cosine")},
                "methods": {
                    label: _scores(rankings[label], questions, rankings["cosine"]) | costs[label]
                    for label, _ in methods
                },
            }
        )
    return {
        "benchmark": "multihop",
        "sets": results,
        "embedder": name_of_embedder,
        "lm": lm.name if lm is not None else None,
        **provenance(),
        "seconds": round(time.perf_counter() - start, 3),
    }


def fill(memory: Memory, data: MultihopSet) -> float:
    """Put the passages into a memory; the seconds that it took."""
    began = time.perf_counter()
    memory.add_many({"text": text, "session": id_, "source_id": id_} for id_, text in data.passages.items())
    memory.sync()
    return time.perf_counter() - began


def ask(
    memory: Memory, questions: Sequence[Question], label: str, progress: Progress | None
) -> tuple[list[tuple[str, ...]], list[float]]:
    """(the passages of each question, best first; the seconds that each took)."""
    rankings, latencies = [], []
    for number, question in enumerate(questions, 1):
        began = time.perf_counter()
        hits = memory.recall(question.text, k=max(KS))
        latencies.append(time.perf_counter() - began)
        rankings.append(retrieved(memory, hits)[: max(KS)])
        if progress is not None:
            progress(label, number, len(questions))
    return rankings, latencies


def nearest(memory: Memory, text: str) -> tuple[str, ...]:
    """The passages whose nearest part is nearest to a text, best first."""
    engine = memory.engine
    engine.sync_index()
    chunks = engine.db.allowed_chunks(Filter(memory.user))
    ids, _ = engine.index.search(engine.embed_query(text)[0], 4 * max(KS), allowed=chunks)
    owner = dict(
        engine.db.rows_in(
            "SELECT c.id, e.source_id FROM chunks c JOIN episodes e ON e.seq = c.episode WHERE c.id IN ({})",
            ids.tolist(),
        )
    )
    return tuple(dict.fromkeys(owner[id_] for id_ in ids.tolist()))[: max(KS)]


def _scores(
    rankings: Sequence[tuple[str, ...]], questions: Sequence[Question], beside: Sequence[tuple[str, ...]] | None = None
) -> dict[str, Any]:
    """Mean recall with 95% intervals, by hops too, and the gain over other rankings of the same questions."""
    rows = recalls(rankings, questions)
    found: dict[str, Any] = _means(rows)
    found["intervals"] = nest(_named(map(list, bootstrap_intervals(rows))))
    hops = np.array([question.num_hops or 0 for question in questions])
    if hops.any():
        found["by_hops"] = {
            str(count): {"num_questions": int((hops == count).sum())} | _means(rows[hops == count])
            for count in sorted({*hops.tolist()} - {0})
        }
    if beside is not None:
        gains = rows - recalls(beside, questions)
        found["gain_over_cosine"] = nest(_named(gains.mean(axis=0).tolist()))
        found["gain_intervals"] = nest(_named(map(list, bootstrap_intervals(gains))))
    return found


_COLUMNS = [f"{measure}@{k}" for measure in ("recall", "recall_all") for k in KS]


def recalls(rankings: Sequence[tuple[str, ...]], questions: Sequence[Question]) -> np.ndarray:
    """A row for each question, float64 (Q, len(_COLUMNS))."""
    scored = [score_ranking(ranked, question.gold, KS) for ranked, question in zip(rankings, questions, strict=True)]
    return np.array([[row[name] for name in _COLUMNS] for row in scored]).reshape(-1, len(_COLUMNS))


def _means(rows: np.ndarray) -> dict[str, Any]:
    return nest(_named(rows.mean(axis=0).tolist()))


def _named(values: Any) -> dict[str, Any]:
    return dict(zip(_COLUMNS, values, strict=True))


def show(result: Mapping[str, Any], out: Console) -> None:
    """A table for each set."""
    for data in result["sets"]:
        title = f"{data['name']}: {data['num_passages']:,} passages, {data['num_questions']} questions"
        hops = sorted({count for row in data["methods"].values() for count in row.get("by_hops", {})})
        found = _table(title, *[f"@{k}" for k in KS], "95%", *[f"{count}h@5" for count in hops])
        took = _table("", "ms", "kB", "notes", "tokens", "recall ms")
        for label, row in {**data["baselines"], **data["methods"]}.items():
            low, high = row["intervals"]["recall"]["5"]
            cells = [f"{100 * row['recall'][str(k)]:.1f}" for k in KS] + [f"{100 * low:.0f}-{100 * high:.0f}"]
            found.add_row(label, *cells, *[f"{100 * row['by_hops'][count]['recall']['5']:.1f}" for count in hops])
            if "ingest" in row:
                cost = row["ingest"]
                took.add_row(
                    label,
                    f"{cost['seconds_per_episode'] * 1000:.0f}",
                    f"{cost['bytes_per_episode'] / 1000:.1f}",
                    f"{cost['notes_per_episode']:.1f}",
                    f"{cost['tokens_per_episode']:.0f}",
                    f"{row['recall_ms']['p50']:.0f} ({row['recall_ms']['p95']:.0f})",
                )
        out.print(found)
        out.print(took)
    out.print(
        "Mean share of the gold passages found, in per cent; a note counts as the passages that it rests on. ms, kB, "
        f"notes and tokens are for each passage at write. Embedder {result['embedder']}. "
        f"{'Steps by ' + result['lm'] if result['lm'] else 'No language model: steps by the built-in analyst'}."
    )


def _table(title: str, *heads: str) -> Table:
    table = Table("", *heads, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    return table
