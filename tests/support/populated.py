"""A ledger after a busy day, as rows: held and closed grants, jobs in every state, dead letters, batches, workers.

Nothing here is random: equal arguments give equal ledgers, but for ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, update

from sendq.clock import SECOND, Micros
from sendq.ids import first_id, lane_id, new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks, insert_rows

MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND

PROVIDERS = ("google", "microsoft", "imap", "google", "microsoft")
HELD_PROVIDER, HELD_RULE = "ews", "exchange_throttled"

DEAD = (
    ("recipients_invalid", 400, "One or more recipients were rejected."),
    ("bad_request", 400, "The request body is invalid: reply_to_message_id"),
    ("too_large", 413, "The message exceeds the provider's limit of 25 MB."),
)

# What the states of a hundred jobs are; the rest are sent.
STATES = {**dict.fromkeys(range(12), "queued"), 12: "dead", 13: "dead", 14: "expired", 15: "cancelled", 16: "in_doubt"}


@dataclass(frozen=True)
class Grant:
    """A grant and the state of its lane."""

    name: str
    provider: str
    held: bool = False
    closed: bool = False

    @property
    def lane(self) -> UUID:
        return lane_id("default", self.name)


def grants_of(number: int, held: int) -> list[Grant]:
    """The grants: the first ``held`` are Exchange's and held, each fiftieth of the others is closed."""
    names = [f"{place:08x}-19a4-4b3c-9d0e-7f2c5e6a8177" for place in range(1, number + 1)]
    return [
        Grant(name, HELD_PROVIDER, held=True)
        if place < held
        else Grant(name, PROVIDERS[place % 5], closed=place % 50 == 0)
        for place, name in enumerate(names)
    ]


def populate(connection: Connection, *, grants: int, jobs: int, held: int, now: Micros) -> list[Grant]:
    """Write the ledger; returns its grants."""
    all_grants = grants_of(grants, held)
    pairs = sorted({(grant.provider) for grant in all_grants} | {"*"})
    insert_rows(connection, schema.pair, [{"application": "default", "provider": one} for one in pairs])
    for lanes in chunks([_lane(grant, place, now) for place, grant in enumerate(all_grants)], 5_000):
        insert_rows(connection, schema.lane, lanes)
    for some in chunks(_jobs(all_grants, jobs, now), 5_000):
        insert_rows(connection, schema.job, [job for job, _ in some])
        insert_rows(connection, schema.attempt, [attempt for _, attempt in some if attempt is not None])
        insert_rows(connection, schema.payload, [
            {"job_id": job["id"], "body": b"{}", "content_type": "application/json"}
            for job, _ in some if job["state"] == "dead"
        ])  # fmt: skip
    insert_rows(connection, schema.event, [*_events(all_grants, now)])
    _batches(connection, all_grants, now)
    _workers(connection, now)
    insert_rows(connection, schema.delivery, [*_deliveries(all_grants, now)])
    for entries in chunks(_suppressions(jobs // 20, now), 5_000):
        insert_rows(connection, schema.suppression, entries)
    return all_grants


def id_at(at: Micros) -> UUID:
    """An id as it would have been made then."""
    return UUID(int=first_id(at).int | int.from_bytes(os.urandom(7), "big"))


def _lane(grant: Grant, place: int, now: Micros) -> dict[str, Any]:
    since = now - 20 * MINUTE + (place % 900) * SECOND
    return {
        "id": grant.lane, "application": "default", "grant_id": grant.name, "provider": grant.provider,
        "created_at": now - 30 * DAY, "next_at": None, "width": 4, "ramp": 1 if grant.held else 4,
        "held_until": since + 30 * MINUTE if grant.held else None, "held_since": since if grant.held else None,
        "held_rule": HELD_RULE if grant.held else None, "held_by": "policy" if grant.held else None,
        "closed_at": since - HOUR if grant.closed else None, "closed_rule": "grant_expired" if grant.closed else None,
        "announced_at": since if grant.closed else None, "ask_at": None,
    }  # fmt: skip


def _jobs(grants: list[Grant], number: int, now: Micros) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    keepers = [grant for grant in grants if grant.held or grant.closed] or grants
    for place in range(number):
        state = STATES.get(place % 100, "sent")
        among = keepers if state == "queued" else grants
        grant = among[(place // 100 * 17 + place % 100) % len(among)]
        at = now - DAY + place * (DAY - 5 * SECOND) // number
        yield _job(grant, place, state, at)


def _job(grant: Grant, place: int, state: str, at: Micros) -> tuple[dict[str, Any], dict[str, Any] | None]:
    rule, status, error = DEAD[place // 100 % 3] if state == "dead" else (None, 200, None)
    rule = {"sent": "accepted", "in_doubt": "no_answer", "expired": "expired", "cancelled": "cancelled"}.get(
        state, rule
    )
    called = state in ("sent", "dead", "in_doubt")
    ended = state in ("sent", "dead", "expired", "cancelled")
    job = {
        "id": id_at(at), "lane_id": grant.lane, "batch_id": None, "operation": "send", "form": "json",
        "priority": place % 3, "state": state, "due_at": at, "next_at": at,
        "expires_at": at + 3 * DAY if state in ("queued", "expired") else None, "created_at": at,
        "attempts": int(called), "doubt_at": at + SECOND if state == "in_doubt" else None,
        "look_at": at + 2 * DAY if state == "in_doubt" else None, "finished_at": at + 2 * SECOND if ended else None,
        "rule": rule, "message_id": f"message-{place}" if state == "sent" else None,
    }  # fmt: skip
    if not called:
        return job, None
    return job, {
        "id": id_at(at + SECOND), "job_id": job["id"], "generation": 0, "begun_at": at + SECOND,
        "ended_at": at + 2 * SECOND, "status": None if state == "in_doubt" else status, "rule": rule,
        "route": {"sent": None, "dead": "dead_letter", "in_doubt": "retry"}[state],
        "sent": {"sent": "yes", "dead": "no", "in_doubt": "maybe"}[state], "error": error, "replayed": False,
    }  # fmt: skip


def _events(grants: list[Grant], now: Micros) -> Iterator[dict[str, Any]]:
    nothing = dict.fromkeys(("provider", "grant_id", "job_id", "batch_id", "rule", "reason"))
    for place, grant in enumerate(grants):
        if not (grant.held or grant.closed):
            continue
        lane = _lane(grant, place, now)
        at = lane["held_since"] or lane["closed_at"]
        yield nothing | {
            "id": id_at(at), "at": at, "kind": "hold" if grant.held else "closed", "application": "default",
            "grant_id": grant.name, "provider": grant.provider, "rule": lane["held_rule"] or lane["closed_rule"],
            "by": "policy",
        }  # fmt: skip


def _batches(connection: Connection, grants: list[Grant], now: Micros) -> None:
    for place in range(30):
        at = now - HOUR + place * MINUTE
        batch = id_at(at)
        over = place % 3 != 0
        insert_rows(connection, schema.batch, [{
            "id": batch, "lane_id": grants[-1 - place % len(grants)].lane, "application": "default",
            "operation": "modify", "target": "message", "fields": 1,
            "total": 1_000, "body": b"{}", "content_type": "application/json", "created_at": at,
            "priority": 1, "due_at": at, "finished_at": at + MINUTE if over else None,
        }])  # fmt: skip
        counts = {"sent": 990 if over else 400, "dead": 10 if place % 4 == 0 else 0}
        insert_rows(connection, schema.batch_change, [
            {"batch_id": batch, "state": state, "count": number, "at": at, "summed": True}
            for state, number in counts.items() if number
        ])  # fmt: skip


def _workers(connection: Connection, now: Micros) -> None:
    ids = [new_id(), new_id()]
    insert_rows(connection, schema.worker, [
        {"id": one, "name": f"sendq{number}@mail-{number}", "pid": 7 + number, "version": "0.1.0",
         "started_at": now - 2 * DAY, "beats": 1, "beat_at": now, "silent": 0, "stale_after": 8 * SECOND,
         "capacity": 100, "stopping": False}
        for number, one in enumerate(ids, 1)
    ])  # fmt: skip
    connection.execute(update(schema.leader).values(holder=ids[0], expires_at=now + HOUR, highest_at=0))


def _deliveries(grants: list[Grant], now: Micros) -> Iterator[dict[str, Any]]:
    for place in range(120):
        at = now - HOUR + place * 20 * SECOND
        state = ("waiting", "given_up", "delivered")[place % 3]
        yield {
            "id": id_at(at), "target": "https://shop.example/outcomes", "receiver": "https://shop.example",
            "kind": ("sent", "dead")[place % 2], "subject": new_id(), "lane_id": grants[place % len(grants)].lane,
            "sequence": 1, "facts": "{}", "state": state, "created_at": at, "next_at": at + MINUTE,
            "until": at + 3 * DAY, "tries": 1 if state == "delivered" else 7, "refusals": 0, "tried_at": at + SECOND,
            "done_at": None if state == "waiting" else at + SECOND,
            "error": None if state == "delivered" else "status 503",
        }  # fmt: skip


def _suppressions(number: int, now: Micros) -> Iterator[dict[str, Any]]:
    reasons = (("bounced", "message.bounced"), ("unsubscribed", "one-click"), ("complained", "message.complaint"))
    for place in range(number):
        reason, source = reasons[place % 3]
        yield {
            "application": "default", "digest": place.to_bytes(16, "big"),
            "category": "newsletter" if reason == "unsubscribed" else "", "reason": reason,
            "at": now - DAY + place * (DAY // number), "source": source,
        }  # fmt: skip
