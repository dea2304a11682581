"""Find and stream `conversations.json` of a chat assistant's data export: a zip archive, a folder, or the file itself.

ChatGPT and Claude name the file alike; large ChatGPT exports split it into conversations-000.json and so on.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.importers.files import Tally, existing, json_array, members, open_text

CONVERSATIONS = r"conversations(?:[-_]\d+)?\.json"


def parts(path: str | Path) -> list[tuple[Path, str | None]]:
    """The files that hold the conversations, as (file, member of the archive or None), in order.

    Raises NotFound when `path` does not exist, InvalidInput when it holds no conversations.
    """
    path = existing(path)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*.json") if re.fullmatch(CONVERSATIONS, file.name))
        if not found:
            raise InvalidInput(f"path: the folder {path.name} holds no conversations.json; name the export's folder.")
        return [(file, None) for file in found]
    if zipfile.is_zipfile(path):
        names = members(path, CONVERSATIONS)
        if not names:
            raise InvalidInput(f"path: the archive {path.name} holds no conversations.json.")
        return [(path, name) for name in names]
    return [(path, None)]


def conversations(path: str | Path, tally: Tally | None) -> Iterator[tuple[str, Any]]:
    """Every conversation of an export with its place, in constant memory; see `json_array` for damage."""
    for file, member in parts(path):
        with open_text(file, member) as stream:
            yield from json_array(stream, member or file.name, tally)
