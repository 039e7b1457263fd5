"""What became of each recipient's copy of a mail: merged into the ledger under keyed digests, never with an address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, select, tuple_

from sendq.clock import Micros
from sendq.facts.notices import MailNotice
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.delivery_status import report_of
from sendq.ledger.secrets import digest_key
from sendq.messages.digests import digest_of
from sendq.rules.delivery import Report, merge
from sendq.vault import Vault


class Change(NamedTuple):
    """What is known of a recipient from now on. ``is_news``: it was another delivery before, or none.

    ``address``: as the notification has it; never stored as it is.
    """

    job_id: UUID
    digest: bytes
    position: int | None
    report: Report
    is_news: bool
    address: str


def merge_recipients(
    connection: Connection,
    notices: Sequence[tuple[UUID, MailNotice]],
    application: str,
    *,
    vault: Vault,
    now: Micros,
) -> list[Change]:
    """Merge what notifications say of recipients, each about its (locked) job; returns what has changed.

    Raises `Unreadable` if the key of the digests is encrypted with a key that ``vault`` does not have.
    """
    ids = sorted({job_id for job_id, notice in notices if notice.recipients})
    if not ids:
        return []
    key = digest_key(connection, vault)
    table = schema.recipient_status
    rows = connection.execute(select(table).where(table.c.job_id.in_(ids))).all()
    before = {(row.job_id, bytes(row.digest)): (row.position, report_of(row)) for row in rows}
    after: dict[tuple[UUID, bytes], tuple[int | None, Report]] = dict(before)
    addresses: dict[tuple[UUID, bytes], str] = {}
    for job_id, notice in notices:
        assert notice.delivery is not None
        at = now if notice.at is None else notice.at
        for one in notice.recipients:
            name = (job_id, digest_of(key, application, one.address))
            addresses[name] = one.address
            report = Report(notice.delivery, at, notice.kind, one.detail or notice.detail)
            position, others = after.get(name, (None, None))
            standing = report if others is None else merge([report, others])
            after[name] = (position if position is not None else one.position, standing)
    changes = []
    for name, (position, report) in after.items():
        known = before.get(name)
        if known != (position, report):
            is_news = known is None or known[1].delivery != report.delivery
            changes.append(Change(*name, position, report, is_news, addresses[name]))
    replaced = [(one.job_id, one.digest) for one in changes if (one.job_id, one.digest) in before]
    if replaced:
        connection.execute(table.delete().where(tuple_(table.c.job_id, table.c.digest).in_(replaced)))
    insert_rows(connection, table, [_row(one) for one in changes])
    return changes


def _row(change: Change) -> dict[str, Any]:
    report = change.report
    row = {"job_id": change.job_id, "digest": change.digest, "position": change.position}
    return row | {"delivery": report.delivery.value, "at": report.at, "source": report.source, "detail": report.detail}
