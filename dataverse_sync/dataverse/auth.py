"""Keep the token of a run fresh: one token for all threads, from any credential."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from dataverse_sync.dataverse.credentials import Credential, Token
from dataverse_sync.errors import RunError
from dataverse_sync.redaction import Redactor


class Auth:
    """The token of a run: got once, renewed by one thread while the others wait."""

    def __init__(
        self,
        credential: Credential,
        scope: str,
        redactor: Redactor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credential = credential
        self._scope = scope
        self._redactor = redactor
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._asked_at = 0.0  # for the token, on the clock
        self._failure: RunError | None = None

    @property
    def tenant_id(self) -> str | None:
        """The tenant signed in to, if the credential knows it."""
        return self._token.tenant_id if self._token else None

    @property
    def authority(self) -> str | None:
        """Where the service says to sign in, if the credential knows it."""
        return self._token.authority if self._token else None

    @property
    def server_date(self) -> datetime | None:
        """The API's clock when it was first reached, if the credential asked it."""
        return self._token.api_date if self._token else None

    def get_token(self) -> str:
        """A token that is good for a while; safe to call from any thread."""
        with self._lock:
            if self._token is None or self._token.is_due(self._clock() - self._asked_at):
                self._token = self._get_new_token()
            return self._token.value

    def reach_api(self) -> None:
        """Raise an UnreachableError if the API is away; nothing is asked that was asked before."""
        with self._lock:
            self._credential.reach_api()

    def renew(self, refused: str) -> str:
        """A token other than the one that was refused; the first thread gets it for all."""
        with self._lock:
            if self._token is None or self._token.value == refused:
                self._token = self._get_new_token()
            return self._token.value

    def _get_new_token(self) -> Token:
        # A sign-in that failed ends the run: the threads behind the lock must not each
        # spend a whole schedule of retries on it, one after the other.
        if self._failure is not None:
            raise self._failure
        self._asked_at = self._clock()
        try:
            token = self._credential.get_token(self._scope)
        except RunError as error:
            self._failure = error
            raise
        self._redactor.add(token.value)
        return token
