"""Language models behind one small protocol: messages in, text or an object of a pydantic schema out, and the cost.

`OpenAICompatible` speaks to any server with OpenAI's chat endpoint (OpenAI, vLLM, llama.cpp, Ollama, LM Studio ...),
`Transformers` runs a model in this process, `Scripted` plays back replies in tests. `from_settings` makes the
configured one, or None: recollect never needs a language model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recollect.config import Settings
from recollect.errors import InvalidInput

if TYPE_CHECKING:
    from recollect.lm.endpoint import OpenAICompatible
    from recollect.lm.local import Transformers
    from recollect.lm.meter import Cost, Metered, complete_all
    from recollect.lm.protocol import LanguageModel, Message, Reply
    from recollect.lm.scripted import Scripted

__all__ = [
    "Cost",
    "LanguageModel",
    "Message",
    "Metered",
    "OpenAICompatible",
    "Reply",
    "Scripted",
    "Transformers",
    "complete_all",
    "from_settings",
]
_PLACES = {
    "endpoint": ("OpenAICompatible",),
    "local": ("Transformers",),
    "meter": ("Cost", "Metered", "complete_all"),
    "protocol": ("LanguageModel", "Message", "Reply"),
    "scripted": ("Scripted",),
}


def __getattr__(name: str) -> Any:
    """Load a part on first use, so that a memory without a language model opens quickly."""
    for place, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"recollect.lm.{place}"), name)
    raise AttributeError(f"module 'recollect.lm' has no attribute {name!r}")


def from_settings(settings: Settings) -> LanguageModel | None:
    """The configured language model, or None when no model is named; nothing is contacted yet."""
    if settings.lm_model is None:
        if settings.lm_base_url is not None:
            raise InvalidInput(f"lm.model: name the model that {settings.lm_base_url} is to use (RECOLLECT_LM_MODEL).")
        return None
    from recollect.lm.endpoint import OpenAICompatible

    return OpenAICompatible(
        settings.lm_base_url,
        settings.lm_model,
        settings.lm_api_key,
        timeout_s=settings.lm_timeout_s,
        max_retries=settings.lm_max_retries,
        max_concurrency=settings.lm_max_concurrency,
    )
