"""An emulator of the Dataverse Web API on loopback, over real HTTP.

It shares no code with the client: both would agree on the same mistake. It is strict where
the service is strict, and what it refuses it refuses in the service's words. ``data`` holds
tables and records, ``api`` answers requests, ``http`` brings them in, ``demo`` fills it.

    with Emulator([Table("account", "accounts", "accountid", [Column("name", "String")])]) as it:
        it.insert("accounts", {"name": "Litware, Inc. (sample)"})
        print(it.api_url)
"""

from .data.clock import Clock
from .data.columns import Column
from .data.tables import Table
from .demo.demo_changes import change_demo
from .demo.demo_data import fill_demo
from .demo.demo_tables import demo_tables
from .emulator import Emulator
from .http.faults import Fault
from .http.limits import Limits
from .http.request_log import LoggedRequest

__all__ = [
    "Clock",
    "Column",
    "Emulator",
    "Fault",
    "Limits",
    "LoggedRequest",
    "Table",
    "change_demo",
    "demo_tables",
    "fill_demo",
]
