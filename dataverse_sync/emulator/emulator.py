"""The emulator as its users see it: tables and records go in, HTTP comes out."""

from __future__ import annotations

import datetime as dt
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from .api.environment import Environment
from .api.service import Service
from .data.clock import Clock
from .data.columns import Column
from .data.store import Store
from .data.tables import STRINGMAPS, Table
from .http.exchange import Exchange
from .http.faults import Fault
from .http.limits import Limiter, Limits
from .http.request_log import LoggedRequest
from .http.server import Server
from .http.signin import SignIn

TENANT_ID = "5d3a4f0e-9f5b-4c0d-8a6e-3b1f0c7d2e91"
CLIENT_ID = "0b6c1f6a-7d2e-4b8f-9a35-c41d2e8f7a60"
CLIENT_SECRET = "emu8Q~not-a-secret-of-anyone"  # noqa: S105  opens the emulator only


class Emulator:
    """An environment on loopback, with its sign-in service.

    Records are dicts by JSON name (``_primarycontactid_value``) or, for lookups, by column
    name. It can be filled before it is started, changed while it runs, stopped and started
    again on the same port.
    """

    def __init__(
        self,
        tables: Iterable[Table],
        *,
        clock: Clock | None = None,
        client_id: str = CLIENT_ID,
        client_secret: str = CLIENT_SECRET,
        tenant_id: str = TENANT_ID,
        port: int = 0,
        token_life_s: int = 3599,
        metadata_readable: bool = True,
        max_page_size: int = 5000,
        limits: Limits | None = None,
        latency_s: float = 0.0,
        gzip: bool = True,
        full_read_on_expiry: bool = False,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.client_id = client_id
        self.client_secret = client_secret
        self._store = Store(self.clock)
        weakref.finalize(self, self._store.close)  # the data is there as long as the emulator
        self._environment = Environment(
            self._store,
            self.clock,
            max_page_size=max_page_size,
            metadata_readable=metadata_readable,
            full_read_on_expiry=full_read_on_expiry,
        )
        self._signin = SignIn(self.clock, tenant_id, client_id, client_secret, token_life_s)
        self._exchange = Exchange(
            Service(self._environment, self._signin),
            limiter=Limiter(limits) if limits else None,
            latency_s=latency_s,
            gzip_answers=gzip,
        )
        self._port = port
        self._ssl_context = ssl_context
        self._server: Server | None = None
        for table in tables:
            self._store.add_table(table)
        if STRINGMAPS.entity_set not in self._store.tables:
            self._store.add_table(STRINGMAPS)
        for spec in self._environment.specs:
            self._map_labels(spec, spec.columns)

    # On the network

    def start(self) -> Self:
        self._exchange.stopping.clear()
        self._server = Server(self._port, self._exchange, self._ssl_context)
        self._port = self._server.server_port
        serve = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="emulator", daemon=True
        )
        serve.start()
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def origin(self) -> str:
        if not self._port:
            raise RuntimeError("the emulator has no address before it is started")
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self._port}"

    @property
    def api_url(self) -> str:
        return f"{self.origin}/api/data/v9.2/"

    @property
    def tenant_id(self) -> str:
        return self._signin.tenant_id

    def env_lines(self) -> list[str]:
        """The lines of a ``.env`` file that point here."""
        return [
            f"DATAVERSE_API_URL={self.api_url}",
            f"DATAVERSE_CLIENT_ID={self.client_id}",
            f"DATAVERSE_CLIENT_SECRET={self.client_secret}",
        ]

    # Records

    def insert(
        self,
        entity_set: str,
        record: Mapping[str, object],
        *,
        id: str | None = None,
        createdon: dt.datetime | str | None = None,
        modifiedon: dt.datetime | str | None = None,
        committed: bool = True,
    ) -> str:
        """Write a record and return its id; uncommitted, nobody sees it before ``commit``."""
        given = {
            self._store.tables[entity_set].spec.key: id,
            "createdon": createdon,
            "modifiedon": modifiedon,
        }
        named = {name: value for name, value in given.items() if value is not None}
        return self._store.insert(entity_set, [{**record, **named}], committed=committed)[0]

    def insert_many(self, entity_set: str, records: Iterable[Mapping[str, object]]) -> list[str]:
        return self._store.insert(entity_set, records)

    def update(
        self,
        entity_set: str,
        id: str,
        values: Mapping[str, object],
        *,
        modifiedon: dt.datetime | str | None = None,
        committed: bool = True,
    ) -> None:
        """Change a record; with ``modifiedon`` as an import would, that moment kept."""
        self._store.update(entity_set, id, values, modifiedon=modifiedon, committed=committed)

    def commit(self, id: str) -> None:
        self._store.commit(id)

    def delete(self, entity_set: str, id: str) -> None:
        self._store.delete(entity_set, id)

    def restore(
        self,
        entity_set: str,
        id: str,
        *,
        modifiedon: dt.datetime | str | None = None,
    ) -> None:
        """Bring a deleted record back under its id, as modified now unless said otherwise."""
        self._store.restore(entity_set, id, modifiedon=modifiedon)

    def ids(self, entity_set: str) -> list[str]:
        """Every record's id, in the order the service sorts them."""
        return self._store.ids(entity_set)

    def rows(self, entity_set: str) -> dict[str, dict[str, Any]]:
        """Every record by id, as its JSON reads, without the etag."""
        return self._store.rows(entity_set)

    def record_bytes(self, entity_set: str, id: str) -> bytes:
        """A record exactly as a full read sends it."""
        return self._store.record_bytes(entity_set, id)

    # Tables

    @property
    def tables(self) -> list[Table]:
        return self._environment.specs

    def add_table(self, table: Table) -> None:
        self._store.add_table(table)
        self._map_labels(table, table.columns)

    def remove_table(self, entity_set: str) -> None:
        self._store.remove_table(entity_set)

    def add_column(self, entity_set: str, column: Column) -> None:
        spec = self._store.tables[entity_set].spec
        self._store.change_table(entity_set, spec.with_column(column))
        self._map_labels(spec, [column])

    def drop_column(self, entity_set: str, name: str) -> None:
        spec = self._store.tables[entity_set].spec
        self._store.change_table(entity_set, spec.without_column(name))

    def retype_column(self, entity_set: str, name: str, type: str) -> None:
        spec = self._store.tables[entity_set].spec
        self._store.change_table(entity_set, spec.with_type(name, type))

    def _map_labels(self, table: Table, columns: Sequence[Column]) -> None:
        labels = [
            {
                "objecttypecode": table.logical_name,
                "attributename": column.name,
                "attributevalue": value,
                "value": label,
                "langid": 1033,
                "displayorder": order,
            }
            for column in columns
            for order, (value, label) in enumerate((column.options or {}).items(), start=1)
        ]
        self._store.insert(STRINGMAPS.entity_set, labels)

    # What tests order and look at

    @property
    def log(self) -> list[LoggedRequest]:
        return self._exchange.log

    def clear_log(self) -> None:
        self._exchange.log.clear()
        self._exchange.most_in_flight = 0

    @property
    def most_in_flight(self) -> int:
        return self._exchange.most_in_flight

    @property
    def on_request(self) -> Callable[[LoggedRequest], object] | None:
        """Called before each request is answered."""
        return self._exchange.on_request

    @on_request.setter
    def on_request(self, hook: Callable[[LoggedRequest], object] | None) -> None:
        self._exchange.on_request = hook

    @property
    def latency_s(self) -> float:
        return self._exchange.latency_s

    @latency_s.setter
    def latency_s(self, seconds: float) -> None:
        self._exchange.latency_s = seconds

    def fault(self, fault: Fault) -> None:
        self._exchange.faults.add(fault)

    def clear_faults(self) -> None:
        self._exchange.faults.clear()

    def expire_tokens(self) -> None:
        """Every access token issued so far is answered 401 from now on."""
        self._signin.expire_tokens()

    def expire_delta_tokens(self) -> None:
        """Every delta link sent so far is answered 0x80044352 from now on."""
        self._environment.delta_tokens.clear()

    def revoke_change_tracking_read(self, entity_set: str) -> None:
        """Tracked reads of this set are answered 403 from now on."""
        self._environment.tracking_denied.add(entity_set)
