"""onnxruntime, which embeds, without what it would report."""

from __future__ import annotations

import os
from typing import Any


def onnxruntime() -> Any:
    """The module. Raises ImportError where it is not installed.

    Its builds from 1.32 on report to their maker from a thread of their own, unless they are told not to before they load.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # pyright: ignore[reportMissingImports]

    onnxruntime.disable_telemetry_events()  # where it was loaded before
    return onnxruntime
