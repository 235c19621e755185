"""The emulator: an environment's data, served over HTTP on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Self

from .api.request import Backend
from .api.service import Service
from .control import Control
from .data.clock import Clock
from .data.store import Store
from .data.tables import STRINGMAPS, Table
from .http.exchange import Exchange
from .http.request_log import LoggedRequest
from .http.server import Server
from .http.signin import CLIENT_ID, CLIENT_SECRET, SignIn


class Emulator(Store):
    """An environment's tables and records on loopback, with its sign-in service.

    It can be filled before it is started, changed while it runs, stopped and started again on
    the same port. ``control`` holds what tests order, ``log`` what was asked.
    """

    client_id = CLIENT_ID
    client_secret = CLIENT_SECRET

    def __init__(
        self, tables: Iterable[Table], *, clock: Clock | None = None, port: int = 0
    ) -> None:
        super().__init__(clock or Clock())
        self.control = Control()
        self.log: list[LoggedRequest] = []
        signin = SignIn(self.clock, self.control)
        self._exchange = Exchange(Service(Backend(self, self.control)), signin, self.log)
        self._port = port
        self._server: Server | None = None
        for table in tables:
            self.add_table(table)
        if STRINGMAPS.entity_set not in self.tables:
            self.add_table(STRINGMAPS)

    @property
    def most_in_flight(self) -> int:
        """The most requests that were being answered at once, of those in the log."""
        return max((request.in_flight for request in self.log), default=0)

    def start(self) -> Self:
        self._exchange.stopping.clear()
        self._server = Server(self._port, self._exchange)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse new connections and drop the open ones; the data stays."""
        if self._server is not None:
            self._exchange.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            self._server.drop_connections()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def origin(self) -> str:
        if not self._port:
            raise RuntimeError("the emulator has no address before it is started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def api_url(self) -> str:
        return f"{self.origin}/api/data/v9.2/"

    def env_lines(self) -> list[str]:
        """The lines of a ``.env`` file that point here."""
        return [
            f"DATAVERSE_API_URL={self.api_url}",
            f"DATAVERSE_CLIENT_ID={self.client_id}",
            f"DATAVERSE_CLIENT_SECRET={self.client_secret}",
        ]
