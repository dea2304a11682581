"""The errors that recollect raises on purpose. Each message is one sentence that names the field and the way out."""


class RecollectError(Exception):
    """Base of all errors that recollect raises on purpose; nothing was changed when one is raised."""


class InvalidInput(RecollectError, ValueError):
    """An argument, a file or a setting that cannot be used; the message starts with the field's name."""


class NotFound(RecollectError, LookupError):
    """An id, a file or a name that does not exist."""


class Conflict(RecollectError):
    """What was given contradicts what is stored, such as another embedder than the one that made the vectors."""


class Unavailable(RecollectError):
    """Something that is needed is not installed, not configured or does not answer; the message says how to get it."""


class StorageFailed(RecollectError, OSError):
    """The database could not be read or written: a full disk, a read-only file, a damaged page."""


class SchemaBroken(RecollectError):
    """A language model's reply did not fit the schema that was asked for, twice."""
