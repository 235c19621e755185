"""An environment, signed in to: the client, and the workers that it is asked by."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from dataverse_sync.auth import Auth
from dataverse_sync.config import Config
from dataverse_sync.dataverse_client import DataverseClient
from dataverse_sync.redaction import Redactor
from dataverse_sync.transport import LONGEST_WAIT_S, Throttle, Transport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Environment:
    client: DataverseClient
    pool: ThreadPoolExecutor
    auth: Auth


@contextmanager
def open_environment(config: Config, redactor: Redactor) -> Iterator[Environment]:
    """Sign in, and stop every worker at the end, also in the middle of their work.

    Raises:
        AuthError: The sign-in was refused, or its host cannot be reached.
        UnreachableError: The API did not answer at all.
    """

    def say_capped(asked_s: float) -> None:
        log.warning(
            "the service asks to wait %.0f s; asked again after %.0f s", asked_s, LONGEST_WAIT_S
        )

    transport = Transport(
        Throttle(config.workers), config.connect_timeout_s, config.read_timeout_s, say_capped
    )
    auth = Auth(config, transport, redactor)
    auth.get_token()
    client = DataverseClient(config, transport, auth, redactor)
    pool = ThreadPoolExecutor(config.workers, thread_name_prefix="dataverse")
    try:
        yield Environment(client, pool, auth)
    except BaseException:
        # Those that wait raise; those in a read are left behind to end by themselves.
        client.stop()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    transport.close()
