"""Import a Claude data export: the zip archive, its folder, or `conversations.json` by itself.

An episode is one message: speaker "user" (or `me`) or "assistant", session "claude:<conversation id>", source id
"claude:<conversation id>/<message id>". Text that was attached or pasted is an episode of its own, right after its
message, with ".../attachment-<n>" as its source id. Memory: that of the longest conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.importers.exports import conversations
from recollect.store.importers.files import Tally, require_list, require_mapping, require_text
from recollect.store.records import parse_time


def read(path: str | Path, *, tally: Tally | None = None, me: str = "user") -> Iterator[dict[str, Any]]:
    """Items for `Memory.add_many`, conversation by conversation.

    `me` is the name that your own messages get. A damaged conversation is left out and noted in `tally`. Raises
    InvalidInput when the file is no Claude export, NotFound when it does not exist.
    """
    tally = tally if tally is not None else Tally()
    for where, record in conversations(path, tally):
        try:
            items = list(_messages(record, where, me, tally))
        except InvalidInput as error:
            tally.damage(str(error))
            continue
        for item in items:
            yield tally.keep(item)
    tally.finish()


def _messages(record: Any, where: str, me: str, tally: Tally) -> Iterator[dict[str, Any]]:
    record = require_mapping(record, where, "the conversation")
    identity = require_text(record.get("uuid"), where, "uuid")
    title = record.get("name")
    meta = {"title": title} if isinstance(title, str) and title else {}
    for number, message in enumerate(require_list(record.get("chat_messages"), where, "chat_messages"), 1):
        place = f"{where}: message {number}"
        message = require_mapping(message, place, "the message")
        sender = message.get("sender")
        if sender not in ("human", "assistant"):
            raise InvalidInput(f'{place}: sender should be "human" or "assistant", not {sender!r:.40}.')
        base = {
            "speaker": me if sender == "human" else "assistant",
            "session": f"claude:{identity}",
            "at": parse_time(require_text(message.get("created_at"), place, "created_at"), f"{place}: created_at"),
        }
        source = f"claude:{identity}/{message.get('uuid') or number}"
        text, attached = _text(message), list(_attachments(message))
        if text.strip():
            yield base | {"text": text, "source_id": source, "meta": meta}
        elif not attached:
            tally.skip()
        for index, (name, content) in enumerate(attached, 1):
            extra = {"attachment": name} if name else {"attachment": "pasted text"}
            yield base | {"text": content, "source_id": f"{source}/attachment-{index}", "meta": meta | extra}


def _text(message: Mapping[str, Any]) -> str:
    """The words of a message: its text blocks (newer exports) or its `text`, with a mark for each file."""
    blocks = message.get("content")
    words = [
        block["text"]
        for block in (blocks if isinstance(blocks, list) else [])
        if isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str)
    ]
    if not any(part.strip() for part in words):
        words = [message["text"]] if isinstance(message.get("text"), str) else []
    files = message.get("files")
    for file in files if isinstance(files, list) else []:
        if isinstance(file, Mapping) and isinstance(file.get("file_name"), str) and file["file_name"]:
            words.append(f"[shares a file: {file['file_name']}]")
    return "\n".join(part for part in words if part.strip())


def _attachments(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    attachments = message.get("attachments")
    for item in attachments if isinstance(attachments, list) else []:
        content = item.get("extracted_content") if isinstance(item, Mapping) else None
        if isinstance(content, str) and content.strip():
            yield str(item.get("file_name") or ""), content
