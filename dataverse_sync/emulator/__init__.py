"""An emulator of the Dataverse Web API on loopback, over real HTTP.

It shares no code with the client: both would agree on the same mistake. It is strict where
the service is strict, and what it refuses it refuses in the service's words.

    with Emulator([Table("account", "accounts", "accountid", [Column("name", "String")])]) as it:
        it.insert("accounts", {"name": "Litware, Inc. (sample)"})
        print(it.api_url)
"""

from .clock import Clock
from .columns import Column
from .demo_changes import change_demo
from .demo_data import fill_demo
from .demo_tables import demo_tables
from .emulator import Emulator
from .faults import Fault
from .limits import Limits
from .request_log import LoggedRequest
from .tables import Table

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
