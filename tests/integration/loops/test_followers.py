"""The leader's loop for jobs that follow another, when something unexpected is wrong with one of them."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import update

from sendq.errors import LedgerUnavailable
from sendq.ledger.db import schema
from settings import Settings
from tasks.calling.thread import ThreadRead
from tasks.policy.table import POLICY
from tests.integration.ledger.test_following import after_row, sent
from tests.support.following import carry_out
from tests.support.leading import FixedLeadership
from tests.support.ledger import Ledger
from worker.leading import followers, mailbox_readings
from worker.leading.followers import Followers
from worker.leading.mailbox_readings import MailboxReadings
from worker.leading.work_poll import WorkPoll
from worker.telemetry import journal

SETTINGS = Settings.load({"NYLAS_API_KEY": "none"})


class Readings:
    """An engine whose readings end when the test says so."""

    policy = POLICY

    def __init__(self) -> None:
        self.begun: list[Future[Any]] = []

    def application(self, name: str) -> str:
        return name

    def begin(self, read: Any) -> Future[Any]:
        self.begun.append(Future())
        return self.begun[-1]


@pytest.fixture
def bugs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    noted = SimpleNamespace(**{**vars(journal), "bug": lambda where, **ids: found.append(ids)})
    monkeypatch.setattr(followers, "journal", noted)
    monkeypatch.setattr(mailbox_readings, "journal", noted)
    return found


def poll(ledger: Ledger) -> WorkPoll:
    return WorkPoll(ledger.engine, now=ledger.clock)


def spoil(ledger: Ledger, job: UUID, **columns: Any) -> None:
    with ledger.writing() as connection:
        spoilt = {"unless": "nonsense"} | columns
        connection.execute(update(schema.after).where(schema.after.c.job_id == job).values(**spoilt))


class TestAnUnexpectedErrorAboutOne:
    @pytest.mark.parametrize(
        ("stage", "stuck"),
        [("waiting", False), ("timed", False), ("released", False), ("waiting", True), ("timed", True)],
    )
    def test_stops_no_other(
        self, ledger: Ledger, bugs: list[Any], monkeypatch: pytest.MonkeyPatch, stage: str, stuck: bool
    ) -> None:
        if stuck:
            monkeypatch.setattr("sendq.ledger.dispatching.followers.put_off", lambda *given, **named: 1 / 0)
        first = sent(ledger)
        jobs = [ledger.send(after=str(first), unless="bounced") for _ in range(5)]
        ledger.absorb()
        at = ledger.clock()
        spoil(ledger, jobs[2])
        if stage != "waiting":
            times = {"start_at": ledger.job(first).finished_at, "check_at": at, "lane_id": ledger.job(first).lane_id}
            spoil(ledger, jobs[2], stage=stage, **times)
        monotonic = [100.0]
        loop = Followers(
            ledger.engine, FixedLeadership(), poll(ledger), cast(Any, Readings()), SETTINGS,
            now=ledger.clock, monotonic=lambda: monotonic[0],
        )  # fmt: skip
        for _ in range(3):
            loop.run_once()
        assert bugs == [{"job": str(jobs[2])}] * (2 if stuck else 1)
        begun: list[UUID] = []
        ledger.clock.advance(1)
        while some := carry_out(ledger):
            begun += some
        assert set(begun) == set(jobs) - {jobs[2]}
        spoil(ledger, jobs[2], unless=None)
        ledger.clock.advance(601)
        monotonic[0] += 601
        loop.run_once()
        assert carry_out(ledger) == [jobs[2]]

    def test_of_a_reading_stops_no_other(self, ledger: Ledger, bugs: list[Any]) -> None:
        grants = ["g1", "g2", "g3"]
        firsts = [ledger.send(grant) for grant in grants]
        assert set(carry_out(ledger)) == set(firsts)
        jobs = [
            ledger.send(grant, after=str(first), unless="replied") for grant, first in zip(grants, firsts, strict=True)
        ]
        engine = Readings()
        loop = Followers(ledger.engine, FixedLeadership(), poll(ledger), cast(Any, engine), SETTINGS, now=ledger.clock)
        loop.run_once()
        assert len(engine.begun) == 3
        engine.begun[0].set_exception(RuntimeError("a bug of ours"))
        engine.begun[1].set_result(None)  # which is no answer
        engine.begun[2].set_result(ThreadRead(replied=False))
        loop.run_once()
        assert len(bugs) == 2
        released = {job for job in jobs if after_row(ledger, job).stage == "released"}
        assert len(released) == 1


class TestReadings:
    """Slow mailboxes do not keep others from being read."""

    def test_that_hang_leave_room_for_others(self) -> None:
        engine, at = Readings(), [100.0]
        readings: MailboxReadings[int, int] = MailboxReadings(cast(Any, engine), late=0, monotonic=lambda: at[0])
        begun = 0
        for _ in range(10):
            while readings.room > 0:
                begun += 1
                readings.begin(UUID(int=begun), begun, cast(Any, None))
            at[0] += mailbox_readings.SLOW_AFTER_S
        assert begun == mailbox_readings.READINGS_MOST + mailbox_readings.SLOW_MOST
        assert readings.room == 0
        for future in engine.begun[:30]:
            future.set_result(1)
        readings.conclude(lambda subject, found: None, loop="test")
        assert readings.room == mailbox_readings.READINGS_MOST

    def test_that_ended_are_kept_while_the_ledger_is_unavailable(self) -> None:
        engine = Readings()
        readings: MailboxReadings[int, int] = MailboxReadings(cast(Any, engine), late=0)
        seen: list[int] = []
        for number in range(3):
            readings.begin(UUID(int=number), number, cast(Any, None))
            engine.begun[number].set_result(number)

        def act(subject: int, found: int) -> None:
            seen.append(subject)
            if subject == 0:
                raise LedgerUnavailable("gone")

        with pytest.raises(LedgerUnavailable):
            readings.conclude(act, loop="test")
        readings.conclude(act, loop="test")
        assert seen == [0, 1, 2]
