"""Sets for multi-hop retrieval: a corpus of passages and questions whose answer lies in two to four of them, from files or made.

Files, one pair a set: `<name>_corpus.json`, a list of {"title", "text"} or an object title -> sentences, and beside it
`<name>.json` or `<name>_....json`, a list of questions with "paragraphs" (MuSiQue), "supporting_facts" and "context"
(HotpotQA, 2WikiMultihopQA) or "ground_truth", titles of the corpus. Gold passages are matched by their exact text; those
that are in no corpus are counted and dropped.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recollect.benchmarks.provenance import sha256
from recollect.errors import InvalidInput, NotFound
from recollect.store.importers.files import require_list, require_mapping, require_text


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
