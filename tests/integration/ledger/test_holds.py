"""Holds by hand: what they stop, what stops them, and what they leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from sendq.clock import SECOND, Micros, moment
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed, Group
from sendq.ledger import grants
from sendq.ledger.db import schema
from sendq.ledger.operators import holds
from sendq.operators import Operators
from sendq.rules.rule_ids import BY_HAND
from sendq.rules.states import Event
from sendq.views import GrantView
from tests.support.ledger import Ledger, end, outcome

HOUR: Micros = 3600 * SECOND
WHOLE = WHOLE_APPLICATION
WHO: dict[str, Any] = {"by": "anna", "reason": "their server moves"}


def hold_grant(ledger: Ledger, grant: str = "g1", *, hours: float = 24) -> bool:
    now = ledger.clock()
    with ledger.writing() as connection:
        return holds.hold_grant(connection, "default", grant, until=now + round(hours * HOUR), now=now, **WHO)


def release_grant(ledger: Ledger, grant: str = "g1") -> str | None:
    with ledger.writing() as connection:
        return holds.release_grant(connection, "default", grant, now=ledger.clock(), **WHO)


def hold_pair(ledger: Ledger, provider: str, *, hours: float = 24) -> bool:
    now = ledger.clock()
    with ledger.writing() as connection:
        return holds.hold_pair(connection, "default", provider, until=now + round(hours * HOUR), now=now, **WHO)


def release_pair(ledger: Ledger, provider: str) -> str | None:
    with ledger.writing() as connection:
        return holds.release_pair(connection, "default", provider, now=ledger.clock(), **WHO)


def prove_all(ledger: Ledger) -> None:
    """Nothing is limited for want of a success any more."""
    with ledger.writing() as connection:
        connection.execute(schema.pair.update().values(ramp=None, proven_at=ledger.clock()))


def ramps(ledger: Ledger) -> dict[str, int | None]:
    return {row.provider: row.ramp for row in ledger.rows(schema.pair)}


def throttled(ledger: Ledger, claimed: Claimed, *, minutes: float, scope: str = "grant") -> None:
    """The first job of the turn comes back with a hold of the policy; the call was begun just now."""
    hold = Hold(Scope(scope), "throttled", "policy", ledger.clock() + round(minutes * 60 * SECOND))
    back = outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold, begun_at=ledger.clock())
    ledger.record(back, ends=[end(claimed)])


def close(ledger: Ledger, grant: str = "g1") -> None:
    """The lane of this grant is closed on a webhook's word."""
    lane = ledger.lane(grant).id
    with ledger.writing() as connection:
        grants.close(connection, lane, rule="expired", by="webhook", now=ledger.clock())


def kinds(ledger: Ledger) -> list[str]:
    return [row.kind for row in ledger.rows(schema.event)]


class TestASuccessThatWasOnTheWireWhenAHoldFell:
    @pytest.mark.parametrize("scope", ["unknown", WHOLE])
    def test_proves_nothing_about_what_comes_after_the_hold(self, ledger: Ledger, scope: str) -> None:
        ledger.send()
        ledger.offer()
        prove_all(ledger)
        begun_at = ledger.clock()
        ledger.clock.advance(1)
        hold_pair(ledger, scope)
        proven = {("default", "unknown"): begun_at}
        for _ in range(12):
            ledger.record_group(Group(proven=proven))
        assert ramps(ledger)["unknown"] == 1
        after = {("default", "unknown"): ledger.clock.advance(1)}
        ledger.record_group(Group(proven=after))
        assert ramps(ledger)["unknown"] == 2


class TestHoldingAGrant:
    def test_leaves_it_alone_until_then_and_begins_with_one_call(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        ledger.set_lane(width=4, ramp=4)
        assert hold_grant(ledger, hours=2)
        assert ledger.due() == []
        ledger.clock.advance(2 * 3600 - 1)
        assert ledger.due() == []
        ledger.clock.advance(1)
        assert len(ledger.due()) == 1
        assert ledger.lane().ramp == 1

    def test_says_who_and_why(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.absorb()
        hold_grant(ledger)
        why = ledger.queue.why(str(job))
        assert (why.reason, why.rule, why.by, why.note, why.until) == (
            "held", BY_HAND, "anna", WHO["reason"], moment(ledger.clock() + 24 * HOUR)
        )  # fmt: skip
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.by, event.reason, event.grant_id) == ("hold", "anna", WHO["reason"], "g1")
        assert event.at == ledger.clock()

    def test_before_its_first_job_makes_the_lane_that_this_job_finds(self, ledger: Ledger) -> None:
        assert hold_grant(ledger)
        ledger.send(provider="google")
        ledger.absorb()
        assert ledger.due() == []
        lane = ledger.lane()
        assert (lane.provider, lane.width, lane.held_by) == ("google", 4, "anna")
        assert release_grant(ledger) == "released"
        assert ledger.due() == [lane.id]

    def test_takes_back_a_turn_that_nobody_claimed_yet(self, ledger: Ledger) -> None:
        ledger.send()
        offered = ledger.offer()
        hold_grant(ledger)
        assert ledger.claim(offered) == []
        assert ledger.lane().turn is None

    def test_stops_the_turn_that_is_under_way(self, ledger: Ledger) -> None:
        jobs = [ledger.send() for _ in range(3)]
        ledger.absorb()
        ledger.set_lane(width=1, ramp=1)
        claimed = ledger.serve()
        hold_grant(ledger)
        recorded = ledger.record(
            outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), begins=[(claimed, jobs[1])]
        )
        assert recorded.begun == set()
        ledger.record(ends=[end(claimed, ramp=4)])
        assert ledger.state(jobs[1]) == "queued"
        assert ledger.due() == []
        release_grant(ledger)
        assert ledger.lane().ramp == 1

    def test_shortens_no_hold_and_lengthens_any(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        assert hold_grant(ledger, hours=2)
        assert not hold_grant(ledger, hours=1)
        assert ledger.lane().held_until == ledger.clock() + 2 * HOUR
        assert kinds(ledger) == ["hold"]
        assert hold_grant(ledger, hours=3)
        assert ledger.lane().held_until == ledger.clock() + 3 * HOUR

    def test_is_not_shortened_by_the_policy(self, ledger: Ledger) -> None:
        ledger.send()
        claimed = ledger.serve()
        hold_grant(ledger, hours=2)
        ledger.clock.advance(1)
        throttled(ledger, claimed, minutes=20)
        lane = ledger.lane()
        assert (lane.held_until, lane.held_by) == (ledger.clock() - SECOND + 2 * HOUR, "anna")
        assert ledger.due() == []

    def test_gives_way_to_a_longer_one_of_the_policy(self, ledger: Ledger) -> None:
        ledger.send()
        claimed = ledger.serve()
        hold_grant(ledger, hours=0.1)
        ledger.clock.advance(1)
        throttled(ledger, claimed, minutes=20)
        assert (ledger.lane().held_until, ledger.lane().held_by) == (ledger.clock() + HOUR // 3, "policy")


class TestReleasingAGrant:
    def test_ends_a_hold_of_the_policy_with_one_call_first(self, ledger: Ledger) -> None:
        for _ in range(3):
            ledger.send()
        ledger.absorb()
        ledger.set_lane(width=4, ramp=4)
        throttled(ledger, ledger.serve(), minutes=20)
        assert ledger.due() == []
        ledger.set_lane(ramp=4)  # whatever it had earned
        assert release_grant(ledger) == "released"
        assert (ledger.due(), ledger.lane().ramp) == ([ledger.lane().id], 1)
        assert kinds(ledger) == ["hold", "release"]

    def test_reopens_a_closed_lane(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        close(ledger)
        assert ledger.due() == []
        assert release_grant(ledger) == "reopened"
        assert ledger.due() == [ledger.lane().id]
        reopened = ledger.rows(schema.event)[-1]
        assert (reopened.kind, reopened.by, reopened.reason) == ("reopened", "anna", WHO["reason"])

    def test_ends_both_at_once(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        hold_grant(ledger)
        ledger.set_lane(closed_at=ledger.clock(), closed_rule="expired")
        assert release_grant(ledger) == "reopened"
        assert ledger.due() == [ledger.lane().id]
        assert kinds(ledger) == ["hold", "release", "reopened"]

    def test_of_one_that_goes_anyway_does_nothing(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        assert release_grant(ledger) is None
        assert release_grant(ledger, "nobody") is None
        hold_grant(ledger, hours=1)
        ledger.clock.advance(3600)
        assert release_grant(ledger) is None
        assert kinds(ledger) == ["hold"]


class TestHoldingAProviderOrAll:
    def two(self, ledger: Ledger) -> tuple[UUID, UUID]:
        for grant, provider in (("g1", "google"), ("m1", "microsoft")):
            ledger.send(grant, provider=provider)
        ledger.absorb()
        prove_all(ledger)
        return ledger.lane("g1").id, ledger.lane("m1").id

    def test_leaves_its_lanes_alone_and_no_others(self, ledger: Ledger) -> None:
        _, other = self.two(ledger)
        assert hold_pair(ledger, "google", hours=1)
        assert ledger.due() == [other]
        assert ramps(ledger) == {"google": 1, "microsoft": None}
        ledger.clock.advance(3600)
        assert len(ledger.due()) == 2

    def test_holds_a_whole_application_before_it_has_a_job(self, ledger: Ledger) -> None:
        assert hold_pair(ledger, WHOLE)
        lanes = self.two(ledger)
        assert ledger.due() == []
        assert release_pair(ledger, WHOLE) == "released"
        assert sorted(ledger.due()) == sorted(lanes)
        assert set(ramps(ledger).values()) == {1}

    @pytest.mark.parametrize("provider", ["google", WHOLE])
    def test_takes_back_turns_that_nobody_claimed_yet(self, ledger: Ledger, provider: str) -> None:
        self.two(ledger)
        offered = ledger.offer()
        hold_pair(ledger, provider)
        assert (ramps(ledger)["google"], ramps(ledger)["microsoft"]) == (1, None if provider == "google" else 1)
        claimed = {claimed.lane.grant_id for claimed in ledger.claim(offered)}
        assert claimed == ({"m1"} if provider == "google" else set())

    def test_shortens_no_hold_and_is_not_shortened_by_the_policy(self, ledger: Ledger) -> None:
        ledger.send(provider="google")
        claimed = ledger.serve()
        until = ledger.clock() + 2 * HOUR
        assert hold_pair(ledger, "google", hours=2)
        assert not hold_pair(ledger, "google", hours=1)
        ledger.clock.advance(1)
        throttled(ledger, claimed, minutes=20, scope="provider")
        (pair,) = ledger.rows(schema.pair)
        assert (pair.held_until, pair.held_by) == (until, "anna")

    def test_releases_what_the_policy_held_but_no_lane_of_its_own(self, ledger: Ledger) -> None:
        ledger.send("g1", provider="google")
        throttled(ledger, ledger.serve(), minutes=20, scope="provider")
        ledger.send("g2", provider="google")
        ledger.absorb()
        hold_grant(ledger, "g1")
        assert release_pair(ledger, "google") == "released"
        assert ledger.due() == [ledger.lane("g2").id]
        assert release_pair(ledger, "google") is None
        assert release_pair(ledger, WHOLE) is None

    def test_says_who_and_why(self, ledger: Ledger) -> None:
        hold_pair(ledger, WHOLE)
        hold_pair(ledger, "google")
        release_pair(ledger, "google")
        told = [(row.kind, row.provider, row.by, row.reason) for row in ledger.rows(schema.event)]
        assert told == [
            ("hold", None, "anna", WHO["reason"]),
            ("hold", "google", "anna", WHO["reason"]),
            ("release", "google", "anna", WHO["reason"]),
        ]


class TestLooking:
    def test_a_scope_counts_its_waiting_jobs(self, ledger: Ledger) -> None:
        for grant, provider in (("g1", "google"), ("g1", "google"), ("g2", "google"), ("m1", "microsoft")):
            ledger.send(grant, provider=provider)
        ledger.set_job(ledger.send("g1", provider="google"), state="sent")
        ledger.absorb()
        hold_pair(ledger, "google")
        now = ledger.clock()
        with ledger.writing() as connection:
            one = holds.grant_state(connection, "default", "g1", now=now)
            google = holds.pair_state(connection, "default", "google", now=now)
            whole = holds.pair_state(connection, "default", WHOLE, now=now)
            nobody = holds.grant_state(connection, "default", "nobody", now=now)
            above = holds.held_above(connection, "default", grant_id="g1", provider=None, now=now)
        assert (one.known, one.waiting, one.held_until) == (True, 2, None)
        assert (google.waiting, google.held_by) == (3, "anna")
        assert (whole.waiting, whole.held_until) == (4, None)
        assert (nobody.known, nobody.waiting) == (False, 0)
        assert above == ["google"]

    def test_lists_grants_by_what_keeps_them(self, ledger: Ledger) -> None:
        for grant in ("open", "held", "closed", "both"):
            ledger.send(grant)
        ledger.absorb()
        hold_grant(ledger, "held")
        hold_grant(ledger, "both")
        for grant in ("closed", "both"):
            ledger.clock.advance(1)
            close(ledger, grant)

        operators = Operators(ledger.engine, now=ledger.clock)

        def listed(*states: str) -> Sequence[GrantView]:
            return operators.grants(state=states).items

        assert [line.grant_id for line in listed("closed")] == ["both", "closed"]
        assert [line.grant_id for line in listed("held")] == ["held"]
        assert [line.state for line in listed("closed", "held", "open")] == ["closed", "closed", "held", "open"]
        (held,) = listed("held")
        assert (held.by, held.reason, held.rule, held.waiting) == ("anna", WHO["reason"], BY_HAND, 1)
        closed = listed("closed")[1]
        assert (closed.by, closed.rule, closed.until, closed.gone) == ("webhook", "expired", None, False)
