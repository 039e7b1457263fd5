"""What a lane becomes when something happens to it."""

from __future__ import annotations

from typing import Any

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import FLOORS, Lane
from sendq.facts.outcomes import Hold, Outcome, Scope
from sendq.facts.turns import End
from sendq.ids import new_id
from sendq.rules.lane_change import CHECK_FIRST, LaneChange
from sendq.rules.pace import STRETCH_FIRST
from sendq.rules.states import Event
from tests.support.facts import lane

NOW: Micros = 1_780_000_000 * SECOND
MINUTE: Micros = 60 * SECOND
BEFORE = NOW - MINUTE
HELD = Hold(Scope.GRANT, "throttled", "policy", NOW + 20 * MINUTE)
REFUSED = Hold(Scope.GRANT, "grant_expired", "policy", None)
SUSPECTED = Hold(Scope.GRANT, "unauthorized", "policy", None, suspected=True)


def outcome(event: Event = Event.RETURN, *, begun_at: Micros = NOW, **rest: Any) -> Outcome:
    return Outcome(new_id(), new_id(), 1, new_id(), "send", event, "a_rule", NOW, begun_at=begun_at, **rest)


def after(given: Lane, *outcomes: Outcome) -> tuple[Lane, list[str]]:
    """The lane after these outcomes of one transaction, and the kinds of the events."""
    change = LaneChange(given)
    kinds = [kind for one in outcomes for kind, _ in change.apply(one, now=NOW)]
    return change.after, kinds


class TestAHold:
    def test_lets_one_call_go_first_afterwards(self) -> None:
        found, events = after(lane(width=4, ramp=4), outcome(hold=HELD))
        assert (found.held_until, found.held_since, found.ramp, found.streak) == (HELD.until, NOW, 1, 1)
        assert events == ["hold"]

    def test_is_not_lengthened_by_what_was_on_the_wire_when_it_fell(self) -> None:
        longer = Hold(Scope.GRANT, "throttled", "policy", NOW + 40 * MINUTE)
        found, events = after(lane(), outcome(hold=HELD), outcome(hold=longer, begun_at=BEFORE))
        assert (found.held_until, found.streak, events) == (HELD.until, 1, ["hold"])

    def test_does_not_shorten_a_longer_one(self) -> None:
        until = NOW + 60 * MINUTE
        found, events = after(lane(held_until=until, held_since=BEFORE), outcome(hold=HELD))
        assert (found.held_until, events) == (until, [])

    def test_above_the_grant_is_none_of_the_lanes(self) -> None:
        above = Hold(Scope.PROVIDER, "throttled", "policy", NOW + MINUTE)
        change = LaneChange(lane())
        assert change.apply(outcome(hold=above), now=NOW) == []
        assert change.columns == {}

    def test_keeps_its_first_call_when_an_answer_narrows_the_lane(self) -> None:
        found, _ = after(lane(width=4, ramp=4), outcome(hold=HELD), outcome(width=2, begun_at=BEFORE))
        assert (found.width, found.ramp) == (2, 1)


class TestAnswersOfOneGroup:
    def test_leave_the_narrowest_width_whatever_their_order(self) -> None:
        for widths in ((1, 3), (3, 1)):
            found, _ = after(lane(width=10, ramp=10), *(outcome(width=width) for width in widths))
            assert (found.width, found.ramp) == (1, 1)

    def test_leave_the_longest_spacing_whatever_their_order(self) -> None:
        for spacings in ((SECOND, 3 * SECOND), (3 * SECOND, SECOND)):
            found, _ = after(lane(), *(outcome(spacing=spacing) for spacing in spacings))
            assert found.spacing == 3 * SECOND


class TestARefusal:
    def test_closes_the_lane(self) -> None:
        found, events = after(lane(), outcome(hold=REFUSED))
        assert (found.closed_at, found.suspected, found.check_at) == (NOW, False, NOW + CHECK_FIRST)
        assert events == ["closed"]

    def test_that_may_mean_something_else_has_the_api_asked_at_once(self) -> None:
        found, _ = after(lane(), outcome(hold=SUSPECTED))
        assert (found.suspected, found.check_at) == (True, NOW)

    def test_that_is_certain_outweighs_a_suspicion_and_not_the_other_way_round(self) -> None:
        found, events = after(lane(), outcome(hold=SUSPECTED), outcome(hold=REFUSED))
        assert (found.suspected, found.closed_rule, events) == (False, REFUSED.rule, ["closed"])
        found, _ = after(lane(), outcome(hold=REFUSED), outcome(hold=SUSPECTED))
        assert (found.suspected, found.closed_rule) == (False, REFUSED.rule)

    def test_of_what_was_begun_before_the_owner_signed_in_closes_nothing(self) -> None:
        found, events = after(lane(opened_at=NOW - 1), outcome(hold=REFUSED, begun_at=BEFORE))
        assert (found.closed_at, events) == (None, [])


class TestAThrottle:
    def test_spreads_the_calls_once_for_each_incident(self) -> None:
        found, _ = after(lane(held_since=NOW), outcome(throttled=True, begun_at=BEFORE))
        assert found.stretch == 0
        found, _ = after(lane(held_since=BEFORE), outcome(throttled=True))
        assert found.stretch == STRETCH_FIRST


class TestASuccess:
    def test_ends_what_went_wrong_before(self) -> None:
        found, _ = after(lane(streak=3, refused=1, checks=2, announced_at=BEFORE), outcome(Event.ACCEPT))
        assert (found.streak, found.refused, found.checks, found.announced_at) == (0, 0, 0, None)


class TestTheEndOfATurn:
    def ended(self, given: Lane, *outcomes: Outcome, ramp: int = 4) -> Lane:
        change = LaneChange(given)
        for one in outcomes:
            change.apply(one, now=NOW)
        change.end(End(given.id, given.fence, given.id, ready_at=NOW, ramp=ramp, used="[]"), now=NOW)
        return change.after

    def test_keeps_what_it_earned(self) -> None:
        found = self.ended(lane(turn="claimed", turn_at=BEFORE, width=4, turn_slots=2))
        assert (found.turn, found.turn_slots, found.ramp, found.used, found.served_at) == (None, 0, 4, "[]", NOW)

    def test_does_not_undo_a_hold_that_fell_meanwhile(self) -> None:
        held_before = lane(turn="claimed", turn_at=BEFORE, width=4, ramp=1, held_since=BEFORE + 1)
        assert self.ended(held_before).ramp == 1
        assert self.ended(lane(turn="claimed", turn_at=BEFORE, width=4, ramp=4), outcome(hold=HELD)).ramp == 1


class TestAJobThatWaitsAgain:
    def test_is_not_before_the_floor_of_its_priority(self) -> None:
        change = LaneChange(lane(high_floor=NOW, normal_floor=NOW, low_floor=NOW))
        change.lower(1, BEFORE)
        change.lower(1, NOW)
        assert change.after.floors == (NOW, BEFORE, NOW)
        change.scan_all()
        assert [getattr(change.after, name) for name in FLOORS] == [0, 0, 0]


class TestOpeningAgain:
    CLOSED = lane(closed_at=BEFORE, closed_rule="r", suspected=True, refused=1, checks=3, streak=2, announced_at=BEFORE)

    def test_because_its_owner_signed_in_forgets_what_went_wrong(self) -> None:
        change = LaneChange(self.CLOSED)
        change.reopen_authorised(now=NOW)
        found = change.after
        assert (found.closed_at, found.opened_at, found.ramp) == (None, NOW, 1)
        assert (found.refused, found.streak, found.checks, found.announced_at) == (0, 0, 0, None)

    def test_on_trial_remembers_what_was_asked_and_announced(self) -> None:
        change = LaneChange(self.CLOSED)
        change.reopen_on_trial(now=NOW)
        found = change.after
        assert (found.closed_at, found.refused, found.checks, found.announced_at) == (None, 2, 3, BEFORE)

    def test_remembers_refused_jobs_only_on_trial(self) -> None:
        change = LaneChange(self.CLOSED)
        job = outcome(hold=SUSPECTED)
        for _ in range(2):
            change = LaneChange(change.after)
            change.reopen_on_trial(now=NOW)
            change.apply(job, now=NOW)
        change = LaneChange(change.after)
        change.reopen_on_trial(now=NOW)
        trial = LaneChange(change.after)
        assert trial.blamed(begun_at=NOW) == {job.job_id}
        assert trial.blamed(begun_at=BEFORE) == frozenset()
        change.reopen_authorised(now=NOW)
        assert LaneChange(change.after).blamed(begun_at=NOW) == frozenset()

    def test_forgets_refused_jobs_when_the_api_calls_the_grant_invalid(self) -> None:
        change = LaneChange(lane())
        change.apply(outcome(hold=SUSPECTED), now=NOW)
        change.confirm(now=NOW)
        assert change.after.refused_jobs is None
