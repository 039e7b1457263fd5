"""Grants whose provider nobody has named: one of them holds no other."""

from __future__ import annotations

from dataclasses import replace

from sendq.clock import SECOND, Micros
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed, Recorded
from sendq.ids import lane_id
from sendq.ledger import escalation, grants
from sendq.ledger.db import schema
from sendq.ledger.dispatching.pairs import hold_by_hand
from sendq.rules.paces import Paces
from sendq.rules.states import Event
from tests.support.ledger import START, Ledger, end, outcome

MINUTE: Micros = 60 * SECOND
RULE = "gmail_api_disabled"
HELD = Hold(Scope.GRANT, RULE, "policy", START + 60 * MINUTE, identify=True)
LANE = lane_id("default", "g1")


def meets_it(ledger: Ledger, claimed: Claimed, *, hold: Hold = HELD) -> Recorded:
    """The first job of a turn meets a failure of its provider."""
    returned = outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold, rule=RULE, begun_at=ledger.clock())
    return ledger.record(returned, ends=[end(claimed)])


def to_ask(ledger: Ledger) -> list[str]:
    with ledger.writing() as connection:
        return [check.grant_id for check in grants.to_ask(connection, now=ledger.clock(), limit=10)]


def found(ledger: Ledger, provider: str) -> str | None:
    with ledger.writing() as connection:
        return grants.found_provider(
            connection, LANE, provider, paces=Paces(), provider_rules={RULE}, now=ledger.clock()
        )


def held_pairs(ledger: Ledger) -> dict[str, str]:
    return {row.provider: row.held_rule for row in ledger.rows(schema.pair) if row.held_until is not None}


class TestAFailureOfAnUnknownProvider:
    def test_holds_its_grant_alone_and_has_it_identified(self, ledger: Ledger) -> None:
        ledger.send()
        claimed = ledger.serve()
        assert to_ask(ledger) == ["g1"]
        ledger.clock.advance(1)
        meets_it(ledger, claimed)
        ledger.send("g2")
        assert held_pairs(ledger) == {}
        assert [turn.lane_id for turn in ledger.offer()] == [lane_id("default", "g2")]
        assert "g1" in to_ask(ledger)  # at once, though it was asked about a second ago

    def test_holds_the_provider_that_the_api_names(self, ledger: Ledger) -> None:
        ledger.send()
        meets_it(ledger, ledger.serve())
        ledger.clock.advance(2)
        assert found(ledger, "google") == RULE
        assert held_pairs(ledger) == {"google": RULE}
        lane = ledger.lane()
        assert (lane.provider, lane.held_until, lane.ask_at) == ("google", None, None)
        assert ledger.offer() == []

    def test_holds_that_provider_once_for_many_grants(self, ledger: Ledger) -> None:
        ledger.send("g2", provider="google")
        (other,) = ledger.claim(ledger.offer())
        meets_it(ledger, other, hold=replace(HELD, scope=Scope.PROVIDER, identify=False))
        ledger.send()
        meets_it(ledger, ledger.serve())
        assert found(ledger, "google") is None
        assert held_pairs(ledger) == {"google": RULE}

    def test_stays_with_the_grant_if_the_api_does_not_know_the_provider_either(self, ledger: Ledger) -> None:
        ledger.send()
        meets_it(ledger, ledger.serve())
        assert found(ledger, "unknown") is None
        assert held_pairs(ledger) == {}
        assert ledger.lane().held_rule == RULE

    def test_leaves_other_holds_of_the_grant_as_they_are(self, ledger: Ledger) -> None:
        ledger.send()
        throttled = Hold(Scope.GRANT, "account_throttled", "policy", START + MINUTE)
        meets_it(ledger, ledger.serve(), hold=throttled)
        assert found(ledger, "google") is None
        assert held_pairs(ledger) == {}
        assert ledger.lane().held_rule == "account_throttled"

    def test_holds_the_provider_if_the_grant_was_identified_during_the_call(self, ledger: Ledger) -> None:
        ledger.send()
        claimed = ledger.serve()
        found(ledger, "google")
        recorded = meets_it(ledger, claimed)
        assert held_pairs(ledger) == {"google": RULE}
        assert len(recorded.incidents) == 1


class TestAGrantOfAnUnknownProvider:
    def test_is_asked_about_while_an_operator_holds_the_others(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        with ledger.writing() as connection:
            until = ledger.clock() + MINUTE
            hold_by_hand(connection, "default", "unknown", until=until, rule="by_hand", by="anna", now=START)
        assert to_ask(ledger) == ["g1"]


class TestTenThatFailAlike:
    def refuse_all(self, ledger: Ledger) -> None:
        ledger.clock.advance(1)
        refused = Hold(Scope.GRANT, "forbidden", "policy", None)
        for claimed in ledger.claim(ledger.offer()):
            begun_at = ledger.clock()
            returned = outcome(claimed, claimed.jobs[0], Event.RETURN, hold=refused, begun_at=begun_at)
            ledger.record(returned, ends=[end(claimed)])

    def escalate(self, ledger: Ledger) -> int:
        now = ledger.clock.advance(1)
        with ledger.writing() as connection:
            escalation.open_stragglers(connection, now=now)
        with ledger.writing() as connection:
            alike = escalation.escalate(
                connection, rules={"forbidden"}, since=now - 5 * MINUTE, number=10, held_until=now + MINUTE, now=now
            )
        return sum(one.grants for one in alike)

    def test_are_held_one_by_one_and_no_new_account_with_them(self, ledger: Ledger) -> None:
        for number in range(10):
            ledger.send(f"g{number}")
        self.refuse_all(ledger)
        assert self.escalate(ledger) == 10
        assert held_pairs(ledger) == {}
        assert {(row.closed_at, row.held_rule) for row in ledger.rows(schema.lane)} == {(None, "forbidden")}
        ledger.send("new")
        assert [turn.lane_id for turn in ledger.offer()] == [lane_id("default", "new")]

    def test_are_closed_if_they_fail_again_after_the_hold(self, ledger: Ledger) -> None:
        for number in range(10):
            ledger.send(f"g{number}")
        self.refuse_all(ledger)
        self.escalate(ledger)
        ledger.clock.advance(120)
        self.refuse_all(ledger)
        assert self.escalate(ledger) == 0
        assert all(row.closed_at is not None for row in ledger.rows(schema.lane))

    def test_include_one_that_was_on_the_wire(self, ledger: Ledger) -> None:
        ledger.send("late")
        (late,) = ledger.claim(ledger.offer())
        for number in range(10):
            ledger.send(f"g{number}")
        self.refuse_all(ledger)
        self.escalate(ledger)
        ledger.clock.advance(1)
        refused = Hold(Scope.GRANT, "forbidden", "policy", None)
        ledger.record(outcome(late, late.jobs[0], Event.RETURN, hold=refused), ends=[end(late)])
        assert self.escalate(ledger) == 0
        lane = ledger.lane("late")
        assert (lane.closed_at, lane.held_by) == (None, "escalation")
