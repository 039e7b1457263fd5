"""Asking Nylas what became of mail: the loop on a real ledger and the simulated API, on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import update

from sendq import Delivery
from sendq.clock import SECOND
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.dispatching.pairs import prove
from sendq.simulator import Simulator
from settings import Settings
from tasks.calling.nylas import NylasClient
from tests.integration.ledger.mail import counts, delivery, report, result, sent
from tests.support.leading import FixedLeadership
from tests.support.ledger import Ledger
from worker.leading.send_events import ABSENT_FOR_S, Absent, SendEvents


class Asker:
    """What the loop needs of an engine: the real client."""

    def __init__(self, api: Simulator) -> None:
        self.api = api

    def application(self, name: str) -> Any:
        return SimpleNamespace(api_uri=self.api.url, api_key=lambda: "test-key")

    def ask(self, question: Callable[[NylasClient], Coroutine[Any, Any, Any]], *, limit_s: float) -> Any:
        async def asked() -> Any:
            async with NylasClient() as client:
                return await asyncio.wait_for(question(client), limit_s)

        return asyncio.run(asked())


@pytest.fixture
def api(ledger: Ledger) -> Iterator[Simulator]:
    with Simulator(clock=lambda: ledger.clock() / SECOND) as simulator:
        simulator.grant("g1", provider="nylas")
        yield simulator


def asking(ledger: Ledger, api: Simulator, *, absent: Absent | None = None, **settings: Any) -> SendEvents:
    made = Settings(nylas_api_key=SecretStr("nyk_1"), **settings)
    return SendEvents(
        ledger.engine, FixedLeadership(), cast(Any, Asker(api)), made, absent=absent or Absent(), now=ledger.clock
    )


def mailed(ledger: Ledger, api: Simulator, to: str) -> UUID:
    """A mail that the API and the ledger know."""
    job = sent(ledger, f"m-{new_id()}", provider="nylas")
    _send(api, to)
    with ledger.writing() as connection:
        connection.execute(update(schema.job).where(schema.job.c.id == job).values(message_id=api.mailbox[-1].id))
        prove(connection, "default", "nylas", begun_at=ledger.clock(), now=ledger.clock())  # as the recorder does
    return job


def _send(api: Simulator, to: str) -> None:
    async def send() -> None:
        async with NylasClient() as client:
            application = Asker(api).application("default")
            body = f'{{"to": [{{"email": "{to}"}}], "subject": "42", "body": "42"}}'.encode()
            answer = await client.send(application, "g1", body, str(new_id()))
            assert answer.status == 200

    asyncio.run(send())


class TestAnApplicationWithoutWebhook:
    def test_is_asked_and_each_event_is_applied_once(self, ledger: Ledger, api: Simulator) -> None:
        bounced, arrived = (mailed(ledger, api, f"{one}@example.com") for one in ("bounce", "leyah"))
        loop = asking(ledger, api)
        for _ in range(3):
            loop.run_once()
        assert delivery(ledger, bounced).delivery is Delivery.BOUNCED
        assert delivery(ledger, bounced).source == "send_event.bounced"
        assert delivery(ledger, arrived).delivery is Delivery.DELIVERED
        assert set(counts(ledger).values()) == {1}
        asking(ledger, api).run_once()  # another leader, with an empty memory
        assert len(ledger.rows(schema.webhook)) == 2

    def test_reads_again_what_is_listed_late(self, ledger: Ledger, api: Simulator) -> None:
        api.behaviour.send_events_delay = 600
        job = mailed(ledger, api, "bounce@example.com")
        loop = asking(ledger, api)
        loop.run_once()
        assert delivery(ledger, job).delivery is Delivery.UNKNOWN
        ledger.clock.advance(601)
        loop.run_once()
        assert delivery(ledger, job).delivery is Delivery.BOUNCED

    def test_is_not_asked_again_for_a_day_if_it_has_no_such_endpoint(self, ledger: Ledger, api: Simulator) -> None:
        mailed(ledger, api, "bounce@example.com")
        api.behaviour.has_send_events = False
        at = [0.0]
        loop = asking(ledger, api, absent=Absent(lambda: at[0]))
        for _ in range(3):
            loop.run_once()
        assert asked(api) == 1
        at[0] = ABSENT_FOR_S
        loop.run_once()
        assert asked(api) == 2


class TestNobodyIsAsked:
    def test_about_an_application_with_a_webhook(self, ledger: Ledger, api: Simulator) -> None:
        mailed(ledger, api, "bounce@example.com")
        asking(ledger, api, nylas_webhook_secret=SecretStr("s")).run_once()
        assert asked(api) == 0

    def test_about_one_of_which_notifications_came(self, ledger: Ledger, api: Simulator) -> None:
        mailed(ledger, api, "bounce@example.com")
        assert result(report(ledger, "message.bounced", api.mailbox[-1].id)) == "applied"
        asking(ledger, api).run_once()
        assert asked(api) == 0

    def test_about_accounts_of_other_providers_or_without_mail_lately(self, ledger: Ledger, api: Simulator) -> None:
        sent(ledger, "m1", provider="google")
        asking(ledger, api).run_once()
        mailed(ledger, api, "bounce@example.com")
        ledger.clock.advance(2 * 86_400)
        asking(ledger, api).run_once()
        assert asked(api) == 0


def asked(api: Simulator) -> int:
    return sum(one.operation == "send_events" for one in api.requests)
