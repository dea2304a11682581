"""What is configured, what works, and how to fix what does not: the checks behind `recollect doctor`.

Nothing is changed: the database is opened read-only, and no file is made. One tiny request is sent to a language model,
and to an embedder behind an address, only when they are configured. Keys are never shown.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recollect.config import Settings
from recollect.errors import RecollectError
from recollect.lm import from_settings

MIN_PYTHON = (3, 11)
MIN_SQLITE = (3, 27)  # full-text search that folds all accents


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `ok` is None for what is neither needed nor wrong; `fix` is empty when nothing is."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


def checks(settings: Settings) -> list[Check]:
    """All checks in the order to read them; a check that fails by surprise says so instead of stopping the others."""
    looks: list[Callable[[Settings], Iterator[Check]]] = [
        _python,
        _sqlite,
        _settings,
        _database,
        _embedder,
        _packages,
        _language_model,
    ]
    found: list[Check] = []
    for look in looks:
        try:
            found += look(settings)
        except Exception as error:  # a check must never hide the others
            name = look.__name__.strip("_").replace("_", " ")
            found.append(Check(name, False, f"the check itself failed: {type(error).__name__}: {error}"))
    return found


def _python(settings: Settings) -> Iterator[Check]:
    has = sys.version_info[:3]
    needed = ".".join(map(str, MIN_PYTHON))
    fix = "" if has >= MIN_PYTHON else f"install Python {needed} or newer"
    yield Check("python", not fix, f"{'.'.join(map(str, has))} at {sys.executable}", fix)


def _sqlite(settings: Settings) -> Iterator[Check]:
    enough = sqlite3.sqlite_version_info >= MIN_SQLITE
    fix = "" if enough else f"use a Python built with SQLite {'.'.join(map(str, MIN_SQLITE))} or newer"
    yield Check("sqlite", enough, sqlite3.sqlite_version, fix)
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE look USING fts5(text, tokenize = 'porter unicode61')")
        yield Check("full-text search", True, "FTS5 with porter stemming")
    except sqlite3.OperationalError as error:
        fix = "use a Python whose SQLite has FTS5, such as the one from python.org or uv"
        yield Check("full-text search", False, f"SQLite lacks FTS5 ({error})", fix)
    finally:
        connection.close()


def _settings(settings: Settings) -> Iterator[Check]:
    from recollect.store.database import shown as address_shown

    if settings.files:
        yield Check("config file", True, ", ".join(str(file) for file in settings.files))
    else:
        yield Check("config file", None, "none found, so the defaults hold", "recollect init writes one here")
    shown = []
    for name, origin in settings.origins.items():
        value = getattr(settings, name)
        if value is not None and origin != "default":
            if name == "db":
                value = address_shown(value)
            shown.append(f"{name} = {'(set)' if name.endswith('api_key') else value} from {origin}")
    yield Check("settings", True, "; ".join(shown) if shown else "all at their defaults")


def _database(settings: Settings) -> Iterator[Check]:
    if "://" in settings.db:
        yield _server_database(settings.db)
        return
    path = Path(settings.db).expanduser()
    if not path.exists():
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        writable = os.access(folder, os.W_OK)
        detail = f"{path} is not there yet; it is made at the first use" if writable else f"{folder} cannot be written"
        yield Check(
            "database", writable, detail, "" if writable else "set db, or RECOLLECT_DB, to a place you may write"
        )
        return
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            num_episodes = connection.execute("SELECT count(*) FROM episodes").fetchone()[0]
            state = dict(connection.execute("SELECT key, value FROM state"))
        finally:
            connection.close()
    except sqlite3.Error as error:
        yield Check(
            "database", False, f"{path} cannot be read as a memory ({error})", "recollect verify, or another db"
        )
        return
    writable = os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)
    size = path.stat().st_size / 1e6
    detail = f"{path}: {num_episodes:,} episodes, {size:.1f} MB, vectors by {state.get('embedder', 'none yet')}"
    fix = "" if writable else f"give yourself the right to write {path} and its folder; recall works without"
    yield Check("database", True if writable else None, detail + ("" if writable else ", read-only"), fix)


def _server_database(address: str) -> Check:
    from recollect.store.database import is_server, shown

    if not is_server(address):
        scheme = address.split("://")[0]
        return Check(
            "database", False, f"{scheme} addresses cannot be opened", "set db to a file or to postgresql://..."
        )
    from recollect.store.postgres_schema import look

    try:
        detail, advice = look(address)
    except RecollectError as error:
        return Check("database", False, str(error), "see the sentence before")
    return Check("database", None if advice else True, f"{shown(address)}: {detail}", advice)


def _embedder(settings: Settings) -> Iterator[Check]:
    from recollect.store.embedders import make_embedder
    from recollect.store.minilm import INSTALL, missing

    reason = missing()
    if settings.embedder is None and reason:
        detail = "minilm is not installed, so hashing is used: it finds words, not meanings"
        yield Check("embedder", None, f"{detail} ({_clause(reason)})", INSTALL)
        return
    is_minilm = settings.embedder is None or settings.embedder.startswith("minilm")
    start = time.perf_counter()
    try:
        embedder = make_embedder(settings.embedder)
        embedder.embed(["ok"], "query")
    except RecollectError as error:
        yield Check("embedder", False, str(error), INSTALL if is_minilm and reason else "see the sentence before")
        return
    took = time.perf_counter() - start
    checked = ", its weights have the right hash" if is_minilm else ""
    yield Check(
        "embedder", True, f"{embedder.name}, {embedder.dim} numbers a text{checked}; first text in {took:.2f} s"
    )


def _packages(settings: Settings) -> Iterator[Check]:
    for name, purpose, extra in (
        ("usearch", "search in very large memories", "scale"),
        ("scipy", "graph methods", "scale"),
        ("fastapi", "recollect serve", "server"),
        ("mcp", "recollect mcp", "server"),
        ("psycopg", "memories in PostgreSQL", "postgres"),
        ("torch", "the homes context, state and weights; the store needs none", "torch"),
        ("transformers", "local language models and the homes that change models", "torch"),
    ):
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, None, f"not installed; it serves {purpose}", f'pip install "recollect[{extra}]"')


def _language_model(settings: Settings) -> Iterator[Check]:
    if settings.lm_model is None and settings.lm_base_url is None:
        detail = "none configured, so answers are quoted from the memory"
        yield Check(
            "language model", None, detail, "set lm.model (and lm.base_url) in recollect.toml or RECOLLECT_LM_MODEL"
        )
        return
    try:
        lm = from_settings(replace(settings, lm_max_retries=0))
        assert lm is not None
        reply = lm.complete([{"role": "user", "content": "Reply with the word ok."}], max_tokens=64)
    except RecollectError as error:
        yield Check("language model", False, str(error), "see the sentence before, then run `recollect doctor` again")
        return
    place = settings.lm_base_url or "OpenAI"
    yield Check("language model", True, f"{lm.name} at {place} answered in {reply.seconds:.1f} s")


def _clause(sentence: str) -> str:
    """A sentence without its full stop and what follows its semicolon."""
    return sentence.split(";")[0].rstrip(".")
