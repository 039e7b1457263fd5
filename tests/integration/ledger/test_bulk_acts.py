"""Acts on many grants and jobs: counted first, in slices, at a rate, repeated without harm, one event for each act."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text

from sendq import (
    DeadLetterFilter,
    DoubtFilter,
    GrantFilter,
    GrantState,
    InvalidArgument,
    Operators,
    Scope,
    State,
    UnfinishedFilter,
)
from sendq.clock import SECOND, moment
from sendq.ledger import retention
from sendq.ledger.db import schema
from sendq.ledger.dispatching.pairs import hold_by_hand, make_pairs
from sendq.ledger.operators import many_grants, unfinished
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.expiry import EXPIRY
from sendq.rules.states import Event
from tests.integration.ledger.test_doubt import in_doubt
from tests.support.ledger import Ledger, end, outcome

HOUR = 3_600 * SECOND
BY: dict[str, Any] = {"by": "anna", "reason": "the provider has recovered"}


@pytest.fixture
def operators(ledger: Ledger) -> Operators:
    return Operators(ledger.engine, now=ledger.clock)


THROTTLED = "exchange_throttled"


def held(ledger: Ledger, grant: str, provider: str = "ews", *, rule: str = THROTTLED, ago_s: int = 0) -> UUID:
    """A grant with one waiting job, held for an hour by a rule; returns the job."""
    job = ledger.send(grant, provider=provider)
    ledger.absorb()
    since, until = ledger.clock() - ago_s * SECOND, ledger.clock() + HOUR
    ledger.set_lane(grant, held_until=until, held_since=since, held_rule=rule, held_by="policy", next_at=until)
    return job


def closed(ledger: Ledger, grant: str, provider: str = "ews", *, rule: str = "grant_expired", **columns: Any) -> UUID:
    """A grant with one waiting job, closed by a rule; returns the job."""
    job = ledger.send(grant, provider=provider)
    ledger.absorb()
    ledger.set_lane(grant, closed_at=ledger.clock(), closed_rule=rule, next_at=None, **columns)
    return job


def dead(ledger: Ledger, grant: str, provider: str = "ews", *, rule: str = "bad_request") -> UUID:
    job = ledger.send(grant, provider=provider)
    claimed = ledger.serve()
    ledger.record(outcome(claimed, claimed.jobs[0], Event.GIVE_UP, rule=rule), ends=[end(claimed)])
    return job


def acts(ledger: Ledger) -> list[Any]:
    """The events of acts, without their parts."""
    return [row for row in sorted(ledger.rows(schema.event), key=lambda row: row.id) if row.act is None]


def free(ledger: Ledger, grant: str) -> bool:
    lane = ledger.lane(grant)
    return lane.closed_at is None and (lane.held_until is None or lane.held_until <= ledger.clock())


class TestReleasingMany:
    def test_by_rule_and_provider_leaves_all_others(self, ledger: Ledger, operators: Operators) -> None:
        for grant in ("a", "b"):
            held(ledger, grant)
        held(ledger, "other-rule", rule="mailbox_full")
        held(ledger, "other-provider", "google")
        which = GrantFilter(rule=THROTTLED, provider="ews")
        would = operators.release_grants(which, **BY, dry_run=True).finish()
        assert (would.found, would.released, would.waiting, acts(ledger)) == (2, 2, 2, [])
        assert not free(ledger, "a")
        did = operators.release_grants(which, **BY).finish()
        assert (did.released, did.reopened, did.wide) == (2, 0, ())
        grants = ("a", "b", "other-rule", "other-provider")
        assert [free(ledger, grant) for grant in grants] == [True, True, False, False]
        assert [ledger.lane(grant).ramp for grant in ("a", "b")] == [1, 1]

    def test_lets_their_jobs_begin(self, ledger: Ledger, operators: Operators) -> None:
        jobs = {held(ledger, "a"), closed(ledger, "b", rule=THROTTLED)}
        assert ledger.due() == []
        operators.release_grants(GrantFilter(rule=THROTTLED), **BY).finish()
        claimed = ledger.claim(ledger.offer())
        assert {job.id for turn in claimed for job in turn.jobs} == jobs

    def test_is_one_act_with_its_parts(self, ledger: Ledger, operators: Operators) -> None:
        for grant in ("a", "b"):
            held(ledger, grant)
        operators.release_grants(GrantFilter(rule=THROTTLED, provider="ews"), **BY).finish()
        (act,) = operators.events().items
        assert (act.kind, act.by, act.reason, act.number) == ("release", "anna", "the provider has recovered", 2)
        assert (act.rule, act.provider, act.grant_id) == (THROTTLED, "ews", None)
        (part,) = operators.events(grant_id="a").items
        assert (part.kind, part.by, part.grant_id, part.act) == ("release", "anna", "a", act.id)

    def test_of_closed_grants_needs_a_rule_or_their_state(self, ledger: Ledger, operators: Operators) -> None:
        held(ledger, "a")
        for grant in ("b", "c"):
            closed(ledger, grant)
        closed(ledger, "gone", gone=True)
        would = operators.release_grants(GrantFilter(provider="ews"), **BY, dry_run=True).finish()
        assert (would.released, would.reopened) == (1, 0)
        both = GrantFilter(provider="ews", states=["held", "closed"])
        would = operators.release_grants(both, **BY, dry_run=True).finish()
        assert (would.released, would.reopened) == (1, 2)
        did = operators.release_grants(GrantFilter(rule="grant_expired"), **BY).finish()
        assert (did.released, did.reopened) == (0, 2)
        assert [free(ledger, grant) for grant in ("a", "b", "c", "gone")] == [False, True, True, False]

    def test_also_ends_the_holds_of_providers_by_this_rule(self, ledger: Ledger, operators: Operators) -> None:
        held(ledger, "a")
        ledger.send("b", provider="ews")
        ledger.absorb()
        now = ledger.clock()
        with ledger.writing() as connection:
            make_pairs(connection, [("default", "ews"), ("default", "*")])
            for provider, rule in (("ews", THROTTLED), ("*", "outage")):
                hold_by_hand(connection, "default", provider, until=now + HOUR, rule=rule, by="policy", now=now)
        which = GrantFilter(rule=THROTTLED, provider="ews")
        would = operators.release_grants(which, **BY, dry_run=True).finish()
        assert (would.wide, would.waiting) == ((Scope.of_provider("ews"),), 2)
        did = operators.release_grants(which, **BY).finish()
        assert (did.released, did.wide, acts(ledger)[-1].number) == (1, (Scope.of_provider("ews"),), 2)
        holds = {row.provider: row.held_until for row in ledger.rows(schema.pair)}
        assert holds == {"ews": None, "*": now + HOUR}

    def test_at_a_rate_frees_one_after_the_other_from_the_longest_held(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(many_grants, "STEP", 2)
        for ago_s, grant in enumerate(("c", "b", "a")):
            held(ledger, grant, ago_s=ago_s)
        closed(ledger, "d", rule=THROTTLED)
        operators.release_grants(GrantFilter(rule=THROTTLED), **BY, apart_s=10).finish()
        order = ["a", "b", "c", "d"]
        for number in range(4):
            assert [grant for grant in order if free(ledger, grant)] == order[: number + 1]
            ledger.clock.advance(10)
        assert {ledger.lane(grant).ramp for grant in order} == {1}

    def test_at_a_rate_lengthens_no_hold(self, ledger: Ledger, operators: Operators) -> None:
        for grant in ("a", "b"):
            held(ledger, grant)
        operators.release_grants(GrantFilter(rule=THROTTLED), **BY, apart_s=3_600).finish()
        assert max(ledger.lane(grant).held_until or 0 for grant in ("a", "b")) <= ledger.clock() + HOUR

    def test_that_was_interrupted_goes_on_when_it_is_repeated(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(many_grants, "STEP", 2)
        for number in range(5):
            held(ledger, f"g{number}", ago_s=9 - number)
        which = GrantFilter(rule=THROTTLED)
        run = operators.release_grants(which, **BY)
        assert (next(run).released, next(run).released, acts(ledger)[0].number) == (2, 4, 4)
        assert operators.release_grants(which, **BY).finish().released == 1
        assert operators.release_grants(which, **BY).finish().released == 0
        assert [act.number for act in acts(ledger)] == [4, 1]

    def test_leaves_what_another_rule_holds_by_then(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for grant in ("a", "b"):
            held(ledger, grant)
        found = many_grants.release_some

        def late(*given: Any, **more: Any) -> Any:
            """Between the count and the transaction, another rule has begun a hold."""
            connection = given[0]
            connection.execute(text("UPDATE sendq_lane SET held_rule = 'mailbox_full' WHERE grant_id = 'a'"))
            return found(*given, **more)

        monkeypatch.setattr(many_grants, "release_some", late)
        assert operators.release_grants(GrantFilter(rule=THROTTLED), **BY).finish().released == 1
        assert (free(ledger, "a"), free(ledger, "b")) == (False, True)

    def test_by_time_and_batch(self, ledger: Ledger, operators: Operators) -> None:
        held(ledger, "early", ago_s=100)
        held(ledger, "late", ago_s=10)
        batch = ledger.queue.modify("early", ["m1"], unread=False, provider="ews")
        recently = GrantFilter(provider="ews", since=moment(ledger.clock() - 60 * SECOND))
        assert operators.release_grants(recently, **BY, dry_run=True).finish().found == 1
        assert operators.release_grants(GrantFilter(batch_id=batch.id), **BY).finish().released == 1
        assert (free(ledger, "early"), free(ledger, "late")) == (True, False)

    @pytest.mark.parametrize(
        ("which", "given", "field"),
        [
            (GrantFilter(), {}, "which"),
            (GrantFilter(rule=""), {}, "rule"),
            (GrantFilter(provider="gmial"), {}, "provider"),
            (GrantFilter(grant_id="leyah@example.com"), {}, "grant_id"),
            (GrantFilter(rule="r", states=["open"]), {}, "states"),
            (GrantFilter(rule="r", states=["shut"]), {}, "states"),
            (GrantFilter(rule="r", since=datetime(2026, 1, 1)), {}, "since"),  # noqa: DTZ001  # naive on purpose
            (GrantFilter(rule="r"), {"apart_s": -1.0}, "apart_s"),
            (GrantFilter(rule="r"), {"apart_s": float("nan")}, "apart_s"),
            (GrantFilter(rule="r"), {"by": "policy"}, "by"),
        ],
    )
    def test_refuses_what_cannot_be_meant(
        self, operators: Operators, which: GrantFilter, given: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.release_grants(which, **(BY | given))
        assert [problem.field for problem in error.value.problems] == [field]
        assert "leyah" not in str(error.value)


class TestHoldingMany:
    def test_keeps_longer_holds(self, ledger: Ledger, operators: Operators) -> None:
        held(ledger, "a")
        for grant in ("b", "c"):
            ledger.send(grant, provider="ews")
        ledger.send("d", provider="google")
        ledger.absorb()
        until = moment(ledger.clock() + HOUR // 2)
        which = GrantFilter(provider="ews")
        for dry_run in (True, False):
            done = operators.hold_grants(which, until=until, **BY, dry_run=dry_run).finish()
            assert (done.held, done.longer) == (2, 1)
        assert [free(ledger, grant) for grant in "abcd"] == [False, False, False, True]
        assert [(act.kind, act.number, act.provider) for act in acts(ledger)] == [("hold", 2, "ews")]
        why = ledger.queue.why(str(ledger.send("b")))
        assert (why.reason, why.by, why.note) == ("held", "anna", "the provider has recovered")
        assert operators.hold_grants(which, until=until, **BY).finish().held == 0


class TestCancellingMany:
    def test_ends_what_waits_and_stops_what_is_in_flight(self, ledger: Ledger, operators: Operators) -> None:
        begun = ledger.send("a", provider="ews")
        claimed = ledger.serve()
        ledger.record(begins=[(claimed, begun)])
        waits, other = ledger.send("a"), ledger.send("b", provider="google")
        ledger.absorb()
        which = UnfinishedFilter(provider="ews")
        would = operators.cancel_jobs(which, **BY, dry_run=True).finish()
        did = operators.cancel_jobs(which, **BY).finish()
        assert would.states == did.states == {State.CANCELLED: 1, State.SENDING: 1}
        assert [ledger.state(job) for job in (begun, waits, other)] == [State.SENDING, State.CANCELLED, State.QUEUED]
        assert ledger.job(begun).cancel_at == ledger.clock()
        (act,) = operators.events().items
        assert (act.kind, act.number, act.provider) == ("cancel", 2, "ews")
        (part,) = operators.events(job_id=str(waits)).items
        assert (part.kind, part.act) == ("cancel", act.id)
        assert operators.cancel_jobs(which, **BY).finish().number == 0

    def test_puts_in_doubt_what_may_have_gone_out(self, ledger: Ledger, operators: Operators) -> None:
        job = ledger.send("a")
        ledger.set_job(job, doubt_at=ledger.clock())
        which = UnfinishedFilter(grant_id="a")
        would = operators.cancel_jobs(which, **BY, dry_run=True).finish()
        assert would.states == operators.cancel_jobs(which, **BY).finish().states == {State.IN_DOUBT: 1}
        assert ledger.job(job).cancel_at == ledger.clock()

    def test_goes_along_the_index_of_waiting_jobs(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unfinished, "STEP", 2)
        jobs = [ledger.send(f"g{number % 3}", priority="low" if number % 2 else "high") for number in range(7)]
        parts = [part.number for part in operators.cancel_jobs(UnfinishedFilter(application="default"), **BY)]
        assert parts == [0]  # the dispatcher has not seen them: they are found by their grants
        ledger.absorb()
        parts = [part.number for part in operators.cancel_jobs(UnfinishedFilter(application="default"), **BY)]
        assert parts == [2, 4, 6, 7]
        assert {ledger.state(job) for job in jobs} == {State.CANCELLED}

    def test_by_rule_batch_and_time(self, ledger: Ledger, operators: Operators) -> None:
        changes = ledger.modify("a", ["m1", "m2"])
        job = ledger.send("a")
        ledger.set_job(job, rule="server_error")
        batch = str(ledger.job(changes[0]).batch_id)
        number = operators.cancel_jobs
        assert number(UnfinishedFilter(batch_id=batch), **BY, dry_run=True).finish().number == 2
        assert number(UnfinishedFilter(grant_id="a", rule="server_error"), **BY, dry_run=True).finish().number == 1
        later = UnfinishedFilter(grant_id="a", since=moment(ledger.clock() * 2))
        assert number(later, **BY, dry_run=True).finish().number == 0
        with pytest.raises(InvalidArgument, match="which: has no filter"):
            operators.cancel_jobs(UnfinishedFilter(), by="anna")


class TestRetryingMany:
    def test_by_provider_and_application(self, ledger: Ledger, operators: Operators) -> None:
        jobs = [dead(ledger, "a"), dead(ledger, "b", "google")]
        assert operators.retry(DeadLetterFilter(application="crm"), by="anna", dry_run=True).finish().retried == 0
        assert operators.retry(DeadLetterFilter(application="default", provider="ews"), **BY).finish().retried == 1
        assert [ledger.state(job) for job in jobs] == [State.QUEUED, State.DEAD]
        assert [(act.kind, act.number, act.provider, act.job_id) for act in acts(ledger)] == [("retry", 1, "ews", None)]
        (part,) = operators.events(job_id=str(jobs[0])).items
        assert (part.kind, part.act, part.rule) == ("retry", str(acts(ledger)[0].id), "bad_request")

    def test_brings_back_what_expired(self, ledger: Ledger, operators: Operators) -> None:
        other = dead(ledger, "b")
        jobs = [ledger.send("a", expires_at=moment(ledger.clock() + 60 * SECOND)) for _ in range(2)]
        ledger.absorb()
        ledger.clock.advance(61)
        for _ in range(2):
            ledger.claim(ledger.offer())
        assert {ledger.state(job) for job in jobs} == {State.EXPIRED}
        assert operators.retry(DeadLetterFilter(state="expired", grant_id="b"), **BY).finish().retried == 0
        assert operators.retry([str(jobs[0])], **BY).finish().jobs == (str(jobs[0]),)
        assert operators.retry(DeadLetterFilter(state="expired", grant_id="a"), **BY).finish().retried == 1
        assert [ledger.state(job) for job in (*jobs, other)] == [State.QUEUED, State.QUEUED, State.DEAD]
        assert ledger.job(jobs[0]).expires_at == ledger.clock() + EXPIRY
        assert {job.id for turn in ledger.claim(ledger.offer()) for job in turn.jobs} <= set(jobs)

    def test_brings_back_nothing_without_its_body(self, ledger: Ledger, operators: Operators) -> None:
        job = ledger.send("a")
        ledger.absorb()
        ledger.set_job(job, state="expired", finished_at=ledger.clock())
        later = ledger.clock.advance(1_000)
        with ledger.writing() as connection:
            retention.drop_bodies(connection, State.EXPIRED, before=later, now=later)
        assert operators.retry([str(job)], **BY).finish().refused == {RetryRefusal.FORGOTTEN: 1}

    def test_refuses_another_state(self, operators: Operators) -> None:
        with pytest.raises(InvalidArgument, match="state: is not one of those that can be retried"):
            operators.retry(DeadLetterFilter(state="sent", rule="r"), by="anna")


class TestResolvingMany:
    def test_by_provider_at_a_rate(self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sendq.operators.acts.resolve.CHUNK", 2)
        jobs = [in_doubt(ledger, grant) for grant in ("a", "b", "c")]
        for grant in ("a", "b"):
            ledger.set_lane(grant, provider="ews")
        which = DoubtFilter(provider="ews")
        assert operators.resolve(which, "resend", **BY, apart_s=60).finish().resolved == 2
        assert [ledger.state(job) for job in jobs] == [State.QUEUED, State.QUEUED, State.IN_DOUBT]
        assert abs(ledger.job(jobs[0]).next_at - ledger.job(jobs[1]).next_at) == 60 * SECOND
        assert [(act.kind, act.number, act.provider) for act in acts(ledger)] == [("resolved", 2, "ews")]


class TestWhatIsHeld:
    def test_is_grouped_by_rule_and_provider(self, ledger: Ledger, operators: Operators) -> None:
        now = ledger.clock()
        for number, grant in enumerate(("a", "b", "c")):
            held(ledger, grant, ago_s=number)
            ledger.set_lane(grant, held_until=now + (number + 1) * HOUR)
        ledger.send("a")
        held(ledger, "d", "google", rule="mailbox_full")
        closed(ledger, "e", "google")
        closed(ledger, "gone", gone=True)
        first, *others = operators.held()
        assert (first.rule, first.provider, first.scope, first.state) == (
            THROTTLED, "ews", "grant", GrantState.HELD,
        )  # fmt: skip
        assert (first.grants, first.waiting, first.more_grants, first.more_waiting) == (3, 4, False, False)
        assert (first.first_back, first.last_back) == (moment(now + HOUR), moment(now + 3 * HOUR))
        assert (first.since, first.oldest) == (moment(now - 2 * SECOND), moment(now))
        assert {(one.rule, one.provider, one.state, one.grants, one.last_back) for one in others} == {
            ("mailbox_full", "google", GrantState.HELD, 1, moment(now + HOUR)),
            ("grant_expired", "google", GrantState.CLOSED, 1, None),
        }
        assert [one.rule for one in operators.held(provider="ews")] == [THROTTLED]
        assert [one.provider for one in operators.held(rule="mailbox_full")] == ["google"]
        assert operators.held(application="crm") == ()
        ledger.clock.advance(3 * 3_600)
        assert [one.state for one in operators.held()] == [GrantState.CLOSED]

    def test_has_the_holds_of_providers_with_all_their_jobs(self, ledger: Ledger, operators: Operators) -> None:
        for grant in ("a", "b"):
            ledger.send(grant, provider="ews")
        ledger.send("c", provider="google")
        ledger.absorb()
        until = moment(ledger.clock() + HOUR)
        operators.hold(Scope.of_provider("ews"), until=until, **BY)
        (group,) = operators.held()
        assert (group.scope, group.provider, group.rule, group.grants, group.waiting) == (
            "provider", "ews", "by_hand", 2, 2,
        )  # fmt: skip
        assert group.first_back == group.last_back == until
        assert group.as_json()["last_back"] == until.isoformat()

    def test_says_where_it_stopped_counting(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(3):
            held(ledger, f"g{number}")
        monkeypatch.setattr("sendq.ledger.reading.held.JOBS_MOST", 2)
        (group,) = operators.held()
        assert (group.grants, group.more_waiting) == (3, True)
        monkeypatch.setattr("sendq.ledger.reading.held.LANES_MOST", 2)
        (group,) = operators.held()
        assert (group.grants, group.more_grants) == (2, True)

    def test_reads_no_table_from_end_to_end(
        self, pg_ledger: Ledger, plans: Callable[[Callable[[], object]], list[str]]
    ) -> None:
        held(pg_ledger, "a")
        operators = Operators(pg_ledger.engine, now=pg_ledger.clock)
        found = plans(operators.held)
        assert found
        large = ("sendq_job", "sendq_lane")
        assert [plan for plan in found if any(f"Seq Scan on {table}" in plan for table in large)] == []

    @pytest.fixture
    def plans(self, pg_ledger: Ledger) -> Callable[[Callable[[], object]], list[str]]:
        """The plans of the queries that a function makes, where a sequential scan is the last resort."""

        def of(ask: Callable[[], object]) -> list[str]:
            found: list[str] = []

            def before(_conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
                if statement.startswith("SELECT"):
                    cursor.execute("SET LOCAL enable_seqscan = off")
                    cursor.execute(f"EXPLAIN {statement}", parameters)
                    found.append("\n".join(row[0] for row in cursor.fetchall()))

            event.listen(pg_ledger.engine, "before_cursor_execute", before)
            try:
                ask()
            finally:
                event.remove(pg_ledger.engine, "before_cursor_execute", before)
            return found

        return of
