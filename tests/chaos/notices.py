"""A scenario with a receiver of Nylas's notifications: whatever was answered 200 is known, and applied once."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import func, select

from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from sendq.ledger.mail_notices import APPLIED, EARLIER
from sendq.simulator.store import Notification
from tests.chaos.servers import AWAY, kill_postgres
from tests.chaos.stage import WEBHOOK_SECRET, Scenario, Stage
from tests.support.waiting import eventually

# Between two attempts to deliver a notification, of which there are three: longer than PostgreSQL is away.
AGAIN_AFTER_S = 3.0

FAULTS = ("receiver",) * 4 + ("worker",) * 2 + ("leader", "ledger")


def _deaths(stage: Stage) -> None:
    """Kill the receiver, workers and the ledger, in an order determined by the seed; meanwhile, all that was delivered
    is delivered again.
    """
    receivers, api = stage.receivers, stage.system.api
    assert receivers is not None
    for number in range(stage.load.lanes):  # only Agent Accounts' mail has a notification of each delivery
        api.grant(f"grant-{number}", provider="nylas")
    api.webhook(f"http://127.0.0.1:{stage.receiver_port}/", WEBHOOK_SECRET, again_after=AGAIN_AFTER_S)
    faults = stage.chance.sample(FAULTS, len(FAULTS))
    for number, fault in enumerate(faults):
        eventually(lambda: receivers.all_there() and stage.crew.all_there(), "a full crew")
        stage.pause(1.0, 2.5)
        if number % 3 == 2:
            api.deliver_again()
            stage.pause(0.0, 0.3)  # among them
        if fault == "receiver":
            receivers.kill(receivers.workers[0])
        elif fault == "ledger":
            kill_postgres(stage)
        else:
            stage.crew.kill(stage.leader() if fault == "leader" else stage.chance.choice(stage.crew.workers))
    eventually(lambda: receivers.all_there() and stage.crew.all_there(), "a full crew")
    stage.mended()


def _wrong(stage: Stage) -> Iterator[str]:
    """What was answered 200 and is not known, or was applied more than once."""
    api = stage.system.api
    eventually(lambda: not api.delivering, "the last attempt to deliver a notification")
    answered = [one for one in api.notifications if 200 in one.statuses]
    if len(answered) < len(api.notifications) / 2:
        yield f"only {len(answered)} of {len(api.notifications)} notifications were answered 200"
    count, status = schema.notice_count.c, schema.delivery_status.c
    with reading(stage.system.engine) as connection:
        remembered = set(connection.execute(select(schema.webhook.c.id)).scalars())
        known = set(connection.execute(select(status.job_id)).scalars())
        once = select(func.sum(count.number)).where(count.result.in_([APPLIED, EARLIER]))
        applied = int(connection.execute(once).scalar_one() or 0)
    for one in answered:
        if f"default/{one.envelope['id']}" not in remembered:
            yield f"notification {one.envelope['id']} was answered 200 and is not known"
        if _job(one) not in known:
            yield f"job {_job(one)} has no delivery, and its notification was answered 200"
    if applied != len(remembered):
        yield f"{len(remembered)} notifications were applied {applied} times"
    if not any(len(one.statuses) > one.statuses.index(200) + 1 for one in answered):
        yield "no notification came again"


def _job(notification: Notification) -> UUID:
    return UUID(notification.envelope["data"]["object"]["message"]["metadata"]["key1"])


SCENARIOS = (
    Scenario(
        "webhooks",
        "notifications while receiver (4 ×), workers (3 ×) and PostgreSQL are killed",
        _deaths,
        sign=AWAY,
        backlog=80,
        receives=True,
        wrong=_wrong,
    ),
)
