"""What a result must say about where it came from: commit, machine, versions, time, the data's hash; and writing it.

Neither host names nor paths are recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import recollect
from recollect.errors import InvalidInput

PACKAGES = (
    "numpy",
    "scipy",
    "onnxruntime",
    "tokenizers",
    "usearch",
    "PyStemmer",
    "openai",
    "pydantic",
    "torch",
    "transformers",
)


def provenance() -> dict[str, Any]:
    """`commit`, `machine`, `versions` and `date`, as plain JSON values."""
    return {
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str | None:
    """The git commit of the checkout that this package runs from, "+changes" added if files differ; None outside one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        head, status = (
            subprocess.run(
                ["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if status else "")


def machine() -> dict[str, Any]:
    """The processor's model, cores this process may use, memory in GiB, and the system's kind."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """The versions of Python, recollect and those packages that a result may depend on and that are installed."""
    found = {"python": platform.python_version(), "recollect": recollect.__version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def sha256(path: str | Path) -> str:
    """The hash of a file, or of a folder's .json files joined in the order of their names, in hexadecimal."""
    path = Path(path)
    total = hashlib.sha256()
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def write_json(result: Mapping[str, Any], path: str | Path) -> None:
    """Write a result as indented JSON, folders made as needed; raises InvalidInput when it cannot be written."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"output: {path} cannot be written ({error.strerror}).") from None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if sys.platform == "win32":
        return None
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None
