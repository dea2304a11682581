"""What the routes take. What they return are the records of the store."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Time = Annotated[
    str, Field(description="ISO 8601; without an offset, the server's local time", examples=["2024-05-12T09:30"])
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewEpisode(_Body):
    """One thing that was said or written."""

    text: str = Field(examples=["I moved to Lisbon in May."])
    speaker: str | None = Field(None, description="who said it", examples=["Ana"])
    session: str | None = Field(None, description="the conversation it belongs to", examples=["s1"])
    at: Time | None = Field(None, description="when it was said; default now", examples=["2024-05-12T09:30"])
    source_id: str | None = Field(None, description="its id where it came from; the same twice is stored once")
    meta: dict[str, Any] | None = Field(None, description="JSON values of your own")


class Query(_Body):
    """A recall."""

    query: str = Field(examples=["Where does Ana live?"])
    k: int = Field(10, description="how many memories, 1 to 10,000")
    at: Time | None = Field(None, description="as things were known then")
    before: Time | None = Field(None, description="only what was said before this time")
    after: Time | None = Field(None, description="only what was said at or after this time")
    session: str | None = Field(None, description="only this conversation")
    speaker: str | None = Field(None, description="only this speaker")
    kinds: list[str] | None = Field(None, description="only these kinds: episode, or kinds of notes")


class Question(_Body):
    """A question to the memory."""

    question: str = Field(examples=["Where does Ana live?"])
    k: int = Field(10, description="how many memories to read")
    at: Time | None = Field(None, description="as things were known then")


class NewNote(_Body):
    """Something derived from episodes."""

    text: str = Field(examples=["Ana lives in Lisbon."])
    kind: str = Field(examples=["fact"])
    sources: list[str] = Field(description="ids of the episodes that it rests on")
    valid_from: Time | None = None
    valid_to: Time | None = None
    method: str = Field("user", description="what wrote it")
    method_version: str = "1"
    meta: dict[str, Any] | None = None


class NewLink(_Body):
    """A relation between two records."""

    source: str = Field(description="id of an episode or a note")
    target: str = Field(description="id of an episode or a note")
    relation: str = Field(examples=["supports"])
    weight: float = 1.0
    method: str = "user"


class Forgetting(_Body):
    """What is to be forgotten: exactly one of `ids`, `session`, `user`, `before` and `query`."""

    ids: list[str] | None = None
    session: str | None = Field(None, examples=["s1"])
    user: str | None = Field(None, description="everything of this user, who must be the one of the key")
    before: Time | None = Field(None, description="all that was said earlier")
    query: str | None = Field(None, description="every episode that holds all of these words")
    dry_run: bool = Field(False, description="only say what would go")


class Deriving(_Body):
    """How to derive."""

    again: bool = Field(False, description="forget first what the method had derived")
    retry: bool = Field(False, description="try again what had failed")


class Consolidating(_Body):
    """How to consolidate."""

    dry_run: bool = Field(False, description="only say what would change")


class Undoing(_Body):
    """Which consolidation to undo."""

    run: int | None = Field(None, description="its number; default the last")


class Verifying(_Body):
    """How to verify."""

    repair: bool = Field(False, description="mend what is found")
