"""Webhooks and the ledger, on both databases; and on a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from sendq import AsyncSendQueue, State
from sendq.clock import SECOND, Micros
from sendq.clock import now as wall
from sendq.ids import lane_id
from sendq.ledger import grants
from sendq.ledger.db import schema
from sendq.rules.grant_notices import SKEW
from sendq.webhooks import Received, receive, receive_async
from tests.support.ledger import Ledger
from tests.support.waiting import LIMIT_S

SECRET = "s3cret"
MINUTE = 60 * SECOND
LANE = lane_id("default", "g1")


def signed(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def envelope(trigger: str, at: Micros | None, *, notice: str = "n1", grant: str = "g1", **facts: Any) -> bytes:
    """A notification that happened then."""
    facts = {"grant_id": grant, "provider": "google", "email": "leyah@example.com"} | facts
    time = {} if at is None else {"time": at / SECOND}
    data = {"application_id": "a1", "object": facts}
    return json.dumps({"specversion": "1.0", "type": trigger, "id": notice, "data": data} | time).encode()


def deliver(ledger: Ledger, trigger: str, *, ago: float | None = 1, **more: Any) -> Received:
    """Nylas delivers what happened so many seconds ago; None: without a time."""
    application = more.pop("application", "default")
    body = envelope(trigger, None if ago is None else ledger.clock() - round(ago * SECOND), **more)
    return receive(ledger.queue, secret=SECRET, raw_body=body, signature=signed(body), application=application)


def expired(ledger: Ledger, **more: Any) -> Received:
    return deliver(ledger, "grant.expired", **more)


def signed_in(ledger: Ledger, **more: Any) -> Received:
    return deliver(ledger, "grant.updated", reauthentication_flag=True, **more)


def kinds(ledger: Ledger) -> list[str]:
    return [row.kind for row in ledger.rows(schema.event)]


@pytest.fixture
def waiting(ledger: Ledger) -> Ledger:
    """A ledger with a lane for g1, in which a job waits."""
    ledger.send("g1")
    ledger.absorb()
    ledger.clock.advance(3600)
    return ledger


class TestGrantExpired:
    def test_closes_the_lane_and_has_its_owner_called_for(self, waiting: Ledger) -> None:
        assert expired(waiting).status == 200
        lane = waiting.lane()
        assert (lane.closed_at, lane.closed_rule, lane.suspected) == (waiting.clock(), "grant_expired", False)
        assert waiting.due() == []
        (event,) = waiting.rows(schema.event)
        assert (event.kind, event.by, event.rule, event.grant_id) == ("closed", "webhook", "grant_expired", "g1")
        with waiting.writing() as connection:
            called = grants.announce_closed(connection, closed_before=waiting.clock(), now=waiting.clock(), limit=9)
        assert [row.grant_id for row in called] == ["g1"]

    def test_makes_a_suspicion_certain(self, waiting: Ledger) -> None:
        waiting.set_lane(closed_at=waiting.clock() - MINUTE, closed_rule="unauthorized", suspected=True)
        expired(waiting)
        assert (waiting.lane().suspected, waiting.lane().closed_rule) == (False, "grant_expired")

    def test_changes_nothing_of_a_lane_that_is_closed_already(self, waiting: Ledger) -> None:
        waiting.set_lane(closed_at=waiting.clock() - MINUTE, closed_rule="forbidden")
        before = waiting.lane()
        assert expired(waiting).status == 200
        assert waiting.lane() == before

    def test_from_before_the_last_reopening_closes_nothing(self, waiting: Ledger) -> None:
        waiting.set_lane(opened_at=waiting.clock() - MINUTE)
        before = waiting.lane()
        assert expired(waiting, ago=61).status == 200
        assert waiting.lane() == before
        assert kinds(waiting) == []

    @pytest.mark.parametrize("ago", [60, 1, None])
    def test_whose_place_before_or_after_it_is_not_sure_is_asked_about_first(
        self, waiting: Ledger, ago: float | None
    ) -> None:
        waiting.set_lane(opened_at=waiting.clock() - MINUTE)
        expired(waiting, ago=ago)
        lane = waiting.lane()
        assert (lane.suspected, lane.closed_rule) == (True, "grant_expired")
        assert waiting.due() == []
        with waiting.writing() as connection:
            assert not grants.announce_closed(connection, closed_before=waiting.clock(), now=waiting.clock(), limit=9)
            (check,) = grants.to_check(connection, now=waiting.clock(), limit=9)
            assert check.grant_id == "g1"
            grants.found_valid(connection, check.lane_id, now=waiting.clock())
        assert waiting.due() == [LANE]

    def test_is_asked_about_for_a_job_in_doubt_as_well(self, waiting: Ledger) -> None:
        (job,) = waiting.rows(schema.job)
        waiting.set_job(job.id, state="in_doubt", doubt_at=waiting.clock(), key_at=waiting.clock())
        waiting.set_lane(closed_at=waiting.clock(), closed_rule="grant_expired", check_at=waiting.clock())
        with waiting.writing() as connection:
            (check,) = grants.to_check(connection, now=waiting.clock(), limit=9)
        assert check.grant_id == "g1"

    def test_well_after_it_closes_the_lane(self, waiting: Ledger) -> None:
        waiting.set_lane(opened_at=waiting.clock() - SKEW - MINUTE)
        expired(waiting, ago=59)
        assert waiting.lane().closed_at == waiting.clock()
        assert not waiting.lane().suspected

    def test_closes_the_lane_of_its_application_alone(self, waiting: Ledger) -> None:
        waiting.send("g1", application="eu")
        waiting.absorb()
        expired(waiting, application="eu")
        assert waiting.lane(application="eu").closed_at is not None
        assert waiting.lane().closed_at is None

    def test_for_a_grant_without_a_lane_is_remembered_and_changes_nothing_later(self, waiting: Ledger) -> None:
        assert expired(waiting, grant="g2", notice="early").status == 200
        assert [row.id for row in waiting.rows(schema.webhook)] == ["default/early"]
        waiting.send("g2")
        waiting.absorb()
        replayed = expired(waiting, grant="g2", notice="early")
        assert (replayed.status, replayed.says) == (200, "nothing to do: this notification was received before")
        assert waiting.lane("g2").closed_at is None


class TestTheOwnerSignsIn:
    @pytest.mark.parametrize(
        ("trigger", "facts"),
        [
            ("grant.updated", {"reauthentication_flag": True, "code": 25014}),
            ("grant.updated", {"code": 25027}),
            ("grant.created", {"code": 25012}),
        ],
    )
    @pytest.mark.parametrize("suspected", [False, True])
    def test_reopens_the_lane(self, waiting: Ledger, trigger: str, facts: dict[str, Any], suspected: bool) -> None:
        waiting.set_lane(closed_at=waiting.clock() - MINUTE, closed_rule="forbidden", suspected=suspected, next_at=None)
        assert deliver(waiting, trigger, **facts).status == 200
        assert waiting.lane().closed_at is None
        assert waiting.due() == [LANE]
        (event,) = waiting.rows(schema.event)
        assert (event.kind, event.by, event.rule) == ("reopened", "webhook", "forbidden")

    @pytest.mark.parametrize("ago", [90, None])
    def test_reopens_it_though_the_clocks_differ_or_no_time_is_told(self, waiting: Ledger, ago: float | None) -> None:
        waiting.set_lane(closed_at=waiting.clock() - MINUTE, closed_rule="forbidden")
        signed_in(waiting, ago=ago)
        assert waiting.lane().closed_at is None

    def test_long_before_it_was_closed_has_the_api_asked_instead(self, waiting: Ledger) -> None:
        closed_at = waiting.clock() - MINUTE
        waiting.set_lane(closed_at=closed_at, closed_rule="forbidden", check_at=waiting.clock() + 15 * MINUTE)
        signed_in(waiting, ago=62 + SKEW / SECOND)
        assert (waiting.lane().closed_at, waiting.lane().check_at) == (closed_at, waiting.clock())

    def test_to_a_deleted_grant_has_no_effect(self, waiting: Ledger) -> None:
        deliver(waiting, "grant.deleted", notice="n1")
        found_gone(waiting)
        assert signed_in(waiting, notice="n2").status == 200
        assert waiting.lane().gone

    def test_to_a_grant_that_the_api_did_not_find_reopens_its_lane(self, waiting: Ledger) -> None:
        with waiting.writing() as connection:
            grants.found_gone(connection, LANE, rule="grant_not_found", by="check", now=waiting.clock())
        signed_in(waiting)
        assert (waiting.lane().gone, waiting.lane().closed_at) == (False, None)


class TestAnotherUpdate:
    def test_has_the_api_asked_about_a_closed_lane(self, waiting: Ledger) -> None:
        waiting.set_lane(closed_at=waiting.clock(), closed_rule="forbidden", check_at=waiting.clock() + 15 * MINUTE)
        deliver(waiting, "grant.updated", reauthentication_flag=False, code=25014)
        assert (waiting.lane().closed_at, waiting.lane().check_at) == (waiting.clock(), waiting.clock())

    def test_changes_nothing_of_an_open_one(self, waiting: Ledger) -> None:
        before = waiting.lane()
        deliver(waiting, "grant.updated", reauthentication_flag=False, code=25014)
        assert waiting.lane() == before


def found_gone(ledger: Ledger) -> None:
    """The API does not know the grant."""
    with ledger.writing() as connection:
        grants.found_gone(connection, LANE, rule="grant_not_found", by="check", now=ledger.clock())


class TestGrantDeleted:
    def test_ends_nothing_before_the_api_was_asked(self, waiting: Ledger) -> None:
        (job,) = waiting.rows(schema.job)
        assert deliver(waiting, "grant.deleted").status == 200
        lane = waiting.lane()
        assert (lane.gone, lane.suspected, lane.closed_rule) == (False, True, "grant_deleted")
        assert waiting.due() == []
        with waiting.writing() as connection:
            assert grants.end_gone(connection, now=waiting.clock(), limit=9) == 0
            assert not grants.announce_closed(connection, closed_before=waiting.clock(), now=waiting.clock(), limit=9)
            (check,) = grants.to_check(connection, now=waiting.clock(), limit=9)
        assert (check.grant_id, check.suspected) == ("g1", True)
        assert waiting.state(job.id) == State.QUEUED

    def test_ends_what_waits_for_it_once_the_api_does_not_know_the_grant(self, waiting: Ledger) -> None:
        (job,) = waiting.rows(schema.job)
        deliver(waiting, "grant.deleted")
        found_gone(waiting)
        assert (waiting.lane().gone, waiting.lane().closed_rule) == (True, "grant_deleted")
        with waiting.writing() as connection:
            assert grants.end_gone(connection, now=waiting.clock(), limit=9) == 1
        assert waiting.state(job.id) == State.DEAD
        assert kinds(waiting) == ["grant_gone"]

    def test_that_the_api_denies_ends_nothing_and_counts_as_no_refusal(self, waiting: Ledger) -> None:
        for number in range(grants.SUSPECTED_MOST + 1):
            deliver(waiting, "grant.deleted", notice=f"n{number}")
            with waiting.writing() as connection:
                grants.found_valid(connection, LANE, now=waiting.clock())
            assert (waiting.lane().closed_at, waiting.lane().refused) == (None, 0)
        assert waiting.due() == [LANE]

    def test_of_a_grant_that_waits_for_its_owner_has_the_api_asked(self, waiting: Ledger) -> None:
        closed = waiting.clock() - MINUTE
        waiting.set_lane(closed_at=closed, closed_rule="forbidden", check_at=waiting.clock() + 15 * MINUTE)
        deliver(waiting, "grant.deleted")
        lane = waiting.lane()
        assert (lane.closed_at, lane.closed_rule, lane.gone, lane.check_at) == (
            closed, "forbidden", False, waiting.clock(),
        )  # fmt: skip

    def test_is_final_whatever_comes_late(self, waiting: Ledger) -> None:
        deliver(waiting, "grant.deleted", notice="n1")
        found_gone(waiting)
        before = waiting.lane()
        for number, (trigger, facts) in enumerate(
            [("grant.expired", {}), ("grant.created", {}), ("grant.updated", {"code": 25014}), ("grant.deleted", {})]
        ):
            assert deliver(waiting, trigger, notice=f"late{number}", ago=30, **facts).status == 200
        assert waiting.lane() == before


class TestReordering:
    """The grant expires, its owner signs in a minute later; Nylas may deliver both in any order."""

    def both(self, ledger: Ledger, *, signed_in_first: bool) -> None:
        deliveries: list[Callable[[], Received]] = [
            lambda: expired(ledger, notice="n1", ago=180),
            lambda: signed_in(ledger, notice="n2", ago=120),
        ]
        for one in reversed(deliveries) if signed_in_first else deliveries:
            assert one().status == 200

    @pytest.mark.parametrize("signed_in_first", [False, True])
    def test_leaves_the_lane_open(self, waiting: Ledger, signed_in_first: bool) -> None:
        self.both(waiting, signed_in_first=signed_in_first)
        assert waiting.lane().closed_at is None
        assert waiting.due() == [LANE]

    def test_leaves_it_open_if_a_refused_call_had_closed_it(self, waiting: Ledger) -> None:
        waiting.set_lane(closed_at=waiting.clock() - 150 * SECOND, closed_rule="forbidden", next_at=None)
        self.both(waiting, signed_in_first=True)
        assert waiting.lane().closed_at is None

    def test_an_open_lane_remembers_when_its_owner_signed_in(self, waiting: Ledger) -> None:
        signed_in(waiting, notice="n1", ago=120)
        assert waiting.lane().opened_at == waiting.clock() - 120 * SECOND
        signed_in(waiting, notice="n2", ago=180)
        assert waiting.lane().opened_at == waiting.clock() - 120 * SECOND

    def test_a_time_ahead_of_ours_does_not_keep_the_lane_open(self, waiting: Ledger) -> None:
        signed_in(waiting, ago=-1800)
        assert waiting.lane().opened_at == waiting.clock()


class TestADuplicate:
    def test_changes_nothing(self, waiting: Ledger) -> None:
        signed_in(waiting, notice="n1")
        waiting.clock.advance(600)
        assert expired(waiting, notice="n2").status == 200
        closed = waiting.lane()
        assert closed.closed_at is not None
        again = signed_in(waiting, notice="n1")
        assert (again.status, waiting.lane()) == (200, closed)
        assert [row.id for row in waiting.rows(schema.webhook)] == ["default/n1", "default/n2"]

    def test_is_one_for_its_application_alone(self, waiting: Ledger) -> None:
        waiting.send("g1", application="eu")
        waiting.absorb()
        for application in ("default", "eu"):
            expired(waiting, application=application)
            assert waiting.lane(application=application).closed_at is not None

    def test_at_the_same_moment_changes_nothing_either(self, pg_ledger: Ledger) -> None:
        pg_ledger.send("g1")
        pg_ledger.absorb()
        together = threading.Barrier(12)

        def one(_number: int) -> Received:
            together.wait(LIMIT_S)
            return expired(pg_ledger)

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(one, range(12)))
        assert {answer.status for answer in answers} == {200}
        assert sum(answer.says.startswith("done") for answer in answers) == 1
        assert kinds(pg_ledger) == ["closed"]

    def test_of_one_that_was_rolled_back_is_none(self, waiting: Ledger) -> None:
        with waiting.writing() as connection:
            connection.execute(text("ALTER TABLE sendq_event RENAME TO sendq_away"))
        try:
            assert expired(waiting).status == 503
        finally:
            with waiting.writing() as connection:
                connection.execute(text("ALTER TABLE sendq_away RENAME TO sendq_event"))
        assert waiting.rows(schema.webhook) == []
        assert expired(waiting).says.startswith("done")


class TestMany:
    def test_at_once_for_the_same_lanes_end_without_a_deadlock(self, pg_ledger: Ledger) -> None:
        for grant in ("g1", "g2"):
            pg_ledger.send(grant)
        pg_ledger.absorb()
        wanted = [
            (trigger, {"notice": f"n{number}", "grant": f"g{number % 2 + 1}", "reauthentication_flag": True})
            for number in range(40)
            for trigger in ("grant.expired" if number % 3 else "grant.updated",)
        ]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda one: deliver(pg_ledger, one[0], **one[1]), wanted))
        assert {answer.status for answer in answers} == {200}
        assert len(pg_ledger.rows(schema.webhook)) == 40


class TestWhatIsKept:
    def test_is_the_notifications_id_and_no_address(self, waiting: Ledger, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG")
        answers = [
            expired(waiting, notice="n1"),
            signed_in(waiting, notice="n2"),
            deliver(waiting, "grant.deleted", notice="n3"),
        ]
        kept = [waiting.rows(table) for table in (schema.webhook, schema.event, schema.lane, schema.pair)]
        assert "leyah" not in f"{kept}{answers}{caplog.text}"


class TestAnAsyncQueue:
    def test_receives_alike(self, waiting: Ledger, ledger_url: str) -> None:
        async def story() -> list[Received]:
            queue = AsyncSendQueue(ledger_url, now=waiting.clock)
            body = envelope("grant.expired", waiting.clock())
            try:
                return [
                    await receive_async(queue, secret=SECRET, raw_body=body, signature=signature)
                    for signature in (None, signed(body), signed(body))
                ]
            finally:
                await queue.close()

        answers = asyncio.run(story())
        assert [answer.status for answer in answers] == [401, 200, 200]
        assert waiting.lane().closed_at == waiting.clock()
        assert kinds(waiting) == ["closed"]

    def test_puts_a_notification_off_while_the_ledger_is_away(self) -> None:
        async def story() -> Received:
            queue = AsyncSendQueue("postgresql+asyncpg://nobody@127.0.0.1:1/none")
            body = envelope("grant.expired", wall())
            try:
                return await receive_async(queue, secret=SECRET, raw_body=body, signature=signed(body))
            finally:
                await queue.close()

        assert asyncio.run(story()).status == 503
