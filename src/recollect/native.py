"""Libraries of compiled code that must be loaded with care: onnxruntime, which embeds, and usearch, which searches."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any


def load_onnxruntime() -> Any:
    """The module onnxruntime. Raises ImportError where it is not installed.

    Builds for Linux (seen in 1.32) start a thread that reports to their maker, unless they are told not to before they load.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # pyright: ignore[reportMissingImports]

    onnxruntime.disable_telemetry_events()  # where it was loaded before
    return onnxruntime


def load_usearch() -> Any:
    """The class `Index` of usearch. Raises ImportError where that is not installed.

    onnxruntime is loaded first where there is one: a process that loads it after usearch crashes (1.32 after 2.26).
    """
    with suppress(ImportError):
        load_onnxruntime()
    from usearch.index import Index  # pyright: ignore[reportMissingImports]

    return Index
