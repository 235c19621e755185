"""Errors, by what the run does about them.

A ``RunError`` ends the run, an ``EntityError`` ends one entity while the others go on.
Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from dataverse_sync.model import PageRequest

# The hint where a database cannot be read.
DAMAGED = "The file is damaged: restore it from a backup, or move it away and sync again."


class SyncError(Exception):
    """An error that a user can act on.

    Args:
        message: Who and what, one sentence, no secret in it.
        hint: The way out; empty if there is none.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message.rstrip('. ')}. {self.hint}" if self.hint else self.message


class RunError(SyncError):
    """Ends the whole run."""


class ConfigError(RunError):
    """A setting, a file or an option is wrong."""


class AuthError(RunError):
    """The sign-in was refused, or its host cannot be reached."""


class LockedError(RunError):
    """Another run holds this database."""


class StorageError(RunError):
    """The database cannot be written: no space, a lock that does not end, a broken file."""


class UnreachableError(RunError):
    """The API did not answer at all, so no entity can be read."""


class EntityError(SyncError):
    """Ends one entity; it keeps its rows and its bookmark."""

    def __init__(self, message: str, hint: str = "", *, requests: int = 0) -> None:
        super().__init__(message, hint)
        self.requests = requests  # HTTP requests that were sent in vain


class RequestError(EntityError):
    """The service refused a request, or every retry of it failed."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: int | None = None,
        code: str = "",
        requests: int = 0,
        request: PageRequest | None = None,
        is_outage: bool = False,
    ) -> None:
        super().__init__(message, hint, requests=requests)
        self.status = status  # of HTTP; None if no answer came
        self.code = code  # the service's own, such as 0x80040220; may be empty
        self.request = request
        self.is_outage = is_outage  # no connection could be made: no other request would help


class PageError(EntityError):
    """An answer that is not a page of records, or a link that cannot be followed."""


class GuardError(EntityError):
    """A pass would have removed more than half of a table, and removed nothing."""
