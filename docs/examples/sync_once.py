"""One sync from a plain script; its settings come from the environment.

DATAVERSE_API_URL, DATAVERSE_CLIENT_ID and DATAVERSE_CLIENT_SECRET must be set;
SQLITE_DB_PATH may be.
"""

from __future__ import annotations

import os
import sys

from dataverse_sync import Config, EntityConfig, SyncError, run_sync

ENTITIES = [
    EntityConfig("vin_candidates"),
    EntityConfig("accounts", filtered=True),
]


def main() -> int:
    """Sync once; 0 where every entity completed, 1 where one failed or the run could not go on."""
    try:
        report = run_sync(
            Config(
                api_url=os.environ["DATAVERSE_API_URL"],
                client_id=os.environ["DATAVERSE_CLIENT_ID"],
                client_secret=os.environ["DATAVERSE_CLIENT_SECRET"],
                sqlite_db_path=os.environ.get("SQLITE_DB_PATH", "dataverse.db"),
            ),
            ENTITIES,
        )
    except SyncError as error:
        print(f"the run ended: {error}", file=sys.stderr)
        return 1
    for entity in report.failed:
        print(f"{entity.name} failed: {entity.error}", file=sys.stderr)
    totals = report.totals
    print(f"{totals.added} added, {totals.updated} updated, {totals.deleted} deleted")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
