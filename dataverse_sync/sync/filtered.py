"""The closure of the filtered tables: read what is linked to, until nothing new is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from dataverse_sync.store.database import transaction
from dataverse_sync.store.references import References
from dataverse_sync.sync.page_loop import Job, OnEnd, PageLoop

# What is to be read of an entity, by ids that its table does not have and ids that it has.
MakeJob = Callable[[str, Sequence[str], Sequence[str]], Job | None]


def read_closure(
    loop: PageLoop,
    connection: Connection,
    references: References,
    names: Sequence[str],
    make_job: MakeJob,
    on_end: OnEnd,
) -> None:
    """Read what these filtered entities are linked to, round by round, until nothing new is linked.

    ``make_job`` returns None for an entity that takes no part any more.
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
