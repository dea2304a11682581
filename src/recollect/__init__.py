"""recollect gives language models long-term memory: `memory = recollect.open("memory.db")`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recollect.server.wrapping import wrap
    from recollect.store.memory import Memory, open

__version__ = "0.1.0"
__all__ = ["Memory", "__version__", "open", "wrap"]


def __getattr__(name: str) -> Any:
    """Load the store on first use, so that `import recollect` stays quick."""
    if name in ("Memory", "open"):
        from recollect.store import memory

        return getattr(memory, name)
    if name == "wrap":
        from recollect.server.wrapping import wrap

        return wrap
    raise AttributeError(f"module 'recollect' has no attribute {name!r}")
