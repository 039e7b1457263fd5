"""What the leader's rounds ask of a ledger in which there is nothing for them: one question each, for they go round all
the time.
"""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sendq.clock import SECOND
from sendq.ids import lane_id
from sendq.ledger import grants
from sendq.ledger.db import schema
from settings import Settings
from tasks.policy.table import POLICY
from tests.integration.loops.test_dispatcher import statements
from tests.support.leading import FixedLeadership
from tests.support.ledger import Ledger
from worker.leading.batches import Batches
from worker.leading.clock_repair import ClockRepair
from worker.leading.followers import Followers
from worker.leading.grant_checker import GrantChecker
from worker.leading.reconciler import Reconciler
from worker.leading.send_events import Absent
from worker.leading.work_poll import WorkPoll
from worker.processes.periodic_loop import PeriodicLoop

SETTINGS = Settings.load({"NYLAS_API_KEY": "none"})
ENGINE = cast(Any, SimpleNamespace(policy=POLICY))  # of which nothing is wanted in such a round


def poll(ledger: Ledger) -> WorkPoll:
    return WorkPoll(ledger.engine, now=ledger.clock)


def batches(ledger: Ledger) -> PeriodicLoop:
    return Batches(ledger.engine, FixedLeadership(), poll(ledger), now=ledger.clock)


def grant_checker(ledger: Ledger) -> PeriodicLoop:
    return GrantChecker(ledger.engine, FixedLeadership(), poll(ledger), ENGINE, SETTINGS, now=ledger.clock)


def clock_repair(ledger: Ledger) -> PeriodicLoop:
    repair = ClockRepair(ledger.engine, FixedLeadership(), now=ledger.clock, repeat_s=8.0)
    repair.run_once()  # the first round of a leader looks at everything
    return repair


def following(ledger: Ledger) -> PeriodicLoop:
    return Followers(ledger.engine, FixedLeadership(), poll(ledger), ENGINE, SETTINGS, now=ledger.clock)


def reconciler(ledger: Ledger, engine: Any = ENGINE) -> PeriodicLoop:
    return Reconciler(
        ledger.engine,
        FixedLeadership(),
        poll(ledger),
        engine,
        SETTINGS,
        cast(Any, None),
        on_resolved=print,
        absent=Absent(),
        now=ledger.clock,
    )


class TestARoundWithNothingToDo:
    @pytest.mark.parametrize(
        ("rounds", "most"), [(batches, 1), (grant_checker, 1), (reconciler, 1), (clock_repair, 0), (following, 1)]
    )
    def test_asks_for_that_alone(self, ledger: Ledger, rounds: Any, most: int) -> None:
        ledger.send("g1", provider="imap")
        ledger.absorb()
        round_ = rounds(ledger)
        with statements(ledger) as seen:
            round_.run_once()
        assert len([one for one in seen if not one.startswith("BEGIN")]) <= most


class TestOneThing:
    """Each is seen by the look that comes first."""

    def test_in_batches_is_done(self, ledger: Ledger) -> None:
        queue = ledger.queue
        batch = queue.modify("g1", ["m1"], unread=False)
        queue.cancel_batch(batch.id)
        ledger.absorb()
        for _ in range(2):
            batches(ledger).run_once()
        assert queue.batch(batch.id).finished_at is not None

    def test_in_lanes_that_are_closed_is_done(self, ledger: Ledger) -> None:
        ledger.send("g1", provider="imap")
        ledger.absorb()
        with ledger.writing() as connection:
            lane = lane_id("default", "g1")
            grants.close(connection, lane, rule="grant_expired", by="webhook", now=ledger.clock())
        ledger.clock.advance(SETTINGS.announce_after_s + 1)
        with ledger.writing() as connection:  # nobody is there to ask the API
            connection.execute(schema.lane.update().values(check_at=ledger.clock() + SECOND))
        grant_checker(ledger).run_once()
        assert ledger.lane("g1").announced_at == ledger.clock()

    def test_in_doubt_is_taken_up(self, ledger: Ledger) -> None:
        job = ledger.send("g1", provider="imap")
        ledger.absorb()
        ledger.set_job(job, state="in_doubt", doubt_at=ledger.clock(), key_at=ledger.clock())
        taken: list[Any] = []
        reconciler_ = cast(Any, reconciler(ledger))
        reconciler_._alerts = SimpleNamespace(in_doubt=lambda *about: taken.append(about))
        reconciler_.run_once()
        assert len(taken) == 1
        assert ledger.job(job).look_at is not None

    def test_in_doubt_is_looked_for_though_the_settings_lack_the_application_of_another(self, ledger: Ledger) -> None:
        for look_at, application in ((ledger.clock() - SECOND, "unknown"), (ledger.clock(), "default")):
            job = ledger.send("g1", provider="imap", application=application)
            ledger.absorb()
            long_ago = ledger.clock() - 7_200 * SECOND
            ledger.set_job(job, state="in_doubt", doubt_at=long_ago, key_at=long_ago, look_at=look_at)
        begun: list[Any] = []

        def begin(read: Any) -> Future[Any]:
            begun.append(read)
            return Future()

        engine = SimpleNamespace(application=SETTINGS.applications.__getitem__, begin=begin)
        reconciler(ledger, engine).run_once()
        assert len(begun) == 1
