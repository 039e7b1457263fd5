"""Grants that the API does not know: when the application is paused, who is asked about, and how that ends."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from sendq.clock import SECOND, Micros
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed, Group, Recorded
from sendq.ids import lane_id
from sendq.ledger import grants, missing_grants
from sendq.ledger.db import schema
from sendq.rules.pace import PROVEN_FOR
from sendq.rules.states import Event
from tests.support.ledger import Ledger, end, outcome

RULE = "grant_not_found"
MISSING = Hold(Scope.GRANT, RULE, "policy", None, suspected=True, missing=True)
HOUR: Micros = 3600 * SECOND


def prove(ledger: Ledger) -> None:
    """A call of the application succeeds now."""
    ledger.record_group(Group(proven={("default", "google"): ledger.clock()}))


def miss(ledger: Ledger, *names: str) -> Recorded:
    """The API does not know these grants, in one group of answers."""
    for name in names:
        ledger.send(name, provider="google")
    turns = [ledger.claim([turn])[0] for turn in ledger.offer()]
    assert len(turns) == len(names)
    at = ledger.clock()
    told = [outcome(one, one.jobs[0], Event.RETURN, hold=MISSING, rule=RULE, begun_at=at) for one in turns]
    ledger.clock.advance(0.1)
    return ledger.record(*told, ends=[end(one) for one in turns])


def works(ledger: Ledger) -> None:
    """The application is known to work: a pair exists, and had a success."""
    ledger.finish(serve(ledger, "works"))
    prove(ledger)
    ledger.clock.advance(1)


def serve(ledger: Ledger, name: str) -> Claimed:
    ledger.send(name, provider="google")
    return ledger.serve()


def held(ledger: Ledger) -> str | None:
    """The rule that holds the application now."""
    row = next((row for row in ledger.rows(schema.pair) if row.provider == "*"), None)
    return row.held_rule if row is not None and (row.held_until or 0) > ledger.clock() else None


def asked(ledger: Ledger) -> list[str]:
    with ledger.writing() as connection:
        return [check.grant_id for check in grants.to_check(connection, now=ledger.clock(), limit=10)]


def key_is_wrong(ledger: Ledger, *, since: Micros) -> str | None:
    now = ledger.clock()
    with ledger.writing() as connection:
        return missing_grants.key_is_wrong(
            connection, "default", hold_of=lambda streak: ("wrong_application", 60 * SECOND), since=since, now=now
        )


class TestAGrantThatIsNotFound:
    def test_ends_nothing_and_closes_its_lane(self, ledger: Ledger) -> None:
        works(ledger)
        miss(ledger, "g1")
        lane = ledger.lane()
        assert (lane.suspected, lane.gone, lane.closed_rule) == (True, False, RULE)
        with ledger.writing() as connection:
            assert grants.end_gone(connection, now=ledger.clock(), limit=10) == 0
        assert asked(ledger) == ["g1"]

    def test_pauses_no_other_while_the_application_works(self, ledger: Ledger) -> None:
        works(ledger)
        assert miss(ledger, "g1").paused == set()
        prove(ledger)
        ledger.clock.advance(1)
        assert miss(ledger, "g2").paused == set()
        assert held(ledger) is None

    @pytest.mark.parametrize("names", [["g1", "g2"], ["g1"]], ids=["two at once", "one after another"])
    def test_pauses_the_application_if_another_is_missing_too(self, ledger: Ledger, names: list[str]) -> None:
        works(ledger)
        if len(names) == 1:
            miss(ledger, "g0")
        assert miss(ledger, *names).paused == {"default"}
        assert held(ledger) == "key_check"
        ledger.send("g9", provider="google")
        assert ledger.offer() == []
        assert set(names) <= set(asked(ledger))  # in spite of the hold

    def test_pauses_an_application_that_has_not_worked_lately(self, ledger: Ledger) -> None:
        works(ledger)
        ledger.clock.advance(PROVEN_FOR / SECOND)
        assert miss(ledger, "g1").paused == {"default"}

    def test_pauses_an_application_that_has_never_worked(self, ledger: Ledger) -> None:
        assert miss(ledger, "g1").paused == {"default"}
        ledger.clock.advance(31)
        assert held(ledger) is None  # nobody could ask: a probe shows more


class TestAKeyThatIsRight:
    def test_ends_the_pause_and_the_jobs_of_the_missing_grant(self, ledger: Ledger) -> None:
        miss(ledger, "g1")
        with ledger.writing() as connection:
            grants.found_gone(connection, lane_id("default", "g1"), rule=RULE, by="check", now=ledger.clock())
            missing_grants.key_is_right(connection, "default", now=ledger.clock())
            assert grants.end_gone(connection, now=ledger.clock(), limit=10) == 1
        assert held(ledger) is None
        ledger.send("g2", provider="google")
        assert len(ledger.offer()) == 1


class TestAKeyThatIsWrong:
    def test_opens_the_missing_grants_and_holds_the_application(self, ledger: Ledger) -> None:
        miss(ledger, "g1")
        assert key_is_wrong(ledger, since=ledger.clock()) == "wrong_application"
        assert held(ledger) == "wrong_application"
        assert ledger.lane().closed_at is None
        assert asked(ledger) == []
        ledger.clock.advance(61)
        assert len(ledger.offer()) == 1

    def test_is_one_incident_until_a_call_succeeds(self, ledger: Ledger) -> None:
        miss(ledger, "g1")
        assert key_is_wrong(ledger, since=ledger.clock()) == "wrong_application"
        ledger.clock.advance(61)
        (claimed,) = ledger.claim(ledger.offer())
        at = ledger.clock.advance(1)
        told = outcome(claimed, claimed.jobs[0], Event.RETURN, hold=MISSING, rule=RULE, begun_at=at)
        assert ledger.record(told, ends=[end(claimed)]).paused == {"default"}  # at the first answer
        assert key_is_wrong(ledger, since=ledger.clock()) is None

    def test_holds_the_missing_grants_alone_if_a_call_has_succeeded_since(self, ledger: Ledger) -> None:
        works(ledger)
        miss(ledger, "g1")
        since = ledger.clock()
        ledger.clock.advance(1)
        prove(ledger)
        assert key_is_wrong(ledger, since=since) is None
        assert held(ledger) is None
        lane = ledger.lane()
        assert (lane.closed_at, lane.held_rule) == (None, "wrong_application")

    def test_leaves_alone_whose_owner_must_sign_in(self, ledger: Ledger) -> None:
        works(ledger)
        miss(ledger, "g1")
        ledger.set_lane("g1", suspected=False, closed_rule="grant_expired")
        key_is_wrong(ledger, since=ledger.clock())
        assert ledger.lane().closed_at is not None


class TestTheOthersThatAreAskedAbout:
    def others(self, ledger: Ledger, besides: Sequence[str], *, start: int = 0) -> list[str]:
        ids = [lane_id("default", name) for name in besides]
        with ledger.writing() as connection:
            found = missing_grants.others(connection, "default", ids, start=UUID(int=start), now=ledger.clock())
        return [check.grant_id for check in found]

    def lanes(self, ledger: Ledger, *names: str) -> None:
        """Lanes that were served in this order."""
        for number, name in enumerate(names):
            ledger.send(name)
            ledger.absorb()
            ledger.set_lane(name, served_at=ledger.clock() + number)

    def test_are_open_ones_first_and_those_served_last(self, ledger: Ledger) -> None:
        self.lanes(ledger, "a", "b", "c", "d", "e")
        ledger.set_lane("e", closed_at=1, suspected=True)
        ledger.set_lane("d", closed_at=1, gone=True)
        assert self.others(ledger, ["a"]) == ["c", "b", "e"]
        assert self.others(ledger, ["a", "b", "c"]) == ["e"]

    def test_are_not_only_those_of_a_customer_who_was_served_last(self, ledger: Ledger) -> None:
        elsewhere, leaving = [f"a{number}" for number in range(20)], [f"b{number}" for number in range(8)]
        self.lanes(ledger, *elsewhere, *leaving)
        for start in range(0, 2**128, 2**123):
            asked_about = self.others(ledger, leaving[:2], start=start)
            assert asked_about[:2] == ["b7", "b6"]
            assert len(asked_about) == 5
        chosen = [self.others(ledger, leaving[:2], start=start) for start in range(0, 2**128, 2**123)]
        assert sum(bool(set(some) & set(elsewhere)) for some in chosen) >= 0.9 * len(chosen)
        assert len({name for some in chosen for name in some}) > 15

    def test_are_last_those_that_were_reopened_lately_or_never_served(self, ledger: Ledger) -> None:
        self.lanes(ledger, "a", "b", "c", "d", "e", "f", "g")
        ledger.clock.advance(10)
        for name in ("e", "f"):
            ledger.set_lane(name, opened_at=ledger.clock())
        ledger.set_lane("g", served_at=None)
        assert set(self.others(ledger, [])) == {"a", "b", "c", "d", "g"}
        assert set(self.others(ledger, ["a", "b", "c"])) == {"d", "e", "f", "g"}  # never none: it would be alone

    def test_are_of_the_same_application(self, ledger: Ledger) -> None:
        ledger.send("a")
        ledger.send("b", application="eu")
        ledger.absorb()
        assert self.others(ledger, ["a"]) == []
