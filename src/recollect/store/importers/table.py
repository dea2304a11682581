"""Import any table of messages: JSONL (one object a line), CSV or TSV with a header line.

`columns` says which column holds what: "text=body,speaker=author,at=date". Fields are text (needed), speaker, session,
at and source_id; a field that is not named is taken from the column of the same name, if there is one. In JSONL a
dotted name reaches into objects ("text=message.body"). Columns that are not used become `meta` if they hold plain values
(texts up to 10,000 characters, numbers, true and false).

Source ids: the column if there is one; else a digest of the row's content and time, or, for rows without a time, of
its content and line number. Memory: that of the longest row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.importers.dates import any_time
from recollect.store.importers.files import Tally, digest, existing, open_text

FIELDS = ("text", "speaker", "session", "at", "source_id")
_MAX_FIELD_CHARS = 1 << 28
_MAX_NAME_CHARS = 1000  # of a speaker, a session or an id
_MAX_META_CHARS = 10_000  # of one value that is kept beside the text


def parse_columns(columns: str | Mapping[str, str] | None) -> dict[str, str]:
    """The mapping from field to column; raises InvalidInput when it is not written as "text=body,at=date"."""
    if columns is None:
        return {}
    if isinstance(columns, str):
        pairs = [part.partition("=") for part in columns.split(",") if part.strip()]
        if any(not (field.strip() and equals and column.strip()) for field, equals, column in pairs):
            raise InvalidInput(f"columns: {columns!r:.80} cannot be read; write text=body,speaker=author,at=date.")
        columns = {field.strip(): column.strip() for field, _, column in pairs}
    for field in columns:
        if field not in FIELDS:
            raise InvalidInput(f"columns: there is no field {field!r}; the fields are {', '.join(FIELDS)}.")
    return dict(columns)


def read(
    path: str | Path,
    *,
    tally: Tally | None = None,
    columns: str | Mapping[str, str] | None = None,
    time_format: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Items for `Memory.add_many`, row by row.

    `time_format` is a strptime form for the times, for files that use neither ISO 8601 nor seconds since 1970. Rows
    without text are skipped; a damaged row is left out and noted in `tally`. Raises InvalidInput when the file is no
    such table or lacks a named column, NotFound when it does not exist.
    """
    tally = tally if tally is not None else Tally()
    path = existing(path)
    given = parse_columns(columns)
    rows = _json_rows(path, tally) if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv_rows(path, tally)
    checked = False
    for line, row in rows:
        where = f"{path.name}: line {line}"
        used = given | {field: field for field in FIELDS if field not in given and field in row}
        if not checked:
            _check(used, given, row, where)
            checked = True
        try:
            item = _item(row, used, where, line, time_format)
        except InvalidInput as error:
            tally.damage(str(error))
            continue
        if item is None:
            tally.skip()
        else:
            yield tally.keep(item)
    tally.finish()


def _check(used: Mapping[str, str], given: Mapping[str, str], row: Mapping[str, Any], where: str) -> None:
    found = ", ".join(str(name) for name in row)
    if "text" not in used:
        raise InvalidInput(f"columns: {where} has no column text, only {found:.200}; say which it is, as in text=body.")
    for field, column in given.items():
        if _missing(row, column):
            raise InvalidInput(f"columns: {where} has no column {column!r} for {field}, only {found:.200}.")


def _missing(row: Mapping[str, Any], column: str) -> bool:
    return column not in row and column.partition(".")[0] not in row


def _value(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _item(
    row: Mapping[str, Any], used: Mapping[str, str], where: str, line: int, time_format: str | None
) -> dict[str, Any] | None:
    values = {field: _value(row, column) for field, column in used.items()}
    values = {field: value for field, value in values.items() if value is not None and value != ""}
    text = values.get("text")
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidInput(f"{where}: {used['text']} should be a text, not {text!r:.40}.")
    if not text.strip():
        return None
    item: dict[str, Any] = {"text": text}
    for field in ("speaker", "session", "source_id"):
        if field in values:
            if isinstance(values[field], Mapping | list):
                raise InvalidInput(f"{where}: {used[field]} should be a text or a number, not {values[field]!r:.40}.")
            item[field] = str(values[field])
            if len(item[field]) > _MAX_NAME_CHARS:
                raise InvalidInput(f"{where}: {used[field]} has more than {_MAX_NAME_CHARS} characters.")
    if "at" in values:
        item["at"] = any_time(values["at"], f"{where}: {used['at']}", time_format)
    if "source_id" not in item:
        when = item["at"].isoformat() if "at" in item else f"line {line}"
        item["source_id"] = "table:" + digest(text, item.get("speaker"), item.get("session"), when)
    taken = {column.partition(".")[0] for column in used.values()} | set(used.values())
    meta = {str(name): value for name, value in row.items() if name not in taken and _is_plain(value)}
    if meta:
        item["meta"] = meta
    return item


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= _MAX_META_CHARS
    return isinstance(value, int | float) and isfinite(value)


def _json_rows(path: Path, tally: Tally) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with open_text(path) as stream:
        for line, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text, strict=False)
            except (ValueError, RecursionError) as error:
                tally.damage(f"{path.name}: line {line} is not a JSON object ({error!s:.80}).")
                continue
            if not isinstance(row, Mapping):
                tally.damage(f"{path.name}: line {line} is not a JSON object but {type(row).__name__}.")
                continue
            yield line, row


def _csv_rows(path: Path, tally: Tally) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD_CHARS))
    with open_text(path, newline="") as stream:
        header = stream.readline()
        delimiter = max(",;\t|", key=header.count)
        names = next(csv.reader([header], delimiter=delimiter), [])
        names = [name.strip() for name in names]
        if not any(names):
            raise InvalidInput(f"{path.name}: line 1 should name the columns.")
        rows = csv.reader(stream, delimiter=delimiter)
        try:
            for row in rows:
                line = rows.line_num + 1
                if not row:
                    continue
                if len(row) != len(names):
                    tally.damage(f"{path.name}: line {line} has {len(row)} columns, the header names {len(names)}.")
                    continue
                yield line, dict(zip(names, row, strict=True))
        except csv.Error as error:
            raise InvalidInput(f"{path.name}: line {rows.line_num + 1} is no CSV ({error}).") from None
