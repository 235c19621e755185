"""Levers for tests: faults, limits, latency, a hook, expiry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .api.paging import DeltaToken
from .http.faults import Fault
from .http.limits import Limits
from .http.request_log import LoggedRequest


@dataclass(slots=True)
class Control:
    """The levers of one emulator; each acts from the next request on."""

    max_page_size: int = 5000
    metadata_readable: bool = True
    unknown_properties: tuple[str, ...] = ()  # of EntityMetadata: TableType on older services
    latency_s: float = 0.0
    organization_id: str | None = "5d0e1f5c-7a3b-4c7e-9f0a-2b6c8d4e1f3a"  # None: WhoAmI unknown
    limits: Limits | None = None
    faults: list[Fault] = field(default_factory=list)  # the first that matches strikes
    on_request: Callable[[LoggedRequest], object] | None = None  # called before the answer
    # What the app may not see: a depth by entity set, and the ids that it shows; secured columns,
    # each as entity set and name.
    depths: dict[str, tuple[str, set[str]]] = field(default_factory=dict)
    hidden: set[tuple[str, str]] = field(default_factory=set)
    unknown_functions: set[str] = field(default_factory=set)
    tracking_denied: set[str] = field(default_factory=set)  # entity sets: tracked reads get 403
    full_read_on_expiry: bool = False  # an expired delta link brings everything, not an error
    # What was sent and still holds.
    access_tokens: dict[str, float] = field(default_factory=dict)  # when each ends
    delta_tokens: dict[tuple[str, str | None, str], DeltaToken] = field(default_factory=dict)

    def fault(self, fault: Fault) -> None:
        """Let this fault strike the requests it matches, after those that wait already."""
        self.faults.append(fault)

    def expire_tokens(self) -> None:
        """Every access token issued so far is answered 401 from now on."""
        self.access_tokens.clear()

    def expire_delta_tokens(self) -> None:
        """Every delta link sent so far is answered 0x80044352 from now on."""
        self.delta_tokens.clear()
