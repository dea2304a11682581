"""Open the files that importers read: plain text, members of zip archives, and JSON arrays too large for memory.

Nothing is ever extracted to disk: an archive's members are read as streams, so that a name such as "../../x" in an
archive has no effect. A member that claims to unpack to an absurd size is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from recollect.errors import InvalidInput, NotFound

MAX_MEMBER_BYTES = 16 << 30  # unpacked size of one member of an archive
MAX_RATIO = 500  # unpacked to packed size, for members above RATIO_FLOOR_BYTES; exports of chats pack 3 to 20 times
RATIO_FLOOR_BYTES = 64 << 20
MAX_RECORD_CHARS = 1 << 28  # one element of a JSON array
NUM_KEPT_PROBLEMS = 20
_HALF = re.compile("[\ud800-\udfff]")
NUM_BAD_BEFORE_GIVING_UP = 20  # damaged records at the start, with not one good record among them


@dataclass(slots=True)
class Tally:
    """What one import met: records kept, records with nothing to keep, and damaged ones with the first messages."""

    kept: int = 0
    skipped: int = 0
    damaged: int = 0
    problems: list[str] = field(default_factory=list)

    def keep(self, item: dict[str, Any]) -> dict[str, Any]:
        """Count a good record and hand it back, with halves of surrogate pairs (cut emoji) replaced by U+FFFD."""
        self.kept += 1
        return _clean(item)

    def skip(self, reason: str | None = None) -> None:
        """Count a record that holds nothing to remember, such as a system line; keep `reason` among the problems."""
        self.skipped += 1
        if reason is not None and len(self.problems) < NUM_KEPT_PROBLEMS:
            self.problems.append(reason)

    def damage(self, message: str) -> None:
        """Note a damaged record; raises InvalidInput with `message` when the file starts with nothing but damage."""
        self.damaged += 1
        if len(self.problems) < NUM_KEPT_PROBLEMS:
            self.problems.append(message)
        if not self.kept and self.damaged >= NUM_BAD_BEFORE_GIVING_UP:
            raise InvalidInput(self.problems[0])

    def finish(self) -> None:
        """Raise InvalidInput with the first problem when every record was damaged."""
        if self.damaged and not self.kept:
            raise InvalidInput(self.problems[0])


def _clean(value: Any) -> Any:
    """The same value with every text in it valid Unicode."""
    if isinstance(value, str):
        return value if _HALF.search(value) is None else _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


def existing(path: str | Path) -> Path:
    """`path` as a Path; raises NotFound when there is no such file or folder."""
    path = Path(path)
    if not path.exists():
        raise NotFound(f"path: {path} does not exist; check the spelling.")
    return path


def digest(*parts: str | None) -> str:
    """Sixteen hexadecimal digits that stand for these texts; the same texts give the same digits everywhere."""
    joined = "\x1f".join("\x00" if part is None else part for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def members(path: Path, pattern: str) -> list[str]:
    """Names of the files in a zip archive whose last part matches the regular expression `pattern`, sorted.

    Raises InvalidInput when the archive is damaged, or a matching member is encrypted or unpacks to an absurd size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [i for i in archive.infolist() if re.fullmatch(pattern, i.filename.rsplit("/", 1)[-1])]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InvalidInput(f"{path.name}: the archive cannot be read ({error}); download it again.") from None
    for info in infos:
        packed = max(info.compress_size, 1)
        too_dense = info.file_size > RATIO_FLOOR_BYTES and info.file_size / packed > MAX_RATIO
        if info.file_size > MAX_MEMBER_BYTES or too_dense:
            raise InvalidInput(
                f"{path.name}: {info.filename} unpacks from {packed} to {info.file_size} bytes, which no export does; "
                "unpack it yourself and import the file if you trust it."
            )
        if info.flag_bits & 1:
            raise InvalidInput(f"{path.name}: {info.filename} is encrypted; unpack the archive and import the file.")
    return sorted(info.filename for info in infos)


@contextmanager
def open_text(path: Path, member: str | None = None, newline: str | None = None) -> Iterator[TextIO]:
    """A text stream over a file, or over one member of a zip archive; UTF-8, or UTF-16 with its byte-order mark.

    Raises InvalidInput, also later while the stream is read, when the bytes are not such text or the archive is
    damaged.
    """
    name = f"{path.name}/{member}" if member else path.name
    try:
        if member is None:
            with path.open("rb") as raw:
                start = raw.read(2)
                raw.seek(0)
                with io.TextIOWrapper(raw, _encoding(start), newline=newline) as text:
                    yield text
        else:
            with zipfile.ZipFile(path) as archive:
                with archive.open(member) as raw:
                    start = raw.read(2)
                with archive.open(member) as raw, io.TextIOWrapper(raw, _encoding(start), newline=newline) as text:
                    yield text
    except UnicodeError as error:
        raise InvalidInput(f"{name}: not UTF-8 text ({error}); save it as UTF-8.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InvalidInput(f"{name}: the archive is damaged ({error}); download it again.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise InvalidInput(f"{name}: cannot be read ({error.strerror}).") from None


def _encoding(start: bytes) -> str:
    return "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def require_mapping(value: Any, where: str, name: str) -> Mapping[str, Any]:
    """`value` if it is a JSON object; raises InvalidInput naming the place and the field otherwise."""
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where}: {name} should be an object, not {_kind(value)}.")
    return value


def require_list(value: Any, where: str, name: str) -> list[Any]:
    """`value` if it is a JSON array; raises InvalidInput naming the place and the field otherwise."""
    if not isinstance(value, list):
        raise InvalidInput(f"{where}: {name} should be a list, not {_kind(value)}.")
    return value


def require_text(value: Any, where: str, name: str) -> str:
    """`value` if it is a text; raises InvalidInput naming the place and the field otherwise."""
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: {name} should be a text, not {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "missing or null"
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false"}.get(type(value), "a number")


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_BLANK = re.compile(r"\s*")
_CHUNK_CHARS = 1 << 16
_NEAR_END_CHARS = 16  # a cut number, literal or escape is reported this near to the end of what was read


def json_array(stream: TextIO, name: str, tally: Tally | None = None) -> Iterator[tuple[str, Any]]:
    """The elements of a large JSON array one by one, each with its place ("name: record 3"), in constant memory.

    The memory needed is that of the largest element. A damaged element whose brackets balance is noted in `tally` and
    left out; without a tally, or when the brackets do not balance, InvalidInput is raised. A single object in place of
    an array counts as an array of one.
    """
    buffer = _Buffer(stream, name)
    decoder = json.JSONDecoder(strict=False)
    first = buffer.peek()
    if first == "":
        raise InvalidInput(f"{name}: the file is empty.")
    if first not in "[{":
        raise InvalidInput(f"{name}: not a JSON list of records (it starts with {first!r}).")
    single = first == "{"
    buffer.position += 0 if single else 1
    number = 0
    while True:
        start = buffer.peek()
        if start == ("" if single else "]") and (number or not single):
            return
        if start == "":
            raise InvalidInput(f"{name}: the file ends after record {number}, before its list is closed.")
        if number and not single and start == ",":
            buffer.position += 1
            buffer.peek()
        elif number:
            raise InvalidInput(f"{name}: after record {number} there should be a comma or the end, not {start!r}.")
        number += 1
        where = f"{name}: record {number}"
        while True:
            try:
                value, end = decoder.raw_decode(buffer.text, buffer.position)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(buffer.text) - _NEAR_END_CHARS or error.msg.startswith("Unterminated string")
                if cut and buffer.more():
                    continue
                end = buffer.element_end()
                message = f"{where} is damaged: {error.msg} {error.pos - buffer.position} characters into it."
                if end is None or tally is None:
                    raise InvalidInput(message) from None
                buffer.position = end
                tally.damage(message)
                break
            except RecursionError:
                raise InvalidInput(f"{where} is nested too deeply to be an export.") from None
            length = end - buffer.position
            if end >= len(buffer.text) - _NEAR_END_CHARS and buffer.more():
                continue  # a number may go on in what was not read yet
            buffer.position += length
            yield where, value
            break


class _Buffer:
    """The part of a text stream that is being parsed."""

    def __init__(self, stream: TextIO, name: str):
        self.stream, self.name = stream, name
        self.text, self.position = "", 0
        self.ended = False

    def more(self) -> bool:
        """Drop what was parsed and read on, doubling what is held; False at the end of the stream."""
        self.text = self.text[self.position :]
        self.position = 0
        if len(self.text) > MAX_RECORD_CHARS:
            raise InvalidInput(f"{self.name}: one record is larger than {MAX_RECORD_CHARS >> 20} million characters.")
        new = self.stream.read(max(_CHUNK_CHARS, len(self.text)))
        self.ended = not new
        self.text += new
        return not self.ended

    def peek(self) -> str:
        """The next character that is not blank, without consuming it; "" at the end."""
        while True:
            match = _BLANK.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.more():
                return ""

    def element_end(self) -> int | None:
        """Where the bracketed element at the current position ends, whatever stands inside; None if it never does."""
        while True:
            depth = 0
            for match in _TOKEN.finditer(self.text, self.position):
                depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
                if depth <= 0:
                    return match.end() if depth == 0 and match[0] in "]}" else None
            if not self.more():
                return None
