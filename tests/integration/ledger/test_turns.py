"""Turns: who gets one, what a claim loads, and what may begin."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sendq import Send, State
from sendq.clock import SECOND, moment
from sendq.facts.turns import Claimed, Turn
from sendq.ids import new_id
from sendq.ledger.dispatching import rescue, turns
from sendq.ledger.dispatching.offers import give_back, offer_turns
from sendq.rules.preflight import KEY_MAX_AGE
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, Ledger, end, outcome


def ids(claimed: Claimed) -> list[UUID]:
    """The jobs of a turn in their order."""
    return [job.id for job in claimed.jobs]


class TestAnOffer:
    def test_opens_a_turn_and_raises_the_fence(self, ledger: Ledger) -> None:
        ledger.send()
        (turn,) = ledger.offer()
        lane = ledger.lane()
        assert (lane.turn, lane.fence, turn.fence) == ("offered", 1, 1)
        assert turn.slots == lane.turn_slots == lane.ramp

    def test_is_not_made_while_a_turn_is_open(self, ledger: Ledger) -> None:
        ledger.send()
        (turn,) = ledger.offer()
        with ledger.writing() as connection:
            assert offer_turns(connection, [(turn.lane_id, 1)], now=ledger.clock()) == []
        ledger.claim([turn])
        with ledger.writing() as connection:
            assert offer_turns(connection, [(turn.lane_id, 1)], now=ledger.clock()) == []
        assert ledger.lane().fence == turn.fence

    def test_keeps_the_order_it_was_asked_for(self, ledger: Ledger) -> None:
        for grant in ("g3", "g1", "g2"):
            ledger.send(grant)
            ledger.clock.advance(1)
        assert [turn.lane_id for turn in ledger.offer()] == [ledger.lane(grant).id for grant in ("g3", "g1", "g2")]

    def test_never_uses_a_fence_twice(self, ledger: Ledger) -> None:
        seen = []
        ledger.send()
        for _ in range(3):  # given back, buried and ended turns alike
            (turn,) = ledger.offer()
            seen.append(turn.fence)
            with ledger.writing() as connection:
                give_back(connection, [(turn.lane_id, turn.fence)], now=ledger.clock())
        for _ in range(2):
            seen.append(ledger.serve().lane.fence)
            with ledger.writing() as connection:
                rescue.bury(connection, ledger.worker, now=ledger.clock())
        assert seen == [1, 2, 3, 4, 5]


class TestAClaim:
    def test_of_the_same_message_a_second_time_gets_nothing(self, ledger: Ledger) -> None:
        job = ledger.send()
        offered = ledger.offer()
        (first,) = ledger.claim(offered)
        assert ids(first) == [job]
        assert ledger.claim(offered, worker=new_id()) == []
        assert ledger.lane().turn_worker == ledger.worker

    def test_with_a_stale_fence_gets_nothing(self, ledger: Ledger) -> None:
        ledger.send()
        stale = ledger.offer()
        with ledger.writing() as connection:
            give_back(connection, [(turn.lane_id, turn.fence) for turn in stale], now=ledger.clock())
        fresh = ledger.offer()
        assert ledger.claim(stale) == []
        assert len(ledger.claim(fresh)) == 1

    def test_of_an_unknown_lane_gets_nothing(self, ledger: Ledger) -> None:
        assert ledger.claim([Turn(new_id(), 1, 1)]) == []

    def test_begins_no_more_jobs_than_the_lane_is_wide(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(10)])
        ledger.clock.advance(1)
        ledger.absorb()
        ledger.set_lane(ramp=3)
        claimed = ledger.serve()
        assert len(claimed.jobs) == 10
        assert claimed.begun == set(ids(claimed)[:3])
        assert [ledger.state(job) for job in ids(claimed)] == [State.SENDING] * 3 + [State.QUEUED] * 7

    def test_begins_no_more_jobs_than_the_dispatcher_gave_it_calls(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(10)])
        ledger.clock.advance(1)
        ledger.absorb()
        ledger.set_lane(ramp=3)
        lane = ledger.lane().id
        with ledger.writing() as connection:
            offered = offer_turns(connection, [(lane, 2)], now=ledger.clock())
        assert [turn.slots for turn in offered] == [2]
        (claimed,) = ledger.claim(offered)
        assert len(claimed.begun) == 2

    def test_takes_no_more_jobs_than_it_was_told(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(10)])
        ledger.clock.advance(1)
        assert len(ledger.serve(jobs_each=4).jobs) == 4

    def test_takes_them_by_priority_due_time_and_arrival(self, ledger: Ledger) -> None:
        low = ledger.send(priority="low")
        normal = [ledger.send() for _ in range(3)]
        high = ledger.send(priority="high")
        tomorrow = ledger.send(priority="high", due_at=moment(ledger.clock()) + timedelta(days=1))
        soon = ledger.send(due_at=moment(ledger.clock()) + timedelta(milliseconds=500))
        ledger.clock.advance(1)
        claimed = ledger.serve()
        assert ids(claimed) == [high, *normal, soon, low]
        assert tomorrow not in ids(claimed)

    def test_brings_the_bytes_of_every_request(self, ledger: Ledger) -> None:
        job = ledger.send()
        (modified,) = ledger.modify("g1", ["m1"], starred=True, unread=None)
        found = {row.id: row for row in ledger.serve().jobs}
        assert str(job).encode() in bytes(found[job].body)
        assert bytes(found[modified].body) == b'{"starred":true}'
        assert {row.content_type for row in found.values()} == {"application/json"}

    def test_leaves_out_a_job_that_was_cancelled(self, ledger: Ledger) -> None:
        job, other = ledger.send(), ledger.send()
        offered = ledger.offer()
        assert ledger.queue.cancel(str(job)) is State.CANCELLED
        (claimed,) = ledger.claim(offered)
        assert ids(claimed) == [other]

    def test_of_an_empty_lane_is_a_turn_without_jobs(self, ledger: Ledger) -> None:
        job = ledger.send()
        offered = ledger.offer()
        ledger.queue.cancel(str(job))
        (claimed,) = ledger.claim(offered)
        assert (ids(claimed), list(claimed.begun)) == ([], [])
        ledger.record(ends=[end(claimed)])
        assert (ledger.lane().turn, ledger.lane().next_at) == (None, None)


class TestAJobWhoseTimeIsOver:
    def test_expires_at_the_claim(self, ledger: Ledger) -> None:
        job = ledger.send(expires_at=moment(ledger.clock()) + timedelta(seconds=10))
        offered = ledger.offer()
        ledger.clock.advance(10)
        (claimed,) = ledger.claim(offered)
        assert ids(claimed) == []
        row = ledger.job(job)
        assert (row.state, row.rule, row.finished_at) == ("expired", "expired", ledger.clock())

    def test_is_in_doubt_if_it_may_have_gone_out_and_its_key_is_too_old(self, ledger: Ledger) -> None:
        job, young = ledger.send(), ledger.send()
        now = ledger.clock()
        ledger.set_job(job, key_at=now - KEY_MAX_AGE, doubt_at=now - 1)
        ledger.set_job(young, key_at=now - KEY_MAX_AGE + SECOND, doubt_at=now - 1)
        claimed = ledger.serve()
        assert ids(claimed) == [young]
        row = ledger.job(job)
        assert (row.state, row.rule, row.finished_at) == ("in_doubt", "key_too_old", None)

    def test_does_not_hold_up_those_behind_it(self, ledger: Ledger) -> None:
        over = [ledger.send(expires_at=moment(ledger.clock()) + timedelta(seconds=10)) for _ in range(3)]
        job = ledger.send()
        offered = ledger.offer()
        ledger.clock.advance(10)
        (claimed,) = ledger.claim(offered, jobs_each=4)
        assert ids(claimed) == [job]
        assert claimed.begun == {job}
        assert {ledger.state(job) for job in over} == {State.EXPIRED}


class TestBeginning:
    def test_marks_the_job_with_its_turn_and_its_key_as_used(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.clock.advance(5)
        claimed = ledger.serve()
        row = ledger.job(job)
        assert (row.state, row.turn, row.begun_at, row.key_at) == (
            "sending",
            claimed.lane.fence,
            ledger.clock(),
            ledger.clock(),
        )

    def test_does_not_make_a_used_key_young_again(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.set_job(job, key_at=77, doubt_at=78)
        with ledger.writing() as connection:
            turns.begin(connection, [(job, 1, 0, 0)], now=ledger.clock())
        assert ledger.job(job).key_at == 77

    def test_the_same_job_again_in_its_turn_is_answered_alike(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        with ledger.writing() as connection:
            assert turns.begin(connection, [(job, claimed.lane.fence, 0, 0)], now=ledger.clock()) == {job}
            assert turns.begin(connection, [(job, claimed.lane.fence + 1, 0, 0)], now=ledger.clock()) == set()

    def test_a_cancelled_job_is_refused(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(5)])
        ledger.clock.advance(1)
        ledger.absorb()
        ledger.set_lane(ramp=1)
        claimed = ledger.serve()
        second, third = ids(claimed)[1:3]
        assert ledger.queue.cancel(str(second)) is State.CANCELLED
        first = claimed.jobs[0]
        recorded = ledger.record(
            outcome(claimed, first, Event.ACCEPT, sent="yes"), begins=[(claimed, second), (claimed, third)]
        )
        assert recorded.begun == {third}

    def test_in_a_turn_that_was_taken_away_is_refused(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(5)])
        ledger.clock.advance(1)
        ledger.absorb()
        ledger.set_lane(ramp=1)
        claimed = ledger.serve()
        with ledger.writing() as connection:
            rescue.bury(connection, ledger.worker, now=ledger.clock())
        assert ledger.record(begins=[(claimed, ids(claimed)[1])]).begun == set()
        again = ledger.serve(worker=new_id())
        waiting = next(job.id for job in again.jobs if job.id not in again.begun)
        assert ledger.record(begins=[(claimed, waiting)]).begun == set()
        assert ledger.record(begins=[(again, waiting)]).begun == {waiting}


class TestJobsForOneObject:
    def test_do_not_begin_together(self, ledger: Ledger) -> None:
        (first,), (second,) = ledger.modify("g1", ["m1"]), ledger.modify("g1", ["m1"], unread=True)
        (other,) = ledger.modify("g1", ["m2"])
        ledger.widen()
        claimed = ledger.serve()
        assert ids(claimed) == [first, second, other]
        assert claimed.begun == {first, other}

    def test_keep_their_order_whatever_their_priority(self, ledger: Ledger) -> None:
        (first,) = ledger.modify("g1", ["m1"], priority="low")
        (second,) = ledger.modify("g1", ["m1"], unread=True, priority="high")
        (between,) = ledger.modify("g1", ["m2"])
        ledger.widen()
        claimed = ledger.serve()
        assert ids(claimed) == [first, between, second]
        assert claimed.begun == {first, between}

    def test_keep_their_order_when_the_turn_has_no_room_for_all(self, ledger: Ledger) -> None:
        (first,) = ledger.modify("g1", ["m1"])
        second, *others = ledger.modify("g1", ["m1", "m2", "m3"], unread=True, priority="high")
        ledger.clock.advance(1)
        claimed = ledger.serve(jobs_each=3)
        assert ids(claimed) == [first, *others]
        ledger.finish(claimed)
        assert ids(ledger.serve(jobs_each=3)) == [second]

    def test_keep_their_order_when_a_newer_one_is_scheduled_at_the_same_time(self, ledger: Ledger) -> None:
        due_at = moment(ledger.clock()) + timedelta(seconds=1)
        first = ledger.modify("g1", [f"m{n}" for n in range(20)], due_at=due_at)[19]
        (second,) = ledger.modify("g1", ["m19"], unread=True, due_at=due_at)
        ledger.clock.advance(2)
        claimed = ledger.serve()
        assert ids(claimed).index(first) < ids(claimed).index(second)
        assert second not in claimed.begun

    def test_wait_for_the_retry_of_an_earlier_one(self, ledger: Ledger) -> None:
        (first,) = ledger.modify("g1", ["m1"])
        claimed = ledger.serve()
        retry_at = ledger.clock() + 600 * SECOND
        (second,) = ledger.modify("g1", ["m1"], unread=True, priority="high")
        (third,) = ledger.modify("g1", ["m1"])
        (other,) = ledger.modify("g1", ["m2"])
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=retry_at), ends=[end(claimed)])
        claimed = ledger.serve()
        assert ids(claimed) == [other]
        ledger.finish(claimed)
        # None of them makes the lane look due before its time.
        assert ledger.due() == []
        assert ledger.lane().next_at == retry_at
        ledger.clock.advance(600)
        claimed = ledger.serve()
        assert ids(claimed) == [first, second, third]
        assert claimed.begun == {first}

    def test_leave_room_in_the_turn_for_others_while_they_wait(self, ledger: Ledger) -> None:
        ledger.modify("g1", ["m1"])
        claimed = ledger.serve()
        for _ in range(4):
            ledger.modify("g1", ["m1"])
        (other,) = ledger.modify("g1", ["m2"])
        retry_at = ledger.clock() + 600 * SECOND
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=retry_at), ends=[end(claimed)])
        for _ in range(2):  # four of them, two at a time, go out of the way
            claimed = ledger.serve(jobs_each=2)
            assert ids(claimed) == []
            ledger.record(ends=[end(claimed)])
        assert ids(ledger.serve(jobs_each=2)) == [other]

    def test_of_another_lane_do_not_wait(self, ledger: Ledger) -> None:
        ledger.modify("g1", ["m1"])
        ledger.serve()
        (other,) = ledger.modify("g2", ["m1"])
        assert ids(ledger.serve()) == [other]


class TestATurnThatIsGivenBack:
    def test_leaves_its_jobs_as_they_were(self, ledger: Ledger) -> None:
        job = ledger.send()
        before = ledger.job(job)
        offered = ledger.offer()
        with ledger.writing() as connection:
            give_back(connection, [(turn.lane_id, turn.fence) for turn in offered], now=ledger.clock())
        assert ledger.job(job) == before
        assert ledger.lane().turn is None
        assert ledger.due() == [ledger.lane().id]

    def test_is_not_taken_from_the_worker_who_claimed_it(self, ledger: Ledger) -> None:
        ledger.send()
        offered = ledger.offer()
        ledger.claim(offered)
        with ledger.writing() as connection:
            give_back(connection, [(turn.lane_id, turn.fence) for turn in offered], now=ledger.clock())
        assert ledger.lane().turn == "claimed"
