"""Rounds: a turn and the reply to it, the unit in which chat memories keep a conversation.

A round is opened by a turn and completed by the next one if somebody else says it; an assistant's turn without a question
before it does not take the user's next turn as its reply. A turn without a session is a round by itself, as nothing tells
what it replies to. Values of a whole session grow with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recollect.store import notes
from recollect.store.engine import Engine
from recollect.store.hits import episode_hit
from recollect.store.method import Method, Scope
from recollect.store.records import EPISODE, Episode, Hit
from recollect.store.views import View

ASSISTANTS = frozenset({"assistant", "ai", "bot", "chatgpt", "claude", "gemini", "gpt", "model", "system"})
ROUND_TURNS = 2

Value = tuple[list[Episode], str | None]  # its turns, and the note of the shorter value whose place it takes


def grouped(
    engine: Engine, scope: Scope, method: Method, kind: str, episodes: Sequence[Episode], *, by_session: bool = False
) -> list[Value]:
    """The values, kept as notes of a kind, that episodes make or complete; `by_session`: one of each session."""
    values: list[Value] = []
    sessions: dict[str | None, list[Episode]] = {}
    for episode in episodes:
        sessions.setdefault(episode.session, []).append(episode)
    for session, turns in sessions.items():
        if session is None:
            values += [([turn], None) for turn in turns]
            continue
        current, grown = _last(engine, scope, method, kind, session)
        changed = False
        for turn in turns:
            if current and not by_session and not _replies(turn, current):
                if changed:
                    values.append((current, grown))
                current, grown = [], None
            current, changed = [*current, turn], True
        values.append((current, grown))
    return values


def _last(engine: Engine, scope: Scope, method: Method, kind: str, session: str) -> Value:
    """The last value of a session; empty when there is none, or when it was said several times."""
    where, bound = View(replace(scope.filter, session=session), method.name, (kind,)).sql()
    newest = (
        "AND n.seq = (SELECT max(m.seq) FROM notes m WHERE m.session = n.session AND m.method = n.method "
        "AND m.kind = n.kind)"
    )
    found = list(notes.select(engine.db, f"{where} {newest}", bound).values())
    if not found or (found[0].any_source and len(found[0].sources) > 1):
        return [], None
    return episodes_of(engine, found[0].sources), found[0].id


def _replies(turn: Episode, value: Sequence[Episode]) -> bool:
    opener = value[0]
    greeted = is_assistant(opener) and not is_assistant(turn)
    return len(value) < ROUND_TURNS and turn.speaker != opener.speaker and not greeted


def is_assistant(turn: Episode) -> bool:
    """Whether a turn was said by an assistant, as far as the name of its speaker tells."""
    return (turn.speaker or "").casefold() in ASSISTANTS


def users_of(turns: Sequence[Episode]) -> list[Episode]:
    """The turns of those who are no assistants; all, when there are only assistants."""
    return [turn for turn in turns if not is_assistant(turn)] or list(turns)


def told(turns: Sequence[Episode]) -> str:
    """The turns as lines of "speaker: text"."""
    return "\n".join(f"{turn.speaker}: {turn.text}" if turn.speaker else turn.text for turn in turns)


def turn_by_turn(engine: Engine, hits: Sequence[Hit]) -> list[Hit]:
    """The hits, with those whose text is that of several turns taken apart into these turns."""
    found: list[Hit] = []
    for hit in hits:
        turns = episodes_of(engine, hit.sources) if "\n" in hit.text or hit.kind != EPISODE else []
        if turns and hit.text == told(turns):
            found += [episode_hit(turn, hit.score, hit.why) for turn in turns]
        else:
            found.append(hit)
    return found


def episodes_of(engine: Engine, ids: Sequence[str]) -> list[Episode]:
    """Episodes by id, in order of writing; what was forgotten is left out."""
    rows = [row[0] for row in engine.db.rows_in("SELECT seq FROM episodes WHERE id IN ({})", ids)]
    return [episode for _, episode in sorted(engine.db.episodes(rows).items())]
