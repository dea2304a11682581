"""Importers: bring conversations and diaries from elsewhere into a memory, streaming and without duplicates.

Every format has a module with a generator `read(path, *, tally=None, **options)` of items for `Memory.add_many`. Each
item has a source id that stays the same, so that importing again adds nothing and an interrupted import can simply be
run again.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recollect.errors import InvalidInput
from recollect.store.importers import diary, whatsapp
from recollect.store.importers.exports import conversations
from recollect.store.importers.files import Tally, existing, json_array, members, open_text

if TYPE_CHECKING:
    from recollect.store.memory import Memory

__all__ = ["FORMATS", "ImportReport", "detect", "import_file", "read"]


@dataclass(frozen=True, slots=True)
class Format:
    """One format that can be imported."""

    name: str
    what: str  # for people
    options: tuple[str, ...]  # keyword arguments of its `read`


FORMATS: Mapping[str, Format] = {
    entry.name: entry
    for entry in (
        Format("chatgpt", "ChatGPT data export (zip, folder or conversations.json)", ("me",)),
        Format("claude", "Claude data export (zip, folder or conversations.json)", ("me",)),
        Format("table", "JSONL, CSV or TSV with a column of text", ("columns", "time_format")),
        Format("diary", "folder of Markdown or text files with dated names", ("me", "split_over_chars")),
        Format("whatsapp", "WhatsApp chat export (txt or zip)", ("date_order", "time_zone")),
        Format("locomo", "LoCoMo conversations (JSON)", ("sample",)),
        Format("longmemeval", "one LongMemEval history (JSON)", ("question",)),
    )
}


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. `read` = `added` + `existing`: the episodes that the file holds and that could be read."""

    format: str
    read: int
    added: int
    existing: int
    skipped: int  # records that hold nothing to remember: system lines, hidden messages, photos without words
    damaged: int  # records that could not be read
    problems: tuple[str, ...]  # the first 20

    def to_json(self) -> dict[str, Any]:
        """This report as plain JSON values."""
        return asdict(self) | {"problems": list(self.problems)}


def import_file(
    memory: Memory,
    path: str | Path,
    format: str | None = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> ImportReport:
    """Import a file, archive or folder into a memory; run it again to resume or to bring in what is new.

    `format` is a name in FORMATS, None detects it; `progress` is called as in `Memory.add_many`; `options` are those of
    the format. Raises InvalidInput when the format or an option does not exist or the file does not fit, NotFound when
    the path does not exist. What was read before an error stays in the memory.
    """
    tally = Tally()
    name = format or detect(path)
    report = memory.add_many(read(path, name, tally, **options), progress=progress)
    return ImportReport(
        format=name,
        read=tally.kept,
        added=report.added,
        existing=report.existing,
        skipped=tally.skipped,
        damaged=tally.damaged,
        problems=tuple(tally.problems),
    )


def read(path: str | Path, format: str, tally: Tally | None = None, **options: Any) -> Iterator[dict[str, Any]]:
    """Items for `Memory.add_many` from a file in the given format; see `import_file`."""
    if format not in FORMATS:
        raise InvalidInput(f"format: there is no {format!r}; the formats are {', '.join(FORMATS)}.")
    for option in options:
        if option not in FORMATS[format].options:
            known = ", ".join(FORMATS[format].options)
            raise InvalidInput(f"{option}: the format {format} has no such option; it has {known}.")
    module = import_module(f"recollect.store.importers.{format}")
    return module.read(path, tally=tally, **options)


def detect(path: str | Path) -> str:
    """The name of the format of a file, archive or folder; raises InvalidInput listing the formats when none fits."""
    path = existing(path)
    try:
        name = _detect(path)
    except InvalidInput as error:
        raise InvalidInput(f"{error} {_hint()}") from None
    if name is None:
        raise InvalidInput(f"path: the format of {path.name} is not known. {_hint()}")
    return name


def _hint() -> str:
    return "Name the format if you know it: " + ", ".join(FORMATS) + "."


def _detect(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if path.is_dir():
        if any(path.rglob("conversations*.json")):
            return _of_record(path)
        if any(file.suffix.lower() in diary.SUFFIXES for file in path.rglob("*")):
            return "diary"
        return "locomo" if any(path.glob("*.json")) else None
    if zipfile.is_zipfile(path):
        return "whatsapp" if members(path, r"_chat\.txt|.*WhatsApp.*\.txt") else _of_record(path)
    if suffix == ".json":
        return _of_json(path)
    if suffix in (".jsonl", ".ndjson", ".csv", ".tsv"):
        return "table"
    if suffix in diary.SUFFIXES:
        if whatsapp.looks_right(path):
            return "whatsapp"
        return "diary" if diary.dated_files(path) else None
    return None


def _of_record(path: Path) -> str | None:
    """The format of an export of a chat assistant, by its first conversation."""
    for _, record in islice(conversations(path, Tally()), 1):
        return _of_keys(record)
    return None


def _of_json(path: Path) -> str | None:
    with open_text(path) as stream:
        for _, record in islice(json_array(stream, path.name), 1):
            return _of_keys(record)
    return None


def _of_keys(record: Any) -> str | None:
    if not isinstance(record, Mapping):
        return None
    marks = {
        "mapping": "chatgpt",
        "chat_messages": "claude",
        "conversation": "locomo",
        "haystack_sessions": "longmemeval",
    }
    return next((name for key, name in marks.items() if key in record), None)
