"""Grants with too high a bounce rate within an hour are held, on both databases."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from pydantic import SecretStr

from sendq import Operators, Scope
from sendq.clock import SECOND, moment
from sendq.ledger.db import schema
from sendq.rules.rule_ids import BOUNCE_RATE, BY_HAND
from sendq.rules.states import Event
from settings import Settings
from tests.integration.ledger.mail import report
from tests.support.leading import FixedLeadership
from tests.support.ledger import Ledger, end, outcome
from worker.leading.bounce_holds import REST, BounceHolds

HOUR = 3600
LEAST = 10


def sent(ledger: Ledger, grant: str, number: int) -> list[UUID]:
    """Mails that the API accepted."""
    jobs = [ledger.send(grant) for _ in range(number)]
    left = set(jobs)
    while left:
        ledger.clock.advance(0.01)
        claimed = ledger.serve()
        accepted = [
            outcome(claimed, job, Event.ACCEPT, sent="yes", rule="accepted", message_id=f"m{job.id}")
            for job in claimed.jobs
            if job.id in claimed.begun
        ]
        ledger.record(*accepted, ends=[end(claimed)])
        left -= claimed.begun
    return jobs


def bounce(ledger: Ledger, jobs: Iterable[UUID], grant: str) -> None:
    for job in jobs:
        report(ledger, "message.bounced", f"m{job}", notice=f"of-{job}", grant=grant, bounced=["gone@example.com"])


def watch(ledger: Ledger, *, lasts: float = HOUR, leads: bool = True) -> BounceHolds:
    settings = Settings(nylas_api_key=SecretStr("nyk_1"), bounce_hold_s=lasts, bounce_least=LEAST)
    return BounceHolds(ledger.engine, FixedLeadership(leads), settings, now=ledger.clock, monotonic=lambda: 0.0)


def held_by(ledger: Ledger, grant: str) -> str | None:
    lane = ledger.lane(grant)
    return lane.held_rule if (lane.held_until or 0) > ledger.clock() else None


class TestAGrantWhoseMailBounces:
    def test_is_held_above_the_rate_and_only_it(self, ledger: Ledger) -> None:
        bounce(ledger, sent(ledger, "clean", 20)[:1], "clean")  # 5 %, not more
        bounce(ledger, sent(ledger, "dirty", 20)[:2], "dirty")
        bounce(ledger, sent(ledger, "small", LEAST - 1), "small")
        watch(ledger).run_once()
        assert {grant: held_by(ledger, grant) for grant in ("clean", "dirty", "small")} == {
            "clean": None, "dirty": BOUNCE_RATE, "small": None,
        }  # fmt: skip
        assert ledger.lane("dirty").held_until == ledger.clock() + HOUR * SECOND
        waiting = ledger.send("dirty")
        ledger.absorb()
        assert ledger.due() == []
        why = ledger.queue.why(str(waiting))
        assert (why.reason, why.rule, why.by) == ("held", BOUNCE_RATE, "policy")
        assert why.note == "2 of 20 mails bounced within an hour"
        assert why.until == moment(ledger.clock() + HOUR * SECOND)
        operators = Operators(ledger.engine, now=ledger.clock)
        (group,) = operators.held(rule=BOUNCE_RATE)
        assert (group.scope, group.grants, group.waiting) == ("grant", 1, 1)

    def test_is_not_held_again_for_the_same_bounces(self, ledger: Ledger) -> None:
        bounce(ledger, sent(ledger, "g1", LEAST), "g1")
        watching = watch(ledger, lasts=60)
        watching.run_once()
        ledger.clock.advance(10)
        watching.run_once()  # it is held already
        assert len(holds(ledger)) == 1
        Operators(ledger.engine, now=ledger.clock).release(Scope.of_grant("g1"), by="anna", reason="the list is clean")
        watching.run_once()
        assert held_by(ledger, "g1") is None
        bounce(ledger, sent(ledger, "g1", LEAST)[:1], "g1")  # of the mail since then: 10 %
        watching.run_once()
        assert held_by(ledger, "g1") == BOUNCE_RATE
        ledger.clock.advance(61)
        watching.run_once()  # over, and no mail since
        assert held_by(ledger, "g1") is None
        assert len(holds(ledger)) == 2

    def test_is_judged_by_the_mail_of_one_hour(self, ledger: Ledger) -> None:
        old = sent(ledger, "g1", LEAST)
        bounce(ledger, old[:5], "g1")
        ledger.clock.advance(HOUR + 60)
        bounce(ledger, old[5:], "g1")  # reported just now, about mail from before
        sent(ledger, "g1", LEAST)
        watch(ledger).run_once()
        assert held_by(ledger, "g1") is None

    def test_keeps_a_hold_that_lasts_longer(self, ledger: Ledger) -> None:
        bounce(ledger, sent(ledger, "g1", LEAST), "g1")
        operators = Operators(ledger.engine, now=ledger.clock)
        operators.hold(
            Scope.of_grant("g1"), until=moment(ledger.clock() + 2 * HOUR * SECOND), by="anna", reason="a holiday"
        )
        watch(ledger).run_once()
        assert (held_by(ledger, "g1"), holds(ledger)) == (BY_HAND, [])

    def test_is_left_by_a_process_that_does_not_lead(self, ledger: Ledger) -> None:
        bounce(ledger, sent(ledger, "g1", LEAST), "g1")
        watch(ledger, leads=False).run_once()
        assert held_by(ledger, "g1") is None


class TestCounting:
    def test_rests_for_a_multiple_of_its_own_duration(self, ledger: Ledger) -> None:
        times = iter([0.0, 2.0, 2.0 + 2 * REST - 1, 2.0 + 2 * REST, 2.0 + 2 * REST])
        settings = Settings(nylas_api_key=SecretStr("nyk_1"), bounce_hold_s=HOUR, bounce_least=LEAST)
        leads = FixedLeadership()
        watching = BounceHolds(ledger.engine, leads, settings, now=ledger.clock, monotonic=lambda: next(times))
        watching.run_once()
        bounce(ledger, sent(ledger, "g1", LEAST), "g1")
        watching.run_once()
        assert held_by(ledger, "g1") is None
        watching.run_once()
        assert held_by(ledger, "g1") == BOUNCE_RATE


def holds(ledger: Ledger) -> list[str]:
    return [row.reason for row in ledger.rows(schema.event) if (row.kind, row.rule) == ("hold", BOUNCE_RATE)]
