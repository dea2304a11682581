"""Import a diary: a folder of Markdown or text files with dated names, or one such file.

Dates are read from the name (2024-05-12.md, 20240512.txt, "May 12 2024.md", "2024-05-12 Lisbon.md") or from the
folders above it (2024/05/12.txt). A short entry is one episode; a longer one is split at blank lines, and a heading
stays with the paragraph below it. The session is the day; the time is noon of that day; a source id is the day and a
digest of the words, so that paragraphs that are already stored are not added again when an entry grew. Memory: that of
the longest entry.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.importers.dates import find_date
from recollect.store.importers.files import Tally, digest, existing, open_text
from recollect.store.records import parse_time

SUFFIXES = (".md", ".markdown", ".txt", ".text")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_HEADING = re.compile(r"#{1,6} [^\n]*|[^\n]+\n(?:=+|-+)")


def read(
    path: str | Path, *, tally: Tally | None = None, me: str | None = None, split_over_chars: int = 400
) -> Iterator[dict[str, Any]]:
    """Items for `Memory.add_many`, day by day.

    `me` is the speaker of every entry. Entries of more than `split_over_chars` characters are split in paragraphs.
    Text files without a date in their name, and files that are not text, are left out and noted in `tally`. Raises
    InvalidInput when no file has a date, NotFound when `path` does not exist.
    """
    tally = tally if tally is not None else Tally()
    path = existing(path)
    for day, file in dated_files(path, tally):
        try:
            with open_text(file) as stream:
                text = stream.read()
        except InvalidInput as error:
            tally.damage(str(error))
            continue
        at = parse_time(datetime.combine(day, time(12)))
        seen: Counter[str] = Counter()
        pieces = paragraphs(text, split_over_chars)
        if not pieces:
            tally.skip()
        for piece in pieces:
            key = digest(piece)
            seen[key] += 1
            source = f"diary:{day.isoformat()}/{key}" + (f"-{seen[key]}" if seen[key] > 1 else "")
            item = {
                "text": piece,
                "session": day.isoformat(),
                "at": at,
                "source_id": source,
                "meta": {"file": file.name},
            }
            yield tally.keep(item if me is None else item | {"speaker": me})
    tally.finish()


def dated_files(path: Path, tally: Tally | None = None) -> list[tuple[date, Path]]:
    """The text files under `path` whose name or folders hold a date, by date; raises InvalidInput if there is none."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
    found: list[tuple[date, Path]] = []
    for file in files:
        if not file.is_file() or any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        inner = (
            "/".join((*file.parts[-3:-1], file.stem)) if path.is_file() else str(file.relative_to(path).with_suffix(""))
        )
        day = find_date(file.stem) or find_date(inner) or find_date(f"{path.name}/{inner}")
        if day is not None:
            found.append((day, file))
        elif tally is not None:
            tally.skip(f"{inner}{file.suffix}: no date in the name, left out; name it 2024-05-12.md.")
    if not found:
        raise InvalidInput(f"path: {path.name} holds no text file with a date in its name, such as 2024-05-12.md.")
    return sorted(found)


def paragraphs(text: str, split_over_chars: int) -> list[str]:
    """The episodes of an entry: itself when short, else its paragraphs, each with the headings above it."""
    text = _FRONT_MATTER.sub("", text.replace("\r\n", "\n")).strip()
    if len(text) <= split_over_chars:
        return [text] if text else []
    pieces: list[str] = []
    headings: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        block = block.strip("\n").rstrip()
        if not block.strip():
            continue
        if _HEADING.fullmatch(block):
            headings.append(block)
            continue
        pieces.append("\n".join([*headings, block]))
        headings = []
    if headings:
        pieces.append("\n".join(headings))
    return pieces
