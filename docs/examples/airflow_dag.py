"""One sync a day as an Airflow task; put this file into the folder of the DAGs.

The worker's environment holds DATAVERSE_API_URL, DATAVERSE_CLIENT_ID,
DATAVERSE_CLIENT_SECRET, and in SQLITE_DB_PATH an absolute path that is the same from
run to run.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, task
from dataverse_sync import Config, EntityConfig, run_sync

ENTITIES = [
    EntityConfig("vin_candidates"),
    EntityConfig("accounts", filtered=True),
]


@dag(
    schedule="@daily",
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,  # a sync brings everything up to now, whatever day it is run for
    max_active_runs=1,  # a second one would find the database locked
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},
)
def dataverse_to_sqlite():
    @task(execution_timeout=timedelta(hours=6))
    def sync() -> dict[str, int]:
        database = Path(os.environ["SQLITE_DB_PATH"])
        report = run_sync(
            Config(
                api_url=os.environ["DATAVERSE_API_URL"],
                client_id=os.environ["DATAVERSE_CLIENT_ID"],
                client_secret=os.environ["DATAVERSE_CLIENT_SECRET"],
                sqlite_db_path=database,
                schema_path=database.with_name("schema.json"),
            ),
            ENTITIES,
        )
        if report.failed:
            raise RuntimeError("\n".join(f"{one.name}: {one.error}" for one in report.failed))
        return asdict(report.totals)  # the run's counts, kept as its XCom

    sync()


dataverse_to_sqlite()
