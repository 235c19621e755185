"""An environment, signed in to: the client, and the workers that it is asked by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from dataverse_sync.config import Config
from dataverse_sync.dataverse.auth import Auth
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.throttle import Throttle
from dataverse_sync.dataverse.transport import LONGEST_WAIT_S, Transport
from dataverse_sync.redaction import Redactor

log = logging.getLogger(__name__)

# Windows cannot interrupt a wait without an end, so Ctrl-C would go unheard.
LISTEN_S = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Environment:
    client: DataverseClient
    pool: ThreadPoolExecutor
    auth: Auth


@contextmanager
def open_environment(
    config: Config, redactor: Redactor, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[Environment]:
    """Sign in, and stop every worker at the end, also in the middle of their work.

    Args:
        config: Where, and as whom.
        redactor: Learns the secret and every token.
        meanwhile: Called while the sign-in waits for its answers.

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
    client = DataverseClient(config, transport, auth, redactor)
    pool = ThreadPoolExecutor(config.workers, thread_name_prefix="dataverse")
    try:
        signed_in = pool.submit(auth.get_token)
        meanwhile()
        wait_for(signed_in)
        yield Environment(client, pool, auth)
    except BaseException:
        # Those that wait raise; those in a read are left behind to end by themselves.
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
