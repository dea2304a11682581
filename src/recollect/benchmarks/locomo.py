"""LoCoMo: 1,986 questions about ten conversations of months, with the turns that hold the answers.

Each conversation goes into a memory of its own, turn by turn; each question is asked at the end of the day of the last
session, and the first 50 turns that come back are scored against the evidence, by turn and by session. With a reader,
answers are scored too, by LoCoMo's F1.

Paper: Evaluating Very Long-Term Conversational Memory of LLM Agents, arXiv:2402.17753 (2024). The data are CC BY-NC 4.0
and not part of this package: point `LoCoMo` at locomo10.json or at a folder of conversations.
Differs: questions without evidence are left out and counted, where the authors score them 1; evidence is cleaned
("D8:6; D9:17", "D:11:26", joined by spaces), and references that match no turn are counted and dropped. Categories go
by the paper's names; the file's numbers are in another order (4 single-hop, 1 multi-hop, 2 temporal, 3 open-domain,
5 adversarial). The ranking weights of the default method were fitted on some of these conversations: each is asked
with weights that were fitted without it, and the report says which those are.
Cost: an hour's conversation (600 turns, 200 questions) takes about 15 s of one core, mostly the embedder's.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import recollect
from recollect.benchmarks.cost import Ingest, ingest_cost, mean_cost, percentiles_ms
from recollect.benchmarks.metrics import exact_match, locomo_f1
from recollect.benchmarks.provenance import provenance, sha256
from recollect.benchmarks.retrieval import DEPTH, Floor, Ranking, by_session, per_question, retrieved, summarise
from recollect.errors import InvalidInput
from recollect.store.episodic import Episodic
from recollect.store.fusion import fitted_on
from recollect.store.importers.files import require_list, require_mapping, require_text
from recollect.store.importers.locomo import Conversation, items, parse_conversation, samples, turn_text
from recollect.store.records import Hit

if TYPE_CHECKING:
    from recollect.lm import LanguageModel
    from recollect.store.embedders import Embedder
    from recollect.store.memory import Memory

__all__ = ["CATEGORIES", "LoCoMo", "Question", "Sample", "clean_evidence", "load", "open_held_out", "turn_text"]

CATEGORIES: Mapping[int, str] = {4: "single-hop", 1: "multi-hop", 2: "temporal", 3: "open-domain", 5: "adversarial"}
ADVERSARIAL = 5
READER_K = 10  # turns that a reader gets
MAX_ANSWER_TOKENS = 32  # the paper's
REFUSAL = "Not mentioned in the conversation"
_REFERENCE = re.compile(r"D:?(\d+):(\d+)")

Progress = Callable[[str, int, int], None]  # conversation, questions done, questions in all


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a conversation."""

    id: str  # "<conversation>/q<number from 1>"
    text: str
    category: int  # the file's number, see CATEGORIES
    answer: str  # "" for most adversarial questions
    adversarial_answer: str  # the answer that an adversarial question is after; "" for others
    evidence: tuple[str, ...]  # turn ids that exist
    unmatched: tuple[str, ...]  # what the file gave as evidence and is no turn


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation with its questions."""

    conversation: Conversation
    questions: tuple[Question, ...]

    @property
    def asked_at(self) -> datetime:
        """The end of the day of the last session."""
        return max(turn.at for turn in self.conversation.turns).replace(hour=23, minute=59, second=59)


def clean_evidence(raw: Iterable[str]) -> tuple[list[str], list[str]]:
    """(turn ids, what could not be read) from a question's evidence list, duplicates dropped.

    "D8:6; D9:17" and "D9:1 D4:4" are two turns each, "D:11:26" is D11:26, "D30:05" is D30:5; "D" cannot be read.
    """
    turns: dict[str, None] = {}
    unread: list[str] = []
    for entry in raw:
        found = _REFERENCE.findall(entry)
        turns.update((f"D{int(session)}:{int(turn)}", None) for session, turn in found)
        if not found:
            unread.append(entry)
    return list(turns), unread


def load(path: str | Path) -> list[Sample]:
    """The conversations and questions of a LoCoMo file, or of a folder of such files.

    Raises InvalidInput naming the file, the record and the field that does not fit, NotFound when there is no file.
    """
    loaded = [_parse_sample(record, where) for where, record in samples(path)]
    if not loaded:
        raise InvalidInput(f"path: {Path(path).name} holds no conversation.")
    return loaded


def _parse_sample(record: Mapping[str, Any], where: str) -> Sample:
    conversation = parse_conversation(record, where)
    known = {turn.id for turn in conversation.turns}
    questions = []
    for number, raw in enumerate(require_list(record.get("qa"), where, "qa"), 1):
        place = f"{where}: qa[{number - 1}]"
        raw = require_mapping(raw, where, f"qa[{number - 1}]")
        category = raw.get("category")
        if not isinstance(category, int) or category not in CATEGORIES:
            raise InvalidInput(f"{place}: category should be a number from 1 to 5, not {category!r:.40}.")
        entries = [require_text(e, place, "evidence") for e in require_list(raw.get("evidence"), place, "evidence")]
        cited, unread = clean_evidence(entries)
        answers = [raw.get(name) for name in ("answer", "adversarial_answer")]
        answer, adversarial = ("" if value is None else str(value) for value in answers)
        questions.append(
            Question(
                id=f"{conversation.id}/q{number}",
                text=require_text(raw.get("question"), place, "question"),
                category=category,
                answer=answer,
                adversarial_answer=adversarial,
                evidence=tuple(turn for turn in cited if turn in known),
                unmatched=tuple(unread + [turn for turn in cited if turn not in known]),
            )
        )
    return Sample(conversation, tuple(questions))


def open_held_out(path: Path, conversation_id: str, embedder: str | Embedder | None = None) -> Memory:
    """A memory with the default method, its ranking weights fitted without the conversation that it is to be asked."""
    return recollect.open(path, embedder=embedder, method=Episodic(without=conversation_id))


@dataclass(frozen=True)
class LoCoMo:
    """The benchmark over one file or folder of conversations."""

    path: str | Path

    def samples(self) -> list[Sample]:
        """The conversations with their questions; see `load`."""
        return load(self.path)

    def run(
        self,
        *,
        embedder: str | Embedder | None = None,
        include_adversarial: bool = False,
        lm: LanguageModel | None = None,
        read_answers: bool = False,
        output: str | Path | None = None,
        open_memory: Callable[[Path, str], Memory] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Ask every question and return the scores as one plain JSON object.

        `include_adversarial` adds category 5, whose evidence is what the question is a distortion of. `lm` reads the first
        10 turns and answers, which adds `reader` with LoCoMo's F1; `read_answers` without `lm` does so with the built-in
        extractive reader. `output` is a JSONL file to write, one line a question. `open_memory(path, conversation id)` opens
        the memory to be measured (default: `open_held_out`). Raises InvalidInput, NotFound.
        """
        start = time.perf_counter()
        loaded = load(self.path)
        opener = open_memory or (lambda file, name: open_held_out(file, name, embedder))
        total = sum(len(sample.questions) for sample in loaded)
        rankings: list[Ranking] = []
        answers: list[_Answered] = []
        conversations: list[dict[str, Any]] = []
        seconds = {"ingest": 0.0, "recall": 0.0, "read": 0.0}
        latencies: list[float] = []
        costs: list[Ingest] = []
        name_of_embedder = name_of_method = None
        for sample in loaded:
            with (
                tempfile.TemporaryDirectory(prefix="recollect-bench-") as folder,
                opener(Path(folder) / "memory.db", sample.conversation.id) as memory,
            ):
                began = time.perf_counter()
                memory.add_many(items(sample.conversation))
                memory.sync()
                seconds["ingest"] += time.perf_counter() - began
                costs.append(ingest_cost(memory, time.perf_counter() - began))
                name_of_embedder, name_of_method = memory.engine.embedder.name, memory.method.name
                conversations.append(_describe(sample, memory))
                for ranking, answer in _ask(sample, memory, include_adversarial, lm, read_answers, seconds, latencies):
                    rankings.append(ranking)
                    if answer is not None:
                        answers.append(answer)
                    if progress is not None:
                        progress(sample.conversation.id, len(rankings), total)
        scored = [ranking for ranking in rankings if ranking.gold["turn"] and _counts(ranking, include_adversarial)]
        names = [name for number, name in CATEGORIES.items() if number != ADVERSARIAL or include_adversarial]
        result = {
            "benchmark": "locomo",
            "num_questions": len(scored),
            "left_out": _left_out(rankings, include_adversarial),
            "unmatched_references": sum(len(question.unmatched) for sample in loaded for question in sample.questions),
            **summarise(scored, names),
        }
        if answers:
            result["reader"] = _reader_scores(answers, lm, names)
        if output is not None:
            _write_lines(Path(output), scored, answers)
        return result | {
            "depth": DEPTH,
            "method": name_of_method,
            "embedder": name_of_embedder,
            "ingest": mean_cost(costs),
            "recall_ms": percentiles_ms(latencies),
            "conversations": conversations,
            "data_sha256": sha256(self.path),
            **provenance(),
            "seconds": round(time.perf_counter() - start, 3),
            "seconds_by_part": {part: round(value, 3) for part, value in seconds.items()},
        }


@dataclass(frozen=True, slots=True)
class _Answered:
    """A question's answer and its scores."""

    question: Question
    text: str
    f1: float
    exact_match: float
    input_tokens: int
    output_tokens: int


def _ask(
    sample: Sample,
    memory: Memory,
    include_adversarial: bool,
    lm: LanguageModel | None,
    read_answers: bool,
    seconds: dict[str, float],
    latencies: list[float],
) -> Iterator[tuple[Ranking, _Answered | None]]:
    """Every question's ranking, and its answer if there is a reader; questions left out get empty rankings."""
    conversation = sample.conversation
    session_of = {turn.id: f"session_{turn.session}" for turn in conversation.turns}
    floor = Floor(list(session_of), [f"{t.speaker}: {turn_text(t.text, t.caption)}" for t in conversation.turns])
    num_units = {"turn": len(session_of), "session": len(set(session_of.values()))}
    for question in sample.questions:
        category = CATEGORIES[question.category]
        gold = {"turn": question.evidence, "session": by_session(question.evidence, session_of)}
        empty = {"turn": (), "session": ()}
        details = {"question": question.text, "answer": question.answer or question.adversarial_answer}
        ranking = Ranking(question.id, category, gold, empty, empty, num_units, details)
        if question.category == ADVERSARIAL and not include_adversarial:
            yield ranking, None
            continue
        began = time.perf_counter()
        hits = memory.recall(question.text, k=DEPTH, at=sample.asked_at)
        latencies.append(time.perf_counter() - began)
        seconds["recall"] += latencies[-1]
        turns = retrieved(memory, hits, f"{conversation.id}/")
        lowest = floor.rank(question.text)
        ranking = replace(
            ranking,
            ranked={"turn": turns, "session": by_session(turns, session_of)},
            floor={"turn": lowest, "session": by_session(lowest, session_of)},
        )
        answer = None
        if lm is not None or read_answers:
            began = time.perf_counter()
            answer = _read(question, hits, lm) if lm is not None else _extract(question, memory, sample.asked_at)
            seconds["read"] += time.perf_counter() - began
        yield ranking, answer


def _read(question: Question, hits: Sequence[Hit], lm: LanguageModel) -> _Answered:
    """A language model's short answer from the first READER_K turns, prompted as the category asks."""
    lines: list[str] = []
    day = None
    for hit in sorted(hits[:READER_K], key=lambda hit: (hit.at, _turn_number(hit))):
        if hit.at != day:
            day = hit.at
            lines.append(f"\nDATE: {day:%d %B %Y, %H:%M}\nCONVERSATION:")
        lines.append(f'{hit.speaker} said, "{hit.text}"')
    options: list[str] = []
    asked = question.text
    if question.category == 2:
        asked += " Work it out from the date of the conversation; an approximate date will do."
    elif question.category == ADVERSARIAL:
        options = [REFUSAL, question.adversarial_answer or question.answer]
        random.Random(question.id).shuffle(options)
        asked += f" Choose one: (a) {options[0]} (b) {options[1]}"
    rule = "Choose (a) or (b)." if options else "Answer with a short phrase, in words of the conversation if you can."
    reply = lm.complete(
        [
            {
                "role": "system",
                "content": "You answer questions about parts of a long conversation between two people.",
            },
            {"role": "user", "content": "\n".join(lines).strip() + f"\n\nQuestion: {asked}\n{rule}"},
        ],
        max_tokens=MAX_ANSWER_TOKENS,
    )
    text = _option(reply.text, options) if options else reply.text.strip()
    return _answered(question, text, reply.input_tokens, reply.output_tokens)


def _extract(question: Question, memory: Memory, at: datetime) -> _Answered:
    answer = memory.answer(question.text, k=READER_K, at=at)
    text = "No information available" if answer.abstained else answer.text
    return _answered(question, text, answer.input_tokens, answer.output_tokens)


def _answered(question: Question, text: str, input_tokens: int, output_tokens: int) -> _Answered:
    gold = question.answer
    f1 = locomo_f1(text, gold, question.category)
    exact = f1 if question.category == ADVERSARIAL else exact_match(text, gold)
    return _Answered(question, text, f1, exact, input_tokens, output_tokens)


def _option(reply: str, options: Sequence[str]) -> str:
    """The text of the option that a bare letter stands for; the reply itself when it is more than a letter."""
    letter = re.fullmatch(r"\W*(?:option\s+)?\(?([ab])\)?\W*", reply.strip(), re.IGNORECASE)
    return options["ab".index(letter[1].lower())] if letter else reply.strip()


def _turn_number(hit: Hit) -> int:
    tail = (hit.source_id or "").rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0


def _counts(ranking: Ranking, include_adversarial: bool) -> bool:
    return include_adversarial or ranking.category != CATEGORIES[ADVERSARIAL]


def _left_out(rankings: Sequence[Ranking], include_adversarial: bool) -> dict[str, int]:
    kept = [ranking for ranking in rankings if _counts(ranking, include_adversarial)]
    return {
        "adversarial": len(rankings) - len(kept),
        "no_evidence": sum(not ranking.gold["turn"] for ranking in kept),
    }


def _describe(sample: Sample, memory: Memory) -> dict[str, Any]:
    method = memory.method
    used = [name for name in fitted_on() if name != method.without] if isinstance(method, Episodic) else []
    return {
        "id": sample.conversation.id,
        "num_turns": len(sample.conversation.turns),
        "num_sessions": len({turn.session for turn in sample.conversation.turns}),
        "num_questions": len(sample.questions),
        "weights_fitted_on": used,
        "held_out": sample.conversation.id not in used,
    }


def _reader_scores(answers: Sequence[_Answered], lm: LanguageModel | None, names: Sequence[str]) -> dict[str, Any]:
    def means(part: Sequence[_Answered]) -> dict[str, Any]:
        return {
            "num_questions": len(part),
            "f1": sum(answer.f1 for answer in part) / len(part),
            "exact_match": sum(answer.exact_match for answer in part) / len(part),
        }

    grouped = {name: [a for a in answers if CATEGORIES[a.question.category] == name] for name in names}
    return {
        "name": lm.name if lm is not None else "extractive",
        "k": READER_K,
        **means(answers),
        "by_category": {name: means(part) for name, part in grouped.items() if part},
        "input_tokens": sum(answer.input_tokens for answer in answers),
        "output_tokens": sum(answer.output_tokens for answer in answers),
    }


def _write_lines(path: Path, rankings: Sequence[Ranking], answers: Sequence[_Answered]) -> None:
    read = {answer.question.id: {"text": answer.text, "f1": answer.f1} for answer in answers}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for ranking in rankings:
            line = per_question(ranking)
            if ranking.question_id in read:
                line["reader"] = read[ranking.question_id]
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
