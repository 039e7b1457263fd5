"""What is written down to be told, and when: in the transaction in which it became true, on both databases."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from sendq.clock import SECOND
from sendq.facts.outcomes import Hold, Scope
from sendq.ids import lane_id
from sendq.ledger import deliveries, grants, outcomes
from sendq.ledger.db import schema
from sendq.ledger.deliveries import GIVEN_UP, HOLD_MOST, PAUSE_MOST, DeliveryAttempt, Receiver, Wanted
from sendq.ledger.dispatching import rescue
from sendq.ledger.operators import retry
from sendq.operators import Operators
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, Ledger, end, outcome

HOOK = "webhook:billing"
TASK = "billing.tasks.mail_outcome"


def told(ledger: Ledger) -> list[dict[str, Any]]:
    """What is to be told, in the order in which it was written down."""
    return [json.loads(row.facts) for row in sorted(ledger.rows(schema.delivery), key=lambda row: row.id)]


def kinds(ledger: Ledger) -> list[str]:
    return [facts["kind"] for facts in told(ledger)]


def serve_one(ledger: Ledger, event_: Event, **given: Any) -> UUID:
    """One job with a target begins, and this becomes of it."""
    job = ledger.send(on_outcome=HOOK)
    claimed = ledger.serve()
    ledger.record(outcome(claimed, claimed.jobs[0], event_, **given), ends=[end(claimed)])
    return job


class TestAnEnd:
    @pytest.mark.parametrize(
        ("event_", "given", "kind"),
        [
            (Event.ACCEPT, {"sent": "yes", "message_id": "m1"}, "sent"),
            (Event.GIVE_UP, {}, "dead"),
            (Event.DOUBT, {"sent": "maybe"}, "in_doubt"),
            (Event.EXPIRE, {}, "expired"),
            (Event.CANCEL, {}, "cancelled"),
        ],
    )
    def test_recorded_by_a_worker_is_told(self, ledger: Ledger, event_: Event, given: Any, kind: str) -> None:
        job = serve_one(ledger, event_, **given)
        (row,) = ledger.rows(schema.delivery)
        assert (row.kind, row.subject, row.target, row.receiver, row.state) == (kind, job, HOOK, HOOK, "waiting")
        assert kinds(ledger) == [kind]

    def test_that_is_none_is_not(self, ledger: Ledger) -> None:
        serve_one(ledger, Event.RETURN)
        assert kinds(ledger) == []

    def test_tells_ids_states_and_times_and_nothing_of_the_message(self, ledger: Ledger) -> None:
        job = ledger.send(on_outcome=HOOK, key="invoice-42")
        claimed = ledger.serve()
        ledger.clock.advance(1)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", message_id="m1", counts=True))
        (facts,) = told(ledger)
        at = "2026-05-28T20:26:40+00:00"
        assert facts == {
            "kind": "sent", "sequence": ledger.clock(), "at": "2026-05-28T20:26:41+00:00", "job_id": str(job),
            "batch_id": None, "operation": "send", "key": "invoice-42", "state": "sent", "rule": "test",
            "message_id": "m1", "attempts": 1, "created_at": at, "due_at": at, "finished_at": facts["at"],
            "application": "default", "grant_id": "g1",
        }  # fmt: skip
        text = json.dumps(facts)
        assert MESSAGE.subject is not None
        assert MESSAGE.subject not in text
        assert "example.com" not in text

    def test_of_a_job_that_waits_is_told_whoever_ends_it(self, ledger: Ledger) -> None:
        ledger.send("expires", on_outcome=HOOK)
        ledger.absorb()
        ledger.clock.advance(73 * 3600)
        with ledger.writing() as connection:
            rescue.expire(connection, now=ledger.clock(), limit=10)
        cancelled = ledger.send("cancelled", on_outcome=TASK)
        ledger.absorb()
        ledger.queue.cancel(str(cancelled))
        ledger.send("gone", on_outcome=HOOK)
        ledger.absorb()
        with ledger.writing() as connection:
            lane = lane_id("default", "gone")
            grants.found_gone(connection, lane, rule="grant_not_found", by="check", now=ledger.clock())
            grants.end_gone(connection, now=ledger.clock(), limit=10)
        found = [(facts["kind"], facts["grant_id"], facts["rule"]) for facts in told(ledger)]
        assert found == [
            ("expired", "expires", "expired"), ("cancelled", "cancelled", "cancelled"),
            ("dead", "gone", "grant_not_found"),
        ]  # fmt: skip

    def test_of_a_job_that_the_dispatcher_never_saw_names_its_grant(self, ledger: Ledger) -> None:
        job = ledger.send(on_outcome=HOOK)
        ledger.queue.cancel(str(job))
        (facts,) = told(ledger)
        assert (facts["kind"], facts["application"], facts["grant_id"]) == ("cancelled", "default", "g1")

    def test_at_the_claim_is_told(self, ledger: Ledger) -> None:
        ledger.send(on_outcome=HOOK)
        offered = ledger.offer()
        ledger.clock.advance(73 * 3600)
        ledger.claim(offered)
        assert kinds(ledger) == ["expired"]

    def test_found_by_the_rescuer_is_told(self, ledger: Ledger) -> None:
        ledger.send(on_outcome=HOOK)
        ledger.serve()
        ledger.clock.advance(46 * 60)
        with ledger.writing() as connection:
            rescue.bury(connection, ledger.worker, now=ledger.clock())
        assert kinds(ledger) == ["in_doubt"]

    def test_told_once_more_under_a_higher_number_when_it_changes(self, ledger: Ledger) -> None:
        job = ledger.send(on_outcome=HOOK)
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.DOUBT, sent="maybe"), ends=[end(claimed)])
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"))  # the clock stands still
        first, second = told(ledger)
        assert (first["kind"], second["kind"]) == ("in_doubt", "sent")
        assert second["sequence"] > first["sequence"]
        ledger.clock.at -= 10 * SECOND
        ledger.set_job(job, state="dead")
        with ledger.writing() as connection:
            outcomes.append_jobs(connection, [job], now=ledger.clock())
        assert told(ledger)[-1]["sequence"] > second["sequence"]

    def test_is_told_again_after_a_dead_letter_went_round_again(self, ledger: Ledger) -> None:
        job = serve_one(ledger, Event.GIVE_UP)
        with ledger.writing() as connection:
            now = ledger.clock()
            retry.retry(connection, retry.DeadLetterSelection(jobs=[job]), after=None, first_at=now, by="me", now=now)
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(claimed)])
        assert kinds(ledger) == ["dead", "sent"]

    def test_is_told_by_nobody_whose_transaction_rolls_back(self, ledger: Ledger) -> None:
        job = ledger.send(on_outcome=HOOK)
        with ledger.engine.connect() as connection:
            transaction = connection.begin()
            ledger.queue.cancel(str(job), session=connection)
            transaction.rollback()
        assert kinds(ledger) == []

    def test_recorded_twice_is_told_once(self, ledger: Ledger) -> None:
        ledger.send(on_outcome=HOOK)
        claimed = ledger.serve()
        fact = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
        ledger.record(fact)
        ledger.record(fact, ends=[end(claimed)])
        assert kinds(ledger) == ["sent"]


class TestAJobWithoutATarget:
    def test_costs_its_record_no_statement(self, ledger: Ledger) -> None:
        statements = []
        for target in (None, HOOK):
            ledger.send(f"grant-{target}", on_outcome=target)
            claimed = ledger.serve()
            seen = list[str]()
            event.listen(ledger.engine, "before_cursor_execute", lambda *given, seen=seen: seen.append(given[2]))
            ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"))
            statements.append(len(seen))
        plain, with_target = statements
        assert with_target - plain == 3  # the job's facts, its last number, the delivery


class TestABatch:
    def test_tells_once_when_it_has_finished(self, ledger: Ledger) -> None:
        jobs = ledger.modify("g1", ["m1", "m2", "m3"], on_outcome=TASK, key="mark-read")
        ledger.clock.advance(1)
        claimed = ledger.serve()
        ledger.finish(claimed)
        assert kinds(ledger) == []
        batch = ledger.job(jobs[0]).batch_id
        with ledger.writing() as connection:
            outcomes.append_batches(connection, [batch], now=ledger.clock())
        (facts,) = told(ledger)
        assert {name: facts[name] for name in ("kind", "batch_id", "key", "total", "counts", "grant_id")} == {
            "kind": "batch_finished", "batch_id": str(batch), "key": "mark-read", "total": 3, "counts": {"sent": 3},
            "grant_id": "g1",
        }  # fmt: skip

    def test_without_a_target_tells_nobody(self, ledger: Ledger) -> None:
        (job,) = ledger.modify("g1", ["m1"])
        batch = ledger.job(job).batch_id
        with ledger.writing() as connection:
            outcomes.append_batches(connection, [batch], now=ledger.clock())
        assert kinds(ledger) == []


class TestAGrantThatNeedsItsOwner:
    def close(self, ledger: Ledger) -> None:
        ledger.absorb()
        with ledger.writing() as connection:
            grants.close(connection, lane_id("default", "g1"), rule="expired", by="webhook", now=ledger.clock())

    def announce(self, ledger: Ledger, receiver: str | None = None) -> None:
        with ledger.writing() as connection:
            now = ledger.clock()
            grants.announce_closed(connection, closed_before=now, now=now, limit=10, receiver=receiver)

    def test_is_told_of_once_to_each_whose_jobs_wait(self, ledger: Ledger) -> None:
        for target in (HOOK, HOOK, TASK, None):
            ledger.send(on_outcome=target)
        ledger.modify("g1", ["m1", "m2"], on_outcome="webhook:bulk")
        self.close(ledger)
        self.announce(ledger)
        self.announce(ledger)
        rows = ledger.rows(schema.delivery)
        assert sorted(row.target for row in rows) == [TASK, HOOK, "webhook:bulk"]
        assert {(row.kind, row.subject) for row in rows} == {("reauth_required", lane_id("default", "g1"))}
        assert {(facts["grant_id"], facts["rule"]) for facts in told(ledger)} == {("g1", "expired")}

    def test_is_told_of_to_the_one_whom_the_settings_name_as_well(self, ledger: Ledger) -> None:
        ledger.send(on_outcome=HOOK)
        self.close(ledger)
        self.announce(ledger, receiver=HOOK)
        assert [row.target for row in ledger.rows(schema.delivery)] == [HOOK]

    def test_is_told_of_again_when_it_happens_again(self, ledger: Ledger) -> None:
        ledger.send(on_outcome=HOOK)
        for _ in range(2):
            self.close(ledger)
            self.announce(ledger)
            with ledger.writing() as connection:
                grants.reopen(connection, lane_id("default", "g1"), by="me", now=ledger.clock())
        first, second = told(ledger)
        assert second["sequence"] > first["sequence"]


class TestDeliveries:
    """Due, told, refused, unreachable, given up."""

    def ended(self, ledger: Ledger, number: int = 1, target: str = HOOK) -> list[UUID]:
        """So many jobs that have ended; the ids of their deliveries, in order."""
        before = {row.id for row in ledger.rows(schema.delivery)}
        for _ in range(number):
            ledger.queue.cancel(str(ledger.send(on_outcome=target)))
        return sorted(row.id for row in ledger.rows(schema.delivery) if row.id not in before)

    def due(self, ledger: Ledger, receiver: str = HOOK) -> list[UUID]:
        with ledger.writing() as connection:
            return [row.id for row in deliveries.due(connection, receiver, now=ledger.clock(), limit=100)]

    def receivers(self, ledger: Ledger) -> list[Receiver]:
        with ledger.writing() as connection:
            return deliveries.receivers(connection, now=ledger.clock())

    def tried(self, ledger: Ledger, *tries: DeliveryAttempt, receiver: str = HOOK) -> deliveries.AttemptsRecorded:
        with ledger.writing() as connection:
            return deliveries.record(connection, receiver, tries, now=ledger.clock())

    def states(self, ledger: Ledger) -> list[str]:
        return [row.state for row in sorted(ledger.rows(schema.delivery), key=lambda row: row.id)]

    def test_are_due_at_once_and_not_again_once_told(self, ledger: Ledger) -> None:
        first, second = self.ended(ledger, 2)
        assert self.receivers(ledger) == [Receiver(HOOK, failing=False)]
        assert self.due(ledger) == [first, second]
        self.tried(ledger, DeliveryAttempt(first))
        assert self.due(ledger) == [second]
        self.tried(ledger, DeliveryAttempt(second))
        assert self.receivers(ledger) == []
        assert self.states(ledger) == ["delivered", "delivered"]

    def test_of_one_subject_go_one_after_another(self, ledger: Ledger) -> None:
        job = ledger.send(on_outcome=HOOK)
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.DOUBT, sent="maybe"), ends=[end(claimed)])
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"))
        doubt, sent = sorted(row.id for row in ledger.rows(schema.delivery) if row.subject == job)
        assert self.due(ledger) == [doubt]
        self.tried(ledger, DeliveryAttempt(doubt, "status 500"))
        assert self.due(ledger) == []
        ledger.clock.advance(10)
        assert self.due(ledger) == [doubt]
        self.tried(ledger, DeliveryAttempt(doubt))
        assert self.due(ledger) == [sent]

    def test_refused_one_by_one_wait_longer_each_time_and_the_others_go_on(self, ledger: Ledger) -> None:
        refused, other = self.ended(ledger, 2)
        for pause in (10, 20, 40, 80):
            self.tried(ledger, DeliveryAttempt(refused, "status 500"))
            assert self.due(ledger) == [other]
            assert self.receivers(ledger) == [Receiver(HOOK, failing=False)]
            ledger.clock.advance(pause - 1)
            assert refused not in self.due(ledger)
            ledger.clock.advance(1)
            assert refused in self.due(ledger)
        assert deliveries.pause_after(50, most=PAUSE_MOST) == PAUSE_MOST

    def test_refused_in_a_row_are_their_receivers_fault(self, ledger: Ledger) -> None:
        ids = self.ended(ledger, 6)
        self.tried(ledger, *(DeliveryAttempt(one, "status 500") for one in ids[:4]))
        assert self.receivers(ledger) == [Receiver(HOOK, failing=False)]
        self.tried(ledger, DeliveryAttempt(ids[4], "status 500"))
        assert self.receivers(ledger) == []
        ledger.clock.advance(10)
        assert self.receivers(ledger) == [Receiver(HOOK, failing=True)]

    def test_for_a_receiver_that_is_down_wait_for_it_together_and_lose_nothing(self, ledger: Ledger) -> None:
        ids = self.ended(ledger, 3)
        (other,) = self.ended(ledger, target=TASK)
        # Four that were under way together are one step.
        told = self.tried(ledger, *(DeliveryAttempt(one, "no connection", unreachable=True) for one in ids))
        assert told.held_until == ledger.clock() + 10 * SECOND
        assert self.receivers(ledger) == [Receiver("celery", failing=False)]
        assert self.due(ledger, "celery") == [other]
        for pause in (10, 20, 40):
            ledger.clock.advance(pause)
            assert Receiver(HOOK, failing=True) in self.receivers(ledger)
            assert self.due(ledger) == ids
            self.tried(ledger, DeliveryAttempt(ids[0], "no connection", unreachable=True))
            assert self.receivers(ledger) == [Receiver("celery", failing=False)]
        ledger.clock.advance(80)
        self.tried(ledger, DeliveryAttempt(ids[0]))
        assert Receiver(HOOK, failing=False) in self.receivers(ledger)
        assert self.due(ledger) == ids[1:]

    def test_for_a_receiver_that_stays_down_it_is_asked_every_ten_minutes(self, ledger: Ledger) -> None:
        (one,) = self.ended(ledger)
        for _ in range(20):
            told = self.tried(ledger, DeliveryAttempt(one, "no connection", unreachable=True))
            assert told.held_until is not None
            ledger.clock.at = told.held_until
        told = self.tried(ledger, DeliveryAttempt(one, "no connection", unreachable=True))
        assert told.held_until == ledger.clock() + HOLD_MOST

    def test_wait_as_long_as_the_receiver_asks(self, ledger: Ledger) -> None:
        (one,) = self.ended(ledger)
        told = self.tried(ledger, DeliveryAttempt(one, "status 429", unreachable=True, wait=100 * SECOND))
        assert told.held_until == ledger.clock() + 100 * SECOND
        told = self.tried(ledger, DeliveryAttempt(one, "status 429", unreachable=True, wait=10**9 * SECOND))
        assert told.held_until == ledger.clock() + PAUSE_MOST

    def test_are_given_up_after_72_hours_and_tried_again_on_a_persons_word(self, ledger: Ledger) -> None:
        first, second = self.ended(ledger, 2)
        ledger.clock.advance(72 * 3600)
        assert self.due(ledger) == [first, second]  # nobody has tried yet: no reason to give up
        told = self.tried(ledger, DeliveryAttempt(first, "status 500"))
        assert (told.given_up, self.states(ledger)) == (1, [GIVEN_UP, "waiting"])
        told = self.tried(ledger, DeliveryAttempt(second, "no connection", unreachable=True))
        assert (told.given_up, self.states(ledger)) == (1, [GIVEN_UP, GIVEN_UP])
        assert self.due(ledger) == []
        with ledger.writing() as connection:
            again = deliveries.retry(connection, Wanted(ids=[first]), after=None, now=ledger.clock(), limit=10)
        assert again == [first]
        assert self.receivers(ledger) == [Receiver(HOOK, failing=False)]
        told = self.tried(ledger, DeliveryAttempt(first, "status 500"))
        assert (told.given_up, self.states(ledger)) == (0, ["waiting", GIVEN_UP])

    def test_that_wait_for_a_dead_receiver_are_given_up_though_only_one_is_tried(self, ledger: Ledger) -> None:
        ids = self.ended(ledger, 3)
        ledger.clock.advance(72 * 3600)
        (young,) = self.ended(ledger)
        told = self.tried(ledger, DeliveryAttempt(ids[0], "no connection", unreachable=True))
        assert told.given_up == 3
        assert [row.id for row in ledger.rows(schema.delivery) if row.state == "waiting"] == [young]

    def test_that_were_made_are_not_made_again(self, ledger: Ledger) -> None:
        (one,) = self.ended(ledger)
        self.tried(ledger, DeliveryAttempt(one))
        with ledger.writing() as connection:
            assert deliveries.retry(connection, Wanted(), after=None, now=ledger.clock(), limit=10) == []
            assert deliveries.undelivered(connection, Wanted()) == 0
        self.tried(
            ledger, DeliveryAttempt(one, "no connection", unreachable=True)
        )  # of a leader that was not one any more
        assert self.states(ledger) == ["delivered"]

    def test_are_found_by_what_they_are_about(self, ledger: Ledger) -> None:
        one, two = self.ended(ledger, 2)
        (task,) = self.ended(ledger, target=TASK)
        self.tried(ledger, DeliveryAttempt(one))
        job = next(row.subject for row in ledger.rows(schema.delivery) if row.id == two)
        operators = Operators(ledger.engine, now=ledger.clock)

        def found(**filters: Any) -> list[UUID]:
            return [UUID(delivery.id) for delivery in operators.deliveries(**filters).items]

        assert found() == [task, two, one]
        assert found(state="delivered") == [one]
        assert found(receiver="celery") == [task]
        assert found(job_id=str(job)) == [two]
        assert found(grant_id="g1", kind=["cancelled"]) == [task, two, one]
        assert found(kind="sent") == []

    def test_of_a_newer_version_are_kept_for_whoever_can_make_them(self, ledger: Ledger) -> None:
        job = ledger.send(on_outcome=HOOK)
        ledger.set_job(job, on_outcome="carrier-pigeon")
        ledger.queue.cancel(str(job))
        assert self.receivers(ledger) == [Receiver("unknown", failing=False)]

    def test_read_waiting_ones_by_their_index(self, pg_ledger: Ledger) -> None:
        seen = list[str]()
        event.listen(pg_ledger.engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
        self.ended(pg_ledger)
        self.due(pg_ledger)
        (statement,) = [one for one in seen if "before" in one]
        assert "state = 'waiting'" in statement  # a parameter would keep the planner from the partial index


def test_nobody_changes_a_jobs_state_behind_the_back_of_those_who_are_told() -> None:
    """`sendq.ledger.jobs.store_changes` is the one way; but for a beginning, of which nobody is told.

    Jobs that cannot be decrypted (`sealed.py`) or that wait behind another (`loading.py`) are postponed, and those that
    a clock which was ahead has put off (`set_back.py`) are brought back: only their time changes. So it is with jobs of
    a held tag (`tag_holds.py`), outside of their window (`windows.py`), over a budget (`budgets.py`, `budget_room.py`)
    or that wait for another job (`followers.py`, `parked.py`), and with what a caller changes in one that waits
    (`waiting_jobs.py`). A repair (`recover.py`) keeps the keys that a worker has moved on.
    """
    from pathlib import Path

    ledger_room = Path(outcomes.__file__).parent
    writers = {
        path.name
        for path in ledger_room.rglob("*.py")
        if "UPDATE sendq_job SET state" in (source := path.read_text())
        or "update_rows(connection, schema.job" in source
    }
    only_times = {"loading.py", "sealed.py", "set_back.py", "waiting_jobs.py"}
    only_times |= {"tag_holds.py", "windows.py", "budgets.py", "budget_room.py", "followers.py", "parked.py"}
    assert writers == {"jobs.py", "turns.py", "recover.py"} | only_times


def test_an_unused_hold_is_no_outcome(ledger: Ledger) -> None:
    ledger.send(on_outcome=HOOK)
    claimed = ledger.serve()
    hold = Hold(Scope.GRANT, "throttled", "policy", ledger.clock() + SECOND)
    ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold), ends=[end(claimed)])
    assert kinds(ledger) == []
