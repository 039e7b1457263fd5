"""Suppressed recipients at enqueue: looked up in the transaction that stores the jobs.

On SQLite, whether an application has a list at all is asked each time: that takes microseconds. On PostgreSQL it would
be a round trip for each call, so "it has none" is remembered for `REMEMBERED`. A mail that slips through in that time
is found when it is claimed (`sendq.ledger.dispatching.suppression`), and is not sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection, String, bindparam, exists, select, tuple_

from sendq.clock import SECOND, Micros
from sendq.enqueueing.options import Send
from sendq.enqueueing.plan import Planned
from sendq.enqueueing.suppressing import Hit, Verdict, judge, mail_of
from sendq.errors import SuppressedRecipients, Unreadable
from sendq.ledger import events, suppressions
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import chunks
from sendq.ledger.secrets import opened_digest_key, sealed_digest_key
from sendq.ledger.storing import lock_before_reading, store_jobs
from sendq.messages.digests import digest_of
from sendq.messages.unsubscribe_token import category_of, signing_key
from sendq.rules.suppression import blocking_reason
from sendq.vault import Vault
from sendq.views import Job

REMEMBERED: Micros = 1 * SECOND

BY = "suppression"

NOBODY_SUPPRESSED = Verdict()

# The key of the digests, if an application has a list.
_KEY_OF_LIST = sealed_digest_key().where(
    exists().where(schema.suppression.c.application == bindparam("application", type_=String))
)


class Enqueuer:
    """Stores sends without suppressed recipients. One for each queue; thread-safe."""

    def __init__(self) -> None:
        self._without_list: dict[str, Micros] = {}  # applications without a list, and until when that is cached

    def forget_what_is_remembered(self) -> None:
        """Ask again which applications have a list: this process has changed one."""
        self._without_list.clear()

    def store(
        self,
        connection: Connection,
        sends: Sequence[Send],
        planned: Planned,
        plan: Callable[[Verdict], Planned],
        *,
        own: Sequence[Hit],
        indexed: bool,
        now: Micros,
        cap: int | None,
        vault: Vault,
        left_out: Counter[str] | None = None,
        last: bool = False,
    ) -> list[Job]:
        """Store planned sends. ``plan`` plans them again, without dropped recipients; ``own``: who is suppressed by the
        application's own list. ``left_out``: counts by reason the messages of a batch that have no recipient left; they
        are not stored, and have no job in the result. None: they are refused. ``last``: the transaction does nothing
        more, and is not a caller's.

        Raises `SuppressedRecipients`, and what `store_jobs` raises.
        """
        lock_before_reading(connection)
        verdict = self.judge(
            connection, sends, own=own, indexed=indexed, of_batch=left_out is not None, now=now, vault=vault
        )
        if verdict is NOBODY_SUPPRESSED:
            return store_jobs(connection, planned, now=now, cap=cap, vault=vault, last=last)
        if verdict.problems:
            raise SuppressedRecipients(verdict.problems)
        if left_out is not None:
            left_out.update(hits[0].reason for hits in verdict.left_out.values())
        kept = [position for position in range(len(sends)) if position not in verdict.left_out]
        if not kept:
            return []
        again = verdict.instead or verdict.left_out
        stored = store_jobs(
            connection, plan(verdict) if again else planned, now=now, cap=cap, vault=vault,
            last=last and not verdict.dropped,
        )  # fmt: skip
        jobs = dict(zip(kept, stored, strict=True))
        for position, dropped in verdict.dropped.items():
            if not jobs[position].existed:
                jobs[position] = replace(jobs[position], dropped=tuple(hit.field for hit in dropped))
        if verdict.dropped:
            note_dropped(connection, sends, verdict, jobs, now=now)
        return list(jobs.values())

    def judge(
        self,
        connection: Connection,
        sends: Sequence[Send],
        *,
        own: Sequence[Hit],
        indexed: bool,
        of_batch: bool,
        now: Micros,
        vault: Vault,
    ) -> Verdict:
        """What becomes of sends because of their suppressed recipients: see `store`."""
        hits = [*own, *self._hits(connection, sends, vault, now=now)]
        if not hits:
            return NOBODY_SUPPRESSED
        known = _positions_of_known_keys(connection, sends, {hit.position for hit in hits})
        new = (hit for hit in hits if hit.position not in known)
        return judge(sends, new, indexed=indexed, of_batch=of_batch)

    def _hits(self, connection: Connection, sends: Sequence[Send], vault: Vault, *, now: Micros) -> list[Hit]:
        by_application: dict[str, list[int]] = {}
        for position, send in enumerate(sends):
            by_application.setdefault(send.options.application, []).append(position)
        found: list[Hit] = []
        for application, positions in by_application.items():
            key = self._key_of_list(connection, application, vault, now=now)
            if key is not None:
                found += _look_up(connection, application, [(at, sends[at]) for at in positions], key)
        return found

    def _key_of_list(self, connection: Connection, application: str, vault: Vault, *, now: Micros) -> bytes | None:
        """The key of the digests, if this application has a suppression list."""
        cached_until = self._without_list.get(application)
        if cached_until is not None and cached_until - REMEMBERED <= now < cached_until:
            return None
        found = constant.rows(connection, _KEY_OF_LIST, {"application": application})
        if not found:
            if connection.dialect.name != "sqlite":
                if len(self._without_list) > 1_000:  # names of applications come from callers
                    self._without_list.clear()
                self._without_list[application] = now + REMEMBERED
            return None
        try:
            ((value, cipher_key),) = found
            return opened_digest_key(value, cipher_key, vault)
        except Unreadable:  # encryption is being introduced, or a key replaced: the claim has the key, and checks too
            return None


def _look_up(connection: Connection, application: str, sends: Sequence[tuple[int, Send]], key: bytes) -> list[Hit]:
    mails = [(position, send, mail_of(send)) for position, send in sends]
    digests = {one: digest_of(key, application, one) for _, _, mail in mails for _, one in mail.named}
    listed = suppressions.entries_of(connection, application, set(digests.values()))
    if not listed:
        return []
    found = []
    for position, send, mail in mails:
        unsubscribe = getattr(send.message, "unsubscribe", None)
        category = category_of(signing_key(key), mail.unsubscribe, application)
        category = category if unsubscribe is None else unsubscribe.category
        for field, address in mail.named:
            reason = blocking_reason(listed.get(digests[address], ()), category)
            if reason is not None:
                found.append(Hit(position, field, reason))
    return found


def _positions_of_known_keys(connection: Connection, sends: Sequence[Send], positions: set[int]) -> set[int]:
    """The sends whose key was used before: a repeat stores nothing, and returns the first job."""
    names = {position: (sends[position].options.application, sends[position].options.key) for position in positions}
    wanted = sorted({(application, key) for application, key in names.values() if key is not None})
    table = schema.key.c
    known: set[tuple[str, str]] = set()
    for some in chunks(wanted):
        rows = connection.execute(
            select(table.application, table.key).where(tuple_(table.application, table.key).in_(some))
        )
        known.update((row.application, row.key) for row in rows)
    return {position for position, name in names.items() if name in known}


def note_left_out(
    connection: Connection, application: str, batch_id: UUID, left_out: Counter[str], *, now: Micros
) -> None:
    """Record how many messages a batch was made without, and why."""
    if left_out:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(left_out.items()))
        events.append(
            connection, "recipients_dropped", at=now, by=BY, application=application, batch_id=batch_id,
            number=left_out.total(), reason=f"messages left out: {reasons}",
        )  # fmt: skip


def note_dropped(
    connection: Connection, sends: Sequence[Send], verdict: Verdict, jobs: Mapping[int, Job], *, now: Micros
) -> None:
    """Record which recipients of a job were left out, and why."""
    events.append_all(
        connection,
        [
            events.event(
                "recipients_dropped", at=now, by=BY, application=sends[position].options.application,
                grant_id=sends[position].grant_id, job_id=UUID(jobs[position].id), number=len(dropped),
                reason=", ".join(f"{hit.field}: {hit.reason}" for hit in dropped),
            )
            for position, dropped in verdict.dropped.items()
            if not jobs[position].existed
        ],
    )  # fmt: skip
