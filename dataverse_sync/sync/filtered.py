"""The closure of the filtered tables: read what is linked to, until nothing new is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from sqlalchemy import Connection

from dataverse_sync.errors import GuardError
from dataverse_sync.store import deletions
from dataverse_sync.store.database import transaction
from dataverse_sync.store.references import References
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.sync.page_loop import Job, OnEnd, PageLoop

# What is to be read of an entity, from ids that its table does not have and ids that it has.
MakeJob = Callable[[str, Sequence[str], Sequence[str]], Job | None]


def read_closure(
    loop: PageLoop,
    connection: Connection,
    references: References,
    names: Sequence[str],
    make_job: MakeJob,
    on_end: OnEnd,
) -> None:
    """Read what the filtered entities are linked to, round by round, until nothing new is linked.

    Args:
        loop: What the reads go through.
        connection: The one that writes.
        references: The links, told from the tables; they grow with each round.
        names: The filtered entities to read.
        make_job: What to read of an entity in a round; None if it takes no part any more.
        on_end: As ``PageLoop.run`` has it, for each round.
    """
    while True:
        jobs: dict[str, Job] = {}
        with transaction(connection):
            references.reach()
            for name in names:
                new, known = references.list_unasked(name)
                if (new or known) and (job := make_job(name, new, known)) is not None:
                    references.mark_asked(name, [*new, *known])
                    jobs[name] = job
        if not jobs:
            return
        loop.run(jobs, on_end)


def mark_unlinked(
    connection: Connection,
    references: References,
    tables: Mapping[str, EntityTable],
    names: Collection[str],
    *,
    whole: bool,
    allow_deletes: bool,
) -> Mapping[str, GuardError]:
    """Mark for removal what the service did not return and what is no longer linked to.

    Args:
        connection: The one that writes.
        references: The links.
        tables: Each entity's table.
        names: The filtered entities that rows may be removed from.
        whole: Whether all entities took part, so that unlinked rows can be told.
        allow_deletes: Whether the guard lets everything pass.

    Returns:
        The entities that the guard refuses to remove so much from: their rows stay, and link.
    """
    references.reach()
    refused: dict[str, GuardError] = {}
    for name in names:
        table = tables[name]
        deletions.unmark_all(connection, table)
        deletions.mark_for_removal(connection, table, references.gone(name), "not_returned")
        if whole:
            deletions.mark_for_removal(connection, table, references.unlinked(name), "unlinked")
        try:
            deletions.check_guard(connection, table, allow_deletes)
        except GuardError as error:
            refused[name] = error
    return refused
