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

if TYPE_CHECKING:
    from dataverse_sync.config import Config as Config
    from dataverse_sync.errors import SyncError as SyncError
    from dataverse_sync.model import EntityConfig as EntityConfig
    from dataverse_sync.model import EntityReport as EntityReport
    from dataverse_sync.model import SyncReport as SyncReport
    from dataverse_sync.sync.run import run_sync as run_sync
    from dataverse_sync.version import __version__ as __version__

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what a library does

_HOMES = {
    "Config": "config",
    "EntityConfig": "model",
    "EntityReport": "model",
    "SyncError": "errors",
    "SyncReport": "model",
    "__version__": "version",
    "run_sync": "sync.run",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for: ``__main__`` handles a stop before that."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
