"""REST: what may take long. Each answers with JSON at the end, or with server-sent events where the client accepts them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request, Response
from pydantic import TypeAdapter

from recollect.errors import InvalidInput, RecollectError
from recollect.server import models
from recollect.server.desk import Caring, Reading, Writing
from recollect.server.problems import Refused
from recollect.server.streams import EVENTS, LINES, Stream, long_work
from recollect.store.consolidation import Consolidation
from recollect.store.derivation import DeriveReport
from recollect.store.importers import ImportReport, import_file
from recollect.store.memory import Memory, Progress
from recollect.store.repair import VerifyReport
from recollect.store.transfer import ImportedRecords, is_export

PART_BYTES = 2**18
AS_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENTS: {"example": 'event: progress\ndata: {"done": 64}\n\nevent: done\ndata: {}\n\n'}}}
}
UPLOAD = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}}
routes = APIRouter(prefix="/v1")


@routes.post("/derive", tags=["methods"], response_model=DeriveReport, responses=AS_EVENTS)
async def derive(body: models.Deriving, request: Request, desk: Writing) -> Response:
    """Let the method read the episodes that it has not read."""

    def work(memory: Memory, progress: Progress) -> DeriveReport:
        return memory.derive(again=body.again, retry=body.retry, progress=progress)

    return await long_work(request, desk, TypeAdapter(DeriveReport), work)


@routes.post("/consolidate", tags=["methods"], response_model=Consolidation, responses=AS_EVENTS)
async def consolidate(body: models.Consolidating, request: Request, desk: Writing) -> Response:
    """Let the method tidy its notes, in one transaction that can be undone; with `dry_run`, only say what would change."""

    def work(memory: Memory, _: Progress) -> Consolidation:
        return memory.consolidate(dry_run=body.dry_run)

    return await long_work(request, desk, TypeAdapter(Consolidation), work)


@routes.post("/verify", tags=["care"], response_model=VerifyReport, responses=AS_EVENTS)
async def verify(body: models.Verifying, request: Request, desk: Caring) -> Response:
    """Look over the whole database, of all users, and mend it if asked to."""

    def work(memory: Memory, _: Progress) -> VerifyReport:
        return memory.verify(repair=body.repair)

    return await long_work(request, desk, TypeAdapter(VerifyReport), work)


@routes.post("/reindex", tags=["care"], response_model=int, responses=AS_EVENTS)
async def reindex(request: Request, desk: Caring) -> Response:
    """Rebuild every index of the database with its embedder; the number of records."""

    def work(memory: Memory, progress: Progress) -> int:
        return memory.reindex(progress=progress)

    return await long_work(request, desk, TypeAdapter(int), work)


@routes.get(
    "/export",
    tags=["transfer"],
    response_class=Response,
    responses={200: {"content": {LINES: {"example": '{"recollect_export": 1}\n'}}}},
)
async def export(desk: Reading) -> Response:
    """Everything of the caller as JSON lines that `import` restores."""

    def written() -> BinaryIO:
        """The export as an open file that has no name any more, so that nothing of it stays behind."""
        with tempfile.TemporaryDirectory(prefix="recollect-") as folder:
            path = Path(folder) / "export.jsonl"
            desk.with_memory(lambda memory: memory.export(path))
            return path.open("rb")

    async def parts() -> AsyncGenerator[bytes, None]:
        with await desk.house.workers.run_long(written) as file:
            while part := file.read(PART_BYTES):
                yield part

    return Stream(parts(), LINES, headers={"Content-Disposition": 'attachment; filename="recollect-export.jsonl"'})


@routes.post(
    "/import",
    tags=["transfer"],
    response_model=ImportReport | ImportedRecords,
    responses=AS_EVENTS,
    openapi_extra=UPLOAD,
)
async def import_(
    request: Request,
    desk: Writing,
    name: Annotated[str, Query(description="the file's name, whose ending tells its format")] = "upload",
    format: Annotated[str | None, Query(description="recollect, chatgpt, claude, table, diary, whatsapp ...")] = None,
    columns: Annotated[str | None, Query(description="tables: as text=body,speaker=author,at=date")] = None,
    time_format: Annotated[str | None, Query(description="tables: how times are written, as in strptime")] = None,
    me: Annotated[str | None, Query(description="your name, for ChatGPT and Claude exports and diaries")] = None,
    date_order: Annotated[str | None, Query(description="WhatsApp: dmy, mdy or ymd")] = None,
    time_zone: Annotated[str | None, Query(description="WhatsApp: such as Europe/Lisbon")] = None,
    sample: Annotated[str | None, Query(description="LoCoMo: only this conversation")] = None,
    question: Annotated[str | None, Query(description="LongMemEval: the history of this question")] = None,
) -> Response:
    """Bring in the file that is the body: an export, or conversations of another program. Twice adds nothing."""
    given = {
        "columns": columns,
        "time_format": time_format,
        "me": me,
        "date_order": date_order,
        "time_zone": time_zone,
        "sample": sample,
        "question": question,
    }
    options = {key: value for key, value in given.items() if value is not None}
    folder = tempfile.TemporaryDirectory(prefix="recollect-")
    path = Path(folder.name) / plain_name(name)

    def work(memory: Memory, progress: Progress) -> ImportReport | ImportedRecords:
        with folder:
            try:
                if format == "recollect" or (format is None and is_export(path)):
                    return memory.import_(path, progress=progress)
                return import_file(memory, path, format=format, progress=progress, **options)
            except RecollectError as error:
                raise type(error)(str(error).replace(str(path), path.name)) from None

    try:
        with path.open("xb") as file:
            async for part in request.stream():
                file.write(part)
        if not path.stat().st_size:
            raise InvalidInput("body: is empty; send the file as the body, as with `curl --data-binary @FILE`.")
    except OSError as error:
        folder.cleanup()
        raise Refused(
            507, "storage_failed", f"body: cannot be kept for reading ({os.strerror(error.errno or 0)})."
        ) from None
    except BaseException:
        folder.cleanup()
        raise
    return await long_work(request, desk, TypeAdapter(ImportReport | ImportedRecords), work)


def plain_name(name: str) -> str:
    """The last part of a name that a client gave, of plain characters only, so that it leads nowhere."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", last)[-100:].lstrip(".") or "upload"
