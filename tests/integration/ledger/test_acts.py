"""What operators do, by a program that imports `Operators`: results, progress, dry runs, events, wrong input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event as engine_event

from sendq import (
    DeadLetterFilter,
    DeliveryFilter,
    DoubtFilter,
    InvalidArgument,
    NotFound,
    Operators,
    Query,
    SchemaMismatch,
    Scope,
    State,
    Vault,
)
from sendq.clock import SECOND, moment
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine
from sendq.ledger.deliveries import DeliveryAttempt, record
from sendq.ledger.outcomes import GIVE_UP_AFTER
from sendq.operators import ForgetProgress, RetryProgress
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.states import Event
from tests.integration.ledger.test_doubt import in_doubt
from tests.integration.ledger.test_sealed import BOTH, NEW, sealing
from tests.support.ledger import MESSAGE, Ledger, end, outcome

BY: dict[str, Any] = {"by": "anna", "reason": "their server moves"}


@pytest.fixture
def operators(ledger: Ledger) -> Operators:
    return Operators(ledger.engine, now=ledger.clock)


def dead(ledger: Ledger, grant: str = "g1", **given: Any) -> UUID:
    job = ledger.send(grant)
    claimed = ledger.serve()
    ledger.record(outcome(claimed, claimed.jobs[0], Event.GIVE_UP, rule="bad_request", **given), ends=[end(claimed)])
    return job


def later(ledger: Ledger, seconds: float) -> datetime:
    return moment(ledger.clock() + round(seconds * SECOND))


def events_of(ledger: Ledger) -> list[tuple[str, str, str | None]]:
    """The events of acts, without their parts."""
    rows = sorted((row for row in ledger.rows(schema.event) if row.act is None), key=lambda row: row.id)
    return [(row.kind, row.by, row.reason) for row in rows]


def problem_of(error: pytest.ExceptionInfo[InvalidArgument]) -> str:
    """The field of the only problem."""
    (problem,) = error.value.problems
    assert problem.reason
    assert problem.remedy
    return problem.field


@pytest.fixture
def written(ledger: Ledger) -> Iterator[list[str]]:
    """The statements that write to the ledger from now on."""
    found: list[str] = []

    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().split()[0] in ("INSERT", "UPDATE", "DELETE"):
            found.append(statement)

    engine_event.listen(ledger.engine, "before_cursor_execute", executed)
    yield found
    engine_event.remove(ledger.engine, "before_cursor_execute", executed)


class TestHold:
    SCOPES = (Scope.of_grant("g1"), Scope.of_provider("google"), Scope.of_application())

    @pytest.mark.parametrize("scope", SCOPES, ids=str)
    def test_holds_until_a_time_with_author_and_reason(
        self, ledger: Ledger, operators: Operators, scope: Scope
    ) -> None:
        job = ledger.send("g1", provider="google")
        ledger.absorb()
        until = later(ledger, 3600)
        result = operators.hold(scope, until=until, **BY)
        assert (result.done, result.allowed, result.until, result.before.waiting) == (True, True, until, 1)
        assert ledger.queue.why(str(job)).reason == "held"
        assert events_of(ledger) == [("hold", "anna", "their server moves")]

    @pytest.mark.parametrize("scope", SCOPES, ids=str)
    def test_of_a_dry_run_changes_nothing(
        self, ledger: Ledger, operators: Operators, scope: Scope, written: list[str]
    ) -> None:
        result = operators.hold(scope, until=later(ledger, 60), **BY, dry_run=True)
        assert (result.done, result.allowed, result.before.known) == (False, True, False)
        assert written == []

    def test_leaves_a_longer_one_and_says_so(self, ledger: Ledger, operators: Operators) -> None:
        scope = Scope.of_grant("g1")
        operators.hold(scope, until=later(ledger, 7200), **BY)
        for dry_run in (True, False):
            result = operators.hold(scope, until=later(ledger, 3600), by="ben", reason="r", dry_run=dry_run)
            assert (result.done, result.allowed, result.before.held_by) == (False, False, "anna")
        assert len(events_of(ledger)) == 1

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"by": "policy"}, "by"),
            ({"by": " "}, "by"),
            ({"by": None}, "by"),
            ({"reason": ""}, "reason"),
            ({"reason": "x" * 501}, "reason"),
            ({"reason": "two\nlines"}, "reason"),
            ({"until": datetime(2020, 1, 1, tzinfo=moment(0).tzinfo)}, "until"),
            ({"until": datetime(2099, 1, 1, tzinfo=moment(0).tzinfo)}, "until"),
            ({"until": datetime(2026, 12, 1)}, "until"),  # noqa: DTZ001  # naive on purpose
        ],
    )
    def test_refuses_what_cannot_be_meant(
        self, ledger: Ledger, operators: Operators, given: dict[str, Any], field: str, written: list[str]
    ) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.hold(Scope.of_grant("g1"), **({"until": later(ledger, 60)} | BY | given))
        assert problem_of(error) == field
        assert written == []

    def test_names_every_problem_at_once(self, ledger: Ledger, operators: Operators) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.hold(Scope.of_grant("g1"), until=later(ledger, 60), by="", reason="")
        assert [problem.field for problem in error.value.problems] == ["by", "reason"]


class TestAScope:
    def test_is_not_made_of_an_address_and_does_not_repeat_it(self) -> None:
        with pytest.raises(InvalidArgument) as error:
            Scope.of_grant("leyah@example.com")
        assert problem_of(error) == "grant_id"
        assert "leyah" not in str(error.value)

    def test_names_a_provider_that_exists_and_an_application(self) -> None:
        with pytest.raises(InvalidArgument):
            Scope.of_provider("gmial")
        with pytest.raises(InvalidArgument):
            Scope.of_application("")


class TestRelease:
    def test_ends_a_hold_and_says_what_still_holds(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("g1", provider="google")
        ledger.absorb()
        grant, google = Scope.of_grant("g1"), Scope.of_provider("google")
        for scope in (grant, google):
            operators.hold(scope, until=later(ledger, 60), **BY)
        would = operators.release(grant, **BY, dry_run=True)
        assert (would.outcome, would.done, would.held_above) == ("released", False, (google,))
        did = operators.release(grant, by="ben", reason="all is well")
        assert (did.outcome, did.done, did.held_above) == ("released", True, (google,))
        assert events_of(ledger)[-1] == ("release", "ben", "all is well")
        assert operators.release(grant, **BY).outcome is None

    def test_reopens_a_closed_lane(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("g1")
        ledger.absorb()
        ledger.set_lane("g1", closed_at=1, closed_rule="expired")
        assert operators.release(Scope.of_grant("g1"), **BY, dry_run=True).outcome == "reopened"
        assert operators.release(Scope.of_grant("g1"), **BY).outcome == "reopened"
        assert ledger.lane("g1").closed_at is None
        assert events_of(ledger) == [("reopened", "anna", "their server moves")]


class TestRetry:
    def test_yields_how_far_it_is_and_does_nothing_before_it_is_asked(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.operators.retry.CHUNK", 2)
        jobs = [dead(ledger) for _ in range(5)]
        run = operators.retry(DeadLetterFilter(rule="bad_request"), **BY)
        assert [ledger.state(job) for job in jobs] == [State.DEAD] * 5
        assert next(run) == RetryProgress(dry_run=False, retried=2)
        assert [ledger.state(job) for job in jobs].count(State.QUEUED) == 2
        assert [part.retried for part in run] == [4, 5]
        assert run.finish().retried == 5
        assert events_of(ledger) == [("retry", "anna", "their server moves")]

    def test_that_was_interrupted_goes_on_when_it_is_run_again(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.operators.retry.CHUNK", 2)
        jobs = [dead(ledger) for _ in range(3)]
        next(operators.retry(DeadLetterFilter(grant_id="g1"), by="anna"))
        assert operators.retry(DeadLetterFilter(grant_id="g1"), by="anna").finish().retried == 1
        assert {ledger.state(job) for job in jobs} == {State.QUEUED}

    def test_of_named_jobs_says_what_became_of_each(self, ledger: Ledger, operators: Operators) -> None:
        fine, partly, waits, nobody = dead(ledger), dead(ledger, sent="partly"), ledger.send("g2"), new_id()
        result = operators.retry([str(one) for one in (fine, partly, waits, nobody)], by="anna").finish()
        assert result.jobs == (str(fine),)
        assert result.refused == {RetryRefusal.PARTLY: 1}
        assert result.not_dead == {str(waits): State.QUEUED, str(nobody): None}

    def test_keeps_to_a_rate_and_a_limit(self, ledger: Ledger, operators: Operators) -> None:
        jobs = [dead(ledger) for _ in range(4)]
        operators.retry(DeadLetterFilter(grant_id="g1"), by="anna", limit=3, apart_s=60).finish()
        starts = [ledger.job(job).next_at for job in jobs[:3]]
        assert [(at - starts[0]) // SECOND for at in starts] == [0, 60, 120]
        assert ledger.state(jobs[3]) is State.DEAD

    def test_of_a_dry_run_counts_the_same_and_changes_nothing(
        self, ledger: Ledger, operators: Operators, written: list[str]
    ) -> None:
        dead(ledger)
        dead(ledger, sent="maybe")
        written.clear()
        would = operators.retry(DeadLetterFilter(grant_id="g1"), by="anna", dry_run=True).finish()
        assert written == []
        did = operators.retry(DeadLetterFilter(grant_id="g1"), by="anna").finish()
        assert (would.retried, would.refused) == (did.retried, did.refused) == (1, {RetryRefusal.MAYBE: 1})

    @pytest.mark.parametrize(
        ("which", "given", "field"),
        [
            (DeadLetterFilter(), {}, "which"),
            ([], {}, "jobs"),
            (DeadLetterFilter(grant_id="leyah@example.com"), {}, "grant_id"),
            (DeadLetterFilter(since=datetime(2026, 1, 1)), {}, "since"),  # noqa: DTZ001  # naive on purpose
            (DeadLetterFilter(rule="r"), {"limit": 0}, "limit"),
            (DeadLetterFilter(rule="r"), {"apart_s": -1.0}, "apart_s"),
            (DeadLetterFilter(rule="r"), {"reason": " "}, "reason"),
        ],
    )
    def test_refuses_what_cannot_be_meant(
        self, operators: Operators, which: Any, given: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.retry(which, **({"by": "anna"} | given))
        assert problem_of(error) == field

    def test_knows_no_job_by_what_is_no_id(self, operators: Operators) -> None:
        with pytest.raises(NotFound):
            operators.retry(["that one"], by="anna")
        with pytest.raises(TypeError, match="list of ids"):
            operators.retry("0192f0c1-2f3e-7c4d-9a5b-0123456789ab", by="anna")


class TestResolve:
    @pytest.mark.parametrize(
        ("answer", "state"), [("sent", State.SENT), ("resend", State.QUEUED), ("dead", State.DEAD)]
    )
    def test_ends_doubts_as_it_is_told(
        self, ledger: Ledger, operators: Operators, answer: str, state: State, written: list[str]
    ) -> None:
        jobs = [in_doubt(ledger, grant) for grant in ("a", "b")]
        written.clear()
        assert operators.resolve(DoubtFilter(grant_id="a"), answer, **BY, dry_run=True).finish().resolved == 1
        assert written == []
        assert operators.resolve(DoubtFilter(grant_id="a"), answer, **BY).finish().resolved == 1
        assert [ledger.state(job) for job in jobs] == [state, State.IN_DOUBT]
        assert events_of(ledger) == [("resolved", "anna", "their server moves")]

    def test_yields_how_far_it_is(self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sendq.operators.acts.resolve.CHUNK", 2)
        for _ in range(3):
            in_doubt(ledger)
        assert [part.resolved for part in operators.resolve(DoubtFilter(), "dead", **BY)] == [2, 3]

    def test_of_named_jobs_says_what_became_of_each(self, ledger: Ledger, operators: Operators) -> None:
        doubt, waits = in_doubt(ledger), ledger.send("g2")
        result = operators.resolve([str(doubt), str(waits)], "sent", **BY).finish()
        assert (result.jobs, result.not_in_doubt) == ((str(doubt),), {str(waits): State.QUEUED})

    def test_keeps_which_message_it_was(self, ledger: Ledger, operators: Operators) -> None:
        job = in_doubt(ledger)
        operators.resolve([str(job)], "sent", message_id="m7", **BY).finish()
        assert ledger.job(job).message_id == "m7"

    @pytest.mark.parametrize(
        ("which", "answer", "given", "field"),
        [
            (DoubtFilter(), "lost", {}, "answer"),
            (DoubtFilter(), "sent", {"message_id": "m"}, "message_id"),
            ([str(new_id())], "dead", {"message_id": "m"}, "message_id"),
            ([str(new_id())], "sent", {"message_id": ""}, "message_id"),
            (DoubtFilter(), "dead", {"reason": ""}, "reason"),
        ],
    )
    def test_refuses_what_cannot_be_meant(
        self, operators: Operators, which: Any, answer: str, given: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.resolve(which, answer, **(BY | given))
        assert problem_of(error) == field


class TestCancel:
    def test_of_a_job_says_what_it_is_then(self, ledger: Ledger, operators: Operators, written: list[str]) -> None:
        job = str(ledger.send())
        ledger.absorb()
        written.clear()
        would = operators.cancel(job, **BY, dry_run=True)
        assert written == []
        did = operators.cancel(job, **BY)
        assert (would.before, would.state) == (did.before, did.state) == (State.QUEUED, State.CANCELLED)
        assert events_of(ledger) == [("cancel", "anna", "their server moves")]
        again = operators.cancel(job, **BY)
        assert (again.ended_before, again.state) == (True, State.CANCELLED)
        assert len(events_of(ledger)) == 1

    def test_of_no_job_raises(self, operators: Operators) -> None:
        for given in (str(new_id()), "that one"):
            with pytest.raises(NotFound):
                operators.cancel(given, by="anna")


class TestCancelBatch:
    def test_ends_its_waiting_jobs_and_says_how_far_it_is(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.batches.CANCEL_STEP", 2)
        monkeypatch.setattr("sendq.operators.acts.cancel.LOOK_EVERY", 1)
        batch = ledger.queue.modify("a", [f"m{n}" for n in range(5)], unread=False)
        ledger.absorb()
        would = operators.cancel_batch(batch.id, **BY, dry_run=True).finish()
        assert (would.batch.waiting, would.batch.cancelled_at) == (5, None)
        waiting = [part.batch.waiting for part in operators.cancel_batch(batch.id, **BY)]
        assert (waiting[0], waiting[1], waiting[-1]) == (5, 3, 0)
        assert events_of(ledger) == [("cancel", "anna", "their server moves")]

    def test_that_was_interrupted_goes_on_when_it_is_run_again(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.batches.CANCEL_STEP", 2)
        batch = ledger.queue.modify("a", [f"m{n}" for n in range(5)], unread=False)
        first = next(operators.cancel_batch(batch.id, by="anna"))
        assert first.batch.cancelled_at is not None
        assert ledger.offer() == [] or ledger.claim(ledger.offer()) == []
        assert operators.cancel_batch(batch.id, by="anna").finish().batch.counts == {State.CANCELLED: 5}
        assert len(events_of(ledger)) == 1

    def test_of_no_batch_raises(self, operators: Operators) -> None:
        with pytest.raises(NotFound):
            operators.cancel_batch(str(new_id()), by="anna").finish()


class TestForget:
    def test_erases_and_yields_how_far_it_is(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.operators.erasure.STEP", 2)
        for number in range(3):
            ledger.send("g1", key=f"k{number}")
        ledger.queue.modify_matching("g1", Query(unread=True), unread=False)
        would = operators.forget("g1", **BY, dry_run=True).finish()
        assert (would.jobs, would.cancelled, would.erased, would.keys, would.batches) == (4, 4, 4, 3, 1)
        assert events_of(ledger) == []
        parts = list(operators.forget("g1", **BY))
        assert [part.erased for part in parts] == [2, 4, 4]
        assert parts[-1] == ForgetProgress("default", "g1", False, 4, 3, 1, cancelled=4, erased=4)
        assert ledger.rows(schema.payload) == []
        assert events_of(ledger) == [("forget", "anna", "their server moves")]

    def test_says_what_is_left(self, ledger: Ledger, operators: Operators) -> None:
        in_doubt(ledger)
        result = operators.forget("g1", **BY).finish()
        assert (result.left, result.in_doubt, result.erased) == (1, 1, 0)

    def test_of_an_unknown_grant_does_nothing(self, operators: Operators, written: list[str]) -> None:
        assert operators.forget("g1", **BY).finish().jobs == 0
        assert written == []

    def test_refuses_an_address_without_repeating_it(self, operators: Operators) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.forget("leyah@example.com", **BY)
        assert problem_of(error) == "grant_id"
        assert "leyah" not in str(error.value)


class TestRecover:
    def test_puts_in_doubt_what_was_unfinished_and_opens(self, ledger: Ledger, operators: Operators) -> None:
        jobs = [ledger.send() for _ in range(2)]
        since = later(ledger, 0)
        would = operators.recover(since, **BY, dry_run=True).finish()
        assert (would.in_doubt, would.requeued, would.open) == (2, 0, False)
        assert events_of(ledger) == []
        did = operators.recover(since, **BY).finish()
        assert (did.in_doubt, did.requeued, did.open) == (2, 0, True)
        assert {ledger.state(job) for job in jobs} == {State.IN_DOUBT}
        assert events_of(ledger) == [("recovered", "anna", "their server moves")]

    def test_refuses_a_time_that_cannot_be_the_backups(self, ledger: Ledger, operators: Operators) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.recover(later(ledger, 60), **BY)
        assert problem_of(error) == "since"


class TestRekey:
    def test_encrypts_everything_with_the_first_key(self, ledger: Ledger, operators: Operators) -> None:
        sealing(ledger).send("g1", MESSAGE, key="k")
        would = operators.rekey(BOTH, by="anna", dry_run=True).finish()
        assert (would.sealed, would.rows) == (0, {"old": 2})
        assert events_of(ledger) == []
        did = operators.rekey(BOTH, **BY).finish()
        assert (did.key, did.sealed, did.rows, did.unreadable) == ("new", 2, {"new": 2}, {})
        assert events_of(ledger) == [("rekey", "anna", "under new: their server moves")]

    def test_leaves_what_no_key_opens(self, ledger: Ledger, operators: Operators) -> None:
        sealing(ledger).send("g1", MESSAGE)
        did = operators.rekey(NEW, by="anna").finish()
        assert (did.sealed, did.unreadable, did.rows) == (0, {"old": 1}, {"old": 1})

    def test_needs_a_key(self, operators: Operators) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.rekey(Vault(), by="anna")
        assert problem_of(error) == "vault"


class TestDeliverAgain:
    @pytest.fixture
    def given_up(self, ledger: Ledger) -> list[str]:
        """Two deliveries that were given up."""
        for number in range(2):
            ledger.queue.cancel(str(ledger.send(on_outcome="webhook:app", key=str(number))))
        rows = ledger.rows(schema.delivery)
        ledger.clock.advance(GIVE_UP_AFTER / SECOND)
        with ledger.writing() as connection:
            failed = [DeliveryAttempt(row.id, "status 500") for row in rows]
            record(connection, "webhook:app", failed, now=ledger.clock())
        assert {row.state for row in ledger.rows(schema.delivery)} == {"given_up"}
        return [str(row.id) for row in rows]

    def test_makes_them_due_and_yields_how_far_it_is(
        self, ledger: Ledger, operators: Operators, given_up: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.operators.acts.deliver_again.STEP", 1)
        which = DeliveryFilter(states=["given_up"], receiver="webhook:app")
        assert operators.deliver_again(which, by="anna", dry_run=True).finish().retried == 2
        assert [part.retried for part in operators.deliver_again(which, **BY)] == [1, 2, 2]
        assert {row.state for row in ledger.rows(schema.delivery)} == {"waiting"}
        assert events_of(ledger) == [("deliveries_retried", "anna", "their server moves")]
        assert [row.number for row in ledger.rows(schema.event)] == [2]

    def test_takes_ids_as_well(self, operators: Operators, given_up: list[str]) -> None:
        assert operators.deliver_again(given_up[:1], by="anna").finish().retried == 1

    @pytest.mark.parametrize(
        ("which", "field"),
        [
            (DeliveryFilter(), "which"),
            (DeliveryFilter(application="crm"), "which"),
            ([], "deliveries"),
            (DeliveryFilter(job_id="j", batch_id="b"), "batch_id"),
        ],
    )
    def test_refuses_what_cannot_be_meant(self, operators: Operators, which: Any, field: str) -> None:
        with pytest.raises(InvalidArgument) as error:
            operators.deliver_again(which, by="anna")
        assert problem_of(error) == field


class TestTheClass:
    def test_refuses_a_ledger_that_was_not_migrated(self) -> None:
        operators = Operators(open_engine("sqlite://"))
        with pytest.raises(SchemaMismatch):
            operators.cancel(str(new_id()), by="anna")
        operators.close()

    def test_opens_a_ledger_by_its_url(self, ledger: Ledger, ledger_url: str) -> None:
        job = str(ledger.send())
        operators = Operators(ledger_url)
        assert operators.cancel(job, by="anna").state is State.CANCELLED
        operators.close()

    def test_is_not_imported_with_the_package(self) -> None:
        program = "import sys, sendq; print('sendq.operators' in sys.modules, 'sqlalchemy' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.split() == ["False", "False"]
