"""What a method of the store is: what it derives at write, how it reads, and what it does in quiet hours.

A method never writes. It returns a `Draft` of the notes and links that it wants, and the memory writes the draft and the
mark of how far the method has read in one transaction, so that a derivation can be stopped and resumed anywhere and a
consolidation can be shown before it is done, and undone after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from recollect.catalogue import SYSTEMS
from recollect.errors import InvalidInput
from recollect.lm.meter import Metered
from recollect.store.notes import NewNote
from recollect.store.records import Answer, Episode, Hit, Link, Note
from recollect.store.views import Filter, View

if TYPE_CHECKING:
    from recollect.lm import LanguageModel
    from recollect.store.engine import Engine

DEFAULT_METHOD = "episodic"


@dataclass(frozen=True, slots=True)
class Request:
    """One call of `recall`."""

    text: str
    k: int
    asked_at: datetime  # relative expressions in the text are read from here
    filter: Filter
    kinds: frozenset[str] | None = None  # None: every kind


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose episodes a draft is about. Notes of one scope never rest on, or link to, records of another."""

    user: str
    agent: str | None = None

    @property
    def filter(self) -> Filter:
        """Everything in the scope, and nothing of other agents."""
        return Filter(self.user, self.agent or "")


@dataclass(slots=True)
class Draft:
    """What a method wants written."""

    notes: list[NewNote] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)  # their ends may be notes of this draft
    sources: list[tuple[str, str]] = field(default_factory=list)  # (note, episode) that now carries it too
    failed: dict[str, str] = field(default_factory=dict)  # episode -> why it is to be tried again later

    def extend(self, other: Draft) -> None:
        """Take in another draft."""
        self.notes += other.notes
        self.links += other.links
        self.sources += other.sources
        self.failed |= other.failed

    def __bool__(self) -> bool:
        return bool(self.notes or self.links or self.sources or self.failed)


class Method(Protocol):
    """A way of remembering, chosen by `recollect.open(path, method=...)`. Its class is the paper's or the field's name.

    `lm` is the language model that its steps go through; None: the built-in analyst does what it can.
    """

    name: str  # the key in the catalogue, and the `method` of the notes that it makes
    version: str  # another version derives anew
    lm: LanguageModel | None

    def encode(self, engine: Engine, scope: Scope, episodes: Sequence[Episode]) -> Draft:
        """What is derived from episodes of one scope, in order of writing; they are stored already.

        An episode whose derivation failed is named in `Draft.failed`. Raises Unavailable when the language model cannot be
        reached: the episodes then wait.
        """
        ...

    def recall(self, engine: Engine, request: Request) -> list[Hit]:
        """The k best records for a request, best first, each with its explanation."""
        ...


class DerivingMethod(Method, Protocol):
    """A method that derives notes."""

    def consolidate(self, engine: Engine, scope: Scope) -> Draft:
        """What quiet hours are for: notes that merge, revise or close others, and links. Never sources, never episodes."""
        ...

    def rederive(self, engine: Engine, scope: Scope, notes: Sequence[Note]) -> Draft:
        """New versions, without `replaces`, of notes of which a source was forgotten; the old ones are then deleted."""
        ...

    def after_answer(self, engine: Engine, scope: Scope, question: str, answer: Answer) -> Draft:
        """What is learned from having answered; an empty draft for most methods."""
        ...


def view_of(method: Method, request: Request, kinds: Sequence[str]) -> View:
    """The notes that a recall of a method may see, of those of its `kinds` that are asked for.

    Where a session, a speaker or a stretch of time narrows the request, notes are seen as first derived.
    """
    wanted = tuple(kind for kind in kinds if request.kinds is None or kind in request.kinds)
    return View(request.filter, method.name, wanted or ("",), first=not request.filter.whole_scope)


def method_targets() -> dict[str, str]:
    """The methods of the store by name, each as "module:Class"."""
    return {entry.key: entry.method or entry.target for entry in SYSTEMS if entry.method or entry.home == "store"}


def make_method(spec: str | Method | None, lm: LanguageModel | None = None) -> Method:
    """A method by its name (None: `episodic`), or the given instance, with `lm` unless it has one of its own, metered.

    Raises InvalidInput for an unknown name.
    """
    if spec is None or isinstance(spec, str):
        method = method_class(spec or DEFAULT_METHOD)()
    else:
        method = spec
    if method.lm is None:
        method.lm = lm
    if method.lm is not None and not isinstance(method.lm, Metered):
        method.lm = Metered(method.lm)
    return method


def method_class(name: str) -> Any:
    """The class of a method by its name. Raises InvalidInput for an unknown one."""
    targets = method_targets()
    if name not in targets:
        raise InvalidInput(f"method: {name!r:.60} is not known; choose one of: {', '.join(sorted(targets))}.")
    module, class_name = targets[name].split(":")
    return getattr(import_module(module), class_name)


def derives(method: Method) -> bool:
    """Whether a method derives notes at all."""
    return hasattr(method, "consolidate")
