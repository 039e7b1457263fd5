"""What is reported of mails that others follow: an answer or a bounce may end those that ``unless`` says.

The reports are only noted with the followers, which the leader then looks at, at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from sendq.clock import Micros
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching.parked import lock_rows
from sendq.rules.after import Stage, Unless, each_unless

_after = schema.after.c


def note_news(
    connection: Connection, *, answers: Mapping[UUID, Micros], bounced: Collection[UUID], now: Micros
) -> set[UUID]:
    """Note answers to the mails of these jobs, with their times, and that those of others bounced, for what follows
    them. Returns the answered jobs that some other follows with ``unless="replied"``.

    All in one call: rows are locked in the leader's order, after the jobs that the caller has locked.
    """
    if not answers and not bounced:
        return set()
    answered = _down_the_threads(connection, answers)
    rows = lock_rows(connection, {*answered, *_followers(connection, bounced)})
    marks: list[dict[str, Any]] = []
    noted: set[UUID] = set()
    for row in rows:
        if row.stage == Stage.DONE:
            continue
        unless = each_unless(row.unless)
        replied_at, bounced_at = row.replied_at, row.bounced_at
        if Unless.REPLIED in unless and row.job_id in answered and replied_at is None:
            replied_at = answers[answered[row.job_id]]
            noted.add(answered[row.job_id])
        if Unless.BOUNCED in unless and row.after_id in bounced and bounced_at is None:
            bounced_at = now
        if (replied_at, bounced_at) != (row.replied_at, row.bounced_at):
            check_at = None if row.stage == Stage.WAITING else now
            marks.append({"job_id": row.job_id, "replied_at": replied_at, "bounced_at": bounced_at,
                          "check_at": check_at})  # fmt: skip
    update_rows(connection, schema.after, marks, key="job_id")
    return noted


def _down_the_threads(connection: Connection, answers: Collection[UUID]) -> dict[UUID, UUID]:
    """The followers down the chains from these jobs, as far as their messages are in the same threads, each with the
    job in whose thread it is.
    """
    found: dict[UUID, UUID] = {}
    wanted = {job_id: job_id for job_id in answers}
    while wanted:
        query = select(_after.job_id, _after.after_id, _after.replies).order_by(_after.job_id)
        rows = connection.execute(query.where(_after.after_id.in_(wanted), _after.stage != Stage.DONE.value)).all()
        new = [row for row in rows if row.job_id not in found]
        found |= {row.job_id: wanted[row.after_id] for row in new}
        wanted = {row.job_id: wanted[row.after_id] for row in new if row.replies}
    return found


def _followers(connection: Connection, jobs: Collection[UUID]) -> set[UUID]:
    if not jobs:
        return set()
    return set(connection.execute(select(_after.job_id).where(_after.after_id.in_(jobs))).scalars())
