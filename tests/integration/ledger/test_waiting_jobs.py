"""Changes of jobs that wait: rescheduled, given another priority, held, released."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from sendq import (
    NEVER,
    InvalidArgument,
    NotFound,
    NotWaiting,
    Priority,
    SendQueue,
    State,
)
from sendq.clock import SECOND, micros, moment
from sendq.ledger.db import schema
from sendq.ledger.dispatching import turns
from sendq.ledger.operators.retry import DeadLetterSelection, retry
from sendq.rules.states import Event
from sendq.rules.waiting_job import HELD
from tests.integration.ledger.test_record import bury
from tests.support.ledger import MESSAGE, Ledger, between_statements, end, outcome

HOUR = 3_600


def at(ledger: Ledger, seconds: float) -> datetime:
    return moment(ledger.clock() + round(seconds * SECOND))


def events_of(ledger: Ledger) -> list[tuple[Any, ...]]:
    rows = sorted(ledger.rows(schema.event), key=lambda row: row.id)
    return [(row.kind, row.by, row.reason, row.job_id or row.batch_id, row.number) for row in rows]


def begun(ledger: Ledger) -> list[UUID]:
    """The jobs that a turn begins now."""
    offered = ledger.offer()
    (claimed,) = ledger.claim(offered) if offered else [None]
    if claimed is None:
        return []
    ledger.record(
        *(outcome(claimed, job, Event.ACCEPT, sent="yes") for job in claimed.jobs if job.id in claimed.begun),
        ends=[end(claimed)],
    )
    return [job.id for job in claimed.jobs if job.id in claimed.begun]


def changes(queue: SendQueue) -> dict[str, Callable[..., int]]:
    """Every change, by the kind of its event."""
    return {
        "reschedule": partial(queue.reschedule, due_at=None),
        "priority": partial(queue.set_priority, priority="high"),
        "hold": queue.hold,
        "release": queue.release,
    }


class TestReschedule:
    def test_puts_a_job_off(self, ledger: Ledger) -> None:
        job = ledger.send()
        assert ledger.queue.reschedule(str(job), due_at=at(ledger, HOUR), by="anna", reason="too early") == 1
        assert begun(ledger) == []
        seen = ledger.queue.job(str(job))
        assert seen.due_at == seen.next_at == at(ledger, HOUR)
        assert ledger.queue.why(str(job)).reason == "not_due"
        ledger.clock.advance(HOUR)
        assert begun(ledger) == [job]
        assert events_of(ledger) == [("reschedule", "anna", "due 2026-05-28 21:26:40Z: too early", job, None)]

    def test_brings_a_job_forward(self, ledger: Ledger) -> None:
        job = ledger.send(due_at=at(ledger, HOUR))
        assert ledger.offer() == []
        ledger.queue.reschedule(str(job), due_at=None)
        assert begun(ledger) == [job]

    def test_replaces_the_wait_before_a_retry(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        failed = outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=ledger.clock() + HOUR * SECOND)
        ledger.record(failed, ends=[end(claimed)])
        assert ledger.queue.reschedule(str(job), due_at=at(ledger, 60)) == 1
        assert begun(ledger) == []
        ledger.clock.advance(60)
        assert begun(ledger) == [job]

    def test_beyond_the_expiry_is_refused_unless_that_moves_too(self, ledger: Ledger) -> None:
        job = ledger.send(expires_at=at(ledger, HOUR))
        with pytest.raises(InvalidArgument) as error:
            ledger.queue.reschedule(str(job), due_at=at(ledger, HOUR))
        (problem,) = error.value.problems
        assert problem.field == "due_at"
        assert "2026-05-28 21:26:40 UTC" in problem.reason
        assert events_of(ledger) == []
        ledger.queue.reschedule(str(job), due_at=at(ledger, 2 * HOUR), expires_at=at(ledger, 3 * HOUR))
        assert ledger.queue.job(str(job)).expires_at == at(ledger, 3 * HOUR)
        ledger.queue.reschedule(str(job), due_at=at(ledger, 4 * HOUR), expires_at=NEVER)
        assert ledger.queue.job(str(job)).expires_at is None

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"due_at": datetime(2026, 7, 1)}, "due_at"),  # noqa: DTZ001  # it has no zone, on purpose
            ({"due_at": 1_780_000_000}, "due_at"),
            ({"due_at": moment(HELD)}, "due_at"),
            ({"due_at": None, "expires_at": moment(0)}, "expires_at"),
            ({"due_at": None, "by": "policy"}, "by"),
            ({"due_at": None, "reason": ""}, "reason"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, ledger: Ledger, given: dict[str, Any], field: str) -> None:
        job = ledger.send()
        with pytest.raises(InvalidArgument) as error:
            ledger.queue.reschedule(str(job), **given)
        assert [problem.field for problem in error.value.problems] == [field]
        assert events_of(ledger) == []

    def test_counts_for_a_worker_that_has_loaded_the_job_already(self, ledger: Ledger) -> None:
        jobs = [ledger.send() for _ in range(3)]
        claimed = ledger.serve()
        waiting = [job for job in jobs if job not in claimed.begun]
        ledger.queue.reschedule(str(waiting[0]), due_at=at(ledger, HOUR))
        ledger.queue.hold(str(waiting[1]))
        assert ledger.record(begins=[(claimed, job) for job in waiting]).begun == set()

    def test_is_found_by_key(self, ledger: Ledger) -> None:
        ledger.send(key="k", application="eu")
        assert ledger.queue.reschedule(key="k", application="eu", due_at=at(ledger, HOUR)) == 1
        with pytest.raises(NotFound):
            ledger.queue.reschedule(key="k", due_at=None)


class TestEveryChange:
    @pytest.mark.parametrize("kind", ["reschedule", "priority", "hold", "release"])
    def test_is_refused_once_the_job_no_longer_waits(self, ledger: Ledger, kind: str) -> None:
        change = changes(ledger.queue)[kind]
        sending, unknown, doubtful, ended = (ledger.send(f"g{number}") for number in range(4))
        claimed = {one.lane.grant_id: one for one in ledger.claim(ledger.offer())}
        for grant, event in (("g1", Event.RETURN), ("g2", Event.DOUBT), ("g3", Event.ACCEPT)):
            sent = "yes" if event is Event.ACCEPT else "maybe"
            ledger.record(outcome(claimed[grant], claimed[grant].jobs[0], event, sent=sent), ends=[end(claimed[grant])])
        before = ledger.rows(schema.job)
        for job, state in ((sending, "sending"), (unknown, "queued"), (doubtful, "in_doubt"), (ended, "sent")):
            with pytest.raises(NotWaiting) as error:
                change(str(job))
            assert (error.value.id, error.value.state) == (str(job), state)
            assert f"the job {job} is {state.replace('_', ' ')}: " in str(error.value)
        assert ledger.rows(schema.job) == before
        assert events_of(ledger) == []

    @pytest.mark.parametrize("kind", ["reschedule", "priority", "hold", "release"])
    def test_is_undone_with_the_callers_transaction(self, ledger: Ledger, kind: str) -> None:
        job = ledger.send(due_at=at(ledger, HOUR))
        if kind == "release":
            ledger.queue.hold(str(job))
        before, events = ledger.job(job), events_of(ledger)
        with Session(ledger.engine) as session:
            assert changes(ledger.queue)[kind](str(job), session=session) == 1
            assert ledger.queue.job(str(job), session=session).id == str(job)
            session.rollback()
        assert (ledger.job(job), events_of(ledger)) == (before, events)

    @pytest.mark.parametrize("kind", ["reschedule", "priority", "hold"])
    def test_of_a_job_that_the_dispatcher_has_not_seen_yet(self, ledger: Ledger, kind: str) -> None:
        """In the transaction that enqueues it, for instance."""
        with Session(ledger.engine) as session:
            made = ledger.queue.send("g9", MESSAGE, session=session)
            assert changes(ledger.queue)[kind](made.id, session=session) == 1
            session.commit()
        (event,) = ledger.rows(schema.event)
        assert (event.application, event.grant_id) == ("default", "g9")

    @pytest.mark.parametrize("given", [{}, {"job_id": "x", "key": "k"}])
    def test_takes_one_name(self, ledger: Ledger, given: dict[str, str]) -> None:
        with pytest.raises(TypeError, match="name one job by its id"):
            ledger.queue.hold(**given)

    def test_of_nothing_is_not_found(self, ledger: Ledger) -> None:
        with pytest.raises(NotFound, match="there is no job"):
            ledger.queue.hold(str(UUID(int=7)))
        with pytest.raises(NotFound, match="there is no batch"):
            ledger.queue.hold(batch_id=str(UUID(int=7)))


class TestPriority:
    def test_decides_which_job_of_a_grant_goes_first(self, ledger: Ledger) -> None:
        first, second = ledger.send(), ledger.send()
        assert ledger.queue.set_priority(str(second), priority=Priority.HIGH, by="anna") == 1
        assert ledger.queue.set_priority(str(second), priority="high") == 0
        assert begun(ledger)[0] == second
        assert ledger.state(first) is State.QUEUED
        assert events_of(ledger) == [("priority", "anna", "high", second, None)]

    def test_is_seen_by_a_lane_that_has_scanned_further(self, ledger: Ledger) -> None:
        job, other = ledger.send(priority="low"), ledger.send()
        ledger.queue.hold(str(job))
        ledger.absorb()
        ledger.clock.advance(30)
        assert begun(ledger) == [other]  # what waits at other priorities is later than this from now on
        ledger.queue.set_priority(str(job), priority="high")
        ledger.queue.release(str(job))
        assert begun(ledger) == [job]


class TestHold:
    def test_keeps_a_job_from_beginning_until_it_is_released(self, ledger: Ledger) -> None:
        job, other = ledger.send(), ledger.send()
        assert ledger.queue.hold(str(job), by="anna", reason="wrong price") == 1
        assert ledger.queue.hold(str(job)) == 0
        ledger.clock.advance(HOUR)
        assert begun(ledger) == [other]
        why = ledger.queue.why(str(job))
        assert (why.reason, why.rule, why.by, why.note, why.until) == ("held", "by_hand", "anna", "wrong price", None)
        assert why.expires_at is not None
        assert ledger.queue.job(str(job)).next_at is None
        assert ledger.queue.jobs("g1", state="queued").items[0].next_at is None
        assert ledger.queue.release(str(job), by="anna") == 1
        assert ledger.queue.release(str(job)) == 0
        assert begun(ledger) == [job]
        assert [event[0] for event in events_of(ledger)] == ["hold", "release"]

    def test_keeps_the_due_time_and_the_wait_before_a_retry(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        retry_at = ledger.clock() + HOUR * SECOND
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=retry_at), ends=[end(claimed)])
        ledger.queue.hold(str(job))
        ledger.clock.advance(60)
        ledger.queue.release(str(job))
        assert ledger.job(job).next_at == retry_at
        assert begun(ledger) == []

    def test_lasts_while_the_job_is_rescheduled(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.queue.hold(str(job))
        ledger.queue.reschedule(str(job), due_at=at(ledger, HOUR))
        ledger.clock.advance(2 * HOUR)
        assert begun(ledger) == []
        ledger.queue.release(str(job))
        assert ledger.job(job).next_at == micros(ledger.queue.job(str(job)).due_at)
        assert begun(ledger) == [job]

    def test_does_not_count_as_a_job_ahead(self, ledger: Ledger) -> None:
        first, second = ledger.send(priority="high"), ledger.send()
        ledger.absorb()
        ledger.queue.hold(str(first))
        assert ledger.queue.why(str(second)).ahead == 0
        assert ledger.queue.eta("g1").ahead == 1

    def test_can_be_cancelled_and_expires(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.queue.hold(str(job))
        assert ledger.queue.cancel(str(job)) is State.CANCELLED

    def test_is_over_once_the_job_has_expired_and_is_retried(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.absorb()
        ledger.queue.hold(str(job))
        ledger.set_job(job, state="expired", finished_at=ledger.clock())
        with ledger.writing() as connection:
            which = DeadLetterSelection([job], states=[State.EXPIRED])
            retry(connection, which, after=None, first_at=ledger.clock(), by="anna", now=ledger.clock())
        assert begun(ledger) == [job]

    def test_is_not_held_any_more_once_it_has_ended(self, ledger: Ledger) -> None:
        job = str(ledger.send())
        ledger.queue.hold(job)
        assert ledger.queue.job(job).held
        ledger.queue.cancel(job)
        assert not ledger.queue.job(job).held

    def test_holds_up_later_changes_of_the_message_and_is_named_there(self, ledger: Ledger) -> None:
        (first,) = ledger.modify("g1", ["m1"])
        (second,) = ledger.modify("g1", ["m1"], unread=True)
        ledger.queue.hold(str(first))
        ledger.clock.advance(1)
        assert begun(ledger) == []
        why = ledger.queue.why(str(second))
        assert why.reason == "behind"
        assert "which a person holds" in why.says
        ledger.clock.advance(HOUR)
        assert begun(ledger) == []
        ledger.queue.release(str(first))
        ledger.clock.advance(60)
        assert begun(ledger)[0] == first
        assert begun(ledger) == [second]

    def test_survives_the_death_of_the_worker_that_had_loaded_it(self, ledger: Ledger) -> None:
        jobs = [ledger.send() for _ in range(2)]
        claimed = ledger.serve()
        (held,) = [job for job in jobs if job not in claimed.begun]
        ledger.queue.hold(str(held))
        bury(ledger)
        ledger.clock.advance(60)
        assert held not in begun(ledger)
        assert ledger.job(held).next_at == HELD


class TestWhatIsPutOff:
    def test_stays_held_if_it_is_held_while_a_turn_looks_at_it(self, pg_ledger: Ledger) -> None:
        """Between the reading of the jobs of a turn and the writing of when to look at them again."""
        ledger = pg_ledger
        (first,) = ledger.modify("g1", ["m1"])
        (second,) = ledger.modify("g1", ["m1"], unread=True)
        ledger.queue.hold(str(first))
        ledger.clock.advance(1)
        offered = ledger.offer()

        def hold_second() -> None:
            ledger.queue.hold(str(second))

        with (
            ledger.writing() as connection,
            between_statements(connection, 7, hold_second) as seen,
        ):
            turns.claim(
                connection,
                [(turn.lane_id, turn.fence) for turn in offered],
                worker=ledger.worker,
                now=ledger.clock(),
                jobs_each=50,
            )
        assert "FOR UPDATE" in seen[7]
        assert ledger.job(second).next_at == HELD
