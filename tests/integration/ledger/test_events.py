"""What is kept of what happens to lanes and holds: each change that a person would ask about, once, with its author."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sendq import InvalidArgument, State
from sendq.clock import SECOND
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed
from sendq.ledger import escalation
from sendq.ledger.db import schema
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, Ledger, end, outcome

HOUR = 3600 * SECOND


def served(ledger: Ledger, jobs: int = 3) -> Claimed:
    """A turn with a few jobs begun in it."""
    for _ in range(jobs):
        ledger.send("g1", provider="google")
    ledger.clock.advance(1)
    ledger.absorb()
    ledger.set_lane(ramp=4, width=4)
    claimed = ledger.serve()
    ledger.clock.advance(1)
    return claimed


def answer(ledger: Ledger, claimed: Claimed, place: int, hold: Hold) -> None:
    ledger.record(outcome(claimed, claimed.jobs[place], Event.RETURN, hold=hold))


def told(ledger: Ledger) -> list[tuple[str, str, str | None, str | None]]:
    """Kind, author, provider and grant of every event, in order."""
    return [(row.kind, row.by, row.provider, row.grant_id) for row in ledger.rows(schema.event)]


class TestAnAnswer:
    def test_that_closes_a_lane_is_kept_with_its_job_and_rule(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        answer(ledger, claimed, 0, Hold(Scope.GRANT, "grant_unauthorized", "policy", None))
        (event,) = ledger.rows(schema.event)
        assert told(ledger) == [("closed", "policy", "google", "g1")]
        assert (event.job_id, event.rule) == (claimed.jobs[0].id, "grant_unauthorized")
        assert event.at == ledger.lane().closed_at

    def test_that_closes_what_is_closed_already_adds_nothing(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        closes = Hold(Scope.GRANT, "unauthorized", "policy", None, suspected=True)
        for place, hold in enumerate([closes, closes, replace(closes, suspected=False)]):
            answer(ledger, claimed, place, hold)
        assert told(ledger) == [("closed", "policy", "google", "g1")]

    def test_that_says_that_the_grant_is_gone_is_kept_as_that(self, ledger: Ledger) -> None:
        answer(ledger, served(ledger), 0, Hold(Scope.GRANT, "grant_not_found", "policy", None, gone=True))
        assert told(ledger) == [("grant_gone", "policy", "google", "g1")]

    @pytest.mark.parametrize(
        ("scope", "concerned"),
        [("grant", ("google", "g1")), ("provider", ("google", None)), ("application", (None, None))],
    )
    def test_that_holds_is_kept_once_for_each_incident(
        self, ledger: Ledger, scope: str, concerned: tuple[str | None, str | None]
    ) -> None:
        claimed = served(ledger)
        for place in range(3):  # the last two were on the wire when it fell
            answer(ledger, claimed, place, Hold(Scope(scope), "throttled", "policy", ledger.clock() + HOUR))
            ledger.clock.advance(1)
        assert told(ledger) == [("hold", "policy", *concerned)]
        ledger.record(ends=[end(claimed)])
        ledger.clock.advance(3600)
        probe = ledger.serve()
        hold = Hold(Scope(scope), "throttled", "policy", ledger.clock() + HOUR)
        ledger.record(outcome(probe, probe.jobs[0], Event.RETURN, hold=hold, begun_at=ledger.clock()))
        assert told(ledger) == [("hold", "policy", *concerned)] * 2

    def test_that_is_recorded_again_adds_nothing(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        held = outcome(
            claimed, claimed.jobs[0], Event.RETURN, hold=Hold(Scope.GRANT, "r", "policy", ledger.clock() + HOUR)
        )
        for _ in range(2):
            ledger.record(held)
        assert len(told(ledger)) == 1

    def test_that_is_shorter_than_the_hold_in_force_adds_nothing(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        ledger.set_lane(held_until=ledger.clock() + 2 * HOUR)
        answer(ledger, claimed, 0, Hold(Scope.GRANT, "r", "policy", ledger.clock() + HOUR))
        assert told(ledger) == []

    def test_that_narrows_a_lane_is_kept_when_it_does(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        for place in range(2):
            ledger.record(outcome(claimed, claimed.jobs[place], Event.RETURN, width=1))
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.reason, event.grant_id) == ("narrowed", "to 1 at once", "g1")


class TestAnEscalation:
    def test_reopens_the_lanes_of_those_that_it_relieves_in_sight(self, ledger: Ledger) -> None:
        for number in range(3):
            ledger.send(f"g{number}", provider="google")
        for claimed in ledger.claim(ledger.offer()):
            answer(ledger, claimed, 0, Hold(Scope.GRANT, "forbidden", "policy", None))
        now = ledger.clock()
        with ledger.writing() as connection:
            escalation.escalate(connection, rules={"forbidden"}, since=0, number=3, held_until=now + HOUR, now=now)
        assert sorted(told(ledger)) == [
            *(("closed", "policy", "google", f"g{number}") for number in range(3)),
            ("escalated", "policy", "google", None),
            *(("reopened", "escalation", "google", f"g{number}") for number in range(3)),
        ]  # fmt: skip


def test_a_cancel_is_kept_if_its_author_is_named(ledger: Ledger) -> None:
    for options in ({}, {"by": "anna"}, {"reason": "a mistake"}):
        job = ledger.queue.send("g1", MESSAGE, provider="google")
        batch = ledger.queue.modify("g1", ["m"], unread=False, provider="google")
        ledger.absorb()
        assert ledger.queue.cancel(job.id, **options) == State.CANCELLED
        ledger.queue.cancel_batch(batch.id, **options)
        ledger.queue.cancel_batch(batch.id, **options)
    assert told(ledger) == [("cancel", by, "google", "g1") for by in ("anna", "anna", "program", "program")]
    assert [row.reason for row in ledger.rows(schema.event)] == [None, None, "a mistake", "a mistake"]
    with pytest.raises(InvalidArgument, match="by: is empty"):
        ledger.queue.cancel_batch(batch.id, by="")
