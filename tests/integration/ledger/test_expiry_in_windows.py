"""The default expiry of sends counts from when they may first begin, whichever window decides that."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sendq import NEVER, Operators, State, Window
from sendq.clock import SECOND, Micros, micros, moment
from sendq.ledger.dispatching.rescue import expire
from sendq.rules.rule_ids import OUTSIDE_WINDOW
from tests.support.following import carry_out, lead
from tests.support.ledger import Ledger

HOUR = 3_600 * SECOND
EXPIRY = 72 * HOUR
WHO: Any = {"by": "anna", "reason": "office hours"}

# The Thursday before Easter, in the evening; the office opens on the Tuesday after it.
THURSDAY = micros(datetime(2026, 4, 2, 20, tzinfo=UTC))
EASTER = Window("09:00-17:00", days="mon-fri", tz="UTC", holidays=[date(2026, 4, 3), date(2026, 4, 6)])
TUESDAY = THURSDAY + (4 * 24 + 13) * HOUR
WEDNESDAYS = Window("09:00-10:00", days="wed", tz="UTC")
WEDNESDAY = TUESDAY + 24 * HOUR


@pytest.fixture
def evening(ledger: Ledger) -> Ledger:
    ledger.clock.at = THURSDAY
    return ledger


def set_window(ledger: Ledger, window: Window | None) -> None:
    Operators(ledger.engine, now=ledger.clock).set_window("g1", window, **WHO).finish()


def times(ledger: Ledger, job: UUID) -> tuple[Micros, Micros | None]:
    row = ledger.job(job)
    return row.next_at, row.expires_at


class TestTheDefaultExpiry:
    def test_counts_from_the_opening_of_the_grants_window(self, evening: Ledger) -> None:
        set_window(evening, EASTER)
        jobs = [evening.send() for _ in range(3)]
        changed = evening.send(expires_at=NEVER)
        says = evening.queue.why(str(jobs[0])).says
        assert "expires" not in says, "even before a worker has looked at it"
        assert carry_out(evening) == []
        assert [times(evening, job) for job in jobs] == [(TUESDAY, TUESDAY + EXPIRY)] * 3
        assert times(evening, changed) == (TUESDAY, None)
        evening.clock.at = TUESDAY
        assert carry_out(evening) == jobs[:1]

    def test_is_predicted_from_there(self, evening: Ledger) -> None:
        set_window(evening, EASTER)
        evening.send()
        carry_out(evening)
        assert evening.queue.eta("g1").expires_at is None

    def test_that_the_caller_gave_stays(self, evening: Ledger) -> None:
        set_window(evening, EASTER)
        given = THURSDAY + 80 * HOUR
        job = evening.send(expires_at=moment(given))
        assert f"it expires at {moment(given):%Y-%m-%d %H:%M}" in evening.queue.why(str(job)).says
        carry_out(evening)
        assert times(evening, job) == (TUESDAY, given)
        evening.clock.at = given
        with evening.writing() as connection:
            assert expire(connection, now=given, limit=10) == 1

    def test_that_a_person_gives_meanwhile_stays(self, evening: Ledger) -> None:
        set_window(evening, EASTER)
        job = evening.send()
        carry_out(evening)
        given = TUESDAY + HOUR
        evening.queue.reschedule(str(job), due_at=moment(THURSDAY), expires_at=moment(given))
        carry_out(evening)
        assert times(evening, job) == (TUESDAY, given)

    def test_counts_it_even_while_the_lane_is_held(self, evening: Ledger) -> None:
        job = evening.send()
        set_window(evening, WEDNESDAYS)
        late = evening.send("g2")
        evening.clock.at = THURSDAY + EXPIRY
        with evening.writing() as connection:
            assert expire(connection, now=evening.clock(), limit=10) == 0
        with evening.writing() as connection:
            assert expire(connection, now=evening.clock(), limit=10) == 1
        assert (evening.job(job).state, evening.job(late).state) == (State.QUEUED, State.EXPIRED)
        assert evening.job(job).expires_at == WEDNESDAY + EXPIRY

    def test_counts_from_the_first_opening_only(self, evening: Ledger) -> None:
        set_window(evening, EASTER)
        job = evening.send()
        carry_out(evening)
        evening.clock.at = TUESDAY + 12 * HOUR
        evening.set_lane(next_at=evening.clock())
        carry_out(evening)
        assert times(evening, job) == (TUESDAY + 24 * HOUR, TUESDAY + EXPIRY)

    @pytest.mark.parametrize("is_held", [False, True])
    def test_goes_with_another_window(self, evening: Ledger, is_held: bool) -> None:
        set_window(evening, EASTER)
        job, given = evening.send(), evening.send(expires_at=moment(WEDNESDAY))
        carry_out(evening)
        if is_held:
            evening.queue.hold(str(job))
        set_window(evening, WEDNESDAYS)
        assert evening.job(job).expires_at == WEDNESDAY + EXPIRY
        set_window(evening, EASTER)
        assert evening.job(job).expires_at == TUESDAY + EXPIRY
        set_window(evening, None)
        assert evening.job(job).expires_at // SECOND == (THURSDAY + EXPIRY) // SECOND
        assert evening.job(given).expires_at == WEDNESDAY


class TestAFollower:
    @pytest.mark.parametrize("own", [True, False])
    def test_expires_so_long_after_its_window_opened(self, evening: Ledger, own: bool) -> None:
        if not own:
            set_window(evening, WEDNESDAYS)
        first = evening.send("g2")
        second = evening.send(after=str(first), window=WEDNESDAYS if own else None)
        given = evening.send(after=str(first), expires_at=moment(WEDNESDAY + 1))
        carry_out(evening)
        lead(evening)
        carry_out(evening)
        assert times(evening, second) == (WEDNESDAY, WEDNESDAY + EXPIRY)
        assert evening.job(second).rule == OUTSIDE_WINDOW
        assert evening.job(given).expires_at == WEDNESDAY + 1

    def test_expires_after_the_opening_of_a_window_that_was_set_during_its_delay(self, evening: Ledger) -> None:
        first = evening.send("g2")
        second, given = (
            evening.send(after=str(first), delay=timedelta(hours=1), expires_at=expires_at)
            for expires_at in (None, moment(THURSDAY + HOUR + EXPIRY - 1))
        )
        carry_out(evening)
        lead(evening)
        assert evening.job(second).expires_at == THURSDAY + HOUR + EXPIRY
        set_window(evening, WEDNESDAYS)
        evening.clock.advance(3_600)
        lead(evening)
        assert evening.job(second).expires_at == WEDNESDAY + EXPIRY
        assert evening.job(given).expires_at == THURSDAY + HOUR + EXPIRY - 1

    def test_counts_from_the_end_of_the_delay(self, evening: Ledger) -> None:
        first = evening.send("g2")
        second = evening.send(after=str(first), delay=timedelta(days=6), window=WEDNESDAYS)
        carry_out(evening)
        lead(evening)
        assert evening.job(second).expires_at == WEDNESDAY + 7 * 24 * HOUR + EXPIRY
