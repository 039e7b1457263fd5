"""A ledger with very many waiting jobs, in minutes: rows as calls of ``modify`` would have written them, made by
PostgreSQL itself.

Batches of up to `CALL` messages, in the order of their calls, which are spread over the hour before; lanes in a random
order, so that the jobs of one lane lie apart as they would. ``tests/integration/house/test_filling.py`` holds the rows
against those of real calls. Lanes are made by the dispatcher's own function, and held and closed by the ledger's.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text

from sendq import clock
from sendq.clock import SECOND, Micros
from sendq.ids import lane_id
from sendq.ledger.db.bulk import chunks
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching import lanes
from sendq.ledger.dispatching.waking import take_wakes, wake_lanes
from sendq.ledger.enqueue import notify
from sendq.messages.payload import freeze_changes
from sendq.messages.wire_format import JSON_TYPE
from sendq.rules.changed_fields import BITS
from sendq.rules.paces import Paces
from sendq.rules.rule_ids import BY_HAND

APPLICATION, PROVIDER, HELD_PROVIDER = "default", "imap", "microsoft"

# Messages of one call.
CALL = 50

# Jobs of one transaction of the fill, at most: a few seconds, by which ids are younger than their calls.
STEP = 100_000

HOUR: Micros = 3_600 * SECOND
DAY: Micros = 24 * HOUR

UNREAD = freeze_changes(unread=False)
BY = "bench"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ``modify``: so many messages of a grant, marked as read; at ``at``, due at ``due_at``."""

    grant_id: str
    provider: str
    jobs: int
    at: Micros
    due_at: Micros


def calls_of(grants_: Sequence[str], jobs: int, *, provider: str, until: Micros, due_at: Micros = 0) -> list[Call]:
    """As many calls as it takes for ``jobs`` on these grants, as equal as it gets; the last one before ``until``."""
    each, more = divmod(jobs, len(grants_))
    sizes: list[tuple[str, int]] = []
    for place, grant in enumerate(grants_):
        left = each + (place < more)
        while left:
            sizes.append((grant, min(CALL, left)))
            left -= sizes[-1][1]
    random.Random(jobs).shuffle(sizes)
    step = HOUR // max(1, len(sizes))
    begun = until - step * len(sizes)
    times = [begun + place * step for place in range(len(sizes))]
    return [Call(grant, provider, size, at, max(at, due_at)) for (grant, size), at in zip(sizes, times, strict=True)]


def fill(ledger: Engine, calls: Iterable[Call]) -> Iterator[int]:
    """Write calls, in transactions of at most `STEP` jobs; gives how many jobs were written, after each."""
    for some in chunks(calls, STEP // CALL):
        with writing(ledger) as connection:
            insert_calls(connection, some)
        yield sum(call.jobs for call in some)


def insert_calls(connection: Connection, calls: Sequence[Call]) -> None:
    """Write calls as rows, and wake the dispatcher, in the caller's transaction."""
    connection.execute(_CALLS_TABLE)
    copy_in(connection, calls)
    known = {"body": UNREAD, "content_type": JSON_TYPE, "fields": BITS["unread"], "application": APPLICATION}
    connection.execute(_BATCHES, known)
    connection.execute(_JOBS)
    connection.execute(_WAKES, known)
    connection.execute(text("DROP TABLE fill_call"))
    notify(connection, at=min(call.due_at for call in calls))


def copy_in(connection: Connection, calls: Sequence[Call]) -> None:
    """The calls, as a table of this session."""
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor().copy("COPY fill_call (lane_id, grant_id, provider, jobs, at, due_at) FROM STDIN") as copy:
        for call in calls:
            lane = lane_id(APPLICATION, call.grant_id)
            copy.write_row((lane, call.grant_id, call.provider, call.jobs, call.at, call.due_at))


# `uuidv7` makes ids as `sendq.ids.new_id` does: of the time of the call, in the order of its jobs.
_CALLS_TABLE = text(
    "CREATE TEMPORARY TABLE fill_call (no serial, lane_id uuid, grant_id text, provider text, jobs integer, at bigint,"
    " due_at bigint, batch_id uuid)"
)
_AGE = "make_interval(secs => at / 1e6 - extract(epoch FROM now())::double precision)"
_BATCHES = text(
    f"WITH called AS (UPDATE fill_call SET batch_id = uuidv7({_AGE}) RETURNING *)"
    " INSERT INTO sendq_batch (id, lane_id, operation, target, hard, fields, listings, total, body, content_type,"
    " created_at, priority, due_at)"
    " SELECT batch_id, lane_id, 'modify', 'message', false, :fields, 0, jobs, :body, :content_type, at, 1, due_at"
    " FROM called"
)
# `next_at` grows by a microsecond with each job of a call (`sendq.enqueueing.planning.job_row`).
_JOBS = text(
    "INSERT INTO sendq_job (id, lane_id, batch_id, operation, object_id, priority, state, due_at, next_at, created_at)"
    f" SELECT uuidv7({_AGE}), lane_id, batch_id, 'modify', to_hex(no) || '-' || place, 1, 'queued', due_at,"
    " due_at + place, at FROM fill_call CROSS JOIN LATERAL generate_series(0, jobs - 1) AS place"
)
_WAKES = text(
    "INSERT INTO sendq_wake (lane_id, application, grant_id, provider, normal_at)"
    " SELECT lane_id, :application, grant_id, provider, due_at FROM fill_call ORDER BY no"
)


# --- lanes ------------------------------------------------------------------------------------------------------------


def take_in(ledger: Engine) -> None:
    """What the dispatcher does about new jobs: lanes are made, and marked as due."""
    while True:
        with writing(ledger) as connection:
            found = take_wakes(connection, limit=1_000)
            wake_lanes(connection, found, now=clock.now(), paces=Paces())
        if not found:
            return


def hold(ledger: Engine, grant_ids: Sequence[str], *, until: Micros) -> None:
    """Hold each of these grants until then, as `sendq.ledger.operators.holds.hold_grant` does, many at once."""
    now = clock.now()
    _change(ledger, grant_ids, {"held_until": until, "held_since": now, "held_rule": BY_HAND, "held_by": BY, "ramp": 1})


def close(ledger: Engine, grant_ids: Sequence[str]) -> None:
    """Close each of these lanes as `sendq.ledger.grants.close` does; and their owners were told of it, and the API is
    asked about them tomorrow, or the checker would do nothing else.
    """
    now = clock.now()
    closed = {"closed_at": now, "closed_rule": "grant_expired", "suspected": False, "checks": 0}
    _change(ledger, grant_ids, closed | {"check_at": now + DAY, "announced_at": now})


def _change(ledger: Engine, grant_ids: Sequence[str], change: Mapping[str, Any]) -> None:
    for some in chunks(grant_ids):
        with writing(ledger) as connection:
            changes = lanes.lock_changes(connection, [lane_id(APPLICATION, grant) for grant in some]).values()
            for one in changes:
                one.columns |= change
            lanes.write_changes(connection, changes, now=clock.now())
