"""`recollect reindex`: rebuild every index, with another embedder if one is named."""

from __future__ import annotations

from recollect.cli.common import Db, EmbedderName, Json, opened, out, print_json, progress

EXAMPLES = "Examples:  recollect reindex   |   recollect reindex --embedder minilm"


def run(embedder: EmbedderName = None, db: Db = None, json: Json = False) -> None:
    """Rebuild the indexes and vectors from the episodes. An interrupted run goes on where it stopped."""
    with opened(db, None) as memory:
        total = memory.engine.db.rows("SELECT (SELECT count(*) FROM episodes) + (SELECT count(*) FROM notes)")[0][0]
        with progress("Reindexing", total, show=not json) as advance:
            count = memory.reindex(embedder=embedder, progress=advance)
        name = memory.engine.embedder.name
    if json:
        print_json({"records": count, "embedder": name})
    else:
        out.print(f"Reindexed {count} records with {name}.")
