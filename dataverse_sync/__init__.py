"""Keep a true, complete, queryable SQLite copy of a Microsoft Dataverse environment.

from dataverse_sync import Config, EntityConfig, run_sync

report = run_sync(
    Config(api_url=..., client_id=..., client_secret=..., sqlite_db_path="dataverse.db"),
    [EntityConfig("accounts")],
)
"""

from dataverse_sync.config import Config
from dataverse_sync.errors import SyncError
from dataverse_sync.model import EntityConfig, EntityReport, SyncReport
from dataverse_sync.sync import run_sync
from dataverse_sync.version import __version__

__all__ = [
    "Config",
    "EntityConfig",
    "EntityReport",
    "SyncError",
    "SyncReport",
    "__version__",
    "run_sync",
]
