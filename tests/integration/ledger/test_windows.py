"""Windows in the ledger: jobs begin in their hours only, wherever they come from, and say so while they wait."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sendq import (
    NEVER,
    InvalidArgument,
    InvalidJob,
    Message,
    NewBatch,
    Operators,
    Options,
    Query,
    Scope,
    Send,
    SendQueue,
    State,
    Window,
)
from sendq.clock import SECOND, Micros, micros, moment
from sendq.facts.lanes import Lane
from sendq.facts.outcomes import Page
from sendq.ledger import batches, walks
from sendq.ledger.db import schema
from sendq.ledger.dispatching import turns as claiming
from sendq.ledger.dispatching import windows as claimed_windows
from sendq.ledger.dispatching.loading import first_jobs
from sendq.ledger.operators import windows
from sendq.rules.rule_ids import OUTSIDE_WINDOW
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, Ledger, between_statements, end, outcome

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
WHO: Any = {"by": "anna", "reason": "office hours"}

OFFICE = Window("09:00-17:30", days="mon-fri", tz="Europe/Berlin")
NIGHTS = Window("22:00-06:00", tz="Europe/Berlin")


def at(berlin: str) -> Micros:
    """A time in June, when Berlin is two hours ahead of UTC."""
    return micros(datetime.fromisoformat(berlin).replace(tzinfo=UTC)) - 2 * HOUR


FRIDAY_NOON, FRIDAY_EVENING = at("2026-06-05 12:00"), at("2026-06-05 20:00")
MONDAY_MORNING = at("2026-06-08 09:00")
CLOSING = at("2026-06-05 17:30")


@pytest.fixture
def evening(ledger: Ledger) -> Ledger:
    ledger.clock.at = FRIDAY_EVENING
    return ledger


@pytest.fixture
def noon(ledger: Ledger) -> Ledger:
    ledger.clock.at = FRIDAY_NOON
    return ledger


def operators(ledger: Ledger) -> Operators:
    return Operators(ledger.engine, now=ledger.clock)


def set_window(ledger: Ledger, window: Window | None, grant: str = "g1") -> Any:
    return operators(ledger).set_window(grant, window, **WHO).finish()


def begin(ledger: Ledger) -> set[UUID]:
    """The jobs that begin in the next turn of each lane; their calls succeed."""
    begun: set[UUID] = set()
    for claimed in ledger.claim(ledger.offer()):
        begun |= claimed.begun
        done = [outcome(claimed, job, Event.ACCEPT, sent="yes") for job in claimed.jobs if job.id in claimed.begun]
        ledger.record(*done, ends=[end(claimed, ramp=8)])
    return begun


def begin_all(ledger: Ledger) -> set[UUID]:
    """The jobs that begin now, turn after turn."""
    begun: set[UUID] = set()
    while ledger.absorb() or ledger.due():
        begun |= begin(ledger)
        ledger.set_lane(ready_at=0)
    return begun


class TestAJobOutsideItsWindow:
    def test_begins_at_the_next_opening(self, evening: Ledger) -> None:
        job = evening.send(window=OFFICE)
        row = evening.job(job)
        assert (row.due_at, row.next_at, row.rule) == (FRIDAY_EVENING, MONDAY_MORNING, OUTSIDE_WINDOW)
        assert row.expires_at == MONDAY_MORNING + 72 * HOUR
        assert begin(evening) == set()
        evening.clock.at = MONDAY_MORNING - 1
        assert begin(evening) == set()
        evening.clock.at = MONDAY_MORNING
        assert begin(evening) == {job}

    def test_lets_others_of_its_lane_go(self, evening: Ledger) -> None:
        evening.send(window=OFFICE, priority="high")
        free = evening.send(priority="low")
        assert begin(evening) == {free}

    def test_says_until_when_it_waits(self, evening: Ledger) -> None:
        job = str(evening.send(window=OFFICE))
        why = evening.queue.why(job)
        assert (why.reason, why.rule, why.until) == ("window", OUTSIDE_WINDOW, moment(MONDAY_MORNING))
        assert why.says == (
            "it is outside its window (09:00-17:30 mon-fri Europe/Berlin), and waits for 09:00 Mon 2026-06-08 in "
            "Europe/Berlin"
        )
        assert why.eta == moment(MONDAY_MORNING)
        assert evening.queue.job(job).window == "09:00-17:30 mon-fri Europe/Berlin"
        (line,) = evening.queue.jobs("g1").items
        assert (line.rule, line.next_at) == (OUTSIDE_WINDOW, moment(MONDAY_MORNING))
        status = operators(evening).status()
        assert (status.outside_window, status.next_opening) == (1, moment(MONDAY_MORNING))

    def test_whose_due_time_is_within_it_is_only_not_due(self, evening: Ledger) -> None:
        job = str(evening.send(window=OFFICE, due_at=moment(MONDAY_MORNING + HOUR)))
        why = evening.queue.why(job)
        assert (why.reason, why.until) == ("not_due", moment(MONDAY_MORNING + HOUR))
        evening.queue.reschedule(job, due_at=moment(MONDAY_MORNING))
        assert evening.queue.why(job).reason == "not_due"

    def test_that_is_rescheduled_out_of_it_waits_again(self, noon: Ledger) -> None:
        job = noon.send(window=OFFICE, expires_at=NEVER)
        noon.queue.reschedule(str(job), due_at=moment(FRIDAY_EVENING))
        assert noon.queue.why(str(job)).until == moment(MONDAY_MORNING)
        noon.clock.at = FRIDAY_EVENING
        assert begin_all(noon) == set()
        assert noon.job(job).next_at == MONDAY_MORNING

    def test_that_is_held_meanwhile_still_waits_for_it(self, evening: Ledger) -> None:
        job = evening.send(window=OFFICE)
        evening.queue.hold(str(job))
        evening.queue.release(str(job))
        assert evening.job(job).next_at == MONDAY_MORNING
        operators(evening).hold(Scope.of_grant("g1"), until=moment(FRIDAY_EVENING + HOUR), **WHO)
        assert evening.queue.why(str(job)).reason == "window"
        operators(evening).hold(Scope.of_grant("g1"), until=moment(at("2026-06-06 10:00") + 72 * HOUR), **WHO)
        why = evening.queue.why(str(job))
        assert (why.reason, why.eta) == ("held", moment(at("2026-06-09 10:00")))

    def test_expires_while_it_waits(self, noon: Ledger) -> None:
        job = noon.send(window=OFFICE, expires_at=moment(FRIDAY_EVENING))
        noon.clock.at = CLOSING
        assert begin_all(noon) == set()
        assert "it expires at" in noon.queue.why(str(job)).says


class TestABacklog:
    def test_that_reaches_the_end_of_the_window_goes_on_at_the_next_opening(self, noon: Ledger) -> None:
        jobs = {noon.send(window=OFFICE, expires_at=NEVER) for _ in range(6)}
        first = begin(noon)
        assert len(first) == 1
        noon.clock.at = CLOSING
        noon.set_lane(ready_at=0)
        assert begin_all(noon) == set()
        rows = [noon.job(job) for job in jobs - first]
        assert {(row.next_at, row.rule, row.state) for row in rows} == {(MONDAY_MORNING, OUTSIDE_WINDOW, "queued")}
        assert noon.lane().next_at == MONDAY_MORNING
        noon.clock.at = MONDAY_MORNING
        assert begin_all(noon) == jobs - first

    def test_is_put_off_some_hundred_at_a_time(self, noon: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        noon.queue.send_many([Send("g1", MESSAGE, Options(window=OFFICE, expires_at=NEVER))] * 7)
        monkeypatch.setattr(claimed_windows, "STEP", 3)
        noon.clock.at = CLOSING
        for left in (4, 1, 0):
            for claimed in noon.claim(noon.offer(), jobs_each=2):
                noon.record(ends=[end(claimed)])
            assert Counter(row.next_at for row in noon.rows(schema.job))[MONDAY_MORNING] == 7 - left

    def test_is_put_off_though_tags_of_others_are_held(self, noon: Ledger) -> None:
        tagged = noon.send(tags={"campaign": "may"})
        windowed = [noon.send(window=OFFICE) for _ in range(3)]
        free = noon.send()
        until = moment(CLOSING + HOUR)
        operators(noon).hold(Scope.of_tag("campaign=may"), until=until, **WHO)
        noon.clock.at = CLOSING
        assert begin_all(noon) == {free}
        assert {noon.job(job).next_at for job in windowed} == {MONDAY_MORNING}
        assert noon.job(tagged).next_at == micros(until)


class TestARepeat:
    def test_of_a_failed_call_waits_for_the_window(self, noon: Ledger) -> None:
        job = noon.send(window=OFFICE, expires_at=NEVER)
        claimed = noon.serve()
        noon.clock.at = CLOSING - MINUTE
        failed = outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=CLOSING + MINUTE)
        noon.record(failed, ends=[end(claimed)])
        assert noon.queue.why(str(job)).reason == "window"
        noon.clock.at = CLOSING + MINUTE
        assert begin_all(noon) == set()
        assert noon.job(job).next_at == MONDAY_MORNING
        noon.clock.at = MONDAY_MORNING
        assert begin_all(noon) == {job}

    def test_of_a_send_that_may_have_gone_out_does_not_wait(self, noon: Ledger) -> None:
        job = noon.send(window=OFFICE, expires_at=NEVER)
        noon.clock.at = CLOSING - MINUTE
        claimed = noon.serve()
        unknown = outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe", next_at=CLOSING + MINUTE)
        noon.record(unknown, ends=[end(claimed)])
        noon.clock.at = CLOSING + MINUTE
        assert noon.queue.why(str(job)).reason != "window"
        assert begin(noon) == {job}

    def test_is_not_put_off_if_a_person_has_held_it_since_it_was_read(self, noon: Ledger) -> None:
        job = noon.send(window=OFFICE, expires_at=NEVER)
        noon.absorb()
        noon.clock.at = CLOSING
        with noon.engine.connect() as connection:
            row = Lane._make(noon.lane())
            found = first_jobs(connection, {row.id: row}, now=CLOSING, jobs_each=5)
        noon.queue.hold(str(job))
        with noon.writing() as connection:
            put_off = claimed_windows.wait_for_windows(connection, {row.id: row}, found, frozenset(), now=CLOSING)
        assert put_off == {job}
        assert (noon.job(job).resume_at, noon.job(job).rule) == (FRIDAY_NOON, None)


class TestAGrant:
    def test_has_a_window_for_jobs_without_one(self, evening: Ledger) -> None:
        set_window(evening, OFFICE)
        job, own = evening.send(), evening.send(window=NIGHTS)
        evening.clock.at = at("2026-06-05 23:00")
        assert begin_all(evening) == {own}
        assert evening.job(job).next_at == MONDAY_MORNING
        assert "outside its grant's window (09:00-17:30 mon-fri" in evening.queue.why(str(job)).says
        grant = evening.queue.grant("g1")
        assert (grant.window, grant.opens_at) == (str(OFFICE), moment(MONDAY_MORNING))
        assert grant.eta == moment(MONDAY_MORNING)
        assert evening.queue.eta("g1").at == moment(MONDAY_MORNING)
        assert evening.queue.eta("g1", window=NIGHTS).at == moment(evening.clock())
        assert evening.queue.eta("g2", window=OFFICE).at == moment(MONDAY_MORNING)

    def test_that_gets_another_one_brings_its_jobs_back(self, evening: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(windows, "STEP", 2)
        set_window(evening, OFFICE)
        jobs = {evening.send() for _ in range(5)}
        held = evening.send()
        assert begin_all(evening) == set()
        evening.queue.hold(str(held))
        later = at("2026-06-05 22:00")
        done = set_window(evening, NIGHTS)
        assert (done.before, done.changed, done.number) == (str(OFFICE), True, 6)
        assert {evening.job(job).next_at for job in jobs} == {later}
        assert evening.job(held).resume_at == later
        done = set_window(evening, None)
        assert done.number == 6
        evening.clock.advance(1)
        assert begin_all(evening) == jobs
        evening.queue.release(str(held))
        assert begin_all(evening) == {held}
        assert not set_window(evening, None).changed
        assert [(row.kind, row.by, row.reason) for row in evening.rows(schema.event) if row.kind == "window"] == [
            ("window", "anna", f"{OFFICE}: office hours"),
            ("window", "anna", f"{NIGHTS}: office hours"),
            ("window", "anna", "none: office hours"),
        ]

    @pytest.mark.parametrize("wanted", [None, NIGHTS])
    def test_whose_change_was_interrupted_is_continued_by_a_repeat(
        self, evening: Ledger, monkeypatch: pytest.MonkeyPatch, wanted: Window | None
    ) -> None:
        monkeypatch.setattr(windows, "STEP", 2)
        set_window(evening, OFFICE)
        jobs = {evening.send() for _ in range(5)}
        assert begin_all(evening) == set()
        part = next(iter(operators(evening).set_window("g1", wanted, **WHO)))
        assert (part.number, part.changed) == (2, True)
        done = set_window(evening, wanted)
        assert (done.number, done.changed) == (3, False)
        evening.clock.at = max(at("2026-06-05 22:00"), evening.clock()) + 1
        assert begin_all(evening) == jobs

    def test_leaves_jobs_with_a_window_of_their_own_alone(self, evening: Ledger) -> None:
        set_window(evening, NIGHTS)
        own = evening.send(window=OFFICE)
        evening.absorb()
        assert set_window(evening, None).number == 0
        assert evening.job(own).next_at == MONDAY_MORNING

    def test_can_have_it_before_its_first_job(self, evening: Ledger) -> None:
        assert set_window(evening, OFFICE, "new").changed
        evening.send("new")
        assert begin(evening) == set()

    def test_has_none_that_never_opens(self, evening: Ledger) -> None:
        with pytest.raises(InvalidArgument, match="window: does not open within a year"):
            set_window(evening, Window("09:00-10:00", days="mon", tz="UTC", holidays=HOLIDAYS))
        assert evening.rows(schema.lane) == []

    def test_is_only_looked_at_in_a_dry_run(self, evening: Ledger) -> None:
        set_window(evening, OFFICE)
        done = operators(evening).set_window("g1", NIGHTS, **WHO, dry_run=True).finish()
        assert (done.before, done.window, done.changed) == (str(OFFICE), str(NIGHTS), True)
        assert evening.lane().time_window == str(OFFICE)
        with pytest.raises(InvalidArgument, match=r"window: is not a sendq\.Window"):
            operators(evening).set_window("g1", "09:00-17:30", **WHO)  # type: ignore[arg-type]

    def test_does_not_keep_a_later_change_waiting_that_is_behind_an_earlier_one(self, evening: Ledger) -> None:
        set_window(evening, OFFICE)
        (first,) = evening.modify("g1", ["m1"])
        assert begin_all(evening) == set()
        (second,) = evening.modify("g1", ["m1"], window=Window("00:00-24:00", tz="UTC"))
        assert begin_all(evening) == set()
        set_window(evening, None)
        assert begin_all(evening) == {first}
        evening.clock.advance(31)
        assert begin_all(evening) == {second}


class TestABatch:
    def test_gives_its_window_to_messages_without_one(self, evening: Ledger) -> None:
        sends = [Send("g1", MESSAGE), Send("g1", MESSAGE, Options(window=NIGHTS))]
        batch = evening.queue.send_many(sends, batch=NewBatch(window=OFFICE, open=True))
        evening.queue.add(batch.id, [Send("g1", MESSAGE)])
        evening.queue.close_batch(batch.id)
        assert sorted(row.next_at for row in evening.rows(schema.job)) == [
            at("2026-06-05 22:00") + 1, MONDAY_MORNING, MONDAY_MORNING,
        ]  # fmt: skip
        seen = evening.queue.batch(batch.id)
        assert (seen.window, seen.opens_at) == (str(OFFICE), moment(MONDAY_MORNING))

    def test_that_does_not_fit_into_today_is_expected_to_end_on_the_next_day(self, noon: Ledger) -> None:
        batch = noon.queue.send_many([Send("g1", MESSAGE)] * 11, batch=NewBatch(window=OFFICE))
        noon.clock.at = CLOSING - 2 * MINUTE
        begin(noon)
        with noon.writing() as connection:
            batches.finish_batches(connection, now=noon.clock(), limit=100)
        noon.clock.advance(30)  # ten jobs remain, at one in 30 s: four of them after the weekend
        assert noon.queue.batch(batch.id).eta == moment(MONDAY_MORNING + 3 * MINUTE + 30 * SECOND)
        noon.clock.at = CLOSING + HOUR
        assert noon.queue.batch(batch.id).eta is not None

    def test_of_changes_obeys_it_too(self, evening: Ledger) -> None:
        jobs = evening.modify("g1", ["m1", "m2"], window=OFFICE)
        assert [evening.job(job).next_at - MONDAY_MORNING for job in jobs] == [0, 1]
        assert begin_all(evening) == set()
        evening.clock.at = MONDAY_MORNING + 1
        assert begin_all(evening) == set(jobs)

    def test_of_what_a_query_finds_obeys_it_too(self, evening: Ledger) -> None:
        batch = evening.queue.modify_matching("g1", Query(unread=True), unread=False, window=OFFICE)
        (listing,) = evening.rows(schema.job)
        assert listing.next_at == MONDAY_MORNING
        evening.clock.at = MONDAY_MORNING
        claimed = evening.serve()
        found = outcome(claimed, claimed.jobs[0], Event.ACCEPT)._replace(page=Page(("m1", "m2"), None, ""))
        evening.record(found, ends=[end(claimed)])
        with evening.writing() as connection:
            batches.finish_batches(connection, now=evening.clock(), limit=10)
            walks.make_jobs(connection, UUID(batch.id), now=evening.clock())
        evening.clock.at = MONDAY_MORNING + 12 * HOUR
        assert begin_all(evening) == set()
        jobs = [row for row in evening.rows(schema.job) if row.operation == "modify"]
        assert [row.next_at for row in jobs] == [MONDAY_MORNING + 24 * HOUR] * 2


class TestASpread:
    def spread(
        self, ledger: Ledger, number: int, hours: float, *, window: Window | None = None, lazy: bool = False
    ) -> Any:
        sends = [Send("g1", MESSAGE)] * number
        given = NewBatch(window=window, spread=timedelta(hours=hours))
        batch = ledger.queue.send_many(iter(sends) if lazy else sends, batch=given)
        rows = ledger.rows(schema.job)
        return batch, sorted(rows, key=lambda row: row.id)

    def test_gives_each_message_its_part_of_the_time_in_their_order(self, noon: Ledger) -> None:
        batch, rows = self.spread(noon, 40, 4)
        part = 4 * HOUR // 40
        starts = [row.due_at - FRIDAY_NOON for row in rows]
        assert [start // part for start in starts] == list(range(40))
        assert len({start % part for start in starts}) > 30, "with jitter"
        assert all(row.next_at - row.due_at < SECOND for row in rows)
        assert [row.expires_at - row.due_at for row in rows] == [72 * HOUR] * 40
        assert noon.queue.batch(batch.id).spread_until == moment(FRIDAY_NOON + 4 * HOUR)
        assert begin_all(noon) == set()
        noon.clock.at = FRIDAY_NOON + part
        assert begin_all(noon) == {rows[0].id}

    def test_of_a_generator_is_even_too(self, noon: Ledger) -> None:
        _, rows = self.spread(noon, 1_500, 4, lazy=True)
        parts = Counter((row.due_at - FRIDAY_NOON) * 10 // (4 * HOUR) for row in rows)
        assert sorted(parts) == list(range(10))
        assert all(140 <= number <= 160 for number in parts.values())

    def test_keeps_within_the_window(self, noon: Ledger) -> None:
        """Friday has five and a half hours left, and Monday's first half day belongs to the spread."""
        _, rows = self.spread(noon, 100, 72, window=OFFICE)
        assert all(OFFICE.is_open(row.due_at) for row in rows)
        days = Counter(moment(row.due_at).date() for row in rows)
        assert set(days) == {date(2026, 6, 5), date(2026, 6, 8)}
        assert days[date(2026, 6, 5)] in (64, 65)

    def test_begins_when_the_window_opens(self, evening: Ledger) -> None:
        _, rows = self.spread(evening, 4, 2, window=OFFICE)
        assert [(row.due_at - MONDAY_MORNING) // (HOUR // 2) for row in rows] == [0, 1, 2, 3]

    def test_takes_its_chance_from_the_queue(self, noon: Ledger) -> None:
        noon.queue = SendQueue(noon.engine, now=noon.clock, chance=lambda: 0.25)
        _, rows = self.spread(noon, 4, 4)
        assert [row.due_at - FRIDAY_NOON for row in rows] == [(4 * place + 1) * HOUR // 4 for place in range(4)]

    def test_of_a_mail_merge_keeps_the_order_of_its_rows(self, noon: Ledger) -> None:
        rows = [{"email": f"a{number}@example.com"} for number in range(5)]
        message = Message(subject="May", body="<p>x</p>")
        given = NewBatch(spread=timedelta(hours=5), window=OFFICE)
        noon.queue.mail_merge("g1", message, rows, batch=given)
        found = sorted(noon.rows(schema.job), key=lambda row: row.id)
        assert [(row.due_at - FRIDAY_NOON) // HOUR for row in found] == [0, 1, 2, 3, 4]
        assert noon.queue.check_mail_merge("g1", message, rows, batch=given).problems == ()

    def test_of_messages_that_are_added_begins_anew(self, noon: Ledger) -> None:
        batch = noon.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch(open=True, spread=timedelta(hours=1)))
        noon.clock.advance(7_200)
        noon.queue.add(batch.id, [Send("g1", MESSAGE)] * 2)
        starts = sorted(row.due_at - FRIDAY_NOON for row in noon.rows(schema.job))
        assert [start // (HOUR // 2) for start in starts[1:]] == [4, 5]
        noon.queue.close_batch(batch.id)
        assert noon.queue.batch(batch.id).spread_until == moment(FRIDAY_NOON + 3 * HOUR)

    def test_ends_so_long_after_the_last_of_the_first_due_times(self, noon: Ledger) -> None:
        sends = [
            Send("g1", MESSAGE, Options(due_at=moment(FRIDAY_NOON + days * 24 * HOUR), window=window))
            for days, window in ((1, None), (0, None), (2, OFFICE))
        ]
        batch = noon.queue.send_many(sends, batch=NewBatch(spread=timedelta(hours=4)))
        seen = noon.queue.batch(batch.id)
        assert seen.spread_until == moment(MONDAY_MORNING + 4 * HOUR)
        latest = max(row.due_at for row in noon.rows(schema.job))
        assert moment(latest) < seen.spread_until

    def test_bounds_the_expected_end(self, noon: Ledger) -> None:
        due_at = moment(FRIDAY_NOON + 24 * HOUR)
        given = NewBatch(spread=timedelta(hours=4))
        batch = noon.queue.send_many([Send("g1", MESSAGE, Options(due_at=due_at))] * 3, batch=given)
        begin(noon)
        assert noon.queue.batch(batch.id).eta == moment(FRIDAY_NOON + 28 * HOUR)

    def test_is_over_once_its_messages_are_rescheduled(self, noon: Ledger) -> None:
        batch = noon.queue.send_many([Send("g1", MESSAGE)] * 3, batch=NewBatch(spread=timedelta(hours=4)))
        noon.queue.reschedule(batch_id=batch.id, due_at=moment(FRIDAY_NOON + HOUR))
        assert noon.queue.batch(batch.id).spread_until is None


HOLIDAYS = [date(2026, 6, 8) + timedelta(weeks=week) for week in range(60)]

BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "window: is not a sendq.Window": {"window": "09:00-17:30"},
    "window: does not open within a year": {"window": Window("09:00-10:00", days="mon", tz="UTC", holidays=HOLIDAYS)},
    "expires_at: is before the window opens, at 09:00 Mon 2026-06-08 in Europe/Berlin": {
        "window": OFFICE, "expires_at": moment(MONDAY_MORNING),
    },
}  # fmt: skip


class TestABadCall:
    @pytest.mark.parametrize(("says", "given"), BAD_OPTIONS.items())
    def test_is_refused_and_stores_nothing(self, evening: Ledger, says: str, given: dict[str, Any]) -> None:
        with pytest.raises(InvalidJob) as caught:
            evening.send(**given)
        assert [str(problem).startswith(says) for problem in caught.value.problems] == [True]
        with pytest.raises(InvalidJob, match=says):
            evening.queue.modify("g1", ["m1"], unread=False, **given)
        assert evening.rows(schema.job) == evening.rows(schema.batch) == evening.rows(schema.wake) == []

    @pytest.mark.parametrize(
        ("says", "given"),
        {
            "batch.window: is not a sendq.Window": {"window": "always"},
            "batch.spread: is not a timedelta": {"spread": 3_600},
            "batch.spread: is not positive": {"spread": timedelta(0)},
            "batch.spread: is longer than 366 days": {"spread": timedelta(days=367)},
        }.items(),
    )
    def test_of_a_batch_is_refused(self, evening: Ledger, says: str, given: dict[str, Any]) -> None:
        with pytest.raises(InvalidJob, match=says):
            evening.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch(**given))
        assert evening.rows(schema.batch) == []

    def test_with_a_spread_beyond_the_expiry_is_refused(self, noon: Ledger) -> None:
        sends = [Send("g1", MESSAGE), Send("g1", MESSAGE, Options(expires_at=moment(FRIDAY_NOON + HOUR)))]
        with pytest.raises(InvalidJob) as caught:
            noon.queue.send_many(sends, batch=NewBatch(spread=timedelta(hours=2)))
        (problem,) = caught.value.problems
        assert (problem.field, problem.reason) == (
            "[1].expires_at", "is before the end of the spread, at 2026-06-05 12:00:00 UTC",
        )  # fmt: skip
        assert noon.rows(schema.job) == noon.rows(schema.batch) == []
        rows = [{"email": "a@example.com"}]
        with pytest.raises(InvalidJob, match="is before the end of the spread"):
            noon.queue.mail_merge(
                "g1", Message(subject="May", body="x"), rows, batch=NewBatch(spread=timedelta(hours=2)),
                expires_at=moment(FRIDAY_NOON + HOUR),
            )  # fmt: skip


class TestTheRest:
    def test_a_repeated_key_with_another_window_names_the_first_job(self, evening: Ledger) -> None:
        first = evening.queue.send("g1", MESSAGE, key="a", window=OFFICE)
        again = evening.queue.send("g1", MESSAGE, key="a", window=NIGHTS)
        assert (again.id, again.existed) == (first.id, True)

    def test_a_window_of_a_newer_version_is_left_to_it(self, evening: Ledger) -> None:
        job = evening.send()
        evening.set_job(job, time_window="every full moon")
        assert begin(evening) == set()
        row = evening.job(job)
        assert (row.state, row.next_at) == (State.QUEUED, FRIDAY_EVENING + MINUTE)
        assert "window cannot be read here" in evening.queue.why(str(job)).says

    def test_a_claim_without_windows_costs_no_more(self, noon: Ledger) -> None:
        def statements() -> int:
            offered = [(turn.lane_id, turn.fence) for turn in noon.offer()]
            with noon.writing() as connection, between_statements(connection, 1_000, lambda: None) as seen:
                claiming.claim(connection, offered, worker=noon.worker, now=noon.clock(), jobs_each=5)
            return len(seen)

        for grant in ("a", "b"):  # the first claim also asks what the server is
            noon.send(grant)
            plain = statements()
        noon.send("c", window=OFFICE)
        assert statements() == plain

    def test_a_turn_of_this_process_is_not_opened_for_a_closed_window(self, noon: Ledger) -> None:
        noon.send(window=OFFICE, expires_at=NEVER)
        noon.clock.at = CLOSING
        noon.absorb()
        with noon.writing() as connection:
            given: Any = {"worker": noon.worker, "now": noon.clock(), "jobs_each": 5}
            assert claiming.claim_at_once(connection, noon.opened_in(connection), **given) == []
