"""Mail and notifications about it, for tests: sent, reported, and what became known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from sendq import DeliveryStatus, Message, Operators
from sendq.clock import SECOND
from sendq.facts.notices import MailNotice
from sendq.facts.turns import Claimed
from sendq.ledger import delivery_status, mail_notices
from sendq.ledger.db import schema
from sendq.rules.states import Event
from sendq.webhooks import Received, receive
from sendq.webhooks.endpoint import Application
from sendq.webhooks.notice import read
from tests.integration.ledger.test_webhooks import SECRET, signed
from tests.support.ledger import Ledger, end, outcome

TO = ["leyah@example.com", "noor@example.com"]
MAIL = Message(to=TO[:1], cc=TO[1:], subject="Invoice 42", body="…")


def sent(ledger: Ledger, message_id: str | None = "m1", **options: Any) -> UUID:
    """A mail that the API has taken into its own queue (202)."""
    job = UUID(ledger.queue.send("g1", MAIL, **options).id)
    accept(ledger, message_id)
    return job


def accept(ledger: Ledger, message_id: str | None) -> None:
    ledger.clock.advance(1)
    claimed = ledger.serve()
    ledger.clock.advance(1)
    (job,) = (one for one in claimed.jobs if one.id in claimed.begun)
    accepted = outcome(claimed, job, Event.ACCEPT, sent="yes", rule="queued", message_id=message_id)
    ledger.record(accepted, ends=[end(claimed)])


def notification(ledger: Ledger, kind: str, message: str | None, *, job: UUID | None = None, notice: str = "n1",
                 ago: float = 0, bounced: Sequence[str] = (), grant: str = "g1", attempt: int = 1,
                 reason: str = "550 no such user") -> bytes:  # fmt: skip
    """A notification of Nylas, in the form of each kind."""
    at = (ledger.clock() - round(ago * SECOND)) // SECOND
    mail: dict[str, Any] = {"to": TO[:1], "cc": TO[1:]} | ({} if message is None else {"id": message})
    if job is not None:
        mail["metadata"] = {"key1": str(job)}
    beside: dict[str, Any] = {}
    facts: dict[str, Any] = {"message": mail}
    if kind == "message.bounced":
        facts["bounce"] = {"bounced_at": at, "type": "General", "recipients": [
            {"email": one, "diagnostic_code": reason} for one in bounced or TO[:1]]}  # fmt: skip
    elif kind == "message.bounce_detected":
        facts = {"origin": mail, "bounced_addresses": TO[0], "code": "550", "bounce_reason": reason}
    elif kind == "message.complaint":
        facts["complaint"] = {"reported_at": at, "type": "abuse", "complained_recipients": TO[:1]}
    elif kind == "message.delivered":
        facts["delivered"] = {"delivered_at": at, "recipients": list(bounced or TO)}
    elif kind == "message.rejected":
        facts["rejected_at"] = at
    elif kind == "thread.replied":
        facts = {"root_message_id": message, "message_id": "m9"}
    else:
        facts = {**mail, "object": "message"}
        beside = {"reason": reason, "error": {"type": "api.provider_error", "message": reason}}
    data = {"application_id": "a1", "grant_id": grant, "object": facts} | beside
    body = {"specversion": "1.0", "type": kind, "id": notice, "time": at, "webhook_delivery_attempt": attempt}
    return json.dumps(body | {"data": data}).encode()


def report(ledger: Ledger, kind: str, message: str | None = "m1", **more: Any) -> Received:
    application = more.pop("application", "default")
    body = notification(ledger, kind, message, **more)
    return receive(ledger.queue, secret=SECRET, raw_body=body, signature=signed(body), application=application)


def delivery(ledger: Ledger, job: UUID) -> DeliveryStatus:
    status = ledger.queue.job(str(job)).delivery
    assert status is not None
    return status


def result(answer: Received) -> str:
    (name,) = (name for name, says in mail_notices.SAYS.items() if says == answer.says)
    return name


def counts(ledger: Ledger) -> dict[tuple[str, str, str], int]:
    table = schema.notice_count.c
    with ledger.engine.connect() as connection:
        rows = connection.execute(
            select(table.provider, table.kind, table.result, func.sum(table.number)).group_by(
                table.provider, table.kind, table.result
            )
        )
        return {(provider, kind, outcome): int(number) for provider, kind, outcome, number in rows}


def retry(ledger: Ledger, job: UUID) -> None:
    operators = Operators(ledger.engine, now=ledger.clock)
    last = list(operators.retry([str(job)], by="anna", reason="the quota is back"))[-1]
    assert not last.refused, last
    ledger.clock.advance(1)
    ledger.absorb()


def settle(ledger: Ledger) -> int:
    with ledger.writing() as connection:
        return len(delivery_status.apply_known(connection, delivery_status.find_pending(connection, limit=9),
                                               now=ledger.clock()))  # fmt: skip


def begun(ledger: Ledger, **options: Any) -> tuple[Claimed, Any]:
    """A mail whose call is on the wire."""
    if not options.pop("queued", False):
        ledger.queue.send("g1", MAIL, **options)
    ledger.clock.advance(1)
    claimed = ledger.serve()
    (job,) = (one for one in claimed.jobs if one.id in claimed.begun)
    ledger.clock.advance(1)
    return claimed, job


def refuse(ledger: Ledger, claimed: Claimed, job: Any, **given: Any) -> None:
    """The API refuses the request for now: it was not sent, and goes again under a new key."""
    again = outcome(claimed, job, Event.RETURN, new_generation=True, next_at=ledger.clock(), **given)
    ledger.record(again, ends=[end(claimed)])


def doubt(ledger: Ledger, claimed: Claimed, job: Any) -> None:
    ledger.record(
        outcome(claimed, job, Event.DOUBT, sent="maybe", begun_at=ledger.clock(), rule="no_answer"), ends=[end(claimed)]
    )


def ask_all(application: Application, bodies: Sequence[bytes]) -> list[int]:
    """The statuses of the answers to these notifications, a hundred at a time."""

    async def ask(body: bytes) -> int:
        said: list[Any] = []

        async def take() -> Any:
            return {"type": "http.request", "body": body}

        async def say(event: Any) -> None:
            said.append(event)

        headers = [(b"x-nylas-signature", signed(body).encode())]
        await application(
            {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}, take, say
        )
        return int(said[0]["status"])

    async def some(rest: Iterator[bytes]) -> list[int]:
        return [await ask(body) for body in rest]

    async def all_of_them() -> list[int]:
        rest = iter(bodies)
        return [status for part in await asyncio.gather(*(some(rest) for _ in range(100))) for status in part]

    return asyncio.run(all_of_them())


def parsed(ledger: Ledger, kind: str, message: str, notice: str) -> MailNotice:
    body = notification(ledger, kind, message, notice=notice)
    found = read(body, signature=signed(body), secret=SECRET, now=ledger.clock())
    assert isinstance(found, MailNotice)
    return found
