"""A refusal on a grant that the API calls valid: the fault of the job, of the grant, or of the question's way."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sendq import State
from sendq.clock import SECOND, Micros, moment
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed, Recorded
from sendq.ids import lane_id, new_id
from sendq.ledger import grants
from sendq.ledger.db import schema
from sendq.ledger.dispatching.pairs import prove
from sendq.rules.states import Event
from tests.support.ledger import Ledger, end, outcome

MINUTE: Micros = 60 * SECOND
SUSPECTED = Hold(Scope.GRANT, "forbidden", "policy", None, suspected=True)


LANE = lane_id("default", "g1")


def first(ledger: Ledger) -> Claimed:
    """A turn of the lane, some time later; its first call is the only one."""
    ledger.clock.advance(3)
    claimed = ledger.serve()
    assert len(claimed.begun) == 1
    return claimed


def refused(ledger: Ledger) -> UUID:
    """The lane's first job is refused; returns it."""
    claimed = first(ledger)
    job = claimed.jobs[0]
    ledger.record(outcome(claimed, job, Event.RETURN, hold=SUSPECTED, rule="forbidden"), ends=[end(claimed)])
    return job.id


def called_valid(ledger: Ledger) -> None:
    """The API is asked, and calls the grant valid."""
    ledger.clock.advance(1)
    with ledger.writing() as connection:
        grants.found_valid(connection, LANE, now=ledger.clock())


def succeeded(ledger: Ledger) -> tuple[UUID, Recorded]:
    """The lane's first job succeeds."""
    claimed = first(ledger)
    job = claimed.jobs[0]
    success = outcome(claimed, job, Event.ACCEPT, sent="yes")
    return job.id, ledger.record(success, ends=[end(claimed)])


def refuse_twice(ledger: Ledger) -> None:
    for _ in range(2):
        refused(ledger)
        called_valid(ledger)


class TestAJobThatIsRefusedTwiceOnAValidGrant:
    def test_is_dead_as_soon_as_another_job_of_its_lane_succeeds(self, ledger: Ledger) -> None:
        bad, good, last = (ledger.send() for _ in range(3))
        assert refused(ledger) == bad
        called_valid(ledger)
        assert refused(ledger) == bad
        called_valid(ledger)
        waits = ledger.queue.why(str(bad))
        assert (waits.reason, waits.rule) == ("set_aside", "job_refused")
        job, recorded = succeeded(ledger)
        assert job == good
        assert (ledger.state(bad), ledger.job(bad).rule) == (State.DEAD, "job_refused")
        assert [(one.job_id, one.event) for one in recorded.given_up] == [(bad, Event.GIVE_UP)]
        assert succeeded(ledger)[0] == last
        lane = ledger.lane()
        assert (lane.closed_at, lane.refused, lane.refused_jobs, lane.next_at) == (None, 0, None, None)

    def test_is_in_doubt_if_it_may_have_gone_out(self, ledger: Ledger) -> None:
        bad, _ = (ledger.send() for _ in range(2))
        refuse_twice(ledger)
        ledger.set_job(bad, doubt_at=ledger.clock())
        _, recorded = succeeded(ledger)
        assert ledger.state(bad) is State.IN_DOUBT
        assert [one.event for one in recorded.given_up] == [Event.DOUBT]

    def test_is_not_judged_by_a_stored_success(self, ledger: Ledger) -> None:
        bad, _ = (ledger.send() for _ in range(2))
        refuse_twice(ledger)
        claimed = first(ledger)
        success = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
        assert success.attempt is not None
        stored = success._replace(attempt=success.attempt._replace(replayed=True))
        assert ledger.record(stored, ends=[end(claimed)]).given_up == []
        assert ledger.state(bad) is State.QUEUED
        assert ledger.lane().refused == 2

    def test_is_judged_by_its_own_kind_whatever_else_succeeds_with_it(self, ledger: Ledger) -> None:
        bad, _ = (ledger.send() for _ in range(2))
        refuse_twice(ledger)
        (change,) = ledger.modify("g1", ["m1"])
        claimed = first(ledger)
        success = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
        other = success._replace(id=new_id(), job_id=change, operation="modify", attempt=None)
        recorded = ledger.record(success, other, ends=[end(claimed)])
        assert [one.job_id for one in recorded.given_up] == [bad]

    def test_stays_cancelled(self, ledger: Ledger) -> None:
        bad, _ = (ledger.send() for _ in range(2))
        refuse_twice(ledger)
        ledger.queue.cancel(str(bad))
        _, recorded = succeeded(ledger)
        assert (ledger.state(bad), recorded.given_up) == (State.CANCELLED, [])

    def test_counts_in_its_batch(self, ledger: Ledger) -> None:
        bad, good = ledger.modify("g1", ["m1", "m2"])
        refuse_twice(ledger)
        assert succeeded(ledger)[0] == good
        counts = ledger.queue.batch(str(ledger.job(bad).batch_id)).counts
        assert (counts[State.DEAD], counts[State.SENT]) == (1, 1)

    def test_keeps_its_place_while_no_other_job_is_due(self, ledger: Ledger) -> None:
        bad = ledger.send()
        ledger.send(due_at=moment(ledger.clock() + 60 * MINUTE))
        refuse_twice(ledger)
        assert refused(ledger) == bad

    def test_is_not_judged_by_a_job_of_another_kind(self, ledger: Ledger) -> None:
        """A grant that may modify messages may lack the right to send any."""
        bad = ledger.send()
        ledger.modify("g1", ["m1"])
        refuse_twice(ledger)
        assert refused(ledger) == bad

    def test_stays_though_a_job_of_another_kind_succeeds(self, ledger: Ledger) -> None:
        bad = ledger.send()
        refuse_twice(ledger)
        (change,) = ledger.modify("g1", ["m1"], priority="high")
        assert succeeded(ledger)[0] == change
        assert ledger.state(bad) is State.QUEUED

    def test_is_not_judged_by_a_change_of_its_own_message(self, ledger: Ledger) -> None:
        (bad,) = ledger.modify("g1", ["m1"])
        ledger.modify("g1", ["m1"])
        refuse_twice(ledger)
        assert refused(ledger) == bad

    def test_is_not_judged_by_a_call_that_began_before_the_lane_was_opened(self, ledger: Ledger) -> None:
        bad, good = (ledger.send() for _ in range(2))
        refuse_twice(ledger)
        claimed = first(ledger)
        early = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", begun_at=ledger.clock() - 60 * SECOND)
        ledger.record(early, ends=[end(claimed)])
        assert (ledger.state(good), ledger.state(bad)) == (State.SENT, State.QUEUED)

    def test_may_go_again_after_the_owner_has_signed_in(self, ledger: Ledger) -> None:
        bad, good = (ledger.send() for _ in range(2))
        refuse_twice(ledger)
        with ledger.writing() as connection:
            grants.close(connection, LANE, rule="expired", by="webhook", now=ledger.clock())
            grants.reopen(connection, LANE, by="webhook", now=ledger.clock())
        assert succeeded(ledger)[0] == good
        assert ledger.state(bad) is State.QUEUED


class TestSeveralRefusedJobs:
    def test_are_told_from_a_refused_grant_by_the_first_success(self, ledger: Ledger) -> None:
        bad, worse, good = (ledger.send() for _ in range(3))
        refuse_twice(ledger)
        assert refused(ledger) == worse
        called_valid(ledger)
        assert succeeded(ledger)[0] == good
        assert (ledger.state(bad), ledger.state(worse)) == (State.DEAD, State.QUEUED)

    def test_are_a_refused_grant_if_no_job_succeeds(self, ledger: Ledger) -> None:
        jobs = [ledger.send() for _ in range(5)]
        refuse_twice(ledger)
        for job in jobs[1:3]:
            assert refused(ledger) == job
            called_valid(ledger)
        lane = ledger.lane()
        assert (lane.closed_rule, lane.suspected) == ("forbidden", False)

    def test_of_a_refused_grant_get_another_chance_before_they_are_dead(self, ledger: Ledger) -> None:
        """Its owner may have signed in without a notice: the API calls the grant valid, as it did before."""
        jobs = [ledger.send() for _ in range(5)]
        refuse_twice(ledger)
        for _ in range(2):
            refused(ledger)
            called_valid(ledger)
        called_valid(ledger)
        assert succeeded(ledger)[0] == jobs[3]
        assert {ledger.state(job) for job in jobs[:3]} == {State.QUEUED}
        ledger.clock.advance(grants.SET_ASIDE / SECOND)
        assert [succeeded(ledger)[0] for _ in range(4)] == [jobs[4], *jobs[:3]]


class TestARefusedQuestion:
    def asked(self, ledger: Ledger) -> tuple[str | None, Sequence[int]]:
        streaks: list[int] = []

        def refusal(streak: int) -> tuple[str, Micros]:
            streaks.append(streak)
            return "api_key", MINUTE

        asked_at = ledger.clock.advance(1)
        with ledger.writing() as connection:
            rule = grants.question_refused(connection, LANE, refusal=refusal, asked_at=asked_at, now=ledger.clock())
        return rule, streaks

    def test_holds_the_application_and_opens_the_lane(self, ledger: Ledger) -> None:
        job = ledger.send()
        refused(ledger)
        assert self.asked(ledger) == ("api_key", [0])
        assert ledger.lane().closed_at is None
        why = ledger.queue.why(str(job))
        assert (why.reason, why.rule, why.says) == ("held", "api_key", "the application is held")
        assert ledger.offer() == []
        ledger.clock.advance(61)
        assert refused(ledger) == job
        assert self.asked(ledger) == (None, [1])  # the same incident, longer

    def test_holds_the_grant_alone_while_other_grants_work(self, ledger: Ledger) -> None:
        ledger.send()
        refused(ledger)
        with ledger.writing() as connection:
            prove(connection, "default", "unknown", begun_at=ledger.clock(), now=ledger.clock())
        assert self.asked(ledger) == (None, [0])
        assert {row.held_until for row in ledger.rows(schema.pair)} == {None}
        lane = ledger.lane()
        assert (lane.closed_at, lane.held_rule, lane.streak) == (None, "api_key", 1)

    def test_opens_no_lane_whose_owner_has_to_sign_in(self, ledger: Ledger) -> None:
        ledger.send()
        refused(ledger)
        with ledger.writing() as connection:
            grants.found_invalid(connection, LANE, now=ledger.clock())
        assert self.asked(ledger) == (None, [])
        assert ledger.lane().closed_rule == "forbidden"
