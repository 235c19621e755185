"""What of a table is unusual, and what a sync does about it, in words that a person can act on."""

from __future__ import annotations

from datetime import UTC, datetime

from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.errors import EntityError, RequestError
from dataverse_sync.model import Entity, PageRequest
from dataverse_sync.store.sync_state import EntityState
from dataverse_sync.sync.ways import REFUSED_QUERY, parse_way


def find_oddities(
    client: DataverseClient, entity: Entity, saved: EntityState, *, is_filtered: bool
) -> list[str]:
    """What an earlier run and a query of what changed tell of a table.

    A filtered table is never asked what changed.
    """
    way = parse_way(saved.asked_how, datetime.now(UTC))
    found = [f"the service {text}" for text in way.describe()]
    asks_changes = way.since and entity.has("modifiedon") and not is_filtered
    if asks_changes and not _answers_changes(client, entity, saved):
        found.append("the service refuses a filter by modifiedon: keys and versions are compared")
    return found


def _answers_changes(client: DataverseClient, entity: Entity, saved: EntityState) -> bool:
    """Whether the query of an incremental read is answered."""
    since = saved.bookmark or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    url = odata.build_url(
        client.api_url,
        entity.name,
        select=(entity.key,),
        filter=odata.changed_since(since),
        top=1,
    )
    try:
        client.release(client.get_page(PageRequest(entity.name, url, top=True, retries=1)))
    except EntityError as error:
        return not (isinstance(error, RequestError) and error.status in REFUSED_QUERY)
    return True
