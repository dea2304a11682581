"""LongMemEval: questions about long histories of chats with an assistant; retrieval and judged answers.

Each history goes into a memory of its own, both roles, turn by turn; the question is asked on its own date and the first
50 turns that come back are scored, by turn and by session. Two sets of evidence are scored: all roles (ours), and the
user's turns only (the authors': assistant turns are not searched, and sessions without evidence spoken by the user do
not count), each with NDCG in our form and in theirs. Histories are read one at a time, whatever the file's size.

Paper: LongMemEval: Benchmarking Chat Assistants on Long-Term Interactive Memory, arXiv:2410.10813 (2024). The data are
not part of this package: point `LongMemEval` at longmemeval_s*.json, _m* or _oracle; say which release a figure is for. Scores on
the oracle file, whose histories hold evidence only, are not comparable with the others.
Differs: the prompts of the judge are our own words for the paper's five rubrics; recall is given as fraction, any and
all (the paper's "recall" is all).
Cost: an S history has about 500 turns, a minute of embedding on one core; the whole file 500 times that.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import recollect
from recollect.benchmarks.provenance import provenance, sha256
from recollect.benchmarks.retrieval import DEPTH, Floor, Ranking, by_session, per_question, retrieved, summarise
from recollect.errors import InvalidInput
from recollect.store.importers.files import require_list, require_text
from recollect.store.importers.longmemeval import Session, Turn, items, parse_date, parse_history, records

if TYPE_CHECKING:
    from recollect.lm import LanguageModel
    from recollect.store.embedders import Embedder
    from recollect.store.memory import Memory

TYPES = (
    "single-session-user",
    "single-session-assistant",
    "single-session-preference",
    "multi-session",
    "knowledge-update",
    "temporal-reasoning",
)
KS = (1, 3, 5, 10, 25, 30, 50)  # the paper's and ours
READER_K = 20  # turns that a language model gets

Progress = Callable[[str, int], None]  # the question's id, questions done


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a history."""

    id: str
    type: str
    text: str
    answer: str  # a rubric for preferences, an explanation for unanswerable questions
    asked_at: datetime
    answer_sessions: tuple[str, ...]  # ids of sessions of the history

    @property
    def unanswerable(self) -> bool:
        """Whether the history does not hold the answer."""
        return "_abs" in self.id


@dataclass(frozen=True, slots=True)
class Instance:
    """A history with the questions about it: one in the official form, several in the form with parallel lists."""

    sessions: tuple[Session, ...]  # by time
    questions: tuple[Question, ...]


def load(path: str | Path) -> Iterator[Instance]:
    """The histories of a file, one at a time.

    Raises InvalidInput naming the file, the record and the field that does not fit, NotFound when there is no file.
    """
    for where, record in records(path):
        yield parse_instance(record, where)


def parse_instance(record: Mapping[str, Any], where: str = "the record") -> Instance:
    """One record of either form; raises InvalidInput naming the field that does not fit."""
    sessions = parse_history(record, where)
    known = {session.id for session in sessions}
    latest = max((session.at for session in sessions), default=None)
    if latest is None:
        raise InvalidInput(f"{where}: haystack_sessions is empty.")
    questions = []
    for number, raw in enumerate(_rows(record, where), 1):
        place = where if "question" in record else f"{where}: questions[{number - 1}]"
        when = raw.get("question_date")
        cited = raw.get("answer_session_ids")
        names = [str(name) for name in require_list(cited, place, "answer_session_ids")] if cited is not None else []
        questions.append(
            Question(
                id=str(raw.get("question_id") or f"{where}/q{number}"),
                type=str(raw.get("question_type") or "unknown"),
                text=require_text(raw.get("question"), place, "question"),
                answer="" if raw.get("answer") is None else str(raw["answer"]),
                asked_at=parse_date(when, f"{place}: question_date") if when is not None else latest,
                answer_sessions=tuple(name for name in dict.fromkeys(names) if name in known),
            )
        )
    return Instance(sessions, tuple(questions))


def _rows(record: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The questions of a record of either form, with the official names."""
    names = ("question", "answer", "answer_session_ids", "question_id", "question_type", "question_date")
    if "question" in record:
        return [{name: record.get(name) for name in names}]
    columns = {
        "question": "questions",
        "answer": "answers",
        "answer_session_ids": "answer_session_ids",
        "question_id": "question_ids",
        "question_type": "question_types",
        "question_date": "question_dates",
    }
    texts = require_list(record.get("questions"), where, "questions")
    rows: list[dict[str, Any]] = [{} for _ in texts]
    for name, column in columns.items():
        if record.get(column) is None:
            continue
        values = require_list(record[column], where, column)
        if len(values) != len(texts):
            raise InvalidInput(f"{where}: {column} has {len(values)} entries for {len(texts)} questions.")
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


@dataclass(frozen=True)
class LongMemEval:
    """The benchmark over one file of histories."""

    path: str | Path

    def instances(self) -> Iterator[Instance]:
        """The histories with their questions, one at a time; see `load`."""
        return load(self.path)

    def run(
        self,
        *,
        embedder: str | Embedder | None = None,
        lm: LanguageModel | None = None,
        judge: LanguageModel | None = None,
        max_histories: int | None = None,
        output: str | Path | None = None,
        open_memory: Callable[[Path], Memory] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Ask every question and return the scores as one plain JSON object.

        `lm` answers from the first 20 turns and `judge` (default: `lm`) says if the answer is right, which adds `judged`.
        `max_histories` stops after that many. `output` is a JSONL file to write, one line a question.
        `open_memory(path)` opens the memory to be measured (default: `recollect.open`). Raises InvalidInput, NotFound.
        """
        start = time.perf_counter()
        opener = open_memory or (lambda file: recollect.open(file, embedder=embedder, lm=lm))
        everything: list[Ranking] = []
        user_only: list[Ranking] = []
        verdicts: list[_Verdict] = []
        left_out = {"unanswerable": 0, "no_location": 0}
        seconds = {"ingest": 0.0, "recall": 0.0, "read": 0.0}
        name_of_embedder, num_histories, num_turns, done = None, 0, 0, 0
        for instance in islice(load(self.path), max_histories):
            num_histories += 1
            with (
                tempfile.TemporaryDirectory(prefix="recollect-bench-") as folder,
                opener(Path(folder) / "memory.db") as memory,
            ):
                began = time.perf_counter()
                report = memory.add_many(items(instance.sessions))
                num_turns += report.added
                seconds["ingest"] += time.perf_counter() - began
                name_of_embedder = memory.engine.embedder.name
                history = _History(instance.sessions)
                for question in instance.questions:
                    if lm is not None:
                        began = time.perf_counter()
                        answer = memory.answer(question.text, k=READER_K, at=question.asked_at)
                        verdicts.append(_Verdict(question, answer.text, _is_right(question, answer.text, judge or lm)))
                        seconds["read"] += time.perf_counter() - began
                    if question.unanswerable:
                        left_out["unanswerable"] += 1
                    elif not history.gold(question, user_only=False)["session"]:
                        left_out["no_location"] += 1
                    else:
                        began = time.perf_counter()
                        everything.append(history.ask(memory, question, user_only=False))
                        seconds["recall"] += time.perf_counter() - began
                        if history.gold(question, user_only=True)["turn"]:
                            user_only.append(history.ask(memory, question, user_only=True))
                    done += 1
                    if progress is not None:
                        progress(question.id, done)
        if not num_histories:
            raise InvalidInput(f"path: {Path(self.path).name} holds no history.")
        names = [name for name in (*TYPES, "unknown") if any(ranking.category == name for ranking in everything)]
        names += sorted({ranking.category for ranking in everything} - set(names))
        result = {
            "benchmark": "longmemeval",
            "num_questions": len(everything),
            "left_out": left_out,
            **summarise(everything, names, KS, official_ndcg=True),
            "user_only": {"num_questions": len(user_only)} | summarise(user_only, names, KS, official_ndcg=True),
        }
        if verdicts:
            result["judged"] = _accuracy(verdicts, lm, judge or lm)
        if output is not None:
            _write_lines(Path(output), everything, verdicts)
        return result | {
            "depth": DEPTH,
            "embedder": name_of_embedder,
            "num_histories": num_histories,
            "num_turns": num_turns,
            "data_sha256": sha256(self.path),
            **provenance(),
            "seconds": round(time.perf_counter() - start, 3),
            "seconds_by_part": {part: round(value, 3) for part, value in seconds.items()},
        }


class _History:
    """What one history's questions are scored with."""

    def __init__(self, sessions: Sequence[Session]):
        self.turns: dict[bool, dict[str, Turn]] = {
            user_only: {t.id: t for s in sessions for t in s.turns if t.text.strip() and _searched(t, user_only)}
            for user_only in (False, True)
        }
        self.session_of = {turn.id: session.id for session in sessions for turn in session.turns}
        self.floors = {
            user_only: Floor(list(turns), [turn.text for turn in turns.values()])
            for user_only, turns in self.turns.items()
        }

    def gold(self, question: Question, user_only: bool) -> dict[str, tuple[str, ...]]:
        """The evidence by level. Without marks on turns only the sessions are known, and only for all roles."""
        wanted = set(question.answer_sessions)
        marked = tuple(
            turn.id
            for turn in self.turns[user_only].values()
            if turn.evidence and (not wanted or self.session_of[turn.id] in wanted)
        )
        sessions = by_session(marked, self.session_of)
        if not user_only and question.answer_sessions:
            sessions = question.answer_sessions
        return {"turn": marked, "session": sessions}

    def ask(self, memory: Memory, question: Question, user_only: bool) -> Ranking:
        """The ranking of one question, among all turns or among the user's."""
        speaker = "user" if user_only else None
        hits = memory.recall(question.text, k=DEPTH, at=question.asked_at, speaker=speaker)
        turns = retrieved(memory, hits)
        lowest = self.floors[user_only].rank(question.text)
        num_sessions = len({self.session_of[turn] for turn in self.turns[user_only]})
        return Ranking(
            question_id=question.id,
            category=question.type,
            gold=self.gold(question, user_only),
            ranked={"turn": turns, "session": by_session(turns, self.session_of)},
            floor={"turn": lowest, "session": by_session(lowest, self.session_of)},
            num_units={"turn": len(self.turns[user_only]), "session": num_sessions},
            details={"question": question.text, "answer": question.answer},
        )


def _searched(turn: Turn, user_only: bool) -> bool:
    return turn.role == "user" or not user_only


_RUBRICS: Mapping[str, str] = {
    "default": (
        "The reply is right if it says the same as the correct answer or holds every step that leads to it. "
        "A reply with only a part of what the correct answer asks for is wrong."
    ),
    "temporal-reasoning": (
        "The reply is right if it says the same as the correct answer or holds every step that leads to it. "
        "A reply with only a part of it is wrong. A count of days, weeks or months that is off by one is still right."
    ),
    "knowledge-update": (
        "The reply is right if it gives the newest value, the one in the correct answer. "
        "It may mention earlier values too, as long as the newest one is given as what holds now."
    ),
    "single-session-preference": (
        "The correct answer describes what a reply that suits this user looks like. The reply is right if it recalls and "
        "uses what the user told about themselves in that way; it need not meet every point."
    ),
    "unanswerable": (
        "The question cannot be answered from what the user told, for the reason given as the correct answer. "
        "The reply is right if it says that the information is missing or incomplete, or that only something else is known."
    ),
}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A question, the answer that was given, and whether the judge takes it for right."""

    question: Question
    answer: str
    right: bool


def _is_right(question: Question, answer: str, judge: LanguageModel) -> bool:
    kind = "unanswerable" if question.unanswerable else question.type
    rubric = _RUBRICS.get(kind, _RUBRICS["default"])
    content = (
        f"{rubric}\n\nQuestion: {question.text}\nCorrect answer: {question.answer}\nReply: {answer}\n\n"
        "Is the reply right? Say yes or no, nothing else."
    )
    reply = judge.complete([{"role": "user", "content": content}], max_tokens=10)
    return "yes" in reply.text.lower()


def _accuracy(verdicts: Sequence[_Verdict], lm: Any, judge: Any) -> dict[str, Any]:
    """Accuracy over all questions, by type, averaged over types, and over the unanswerable ones."""

    def share(part: Sequence[_Verdict]) -> float:
        return sum(verdict.right for verdict in part) / len(part)

    types = {name: [v for v in verdicts if v.question.type == name] for name in {v.question.type for v in verdicts}}
    by_type = {name: {"num_questions": len(part), "accuracy": share(part)} for name, part in sorted(types.items())}
    unanswerable = [verdict for verdict in verdicts if verdict.question.unanswerable]
    return {
        "reader": lm.name,
        "judge": judge.name,
        "k": READER_K,
        "num_questions": len(verdicts),
        "accuracy": share(verdicts),
        "accuracy_mean_of_types": sum(entry["accuracy"] for entry in by_type.values()) / len(by_type),
        "by_category": by_type,
        "unanswerable": {"num_questions": len(unanswerable), "accuracy": share(unanswerable)} if unanswerable else None,
    }


def _write_lines(path: Path, rankings: Sequence[Ranking], verdicts: Sequence[_Verdict]) -> None:
    judged = {verdict.question.id: verdict for verdict in verdicts}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for ranking in rankings:
            line = per_question(ranking, KS, official_ndcg=True)
            if ranking.question_id in judged:
                line |= _verdict_line(judged.pop(ranking.question_id))
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        for verdict in judged.values():
            line = {"question_id": verdict.question.id, "category": verdict.question.type} | _verdict_line(verdict)
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _verdict_line(verdict: _Verdict) -> dict[str, Any]:
    return {"judged": {"text": verdict.answer, "right": verdict.right}}
