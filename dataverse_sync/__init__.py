"""Keep a true, complete, queryable SQLite copy of a Microsoft Dataverse environment.

from dataverse_sync import Config, EntityConfig, run_sync

report = run_sync(
    Config(api_url=..., client_id=..., client_secret=..., sqlite_db_path="dataverse.db"),
    [EntityConfig("accounts")],
)
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from dataverse_sync.version import __version__

if TYPE_CHECKING:
    from dataverse_sync.config import Config
    from dataverse_sync.errors import SyncError
    from dataverse_sync.model import EntityConfig, EntityReport, SyncReport
    from dataverse_sync.sync.run import run_sync

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what a library does

__all__ = [
    "Config",
    "EntityConfig",
    "EntityReport",
    "SyncError",
    "SyncReport",
    "__version__",
    "run_sync",
]

_HOMES = {
    "Config": "config",
    "EntityConfig": "model",
    "EntityReport": "model",
    "SyncError": "errors",
    "SyncReport": "model",
    "run_sync": "sync.run",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and no sooner: ``__main__`` listens for a stop before that."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
