"""REST: a route for each thing that a memory can do and that is soon done. What takes long is in `long.py`.

Queries and texts travel in bodies, never in addresses, which land in the logs of proxies.
"""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from recollect import __version__
from recollect.catalogue import SYSTEMS
from recollect.server import models
from recollect.server.desk import Caring, Reading, Writing
from recollect.store.browse import History, Neighbourhood, Session, Timeline
from recollect.store.consolidation import Run
from recollect.store.importers import FORMATS
from recollect.store.memory import Memory
from recollect.store.method import method_class, method_targets
from recollect.store.records import Answer, Episode, Hit, Link, Note, Receipt

Limit = Annotated[int, Query(ge=1, le=1000, description="how many at most")]
routes = APIRouter(prefix="/v1", tags=["memory"])


class Page(BaseModel):
    """Some episodes, and where the next ones begin."""

    episodes: list[Episode]
    next: str | None  # for `after_id`; null at the end


class Sessions(BaseModel):
    """Some conversations, and where the next ones begin."""

    sessions: list[Session]
    next: str | None  # for `after`; null at the end


class Notes(BaseModel):
    """Some notes, and where the next ones begin."""

    notes: list[Note]
    next: str | None  # for `after_id`; null at the end


class MethodRow(BaseModel):
    """A method that `?method=` can name."""

    key: str
    name: str
    paper: str
    derives: bool  # whether it writes notes


class FormatRow(BaseModel):
    """A format that can be imported."""

    name: str
    what: str
    options: list[str]


class About(BaseModel):
    """Who the caller is, and what can be asked for."""

    version: str
    user: str
    scopes: list[str]
    method: str  # that the database remembers
    num_episodes: int  # of the user
    methods: list[MethodRow]
    formats: list[FormatRow]


class Related(BaseModel):
    """A record that links lead to, with its share of a random walk's visits."""

    record: Episode | Note
    share: float


class UserFigures(BaseModel):
    """Figures of one user's memory."""

    model_config = ConfigDict(from_attributes=True)
    num_episodes: int
    num_notes: int
    num_links: int
    num_sessions: int
    first_at: datetime | None
    last_at: datetime | None
    speakers: dict[str, int]
    notes: dict[str, int]
    method: str
    num_underived: int


class FileFigures(BaseModel):
    """Figures of a database file, of all users together."""

    model_config = ConfigDict(from_attributes=True)
    embedder: str
    num_missing_vectors: int
    index_note: str | None
    database_bytes: int
    index_bytes: int
    bytes_per_episode: float


@routes.post("/episodes", status_code=201)
async def add(body: models.NewEpisode, desk: Writing) -> Episode:
    """Remember one thing; it is on the disk when the reply comes. The same again returns what is stored."""
    episode = await desk.do(lambda memory: memory.add(**body.model_dump()))
    desk.house.figures.memories.inc()
    return episode


@routes.get("/episodes")
async def episodes(
    desk: Reading,
    session: Annotated[str | None, Query(description="only this conversation")] = None,
    speaker: Annotated[str | None, Query(description="only this speaker")] = None,
    at: Annotated[str | None, Query(description="as things were known then")] = None,
    before: Annotated[str | None, Query(description="only what was said before this time")] = None,
    after: Annotated[str | None, Query(description="only what was said at or after this time")] = None,
    after_id: Annotated[str | None, Query(description="go on after this episode")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page:
    """What was said, in the order of writing, a page at a time."""

    def read(memory: Memory) -> list[Episode]:
        found = memory.episodes(session=session, speaker=speaker, at=at, before=before, after=after, following=after_id)
        return list(islice(found, limit + 1))

    found = await desk.do(read)
    return Page(episodes=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@routes.get("/latest")
async def latest(
    desk: Reading,
    at: Annotated[str | None, Query(description="as things were known then")] = None,
    after_id: Annotated[str | None, Query(description="go on after this episode")] = None,
    limit: Limit = 50,
) -> Page:
    """What was said last, latest first, a page at a time."""
    found = await desk.do(lambda memory: memory.latest(limit + 1, at=at, following=after_id))
    return Page(episodes=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@routes.get("/sessions")
async def sessions(
    desk: Reading,
    after: Annotated[str | None, Query(description="go on where a page ended")] = None,
    limit: Limit = 50,
) -> Sessions:
    """The named conversations, the one with the latest last turn first, a page at a time."""
    found = await desk.do(lambda memory: memory.sessions(limit + 1, following=after))
    return Sessions(sessions=found[:limit], next=found[limit - 1].cursor if len(found) > limit else None)


@routes.get("/timeline")
async def timeline(desk: Reading, parts: Annotated[int, Query(ge=1, le=1000)] = 60) -> Timeline:
    """How many episodes were said when, in equal stretches of time from the first to the last."""
    return await desk.do(lambda memory: memory.timeline(parts))


@routes.post("/recall")
async def recall(body: models.Query, desk: Reading) -> list[Hit]:
    """The memories that answer a query best, best first, each with its reasons."""
    given = body.model_dump(exclude={"query", "k"})
    return await desk.do(lambda memory: memory.recall(body.query, body.k, **given))


@routes.post("/answer")
async def answer(body: models.Question, desk: Reading) -> Answer:
    """An answer with citations; it abstains when the evidence is weak."""
    return await desk.do(lambda memory: memory.answer(body.question, body.k, at=body.at))


@routes.get("/records/{id}")
async def get(id: str, desk: Reading) -> Episode | Note:
    """One record by its id."""
    return await desk.do(lambda memory: memory.get(id))


@routes.get("/records/{id}/history")
async def history(id: str, desk: Reading) -> History:
    """What is known about one record: sources, what was derived from it, links, the turns around it."""
    return await desk.do(lambda memory: memory.history(id))


@routes.get("/records/{id}/related")
async def related(id: str, desk: Reading, k: int = 10) -> list[Related]:
    """The records that links lead to from one record, closest first."""
    found = await desk.do(lambda memory: memory.related(id, k))
    return [Related(record=record, share=share) for record, share in found]


@routes.get("/records/{id}/neighbourhood")
async def neighbourhood(id: str, desk: Reading, limit: Annotated[int, Query(ge=1, le=200)] = 40) -> Neighbourhood:
    """One record and others at most two links, or steps to and from sources, away, with the links among them."""
    return await desk.do(lambda memory: memory.neighbourhood(id, limit))


@routes.get("/neighbourhood")
async def crossing(desk: Reading, limit: Annotated[int, Query(ge=1, le=200)] = 40) -> Neighbourhood:
    """The same around a record that many links meet in."""
    return await desk.do(lambda memory: memory.neighbourhood(None, limit))


@routes.get("/notes")
async def notes(
    desk: Reading,
    of: Annotated[str | None, Query(description="only those that this method wrote")] = None,
    kind: Annotated[str | None, Query(description="only this kind")] = None,
    after_id: Annotated[str | None, Query(description="go on after this note")] = None,
    limit: Limit = 50,
) -> Notes:
    """Notes that are live, the last written first, a page at a time."""
    found = await desk.do(lambda memory: memory.notes(limit + 1, method=of, kind=kind, following=after_id))
    return Notes(notes=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@routes.post("/notes", status_code=201)
async def note(body: models.NewNote, desk: Writing) -> Note:
    """Write a note that rests on episodes."""
    return await desk.do(lambda memory: memory.note(**body.model_dump()))


@routes.post("/links", status_code=201)
async def link(body: models.NewLink, desk: Writing) -> Link:
    """Join two records; a link that is there gets the new weight."""
    given = body.model_dump(exclude={"source", "target", "relation"})
    return await desk.do(lambda memory: memory.link(body.source, body.target, body.relation, **given))


@routes.post("/forget")
async def forget(body: models.Forgetting, desk: Writing) -> Receipt:
    """Delete for good, down to the bytes; the receipt lists what went. With `dry_run`, what would go."""
    return await desk.do(lambda memory: memory.forget(**body.model_dump()))


@routes.get("/about")
async def about(desk: Reading) -> About:
    """Who the caller is, and the methods and formats that there are."""
    method, count = await desk.do(lambda memory: (memory.method.name, memory.engine.db.num_episodes(memory.user)))
    names = {system.key: system for system in SYSTEMS}
    return About(
        version=__version__,
        user=desk.caller.user,
        scopes=list(desk.caller.scopes),
        method=method,
        num_episodes=count,
        methods=[
            MethodRow(
                key=key,
                name=names[key].name,
                paper=names[key].paper,
                derives=hasattr(method_class(key), "consolidate"),
            )
            for key in method_targets()
        ],
        formats=[FormatRow(name=row.name, what=row.what, options=list(row.options)) for row in FORMATS.values()],
    )


@routes.get("/stats")
async def stats(desk: Reading) -> UserFigures:
    """Figures of the caller's memory."""
    return UserFigures.model_validate(await desk.do(lambda memory: memory.stats()))


@routes.get("/file", tags=["care"])
async def file(desk: Caring) -> FileFigures:
    """Figures of the database file, of all users together."""
    return FileFigures.model_validate(await desk.do(lambda memory: memory.stats()))


@routes.get("/consolidations")
async def consolidations(desk: Reading) -> list[Run]:
    """The consolidations that stand, newest first."""
    return await desk.do(lambda memory: memory.consolidations())


@routes.post("/consolidations/undo")
async def undo(body: models.Undoing, desk: Writing) -> list[Run]:
    """Undo a consolidation, and those that its method did after it."""
    return await desk.do(lambda memory: memory.undo(body.run))
