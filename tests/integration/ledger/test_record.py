"""Recording: facts count however late they come, the rest only while its turn is open."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select

from sendq import Send, State
from sendq.clock import SECOND, moment
from sendq.facts.outcomes import Attempt, Hold, Scope
from sendq.facts.turns import Claimed, Group, Shrink
from sendq.ids import new_id, number
from sendq.ledger.attempts import insert_new_and_lock
from sendq.ledger.db import schema
from sendq.ledger.dispatching import rescue
from sendq.ledger.jobs import lock_jobs
from sendq.rules.rule_ids import DIED
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, Ledger, end, outcome

MINUTE = 60 * SECOND


def throttle(ledger: Ledger, minutes: int = 20, scope: str = "grant") -> Hold:
    return Hold(Scope(scope), "throttled", "policy", ledger.clock() + minutes * MINUTE)


def bury(ledger: Ledger) -> rescue.Buried:
    with ledger.writing() as connection:
        return rescue.bury(connection, ledger.worker, now=ledger.clock())


def everything(ledger: Ledger) -> list[object]:
    """All that the ledger says."""
    tables = (schema.job, schema.lane, schema.pair, schema.attempt, schema.batch_change)
    return [sorted(ledger.rows(table), key=str) for table in tables]


def counted(ledger: Ledger, batch: UUID) -> dict[str, int]:
    """The states of a batch's jobs, counted row by row."""
    with ledger.engine.connect() as connection:
        found = connection.execute(
            select(schema.job.c.state, func.count()).where(schema.job.c.batch_id == batch).group_by(schema.job.c.state)
        )
        return {state: count for state, count in found if state not in ("queued", "sending")}


class TestAnOutcome:
    def test_that_was_accepted_ends_the_job(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        recorded = ledger.record(
            outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", message_id="of the provider", counts=True)
        )
        row = ledger.job(job)
        assert (row.state, row.finished_at, row.message_id, row.attempts) == (
            "sent",
            ledger.clock(),
            "of the provider",
            1,
        )
        assert (row.turn, row.begun_at) == (None, None)
        assert recorded.late == recorded.sent_twice == []
        view = ledger.queue.job(str(job))
        assert [attempt.sent for attempt in view.trail] == ["yes"]

    def test_that_returns_the_job_makes_its_lane_want_a_turn_then(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        retry_at = ledger.clock() + MINUTE
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=retry_at, counts=True), ends=[end(claimed)]
        )
        row = ledger.job(job)
        assert (row.state, row.next_at, row.attempts) == ("queued", retry_at, 1)
        assert ledger.lane().next_at == retry_at
        assert ledger.due() == []
        ledger.clock.advance(60)
        assert [found.id for found in ledger.serve().jobs] == [job]

    def test_that_does_not_count_costs_no_attempt(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=ledger.clock(), counts=False))
        assert ledger.job(job).attempts == 0

    def test_that_nobody_knows_keeps_the_key_and_says_so(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe", begun_at=ledger.clock() + 5))
        row = ledger.job(job)
        assert (row.generation, row.key_at, row.doubt_at) == (0, ledger.clock(), ledger.clock() + 5)

    def test_that_is_a_definite_no_may_move_the_generation(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, new_generation=True))
        row = ledger.job(job)
        assert (row.generation, row.key_at, row.doubt_at) == (1, None, None)

    @pytest.mark.parametrize("refused", [True, False])
    def test_that_is_a_doubt_says_whether_its_request_was_answered(self, ledger: Ledger, refused: bool) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.DOUBT, sent="maybe", refused=refused))
        assert ledger.state(job) is State.IN_DOUBT
        assert (ledger.job(job).refused_at is not None) == refused

    def test_of_a_pruned_job_keeps_its_attempt_and_harms_nothing(self, ledger: Ledger) -> None:
        ledger.send()
        claimed = ledger.serve()
        with ledger.writing() as connection:
            connection.execute(schema.job.delete())
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(claimed)])
        assert ledger.lane().turn is None
        assert len(ledger.rows(schema.attempt)) == 1

    @pytest.mark.parametrize("scope", ["grant", "application"])
    def test_of_a_lane_that_the_ledger_has_forgotten_keeps_its_attempt_and_harms_no_other(
        self, ledger: Ledger, scope: str
    ) -> None:
        ledger.send()
        forgotten = ledger.serve()
        with ledger.writing() as connection:
            for table in (schema.job, schema.lane):
                connection.execute(table.delete())
        other = ledger.send(grant="g2")
        claimed = ledger.serve()
        late = outcome(forgotten, forgotten.jobs[0], Event.RETURN, hold=throttle(ledger, scope=scope))
        sent = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
        for _ in range(2):  # the second time, the commit's answer was lost
            ledger.record(late, sent, ends=[end(forgotten), end(claimed)])
        assert ledger.job(other).state == State.SENT
        assert len(ledger.rows(schema.attempt)) == 2

    @pytest.mark.parametrize("priority", ["high", "normal", "low"])
    def test_that_returns_a_job_is_not_hidden_behind_a_later_one_of_its_priority(
        self, ledger: Ledger, priority: str
    ) -> None:
        job = ledger.send(priority=priority)
        ledger.send(priority=priority, due_at=moment(ledger.clock()) + timedelta(days=1))
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN), ends=[end(claimed)])
        assert [found.id for found in ledger.serve().jobs] == [job]

    def test_that_returns_a_job_is_not_hidden_by_what_its_own_turn_recorded_before(self, ledger: Ledger) -> None:
        ledger.send(), ledger.send()
        claimed = ledger.serve()
        first, second = claimed.jobs
        # Nothing waits but the first, tomorrow: that is where the next scan would begin.
        hold = throttle(ledger, minutes=1)
        ledger.record(outcome(claimed, first, Event.RETURN, next_at=ledger.clock() + 24 * 60 * MINUTE, hold=hold))
        ledger.record(outcome(claimed, second, Event.RETURN), ends=[end(claimed)])
        ledger.clock.advance(60)
        assert [found.id for found in ledger.serve().jobs] == [second.id]


class TestATurnWhoseFenceWasGivenAgain:
    """A ledger that has lost a moment counts on from before it, so two workers can have a turn of the same fence."""

    @pytest.fixture
    def lost(self, ledger: Ledger) -> Claimed:
        """The turn of a worker, which the ledger does not remember: it has given the fence to another worker's turn."""
        ledger.send()
        ledger.send()
        lost = ledger.serve(jobs_each=1)
        with ledger.writing() as connection:
            lane = schema.lane
            connection.execute(lane.update().where(lane.c.id == lost.lane.id).values(turn_worker=new_id()))
        return lost

    def test_is_not_ended_by_the_other_worker(self, ledger: Ledger, lost: Claimed) -> None:
        ledger.record(ends=[end(lost)])
        assert ledger.lane().turn == "claimed"

    def test_loses_no_slots_to_it(self, ledger: Ledger, lost: Claimed) -> None:
        before = ledger.lane().turn_slots
        ledger.record_group(Group(shrinks=[Shrink(lost.lane.id, lost.lane.fence, lost.worker, 0)]))
        assert ledger.lane().turn_slots == before

    def test_begins_no_job_for_it(self, ledger: Ledger, lost: Claimed) -> None:
        recorded = ledger.record(begins=[(lost, lost.jobs[0].id)])
        assert not recorded.begun


class TestAJobThatWasGivenBackWithoutACall:
    def test_has_an_unused_key_still(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        assert ledger.job(job).key_at is not None
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, called=False), ends=[end(claimed)])
        row = ledger.job(job)
        assert (row.state, row.key_at, row.attempts, row.deaths) == ("queued", None, 0, 0)
        assert ledger.rows(schema.attempt) == []

    def test_keeps_the_age_of_a_key_that_was_used_before(self, ledger: Ledger) -> None:
        """An answer that moved no generation (a hold) was stored under this key: the API counts its hour from then."""
        job = ledger.send()
        claimed = ledger.serve()
        first_used = ledger.clock()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN), ends=[end(claimed)])
        ledger.clock.advance(60)
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, called=False), ends=[end(claimed)])
        assert ledger.job(job).key_at == first_used

    def test_keeps_the_key_of_an_unknown_outcome(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        first_used = ledger.clock()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe"), ends=[end(claimed)])
        ledger.clock.advance(60)
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, called=False), ends=[end(claimed)])
        assert ledger.job(job).key_at == first_used


class TestAGroupThatIsRepeated:
    def test_changes_nothing_the_second_time(self, ledger: Ledger) -> None:
        """The commit's answer was lost, and nobody knows whether it happened."""
        ledger.queue.modify("g1", ["m1", "m2"], starred=True)
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(6)])
        ledger.send("g2")
        ledger.clock.advance(1)
        ledger.absorb()
        ledger.set_lane(ramp=6)
        first, other = sorted(ledger.claim(ledger.offer()), key=lambda claimed: -len(claimed.jobs))
        modified, modified_too, held, unknown, given_back, sent, waiting, _ = first.jobs
        group = Group(
            [
                outcome(first, modified, Event.ACCEPT, sent="yes", counts=True),
                outcome(first, modified_too, Event.GIVE_UP, counts=True),
                outcome(first, held, Event.RETURN, hold=throttle(ledger), begun_at=ledger.clock()),
                outcome(first, unknown, Event.RETURN, sent="maybe", counts=True),
                outcome(first, given_back, Event.RETURN, called=False),
                outcome(first, sent, Event.ACCEPT, sent="yes", message_id="m", counts=True),
                outcome(other, other.jobs[0], Event.RETURN, hold=throttle(ledger, scope="provider"), counts=True),
            ],
            ends=[end(first), end(other)],
        )
        ledger.record_group(group)
        before = everything(ledger)
        ledger.clock.advance(0.01)
        again = ledger.record_group(group)
        assert everything(ledger) == before
        assert again.late == [], "nothing of it came late"
        assert ledger.state(waiting.id) is State.QUEUED

    def test_tells_what_the_first_try_began_for_nobody_heard_of_it(self, ledger: Ledger) -> None:
        ledger.send("g1")
        (claimed,) = ledger.claim(ledger.offer())
        back = outcome(claimed, claimed.jobs[0], Event.RETURN, hold=throttle(ledger, scope="application"))
        assert [ledger.record(back).incidents for _ in range(2)] == [[back], [back]]

    def test_tells_again_that_a_job_went_out_twice(self, ledger: Ledger) -> None:
        job = ledger.send()
        first = ledger.serve()
        bury(ledger)
        ledger.set_job(job, generation=1, key_at=None, doubt_at=None)
        second = ledger.serve(worker=new_id())
        ledger.record(outcome(second, second.jobs[0], Event.ACCEPT, sent="yes"))
        late = outcome(first, first.jobs[0], Event.ACCEPT, sent="yes")
        assert [ledger.record(late).sent_twice for _ in range(2)] == [[late], [late]]

    def test_gives_the_same_answer_to_those_who_want_to_begin(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(3)])
        ledger.clock.advance(1)
        ledger.absorb()
        ledger.set_lane(ramp=1)
        claimed = ledger.serve()
        done, following = claimed.jobs[0], claimed.jobs[1].id
        accepted = outcome(claimed, done, Event.ACCEPT, sent="yes")
        for _ in range(2):
            assert ledger.record(accepted, begins=[(claimed, following)]).begun == {following}
        assert ledger.job(following).state == "sending"

    def test_does_not_end_the_turn_that_came_after(self, ledger: Ledger) -> None:
        ledger.send()
        first = ledger.serve()
        group = Group([outcome(first, first.jobs[0], Event.RETURN)], ends=[end(first)])
        ledger.record_group(group)
        second = ledger.serve()
        ledger.record_group(group)
        lane = ledger.lane()
        assert (lane.turn, lane.fence) == ("claimed", second.lane.fence)
        assert ledger.state(first.jobs[0].id) is State.SENDING


class TestAttemptsThatAreWrittenWhileTheirJobsAreLocked:
    """One statement on PostgreSQL, several on SQLite."""

    def test_are_those_that_did_not_exist(self, ledger: Ledger) -> None:
        first, second, erased = ledger.send(), ledger.send("g2"), new_id()
        attempts = [Attempt(new_id(), job, 1, None, 1, 2, None, "test", None, "no") for job in (first, second, erased)]
        with ledger.writing() as connection:
            fresh, _ = insert_new_and_lock(connection, attempts[:1], [first])
            assert fresh == {attempts[0].id}
        with ledger.writing() as connection:
            fresh, jobs = insert_new_and_lock(connection, attempts, [erased, second, first, first])
            assert fresh == {attempts[1].id, attempts[2].id}
            assert list(jobs) == sorted([first, second], key=number)
            assert jobs == lock_jobs(connection, [first, second])
            assert insert_new_and_lock(connection, [], [second]) == (set(), {second: jobs[second]})
            assert insert_new_and_lock(connection, attempts, []) == (set(), {})
        assert {row.id for row in ledger.rows(schema.attempt)} == {attempt.id for attempt in attempts}

    def test_lock_their_jobs(self, pg_ledger: Ledger) -> None:
        job = pg_ledger.send()
        with pg_ledger.writing() as connection:
            insert_new_and_lock(connection, [Attempt(new_id(), job, 1, None, 1, 2, None, "test", None, "no")], [job])
            with pg_ledger.writing() as other:
                assert lock_jobs(other, [job], skip_locked=True) == {}


class TestALateSent:
    """A worker that was taken for dead and was not."""

    def late(self, ledger: Ledger, claimed: Claimed) -> list[bool]:
        recorded = ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", message_id="m"))
        return [bool(recorded.late), bool(recorded.sent_twice)]

    @pytest.mark.parametrize("state", ["queued", "in_doubt", "dead", "expired", "cancelled"])
    def test_closes_its_job_wherever_that_is(self, ledger: Ledger, state: str) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        bury(ledger)
        ledger.set_job(job, state=state)
        assert self.late(ledger, claimed) == [True, False]
        row = ledger.job(job)
        assert (row.state, row.message_id, row.finished_at) == ("sent", "m", ledger.clock())

    def test_closes_a_job_that_another_turn_has_begun(self, ledger: Ledger) -> None:
        job = ledger.send()
        first = ledger.serve()
        bury(ledger)
        second = ledger.serve(worker=new_id())
        assert self.late(ledger, first) == [True, False]
        assert ledger.state(job) is State.SENT
        # And what the other turn then says does not open it again.
        ledger.record(outcome(second, second.jobs[0], Event.RETURN, sent="maybe"), ends=[end(second)])
        assert ledger.state(job) is State.SENT
        assert ledger.lane().turn is None

    def test_counts_also_when_both_come_in_one_group(self, ledger: Ledger) -> None:
        job = ledger.send()
        first = ledger.serve()
        bury(ledger)
        second = ledger.serve(worker=new_id())
        ledger.record(
            outcome(first, first.jobs[0], Event.ACCEPT, sent="yes"),
            outcome(second, second.jobs[0], Event.RETURN, sent="maybe"),
        )
        assert ledger.state(job) is State.SENT

    def test_is_no_alarm_when_the_same_key_was_answered_twice(self, ledger: Ledger) -> None:
        ledger.send()
        first = ledger.serve()
        bury(ledger)
        second = ledger.serve(worker=new_id())
        ledger.record(outcome(second, second.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(second)])
        assert self.late(ledger, first) == [True, False]

    @pytest.mark.parametrize("order", ["older last", "newer last"])
    def test_is_an_alarm_when_a_newer_generation_went_out_as_well(self, ledger: Ledger, order: str) -> None:
        job = ledger.send()
        first = ledger.serve()
        bury(ledger)
        ledger.set_job(job, generation=1, key_at=None, doubt_at=None)
        second = ledger.serve(worker=new_id())
        both = [
            outcome(second, second.jobs[0], Event.ACCEPT, sent="yes"),
            outcome(first, first.jobs[0], Event.ACCEPT, sent="yes"),
        ]
        if order == "newer last":
            both.reverse()
        found = [ledger.record(one).sent_twice for one in both]
        assert found == [[], [both[1]]]
        assert len(ledger.rows(schema.attempt)) == 3  # and the one that says that the worker died


class TestAnyOtherLateOutcome:
    def test_does_not_return_a_job_that_is_in_another_turn(self, ledger: Ledger) -> None:
        job = ledger.send()
        first = ledger.serve()
        bury(ledger)
        second = ledger.serve(worker=new_id())
        recorded = ledger.record(outcome(first, first.jobs[0], Event.RETURN, counts=True))
        row = ledger.job(job)
        assert (row.state, row.turn, row.attempts) == ("sending", second.lane.fence, 0)
        assert len(recorded.late) == 1

    def test_does_not_bury_a_job_that_waits_again(self, ledger: Ledger) -> None:
        job = ledger.send()
        first = ledger.serve()
        bury(ledger)
        ledger.record(outcome(first, first.jobs[0], Event.GIVE_UP))
        assert ledger.state(job) is State.QUEUED

    def test_is_in_the_trail_all_the_same(self, ledger: Ledger) -> None:
        job = ledger.send()
        first = ledger.serve()
        bury(ledger)
        ledger.record(outcome(first, first.jobs[0], Event.RETURN, rule="service_unavailable"))
        trail = ledger.queue.job(str(job)).trail
        assert {attempt.rule for attempt in trail} == {"service_unavailable", DIED}

    def test_holds_its_lane_all_the_same(self, ledger: Ledger) -> None:
        ledger.send()
        first = ledger.serve()
        bury(ledger)
        hold = throttle(ledger)
        ledger.record(outcome(first, first.jobs[0], Event.RETURN, hold=hold))
        assert (ledger.lane().held_until, ledger.lane().next_at) == (hold.until, hold.until)
        assert ledger.due() == []

    def test_neither_ends_the_turn_nor_sets_the_pace(self, ledger: Ledger) -> None:
        ledger.send()
        first = ledger.serve()
        bury(ledger)
        ledger.serve(worker=new_id())
        before = ledger.lane()
        ledger.record(
            outcome(first, first.jobs[0], Event.RETURN), ends=[end(first, ready_at=ledger.clock() + MINUTE, ramp=1)]
        )
        after = ledger.lane()
        assert (after.turn, after.ready_at, after.ramp) == (before.turn, before.ready_at, before.ramp)


class TestAHold:
    def served(self, ledger: Ledger, jobs: int = 4) -> Claimed:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(jobs)])
        ledger.clock.advance(1)
        ledger.absorb()
        ledger.set_lane(ramp=4, width=4)
        return ledger.serve()

    def test_leaves_the_lane_alone_until_its_time(self, ledger: Ledger) -> None:
        claimed = self.served(ledger)
        hold = throttle(ledger)
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold),
            *(outcome(claimed, job, Event.RETURN, called=False) for job in claimed.jobs[1:]),
            ends=[end(claimed)],
        )
        lane = ledger.lane()
        assert (lane.held_until, lane.held_rule, lane.held_by) == (hold.until, "throttled", "policy")
        assert ledger.due() == []
        ledger.clock.advance(20 * 60 - 1)
        assert ledger.due() == []
        ledger.clock.advance(1)
        assert ledger.due() == [lane.id]

    def test_begins_again_with_one_call(self, ledger: Ledger) -> None:
        claimed = self.served(ledger)
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.RETURN, hold=throttle(ledger)),
            *(outcome(claimed, job, Event.RETURN, called=False) for job in claimed.jobs[1:]),
            ends=[end(claimed, ramp=4)],
        )
        ledger.clock.advance(20 * 60)
        probe = ledger.serve()
        assert len(probe.begun) == 1
        ledger.record(ends=[end(probe, ramp=2)])
        assert ledger.lane().ramp == 2

    def test_takes_one_step_for_one_incident(self, ledger: Ledger) -> None:
        claimed = self.served(ledger)
        first = throttle(ledger)
        ledger.clock.advance(1)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=first))
        # Calls that were on the wire when it fell, in the same group or a later one.
        for job in claimed.jobs[1:3]:
            ledger.clock.advance(1)
            ledger.record(outcome(claimed, job, Event.RETURN, hold=throttle(ledger, 40)))
        lane = ledger.lane()
        assert (lane.held_until, lane.streak) == (first.until, 1)

    def test_takes_one_step_for_one_incident_within_a_group(self, ledger: Ledger) -> None:
        claimed = self.served(ledger)
        ledger.clock.advance(1)
        first, second = throttle(ledger), throttle(ledger, 40)
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.RETURN, hold=first),
            outcome(claimed, claimed.jobs[1], Event.RETURN, hold=second),
        )
        assert (ledger.lane().held_until, ledger.lane().streak) == (first.until, 1)

    def test_takes_another_step_for_another_incident(self, ledger: Ledger) -> None:
        claimed = self.served(ledger, 1)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=throttle(ledger)), ends=[end(claimed)])
        ledger.clock.advance(20 * 60)
        probe = ledger.serve()
        again = throttle(ledger, 40)
        ledger.record(
            outcome(probe, probe.jobs[0], Event.RETURN, hold=again, begun_at=ledger.clock()), ends=[end(probe)]
        )
        assert (ledger.lane().held_until, ledger.lane().streak) == (again.until, 2)

    def test_that_a_late_worker_reports_is_not_undone_by_the_turn_under_way(self, ledger: Ledger) -> None:
        claimed = self.served(ledger)
        bury(ledger)
        under_way = ledger.serve(worker=new_id())
        ledger.clock.advance(1)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=throttle(ledger)))
        ledger.record(ends=[end(under_way, ramp=4)])
        assert ledger.lane().ramp == 1

    @pytest.mark.parametrize(("scope", "others"), [("provider", ["g3"]), ("application", [])])
    def test_of_more_than_a_lane_stops_all_lanes_of_its_scope(
        self, ledger: Ledger, scope: str, others: list[str]
    ) -> None:
        ledger.send("g1", provider="google")
        claimed = ledger.serve()
        ledger.send("g2", provider="google")
        ledger.send("g3", provider="ews")
        elsewhere = ledger.send("g4", provider="google", application="other")
        ledger.absorb()
        hold = throttle(ledger, scope=scope)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold), ends=[end(claimed)])
        assert set(ledger.due()) == {ledger.lane(grant).id for grant in others} | {ledger.lane("g4", "other").id}
        assert ledger.queue.why(str(claimed.jobs[0].id)).until == moment(hold.until or 0)
        assert ledger.queue.why(str(elsewhere)).reason != "held"
        ledger.clock.advance(20 * 60)
        assert len(ledger.due()) == 4

    @pytest.mark.parametrize("scope", ["provider", "application"])
    def test_of_more_than_a_lane_takes_one_step_for_one_incident(self, ledger: Ledger, scope: str) -> None:
        claimed = self.served(ledger)
        ledger.clock.advance(1)
        first = throttle(ledger, scope=scope)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=first))
        ledger.clock.advance(1)
        ledger.record(outcome(claimed, claimed.jobs[1], Event.RETURN, hold=throttle(ledger, 40, scope)))
        (held,) = [row for row in ledger.rows(schema.pair) if row.held_until is not None]
        assert held.held_until == first.until


class TestAReauth:
    def test_closes_the_lane_until_somebody_opens_it(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        hold = Hold(Scope.GRANT, "grant_expired", "policy", None)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold), ends=[end(claimed)])
        lane = ledger.lane()
        assert (lane.closed_at, lane.closed_rule, lane.next_at) == (ledger.clock(), "grant_expired", None)
        why = ledger.queue.why(str(job))
        assert (why.state, why.reason) == (State.QUEUED, "reauth")
        ledger.send()
        ledger.clock.advance(3_600)
        assert ledger.offer() == []
        assert ledger.lane().next_at is None

    def test_is_noted_once(self, ledger: Ledger) -> None:
        ledger.send(), ledger.send()
        claimed = ledger.serve()
        hold = Hold(Scope.GRANT, "grant_expired", "policy", None)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold))
        ledger.clock.advance(5)
        later = replace(hold, rule="another")
        ledger.record(outcome(claimed, claimed.jobs[1], Event.RETURN, hold=later), ends=[end(claimed)])
        assert ledger.lane().closed_rule == "grant_expired"
