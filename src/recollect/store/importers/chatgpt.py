"""Import a ChatGPT data export: the zip archive, its folder, or `conversations.json` by itself.

A conversation is a tree of messages, because edited prompts branch. What is kept is the branch that was on screen
last: from `current_node` up to the root. Hidden messages, system prompts, tool calls and their output are left out.

An episode is one message: speaker "user" (or `me`) or "assistant", session "chatgpt:<conversation id>", source id
"chatgpt:<conversation id>/<message id>". Memory: that of the longest conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.importers.dates import from_epoch
from recollect.store.importers.exports import conversations
from recollect.store.importers.files import Tally, require_mapping, require_text

_SHOWN = {"text", "multimodal_text"}


def read(path: str | Path, *, tally: Tally | None = None, me: str = "user") -> Iterator[dict[str, Any]]:
    """Items for `Memory.add_many`, conversation by conversation.

    `me` is the name that your own messages get. A damaged conversation is left out and noted in `tally`. Raises
    InvalidInput when the file is no ChatGPT export, NotFound when it does not exist.
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
    nodes = require_mapping(record.get("mapping"), where, "mapping")
    identity = record.get("conversation_id") or record.get("id")
    identity = require_text(identity, where, "conversation_id")
    title = record.get("title")
    at = from_epoch(record["create_time"], f"{where}: create_time") if record.get("create_time") is not None else None
    for node, message in _branch(record, nodes, where):
        text = _text(message)
        if not text.strip() or _hidden(message):
            tally.skip()
            continue
        if message.get("create_time") is not None:
            at = from_epoch(message["create_time"], f"{where}: create_time of message {node}")
        role = message["author"]["role"]
        yield {
            "text": text,
            "speaker": me if role == "user" else role,
            "session": f"chatgpt:{identity}",
            "at": at,
            "source_id": f"chatgpt:{identity}/{message.get('id') or node}",
            "meta": {"title": title} if isinstance(title, str) and title else {},
        }


def _branch(record: Mapping[str, Any], nodes: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The messages on the branch that ends in `current_node`, oldest first, each with its node's id."""
    node = record.get("current_node")
    if not isinstance(node, str) or node not in nodes:
        node = _newest_leaf(nodes)
    branch: list[tuple[str, Mapping[str, Any]]] = []
    seen: set[str] = set()
    while isinstance(node, str) and node in nodes and node not in seen:
        seen.add(node)
        entry = require_mapping(nodes[node], where, f"node {node}")
        if isinstance(entry.get("message"), Mapping):
            branch.append((node, entry["message"]))
        node = entry.get("parent")
    yield from reversed(branch)


def _newest_leaf(nodes: Mapping[str, Any]) -> str | None:
    def age(name: str) -> float:
        time = (nodes[name].get("message") or {}).get("create_time")
        return float(time) if isinstance(time, int | float) else 0.0

    leaves = [name for name, entry in nodes.items() if isinstance(entry, Mapping) and not entry.get("children")]
    return max(leaves, key=age, default=None)


def _hidden(message: Mapping[str, Any]) -> bool:
    metadata = message.get("metadata")
    return (
        (isinstance(metadata, Mapping) and metadata.get("is_visually_hidden_from_conversation") is True)
        or message.get("weight") == 0
        or message.get("recipient") not in (None, "all")
    )


def _text(message: Mapping[str, Any]) -> str:
    """The words of a message, with a mark for each picture or file; "" for what was never shown as a message."""
    author, content = message.get("author"), message.get("content")
    role = author.get("role") if isinstance(author, Mapping) else None
    if role not in ("user", "assistant") or not isinstance(content, Mapping):
        return ""
    if content.get("content_type") not in _SHOWN:
        return ""
    parts: list[str] = []
    for part in content.get("parts") or []:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, Mapping):
            kind = str(part.get("content_type", ""))
            if kind == "audio_transcription" and isinstance(part.get("text"), str):
                parts.append(part["text"])
            elif kind == "image_asset_pointer":
                parts.append("[shares an image]")
    return "\n".join(part for part in parts if part.strip())
