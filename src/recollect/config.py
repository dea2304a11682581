"""Settings: where the memory lies, who uses it, and which models it may call.

Each value is taken from the first place that has it: arguments, environment (`RECOLLECT_DB`, ...), `recollect.toml` in
the working directory or the nearest folder above it, the user's own `recollect.toml`, the default. `Settings.origins`
says for each value which place that was; API keys are never shown by `repr`.

A relative `db` in a file is relative to that file, elsewhere to the working directory; `~` is the home folder.
`OPENAI_API_KEY` and `OPENAI_BASE_URL` are read only when a model is configured, and that key is sent only to OpenAI or
to the address in `OPENAI_BASE_URL`, so that a `recollect.toml` in a foreign folder cannot send it elsewhere.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recollect.errors import Conflict, InvalidInput, NotFound, StorageFailed

FILE_NAME = "recollect.toml"
OPENAI_URL = "https://api.openai.com/v1"

TEMPLATE = """\
# Settings of recollect. Lines that start with # are off and show the default.
# Order: arguments, then the environment (RECOLLECT_DB, RECOLLECT_LM_MODEL, ...), then this file, then your own
# file in the user's config folder. `recollect doctor` shows what is in force and where it comes from.

# db = "memory.db"                  # relative to this file; default: recollect/memory.db in your data folder
# user = "default"                  # whose memory; a query never crosses users
# agent = "assistant"               # the assistant that talks to the user, if there are several
# method = "episodic"               # how memories are encoded and recalled; default: what the database remembers

[embedder]
# name = "minilm"                   # or "hashing", "sentence-transformers:NAME", "fastembed:NAME", "openai:MODEL"
# base_url = "http://localhost:11434/v1"
# api_key = "..."                   # better in the environment: RECOLLECT_EMBEDDER_API_KEY

[lm]
# model = "qwen3:8b"                # off by default: recall needs no language model, and answers are quoted without one
# base_url = "http://localhost:11434/v1"
# api_key = "..."                   # better in the environment: RECOLLECT_LM_API_KEY
# timeout_s = 60.0                  # for one request
# max_retries = 3                   # after a busy server, a lost connection or a timeout
# max_concurrency = 8               # requests under way at a time

[upstream]
# base_url = "http://localhost:11434/v1"   # the OpenAI-compatible server behind the gateway of `recollect serve`
# model = "qwen3:8b"                # for clients that name none
# api_key = "..."                   # better in the environment: RECOLLECT_UPSTREAM_API_KEY
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force. `origins` maps each field to "default", "argument", an environment name or a file's path."""

    db: str = field(repr=False)  # a path, or postgresql://..., which may hold a password
    user: str = "default"
    agent: str | None = None
    method: str | None = None  # None: the one that the database remembers, `episodic` for a new one
    embedder: str | None = None  # None: minilm where it is installed, else hashing
    embedder_base_url: str | None = None
    embedder_api_key: str | None = field(default=None, repr=False)
    lm_model: str | None = None  # None: no language model is used
    lm_base_url: str | None = None  # None: OpenAI's
    lm_api_key: str | None = field(default=None, repr=False)
    lm_timeout_s: float = 60.0
    lm_max_retries: int = 3
    lm_max_concurrency: int = 8
    upstream_base_url: str | None = None  # of the gateway; None: the memory's own reader answers
    upstream_model: str | None = None  # for clients that name none
    upstream_api_key: str | None = field(default=None, repr=False)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: tuple[Path, ...] = ()  # the files that were read, the stronger first


# field: (place in the file, name in the environment, type)
_FIELDS: dict[str, tuple[str, str, type]] = {
    "db": ("db", "RECOLLECT_DB", str),
    "user": ("user", "RECOLLECT_USER", str),
    "agent": ("agent", "RECOLLECT_AGENT", str),
    "method": ("method", "RECOLLECT_METHOD", str),
    "embedder": ("embedder.name", "RECOLLECT_EMBEDDER", str),
    "embedder_base_url": ("embedder.base_url", "RECOLLECT_EMBEDDER_BASE_URL", str),
    "embedder_api_key": ("embedder.api_key", "RECOLLECT_EMBEDDER_API_KEY", str),
    "lm_model": ("lm.model", "RECOLLECT_LM_MODEL", str),
    "lm_base_url": ("lm.base_url", "RECOLLECT_LM_BASE_URL", str),
    "lm_api_key": ("lm.api_key", "RECOLLECT_LM_API_KEY", str),
    "lm_timeout_s": ("lm.timeout_s", "RECOLLECT_LM_TIMEOUT_S", float),
    "lm_max_retries": ("lm.max_retries", "RECOLLECT_LM_MAX_RETRIES", int),
    "lm_max_concurrency": ("lm.max_concurrency", "RECOLLECT_LM_MAX_CONCURRENCY", int),
    "upstream_base_url": ("upstream.base_url", "RECOLLECT_UPSTREAM_BASE_URL", str),
    "upstream_model": ("upstream.model", "RECOLLECT_UPSTREAM_MODEL", str),
    "upstream_api_key": ("upstream.api_key", "RECOLLECT_UPSTREAM_API_KEY", str),
}
_BY_PLACE = {place: name for name, (place, _, _) in _FIELDS.items()}
_TABLES = sorted({place.split(".")[0] for place in _BY_PLACE if "." in place})
_TYPE_NAMES = {str: "text in quotes", float: "a number", int: "a whole number"}


def load_settings(
    path: str | Path | None = None, environ: Mapping[str, str] | None = None, **arguments: str | float | None
) -> Settings:
    """The settings in force.

    `path` is read instead of the two files that are looked for; `environ` stands for `os.environ`; `arguments` are
    fields of `Settings` and win over all else, None meaning not given. Raises NotFound when `path` does not exist,
    InvalidInput for an unknown or ill-typed setting and StorageFailed for a file that cannot be read.
    """
    environ = os.environ if environ is None else environ
    files = (Path(path).expanduser(),) if path is not None else find_files(Path.cwd(), environ)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def put(name: str, value: Any, origin: str) -> None:
        values.setdefault(name, value)
        origins.setdefault(name, origin)

    for name, value in arguments.items():
        if name not in _FIELDS:
            raise InvalidInput(f"{name}: there is no such setting{_hint(name, _FIELDS)}.")
        if value is not None:
            put(name, _checked(name, value, "argument"), "argument")
    for name, (_, variable, kind) in _FIELDS.items():
        text = environ.get(variable, "").strip()
        if text:
            put(name, _checked(name, _number(text, kind, variable), variable), variable)
    for file in files:
        for name, value in _read(file).items():
            put(name, value, str(file))
    if "lm_model" in values:
        _take_openai(values, origins, environ)
    if "db" not in values:
        put("db", str(data_folder(environ) / "memory.db"), "default")
    elif "://" not in values["db"]:
        values["db"] = str(Path(values["db"]).expanduser())
    return Settings(**values, origins={name: origins.get(name, "default") for name in _FIELDS}, files=files)


def find_files(folder: Path, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The `recollect.toml` of `folder` or of the nearest folder above it, then the user's own; those that exist."""
    near = (parent / FILE_NAME for parent in (folder, *folder.parents))
    found = [next((file for file in near if file.is_file()), None), config_folder(environ) / FILE_NAME]
    return tuple(dict.fromkeys(file for file in found if file is not None and file.is_file()))


def data_folder(environ: Mapping[str, str]) -> Path:
    """Where a user's memories lie by default: `XDG_DATA_HOME/recollect` or the platform's own place."""
    return _user_folder(environ, "XDG_DATA_HOME", "LOCALAPPDATA", ".local/share")


def config_folder(environ: Mapping[str, str]) -> Path:
    """Where a user's own `recollect.toml` lies: `XDG_CONFIG_HOME/recollect` or the platform's own place."""
    return _user_folder(environ, "XDG_CONFIG_HOME", "APPDATA", ".config")


def write_default(path: str | Path) -> Path:
    """Write a commented `recollect.toml` (into `path` when it is a folder) and return its path.

    Raises Conflict when the file exists, and StorageFailed when it cannot be written.
    """
    path = Path(path).expanduser()
    path = path / FILE_NAME if path.is_dir() else path
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise Conflict(f"path: {path} exists and was left as it is; edit it or delete it first.") from None
    except OSError as error:
        raise StorageFailed(f"path: {path} cannot be written ({error.strerror}).") from None
    return path


def _user_folder(environ: Mapping[str, str], xdg: str, windows: str, unix: str) -> Path:
    if Path(environ.get(xdg, "")).is_absolute():
        return Path(environ[xdg]) / "recollect"
    if sys.platform == "win32" and environ.get(windows):
        return Path(environ[windows]) / "recollect"
    home = Path(environ["HOME"]) if environ.get("HOME") else Path("~").expanduser()
    place = "Library/Application Support" if sys.platform == "darwin" else unix
    return home / place / "recollect"


def _read(file: Path) -> dict[str, Any]:
    """The settings that a file makes, by field."""
    try:
        data = tomllib.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise NotFound(f"path: there is no file {file}; `recollect init` writes one.") from None
    except OSError as error:
        raise StorageFailed(f"path: {file} cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"path: {file} is not valid TOML: {error}.") from None
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in _TABLES:
            if not isinstance(value, dict):
                raise InvalidInput(f"{key}: in {file} it must be a table: a line [{key}], and its settings below.")
            places = {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            places = {key: value}
        for place, item in places.items():
            if place not in _BY_PLACE:
                raise InvalidInput(f"{place}: {file} sets it, but there is no such setting{_hint(place, _BY_PLACE)}.")
            values[_BY_PLACE[place]] = _checked(_BY_PLACE[place], item, str(file))
    if "db" in values and "://" not in values["db"]:
        values["db"] = str(file.absolute().parent / Path(values["db"]).expanduser())
    return values


def _checked(name: str, value: Any, origin: str) -> Any:
    """The value of a setting if it has the right type, else InvalidInput."""
    place, _, kind = _FIELDS[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidInput(f"{place}: {origin} gives {type(value).__name__}, but it must be {_TYPE_NAMES[kind]}.")
    if isinstance(value, str):
        value = value.strip()
        if not value:
            raise InvalidInput(f"{place}: {origin} leaves it empty; give a value or remove it.")
        if name.endswith("base_url") and urlsplit(value).scheme not in ("http", "https"):
            raise InvalidInput(f"{place}: {value!r:.80} is not an address; write it as http://localhost:11434/v1.")
    elif name == "lm_timeout_s" and not 0 < value < float("inf"):
        raise InvalidInput(f"{place}: {origin} gives {value}, but it must be above 0 seconds.")
    elif name == "lm_max_retries" and value < 0:
        raise InvalidInput(f"{place}: {origin} gives {value}, but it must be 0 or more.")
    elif name == "lm_max_concurrency" and value < 1:
        raise InvalidInput(f"{place}: {origin} gives {value}, but it must be 1 or more.")
    return value


def _number(text: str, kind: type, variable: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(f"{variable}: {text!r:.80} must be {_TYPE_NAMES[kind]}.") from None


def _take_openai(values: dict[str, Any], origins: dict[str, str], environ: Mapping[str, str]) -> None:
    """Fill the model's address and key from OpenAI's own names; the key goes nowhere but where it belongs."""
    address = environ.get("OPENAI_BASE_URL", "").strip()
    key = environ.get("OPENAI_API_KEY", "").strip()
    if address and "lm_base_url" not in values:
        values["lm_base_url"] = _checked("lm_base_url", address, "OPENAI_BASE_URL")
        origins["lm_base_url"] = "OPENAI_BASE_URL"
    target = values.get("lm_base_url", OPENAI_URL)
    parts = urlsplit(target)
    belongs = target == address or (parts.scheme == "https" and parts.hostname == "api.openai.com")
    if key and belongs and "lm_api_key" not in values:
        values["lm_api_key"] = key
        origins["lm_api_key"] = "OPENAI_API_KEY"


def _hint(name: str, known: Mapping[str, Any]) -> str:
    tails = {place.rsplit(".", 1)[-1]: place for place in known}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    close = close or [tails[tail] for tail in difflib.get_close_matches(name, tails, n=1, cutoff=0.6)]
    return f"; did you mean {close[0]}" if close else f"; those that are: {', '.join(known)}"
