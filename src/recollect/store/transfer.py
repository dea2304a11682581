"""Export and restore: everything of one user as plain JSON lines that any program can read.

Line 1 is a header, then one line for each episode, note and link, then a line with the count, so that a file that was cut
short is noticed. The header says what each method has derived, so that it need not be derived again. Times are ISO 8601
with microseconds and the writer's offset. Vectors are caches and are not written.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recollect.errors import InvalidInput
from recollect.store import derivation, notes
from recollect.store.duplicates import digest
from recollect.store.episodes import NewEpisode
from recollect.store.method import method_targets
from recollect.store.notes import NewNote
from recollect.store.records import Episode, Link, Note, parse_time, to_json
from recollect.store.views import Filter

if TYPE_CHECKING:
    from recollect.store.memory import Memory, Progress

FORMAT = 1
BATCH = 256


@dataclass(frozen=True, slots=True)
class ImportedRecords:
    """What `import_` restored."""

    episodes: int
    notes: int
    links: int
    existing: int  # records that were there already


def export_records(memory: Memory, path: Path, progress: Progress | None) -> int:
    """Write the user's records to `path`, whole or not at all."""
    path = path.expanduser()
    if not path.parent.is_dir():
        raise InvalidInput(f"path: the folder {path.parent} does not exist; create it first.")
    if path.is_dir():
        raise InvalidInput(f"path: {path} is a folder; give the name of a file.")
    count = 0
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file, memory.engine.db.snapshot():
                for line in _lines(memory):
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    count += "end" not in line and "recollect_export" not in line
                    if progress is not None and count % BATCH == 0:
                        progress(BATCH)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise InvalidInput(f"path: {path} cannot be written ({error.strerror}).") from error
    return count


def _lines(memory: Memory) -> Iterator[dict[str, Any]]:
    db, whole = memory.engine.db, Filter(memory.user, memory.agent)
    yield {
        "recollect_export": FORMAT,
        "user": memory.user,
        "exported_at": datetime.now().astimezone().isoformat(),
        "derived": derivation.marks(db, memory.user) if memory.agent is None else {},
    }
    count = 0
    for _, episode in db.episodes_where(whole):
        count += 1
        yield {"episode": to_json(episode)}
    agents = dict(db.rows("SELECT n.id, s.agent FROM notes n JOIN sessions s ON s.ref = n.session WHERE s.agent <> ''"))
    ids: set[str] = set()
    for note in notes.where(db, whole).values():
        count += 1
        ids.add(note.id)
        yield {"note": to_json(note) | {"agent": agents.get(note.id)}}
    for row in db.rows(
        "SELECT source, target, relation, weight, method FROM links l JOIN users u ON u.ref = l.user WHERE u.name = ? "
        "ORDER BY source, target, relation",
        (memory.user,),
    ):
        count += 1
        yield {"link": to_json(Link(*row))}
    yield {"end": count}


def is_export(path: Path) -> bool:
    """Whether a file begins as `export_records` begins."""
    try:
        with open(path.expanduser(), encoding="utf-8") as file:
            return file.read(23).startswith('{"recollect_export":')
    except (OSError, UnicodeDecodeError):
        return False


def import_records(memory: Memory, path: Path, progress: Progress | None) -> ImportedRecords:
    """Restore an export for the user of `memory`. The whole file is checked before anything is written."""
    for _ in _read(path):
        pass
    done = {"episode": 0, "note": 0, "link": 0, "existing": 0}
    renamed: dict[str, str] = {}
    pointers: list[tuple[str, str, str]] = []  # (column, note, the note that it points to)
    marks = derivation.complete_marks(memory.engine.db, memory.user, _derived(path))
    batch: list[NewEpisode] = []

    def flush() -> None:
        added = _restore_episodes(memory, batch, renamed)
        done["episode"] += added
        done["existing"] += len(batch) - added
        if progress is not None:
            progress(len(batch))
        batch.clear()

    for number, kind, fields in _read(path):
        if kind == "episode":
            batch.append(_episode(memory, fields, number))
            if len(batch) == BATCH:
                flush()
            continue
        if batch:
            flush()
        if kind == "note":
            if fields["method"] in method_targets() and fields["method"] not in marks:
                continue  # derived again from the episodes
            pointers += [(column, fields["id"], fields[column]) for column in _POINTERS if fields.get(column)]
            done["note" if _restore_note(memory, fields, renamed) else "existing"] += 1
        else:
            link = Link(**fields)
            if link.method in method_targets() and link.method not in marks:
                continue
            link = replace(
                link, source=renamed.get(link.source, link.source), target=renamed.get(link.target, link.target)
            )
            done["existing" if link in notes.links_of(memory.engine.db, link.source, memory.user) else "link"] += 1
            notes.insert_links(memory.engine.db, [link], memory.user)
        if progress is not None:
            progress(1)
    if batch:
        flush()
    for column, note, target in pointers:
        notes.point(memory.engine.db, column, renamed.get(note, note), renamed.get(target, target), memory.user)
    derivation.set_marks(memory.engine.db, memory.user, marks, renamed)
    memory.engine.tend_index(done["episode"])
    return ImportedRecords(done["episode"], done["note"], done["link"], done["existing"])


def _restore_episodes(memory: Memory, batch: list[NewEpisode], renamed: dict[str, str]) -> int:
    """Write episodes under their own ids; one whose id another user of this file has gets a new one."""
    from recollect.store.checks import new_id

    db = memory.engine.db
    stored = db.existing([item.key for item in batch])
    with db.everyone():
        ids = db.rows_in("SELECT id FROM episodes WHERE id IN ({})", [item.episode.id for item in batch])
    taken = {row[0] for row in ids}
    fresh = []
    for item in batch:
        if item.key in stored:
            renamed[item.episode.id] = stored[item.key][0]
            continue
        if item.episode.id in taken:
            item.episode, old = replace(item.episode, id="ep_" + new_id(item.episode.recorded_at)), item.episode.id
            renamed[old] = item.episode.id
        fresh.append(item)
    return memory.engine.write(fresh) if fresh else 0


def _restore_note(memory: Memory, fields: dict[str, Any], renamed: dict[str, str]) -> bool:
    db = memory.engine.db
    agent = fields.pop("agent", None)
    kept = {name: value for name, value in fields.items() if name not in (*_POINTERS, "at")}
    note = Note(
        **kept
        | {
            "sources": tuple(renamed.get(source, source) for source in fields["sources"]),
            "recorded_at": parse_time(fields["recorded_at"], "recorded_at"),
            "valid_from": parse_time(fields["valid_from"], "valid_from") if fields["valid_from"] else None,
            "valid_to": None
            if fields.get("closed_by") or not fields["valid_to"]
            else parse_time(fields["valid_to"], "valid_to"),
        }
    )
    if notes.owns(db, note.id, memory.user):
        return False
    with db.everyone():
        taken = db.rows("SELECT 1 FROM notes WHERE id = ?", (note.id,))
    if taken:
        from recollect.store.checks import new_id

        renamed[note.id] = "no_" + new_id(note.recorded_at)
        note = replace(note, id=renamed[note.id])
    derived = note.method in method_targets()
    item = NewNote(note, agent, same=digest(note.text) if derived else None)
    with memory.engine.writing_notes([item], tokens=not derived):
        notes.insert(db, [item], memory.user)
    return True


def _episode(memory: Memory, fields: dict[str, Any], number: int) -> NewEpisode:
    episode = Episode(
        **fields
        | {
            "user": memory.user,
            "at": parse_time(fields["at"], f"line {number}: at"),
            "recorded_at": parse_time(fields["recorded_at"], f"line {number}: recorded_at"),
        }
    )
    return NewEpisode.of(episode)


_FIELDS = {
    "episode": (Episode, {"id", "text", "at", "recorded_at"}),
    "note": (
        Note,
        {"id", "kind", "text", "method", "method_version", "sources", "recorded_at", "valid_from", "valid_to"},
    ),
    "link": (Link, {"source", "target", "relation"}),
}


_POINTERS = ("replaced_by", "closed_by")


def _derived(path: Path) -> dict[str, Any]:
    """What the first line of an export says of its methods. Raises InvalidInput."""
    marks = next((line.get("derived") or {} for _, line in _json_lines(path)), {})
    try:
        return {
            str(method): mark | {"waiting": [(str(id_), int(tries), str(why)) for id_, tries, why in mark["waiting"]]}
            for method, mark in marks.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidInput(f"path: line 1 of {path} does not say properly what was derived.") from None


def _read(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line number, kind, fields) of each record; raises InvalidInput for anything that is not a whole export."""
    count, ended = 0, False
    for number, line in _json_lines(path):
        if number == 1:
            if line.get("recollect_export") != FORMAT:
                raise InvalidInput(f"path: {path} is not an export of recollect (format {FORMAT}).")
            continue
        if "end" in line:
            if line["end"] != count:
                raise InvalidInput(
                    f"path: {path} holds {count} records where its last line says {line['end']}; it is damaged."
                )
            ended = True
            continue
        kind = next(iter(line), "")
        if len(line) != 1 or kind not in _FIELDS or not isinstance(line[kind], dict):
            raise InvalidInput(f"path: line {number} of {path} is neither an episode, a note nor a link.")
        record, needed = _FIELDS[kind]
        known = set(record.__dataclass_fields__) | {"agent"}
        if needed - set(line[kind]) or set(line[kind]) - known:
            wrong = min((needed - set(line[kind])) | (set(line[kind]) - known))
            raise InvalidInput(f"path: line {number} of {path} lacks, or does not know, the field {wrong!r}.")
        _check_types(record, line[kind], f"path: line {number} of {path}")
        count += 1
        yield number, kind, line[kind]
    if not ended:
        raise InvalidInput(f"path: {path} was cut short: its last line is missing.")


def _check_types(record: type, fields: dict[str, Any], where: str) -> None:
    """Raise InvalidInput unless every field has the type that the record gives it."""
    from pydantic import TypeAdapter, ValidationError

    if record not in _adapters:
        _adapters[record] = TypeAdapter(record)
    agent = fields.get("agent")
    try:
        json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise InvalidInput(f"{where}: holds half of a surrogate pair, or a number that is none.") from None
    try:
        _adapters[record].validate_python({name: value for name, value in fields.items() if name != "agent"})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: the field {field!r} cannot be used ({first['msg']}).") from None
    if agent is not None and not isinstance(agent, str):
        raise InvalidInput(f"{where}: the field 'agent' is no text.")
    if record is not Link and not _ID.fullmatch(fields["id"]):
        raise InvalidInput(f"{where}: the field 'id' is not an id of recollect.")


_ID = re.compile(r"(?:ep|no)_\w{1,60}", re.ASCII)
_adapters: dict[type, Any] = {}


def _json_lines(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        with open(path.expanduser(), encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise InvalidInput(f"path: line {number} of {path} is not a JSON object.")
                yield number, line
    except OSError as error:
        raise InvalidInput(f"path: {path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"path: {path} is not JSON lines ({error}).") from error
