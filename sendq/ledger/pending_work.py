"""What there is to do for the leader's loops: one query for all of them. It reads an index for each part of it, and the
few holds of tags.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, text

from sendq.clock import Micros
from sendq.ledger.db import constant, schema
from sendq.rules.after import Stage


class PendingWork(NamedTuple):
    """Which of the leader's loops may have work."""

    batches: bool  # a change to add up, a walk that is over, a cancelled batch, or a tag's hold that is over
    followers: bool  # a follower that waits, or is to be looked at at some time
    doubts: bool  # a job in doubt
    closed_lanes: bool
    unknown_providers: bool  # a lane whose provider is to be asked for by now
    reports: bool  # a report about mail that waits for the record of an outcome
    deliveries: bool  # an outcome that is not delivered yet


_CONDITIONS = {
    "batches": "EXISTS (SELECT 1 FROM sendq_batch_change WHERE NOT summed)"
    " OR EXISTS (SELECT 1 FROM sendq_batch WHERE making)"
    " OR EXISTS (SELECT 1 FROM sendq_batch WHERE cancel_at IS NOT NULL AND NOT cancelled)"
    " OR EXISTS (SELECT 1 FROM sendq_tag_hold WHERE held_until <= :now)",
    "followers": f"EXISTS (SELECT 1 FROM sendq_after WHERE stage = '{Stage.WAITING.value}')"  # noqa: S608
    f" OR EXISTS (SELECT 1 FROM sendq_after WHERE {schema.READS_NO_THREAD})"
    f" OR EXISTS (SELECT 1 FROM sendq_after WHERE {schema.READS_THREAD})",
    "doubts": "EXISTS (SELECT 1 FROM sendq_job WHERE state = 'in_doubt')",
    "closed_lanes": "EXISTS (SELECT 1 FROM sendq_lane WHERE closed_at IS NOT NULL)",
    "unknown_providers": "EXISTS (SELECT 1 FROM sendq_lane WHERE provider = 'unknown' AND ask_at <= :now AND NOT gone)",
    "reports": "EXISTS (SELECT 1 FROM sendq_delivery_status WHERE pending)",
    "deliveries": "EXISTS (SELECT 1 FROM sendq_delivery WHERE state = 'waiting')",
}
_FIND = text("SELECT " + ", ".join(f"({_CONDITIONS[name]}) AS {name}" for name in PendingWork._fields)).bindparams(
    bindparam("now", type_=BigInteger())
)


def find(connection: Connection, *, now: Micros) -> PendingWork:
    """What there is to do."""
    return PendingWork(*map(bool, constant.rows(connection, _FIND, {"now": now})[0]))
