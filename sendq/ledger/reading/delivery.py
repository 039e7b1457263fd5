"""What became of a job's mail."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from sendq.clock import moment
from sendq.ledger.db import schema
from sendq.rules.delivery import Delivery
from sendq.rules.states import State
from sendq.views.delivery import DeliveryStatus, RecipientStatus


def delivery_of(connection: Connection, job: Row[*tuple[Any, ...]]) -> DeliveryStatus | None:
    """What became of the mail of this job; None: it is none, or was not sent.

    Reports about a send before the last retry by hand do not count.
    """
    if job.operation != "send":
        return None
    table, recipient = schema.delivery_status, schema.recipient_status
    this = table.c.job_id == job.id, table.c.generation == job.generation
    row = connection.execute(select(table).where(*this)).first()
    if row is None:
        return DeliveryStatus(Delivery.UNKNOWN) if State(job.state) is State.SENT else None
    rows = connection.execute(
        select(recipient).where(recipient.c.job_id == job.id).order_by(recipient.c.position, recipient.c.digest)
    )
    return DeliveryStatus(
        Delivery(row.delivery), moment(row.at), row.source, row.detail, tuple(_recipient(one) for one in rows)
    )


def _recipient(row: Row[Any]) -> RecipientStatus:
    return RecipientStatus(
        bytes(row.digest).hex(), row.position, Delivery(row.delivery), moment(row.at), row.source, row.detail
    )
