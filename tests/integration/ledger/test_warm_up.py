"""The warm-up of a new account: mail above the limit of the day waits for the next one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from sendq import NEVER, InvalidArgument, Operators, WarmUp
from sendq.clock import moment
from sendq.ledger.db import schema
from sendq.rules.pace import written
from sendq.rules.paces import PaceRule, Paces
from sendq.rules.states import Event
from sendq.rules.warm_up import UNREADABLE_LIMIT
from tests.support.ledger import Ledger, end, outcome

WHO: Any = {"by": "anna", "reason": "a new account"}
HOUR = 3_600


def set_warm_up(ledger: Ledger, warm_up: WarmUp | None, **options: Any) -> Any:
    return Operators(ledger.engine, now=ledger.clock).set_warm_up("g1", warm_up, **WHO, **options)


def send_what_may_go(ledger: Ledger) -> set[UUID]:
    """The jobs that begin now, turn after turn; their calls succeed."""
    sent: set[UUID] = set()
    while ledger.absorb() or ledger.due():
        for claimed in ledger.claim(ledger.offer()):
            done = [outcome(claimed, job, Event.ACCEPT, sent="yes") for job in claimed.jobs if job.id in claimed.begun]
            ready_at = claimed.pacer.start("send", ledger.clock())
            ledger.record(*done, ends=[replace(end(claimed, ready_at=ready_at), used=claimed.pacer.text)])
            sent |= claimed.begun
        ledger.clock.advance(1)
    return sent


class TestAnAccount:
    def test_sends_a_limit_that_grows_on_each_day(self, ledger: Ledger) -> None:
        set_warm_up(ledger, WarmUp(2, 1.5, 10))
        jobs = {ledger.send(expires_at=NEVER) for _ in range(6)}
        first = send_what_may_go(ledger)
        assert len(first) == 2
        assert ledger.queue.grant("g1").daily == 2
        last = ledger.queue.grant("g1").eta
        assert last is not None
        assert last > moment(ledger.clock()) + timedelta(days=1)
        ledger.clock.advance(25 * HOUR)
        second = send_what_may_go(ledger)
        assert len(second) == 3
        ledger.clock.advance(25 * HOUR)
        assert first | second | send_what_may_go(ledger) == jobs

    def test_with_a_lower_limit_in_its_pace_sends_that(self, ledger: Ledger) -> None:
        set_warm_up(ledger, WarmUp(5, 1.5, 10))
        for _ in range(6):
            ledger.send()
        ledger.absorb()
        ledger.set_lane(pace=written(Paces([PaceRule(grant="g1", daily=3)]).of("default", "google", "g1")))
        assert ledger.queue.grant("g1").daily == 3
        assert len(send_what_may_go(ledger)) == 3

    def test_has_no_limit_once_it_is_ended(self, ledger: Ledger) -> None:
        set_warm_up(ledger, WarmUp(1, 1.5, 10))
        jobs = {ledger.send() for _ in range(3)}
        sent = send_what_may_go(ledger)
        assert len(sent) == 1
        done = set_warm_up(ledger, None)
        assert (done.before, done.warm_up) == (WarmUp(1, 1.5, 10), None)
        assert sent | send_what_may_go(ledger) == jobs
        assert ledger.queue.grant("g1").daily is None

    def test_with_a_warm_up_of_a_newer_version_sends_little_and_stops_nobody(self, ledger: Ledger) -> None:
        ledger.send()
        send_what_may_go(ledger)
        ledger.set_lane(warm_up='{"v":2}')
        jobs = {ledger.send(), ledger.send("g2")}
        assert send_what_may_go(ledger) == jobs
        assert ledger.queue.grant("g1").daily == UNREADABLE_LIMIT
        assert set_warm_up(ledger, None).before is None
        assert ledger.queue.grant("g1").daily is None

    def test_names_who_began_and_who_ended_it(self, ledger: Ledger) -> None:
        assert set_warm_up(ledger, None).before is None
        set_warm_up(ledger, WarmUp(), dry_run=True)
        assert ledger.rows(schema.event) == []
        set_warm_up(ledger, WarmUp())
        set_warm_up(ledger, None)
        assert [(row.kind, row.by, row.reason) for row in ledger.rows(schema.event)] == [
            ("warm_up", "anna", "20 a day, 1.2 times as many each day, up to 700: a new account"),
            ("warm_up", "anna", "none: a new account"),
        ]
        with pytest.raises(InvalidArgument, match=r"warm_up: is not a sendq\.WarmUp"):
            set_warm_up(ledger, 20)  # type: ignore[arg-type]
