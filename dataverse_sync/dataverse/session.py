"""A session with the service: the client, signed in, and the workers that send its requests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from dataverse_sync.config import Config, list_proxies
from dataverse_sync.dataverse.auth import Auth
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.credentials import ClientSecret
from dataverse_sync.dataverse.rights import Identity, get_identity
from dataverse_sync.dataverse.throttle import Throttle
from dataverse_sync.dataverse.transport import Transport
from dataverse_sync.errors import EntityError
from dataverse_sync.redaction import Redactor

log = logging.getLogger(__name__)

# Windows cannot interrupt a wait without an end, so Ctrl-C would go unheard.
LISTEN_S = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    client: DataverseClient
    pool: ThreadPoolExecutor
    auth: Auth

    def sign_in(self) -> None:
        """Wait for the sign-in that ``open_session`` started, or raise why it failed."""
        wait_for(self.pool.submit(self.auth.get_token))

    def get_identity(self) -> Identity | None:
        """Who this app is there, None where the service does not tell; on a worker.

        Raises:
            UnreachableError: The API does not answer at all.
        """
        try:
            return get_identity(self.client)
        except EntityError as error:
            self.auth.reach_api()
            log.info("the organization cannot be asked for: %s", error)
            return None


@contextmanager
def open_session(
    config: Config, redactor: Redactor, authority: str | None = None
) -> Iterator[Session]:
    """Start the sign-in on a worker; at the end wait for the workers, after an error leave them.

    ``authority`` is where an earlier run has signed in.
    """
    redactor.add_proxies(list_proxies())
    transport = Transport(Throttle(config.workers), config.connect_timeout_s, config.read_timeout_s)
    credential = ClientSecret(config, transport, redactor, authority)
    auth = Auth(credential, config.token_scope, redactor)
    client = DataverseClient(config, transport, auth, redactor)
    pool = ThreadPoolExecutor(config.workers, thread_name_prefix="dataverse")
    pool.submit(auth.get_token)
    try:
        yield Session(client, pool, auth)
    except BaseException:
        # Workers that wait raise; those in a read are left behind to end by themselves.
        client.stop()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    transport.close()


def wait_for(future: Future[T]) -> T:
    """What a worker returns, or raises."""
    while not future.done():
        wait([future], LISTEN_S)
    return future.result()
