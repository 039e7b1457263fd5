"""Jobs that follow another: whose threads are read and how often, bounces, replies in large numbers, and erasure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from sendq import NEVER, Options, Send, State, Window
from sendq.clock import SECOND, Micros, moment
from sendq.facts.notices import MailNotice
from sendq.ids import lane_id
from sendq.ledger import delivery_status, pending_work
from sendq.ledger.db import schema
from sendq.ledger.dispatching import followers, threads
from sendq.ledger.dispatching.threads import Thread, threads_to_read
from sendq.ledger.mail_notices import take_in
from sendq.operators import Operators
from sendq.rules.delivery import Delivery
from sendq.rules.waiting_job import HELD
from sendq.vault import Vault
from tests.integration.ledger.test_following import DAY, THREE_DAYS, after_row, sent
from tests.integration.ledger.test_mail_plans import plans
from tests.support.following import carry_out, following, lead, message_of
from tests.support.ledger import MESSAGE, Ledger

MINUTE = 60
NOBODY = UUID(int=0)


def follow_ups(ledger: Ledger, grant: str, number: int, *, due: Micros) -> None:
    """Sent mails of a grant, each with a follow-up whose thread is to be read since ``due``."""
    firsts = ledger.queue.send_many([Send(grant, MESSAGE)] * number)
    ledger.absorb()
    for first in firsts:
        ledger.set_job(UUID(first.id), state="sent", finished_at=due, message_id=message_of(UUID(first.id)))
    ledger.queue.send_many([Send(grant, MESSAGE, Options(after=first.id, unless="replied")) for first in firsts])
    with ledger.writing() as connection:
        ids, _ = followers.settled(connection, after=NOBODY)
        followers.settle(connection, ids, now=ledger.clock())


def read_in_turn(ledger: Ledger, *, limit: int, rounds: int, busy: Sequence[str] = ()) -> list[str]:
    """The grants whose threads some rounds of the leader would read."""
    found: list[Thread] = []
    after = NOBODY
    lanes = [lane_id("default", grant) for grant in busy]
    for _ in range(rounds):
        with ledger.engine.connect() as connection:
            some, after = threads_to_read(connection, now=ledger.clock(), limit=limit, busy=lanes, after=after)
        found += some
    return [thread.grant_id for thread in found]


@pytest.fixture(params=["few", "many"])
def due(ledger: Ledger, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Six grants: g0 to g2 have many overdue follow-ups, g3 to g5 have one each that is due since just now."""
    if request.param == "many":
        monkeypatch.setattr(threads, "CANDIDATES", 4)
        monkeypatch.setattr(threads, "LANES", 4)
    for number in range(6):
        overdue = number < 3
        due_since = ledger.clock() - (DAY * SECOND if overdue else SECOND)
        follow_ups(ledger, f"g{number}", 5 if overdue else 1, due=due_since)
    return ledger


class TestThreadsAreReadLaneByLane:
    def test_each_has_its_turn_however_many_are_overdue_in_others(self, due: Ledger) -> None:
        turns = read_in_turn(due, limit=2, rounds=3)
        assert sorted(turns) == [f"g{number}" for number in range(6)]
        assert sorted(set(read_in_turn(due, limit=20, rounds=2))) == [f"g{number}" for number in range(6)]

    def test_held_and_busy_ones_are_left_out(self, due: Ledger) -> None:
        due.set_lane("g0", held_until=due.clock() + SECOND)
        due.set_lane("g1", closed_at=due.clock())
        turns = read_in_turn(due, limit=1, rounds=6, busy=["g2"])
        assert set(turns) == {"g3", "g4", "g5"}

    def test_the_oldest_of_a_lane_is_first_and_none_that_ended_is_read(self, due: Ledger) -> None:
        rows = sorted(
            (row for row in due.rows(schema.after) if row.lane_id == lane_id("default", "g0")),
            key=lambda row: (row.check_at, row.job_id),
        )
        due.queue.cancel(str(rows[0].job_id))
        with due.engine.connect() as connection:
            found, _ = threads_to_read(connection, now=due.clock(), limit=20, busy=())
        assert rows[1].job_id in {thread.job_id for thread in found}
        lead(due)
        assert after_row(due, rows[0].job_id).stage == "done"


class TestPlans:
    @pytest.mark.parametrize("many", [5_000, pytest.param(100_000, marks=pytest.mark.long)])
    def test_every_query_of_a_round_uses_an_index(self, pg_ledger: Ledger, many: int) -> None:
        ledger = pg_ledger
        fill(ledger, many)
        with plans(ledger) as found, ledger.writing() as connection:
            assert pending_work.find(connection, now=ledger.clock()).followers
            followers.may_go_on(connection, now=ledger.clock())
            ids, _ = followers.settled(connection, after=NOBODY)
            followers.settle(connection, ids[:10], now=ledger.clock())
            followers.move_on(connection, now=ledger.clock(), limit=10)
            some, _ = threads_to_read(connection, now=ledger.clock(), limit=20, busy=())
        assert len(some) == 20
        large = "|".join(("job", "after", "lane", "delivery_status", "payload"))
        assert [plan for plan in found if re.search(rf"Seq Scan on sendq_({large})\b", plan)] == []
        in_turn = [plan for plan in found if "Recursive Union" in plan]
        assert in_turn
        assert all("sendq_after_lane_idx" in plan for plan in in_turn)
        assert [plan for plan in found if re.search(r"Sort Key: (sendq_after\.)?check_at", plan)] == []

    def test_on_sqlite_too(self, sqlite_ledger_url: str, engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        with engines.of(sqlite_ledger_url) as engine:
            ledger = Ledger(engine)
            monkeypatch.setattr(threads, "CANDIDATES", 2)
            follow_ups(ledger, "g1", 3, due=ledger.clock())
            with plans(ledger, "EXPLAIN QUERY PLAN") as found, ledger.writing() as connection:
                pending_work.find(connection, now=ledger.clock())
                followers.move_on(connection, now=ledger.clock())
                threads_to_read(connection, now=ledger.clock(), limit=20, busy=())
            assert [plan for plan in found if re.search(r"SCAN sendq_after(?! USING)|TEMP B-TREE", plan)] == []


def fill(ledger: Ledger, many: int) -> None:
    """Followers in a thousand lanes: half of those that are overdue are in one of these, others are due later."""
    at = ledger.clock()
    lane = "CASE WHEN n % 4 = 0 THEN md5('lane1')::uuid ELSE md5('lane' || n % 1000)::uuid END"
    check_at = f"CASE WHEN n % 2 = 0 THEN {at} - n ELSE {at} + n::bigint * 1000000 END"
    job = "id, lane_id, operation, priority, state, due_at, next_at, created_at"
    rows = {
        "sendq_lane (id, application, grant_id, provider, created_at, width, ramp)":
            f"SELECT md5('lane' || n)::uuid, 'default', 'grant-' || n, 'google', {at}, 4, 1"
            " FROM generate_series(0, 999) AS n",
        f"sendq_job ({job}, rule)":
            f"SELECT md5('follows' || n)::uuid, {lane}, 'send', 1, 'queued', {at}, {HELD}, {at}, 'after'"
            f" FROM generate_series(1, {many}) AS n",
        f"sendq_job ({job}, finished_at, message_id)":
            f"SELECT md5('first' || n)::uuid, {lane}, 'send', 1, 'sent', {at}, {at}, {at}, {at}, 'id-' || n"
            f" FROM generate_series(1, {many}) AS n",
        "sendq_after (job_id, after_id, stage, depth, delay, unless, replies, start_at, lane_id, message_id, check_at)":
            f"SELECT md5('follows' || n)::uuid, md5('first' || n)::uuid, 'timed', 1, 0,"
            f" CASE WHEN n % 10 = 1 THEN NULL ELSE 'replied' END, false, {at}, {lane}, 'id-' || n, {check_at}"
            f" FROM generate_series(1, {many}) AS n",
    }  # fmt: skip
    with ledger.writing() as connection:
        for into, of in rows.items():
            connection.execute(text(f"INSERT INTO {into} {of}"))
        connection.execute(text("ANALYZE"))


def readings(ledger: Ledger, *, hours: int) -> list[int]:
    """In which minutes the thread of a follower that waits in its lane is read."""
    asked: list[int] = []
    for minute in range(hours * 60):
        lead(ledger, replied=lambda job: asked.append(minute) or False, rounds=1)  # type: ignore[func-returns-value]  # noqa: B023
        ledger.clock.advance(MINUTE)
    return asked


def waits_for_its_window(ledger: Ledger, unless: Any) -> tuple[UUID, UUID]:
    """A job that was sent, and one that follows it and was released ten hours before its window opens."""
    first = sent(ledger)
    opens = moment(ledger.clock() + 10 * 3600 * SECOND)
    window = Window(f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M}", tz="UTC")
    second = ledger.send(after=str(first), unless=unless, window=window, expires_at=NEVER)
    assert lead(ledger).released == 1
    assert carry_out(ledger) == []
    return first, second


class TestWhileItWaitsInItsLane:
    def test_its_thread_is_read_ever_more_rarely_but_every_quarter_of_an_hour(self, ledger: Ledger) -> None:
        waits_for_its_window(ledger, "replied")
        asked = readings(ledger, hours=3)
        assert asked[:5] == [1, 2, 4, 8, 16]
        gaps = [later - earlier for earlier, later in pairwise(asked)]
        assert max(gaps) == 15
        assert len(asked) < 20

    def test_it_waits_again_if_its_thread_cannot_be_read(self, ledger: Ledger) -> None:
        _, second = waits_for_its_window(ledger, "replied")
        ledger.clock.advance(9.9 * 3600)
        lead(ledger, replied=lambda job: None, rounds=1)
        assert ledger.job(second).next_at == HELD
        ledger.clock.advance(0.5 * 3600)
        assert carry_out(ledger) == []
        assert lead(ledger).released == 1
        assert carry_out(ledger) == [second]

    def test_nothing_is_read_once_it_was_sent(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)), unless="replied")
        lead(ledger)
        assert carry_out(ledger) == [second]
        assert readings(ledger, hours=1) == []
        assert after_row(ledger, second).stage == "done"


def report(
    ledger: Ledger,
    job: UUID,
    delivery: Delivery = Delivery.BOUNCED,
    *,
    number: int = 1,
    message_id: str | None = None,
) -> None:
    """A report about the mail of a job comes in."""
    kind = f"message.{delivery.value}"
    notice = MailNotice(f"n{number}", kind, delivery, "g1", (job,), message_id or message_of(job), ledger.clock())
    with ledger.writing() as connection:
        take_in(connection, [notice], "default", vault=Vault(), now=ledger.clock())


class TestABounce:
    @pytest.mark.parametrize("unless", ["bounced", ["bounced", "replied"]])
    @pytest.mark.parametrize("waits_for", ["window", "account", "approval", "person"])
    def test_ends_what_has_not_begun_at_once(self, ledger: Ledger, waits_for: str, unless: Any) -> None:
        if waits_for == "window":
            first, second = waits_for_its_window(ledger, unless)
        else:
            first = sent(ledger)
            second = ledger.send(after=str(first), unless=unless, needs_approval=waits_for == "approval")
            lead(ledger)
        if waits_for == "account":
            ledger.set_lane(held_until=ledger.clock() + DAY * SECOND)
        if waits_for == "person":
            ledger.queue.hold(str(second))
        report(ledger, first)
        lead(ledger, replied=lambda job: pytest.fail("its thread was read"))
        assert (ledger.state(second), ledger.job(second).rule) == (State.CANCELLED, "unless_bounced")

    def test_ends_it_during_its_delay_too(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), unless="bounced", delay=THREE_DAYS)
        lead(ledger)
        report(ledger, first)
        lead(ledger)
        assert ledger.job(second).rule == "unless_bounced"

    def test_that_was_reported_before_the_outcome_was_recorded_counts_once_it_is(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), unless="bounced")
        with ledger.writing() as connection:
            connection.execute(schema.delivery_status.insert().values(
                job_id=first, delivery="bounced", at=ledger.clock(), source="test", noted_at=ledger.clock(),
                generation=0, pending=True,
            ))  # fmt: skip
        assert lead(ledger).released == 1
        with ledger.writing() as connection:
            delivery_status.apply_known(connection, [first], now=ledger.clock())
        lead(ledger)
        assert ledger.job(second).rule == "unless_bounced"

    @pytest.mark.parametrize("unless", [None, "replied", "bounced"])
    def test_ends_nothing_else(self, ledger: Ledger, unless: str | None) -> None:
        """A delivery does not, nor a bounce where that is no condition."""
        first = sent(ledger)
        second = ledger.send(after=str(first), unless=unless)
        lead(ledger)
        report(ledger, first, Delivery.DELIVERED if unless == "bounced" else Delivery.BOUNCED)
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_that_comes_too_late_changes_nothing(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), unless="bounced")
        lead(ledger)
        assert carry_out(ledger) == [second]
        report(ledger, first)
        lead(ledger)
        assert (ledger.state(second), after_row(ledger, second).stage) == (State.SENT, "done")


class TestManyReplies:
    @pytest.mark.parametrize("delay", [0, 60])
    def test_are_completed_a_few_bytes_at_a_time(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, delay: int
    ) -> None:
        first = sent(ledger)
        options = Options(reply_to=str(first), delay=timedelta(seconds=delay))
        replies = [UUID(job.id) for job in ledger.queue.send_many([Send("g1", MESSAGE, options)] * 5)]
        with ledger.engine.connect() as connection:
            body = select(schema.payload.c.body).where(schema.payload.c.job_id == replies[0])
            length = len(connection.execute(body).scalar_one())
        monkeypatch.setattr(followers, "FILLED_MOST", length * 2 + length // 2)
        waiting: list[int] = []
        with ledger.writing() as connection:
            followers.settle(connection, replies, now=ledger.clock())
        waiting.append(len(following(ledger)))
        ledger.clock.advance(delay)
        more = True
        while more:
            with ledger.writing() as connection:
                _, more = followers.move_on(connection, now=ledger.clock())
            waiting.append(len(following(ledger)))
        assert waiting == ([3, 1, 0] if delay == 0 else [5, 3, 1, 0])
        done: list[UUID] = []
        ledger.clock.advance(1)
        while begun := carry_out(ledger):
            done += begun
        assert set(done) == set(replies)


class TestErasure:
    @pytest.mark.parametrize("unless", [None, "bounced", "replied"])
    @pytest.mark.parametrize("is_settled", [True, False])
    def test_removes_the_id_of_the_message_from_what_follows_it(
        self, ledger: Ledger, unless: str | None, is_settled: bool
    ) -> None:
        first = sent(ledger)
        second = ledger.send("g2", after=str(first), unless=unless, delay=timedelta(hours=1))
        ledger.absorb()
        if is_settled:
            lead(ledger)
            assert (after_row(ledger, second).message_id is not None) == (unless == "replied")
        Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked to").finish()
        assert after_row(ledger, second).message_id is None
        lead(ledger, replied=lambda job: pytest.fail("a thread of a forgotten grant was read"))
        if unless == "replied":
            assert (ledger.state(second), ledger.job(second).rule) == (State.DEAD, "after_failed")
        ledger.clock.advance(3600)
        lead(ledger)
        assert carry_out(ledger) == ([] if unless == "replied" else [second])
        assert after_row(ledger, second).message_id is None
