"""Evidence that a mail went out, whenever it comes, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from sendq import Delivery, Operators, State
from sendq.ledger import delivery_status
from sendq.ledger.db import schema
from sendq.ledger.dispatching import rescue
from sendq.ledger.doubt import Ending
from sendq.ledger.doubt import settle as settle_doubts
from sendq.ledger.operators import retry as retrying
from sendq.ledger.operators.resolve import DoubtSelection, resolve
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.rules.by_hand import Answer, ResendRefusal, RetryRefusal
from sendq.rules.states import Event
from tests.integration.ledger.mail import (
    begun,
    delivery,
    doubt,
    refuse,
    report,
    sent,
    settle,
)
from tests.support.ledger import Ledger, end, outcome


class TestEvidenceThatComesBeforeTheOutcome:
    """A report shows that the mail went out while its call still hangs."""

    KINDS = ("message.send_success", "message.bounced")

    @pytest.mark.parametrize("kind", KINDS)
    def test_ends_the_doubt_that_its_timeout_would_be(self, ledger: Ledger, kind: str) -> None:
        claimed, job = begun(ledger)
        report(ledger, kind, job=job.id)
        assert ledger.state(job.id) == State.SENDING
        doubt(ledger, claimed, job)
        assert (ledger.state(job.id), ledger.job(job.id).rule) == (State.SENT, "delivery_report")
        assert not any(row.pending for row in ledger.rows(schema.delivery_status))

    @pytest.mark.parametrize("kind", KINDS)
    def test_keeps_a_refused_request_from_being_sent_again(self, ledger: Ledger, kind: str) -> None:
        claimed, job = begun(ledger)
        report(ledger, kind, job=job.id)
        refuse(ledger, claimed, job)
        assert ledger.state(job.id) == State.SENT
        assert delivery(ledger, job.id).delivery in (Delivery.CONFIRMED, Delivery.BOUNCED)

    def test_of_an_earlier_send_counts_too(self, ledger: Ledger) -> None:
        claimed, job = begun(ledger)
        refuse(ledger, claimed, job)
        ledger.clock.advance(600)
        claimed, again = begun(ledger, queued=True)
        report(ledger, "message.delivered", "m0", job=job.id, ago=500)
        refuse(ledger, claimed, again)
        assert ledger.state(job.id) == State.SENT

    def test_keeps_a_lost_workers_job_from_being_sent_again(self, ledger: Ledger) -> None:
        claimed, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        with ledger.writing() as connection:
            assert rescue.bury(connection, claimed.worker, now=ledger.clock()).begun == 1
        assert ledger.state(job.id) == State.SENT

    def test_is_settled_by_the_leader_where_nothing_else_does(self, ledger: Ledger) -> None:
        _, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        ledger.set_job(job.id, state="in_doubt", doubt_at=ledger.clock())
        assert settle(ledger) == 1
        assert ledger.state(job.id) == State.SENT

    @pytest.mark.parametrize("answer", [Answer.RESEND, Answer.DEAD])
    def test_counts_more_than_an_operators_answer(self, ledger: Ledger, answer: Answer) -> None:
        _, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        ledger.set_job(job.id, state="in_doubt", doubt_at=ledger.clock())
        with ledger.writing() as connection:
            part = resolve(connection, DoubtSelection(jobs=[job.id]), answer, by="anna", reason="r", now=ledger.clock())
        assert part.refused == ({job.id: ResendRefusal.WENT_OUT} if answer is Answer.RESEND else {})
        assert ledger.state(job.id) == (State.IN_DOUBT if answer is Answer.RESEND else State.SENT)

    def test_counts_more_than_a_search_that_did_not_find_it(self, ledger: Ledger) -> None:
        _, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        ledger.set_job(job.id, state="in_doubt", doubt_at=ledger.clock())
        again = Ending(Event.RETURN, "not_in_mailbox")
        with ledger.writing() as connection:
            assert settle_doubts(connection, {job.id: again}, by="reconcile", now=ledger.clock()) == []
        assert ledger.state(job.id) == State.SENT

    def test_is_applied_by_a_repeat_if_its_job_is_still_in_doubt(self, ledger: Ledger) -> None:
        _, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        ledger.set_job(job.id, state="in_doubt", doubt_at=ledger.clock())
        report(ledger, "message.delivered", job=job.id, notice="n2")
        assert ledger.state(job.id) == State.SENT

    @pytest.mark.parametrize("later", [False, True])
    def test_refuses_a_retry_of_what_the_api_refused(self, ledger: Ledger, later: bool) -> None:
        claimed, job = begun(ledger)
        if not later:
            report(ledger, "message.delivered", job=job.id)
        ledger.record(outcome(claimed, job, Event.GIVE_UP, rule="bad_request"), ends=[end(claimed)])
        if later:
            report(ledger, "message.delivered", job=job.id)
        assert ledger.state(job.id) == State.DEAD
        operators = Operators(ledger.engine, now=ledger.clock)
        last = list(operators.retry([str(job.id)], by="anna", reason="again"))[-1]
        assert last.refused == {RetryRefusal.PARTLY: 1}

    def test_refuses_a_retry_that_began_before_it_came(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        claimed, job = begun(ledger)
        ledger.record(outcome(claimed, job, Event.GIVE_UP, rule="bad_request"), ends=[end(claimed)])
        with ledger.writing() as connection:
            seen = retrying.find(connection, DeadLetterSelection(), after=None)
        assert [row.id for row in seen.ready] == [job.id]
        report(ledger, "message.delivered", job=job.id)
        monkeypatch.setattr(retrying, "find", lambda *_, **__: seen)
        now = ledger.clock()
        with ledger.writing() as connection:
            done = retrying.retry(connection, DeadLetterSelection(), after=None, first_at=now, by="anna", now=now)
        assert (done.ready, ledger.state(job.id)) == ([], State.DEAD)


class TestPendingReports:
    def test_are_found_through_their_index(self, ledger: Ledger) -> None:
        """On SQLite a bound value in the condition would mean a scan of all reports, every other second."""
        with ledger.writing() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if not sqlite:
                connection.execute(text("SET LOCAL enable_seqscan = off"))
            options = {"render_postcompile": True, "literal_binds": True}
            query = delivery_status.pending_jobs(9).compile(dialect=connection.dialect, compile_kwargs=options)
            rows = connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{query}")
            plan = "\n".join(str(row) for row in rows)
        assert "sendq_delivery_status_pending_idx" in plan


class TestADoubt:
    def test_ends_as_sent_with_the_first_evidence(self, ledger: Ledger) -> None:
        job = sent(ledger)
        at = ledger.clock()
        ledger.set_job(job, state="in_doubt", finished_at=None, doubt_at=at, look_at=at, message_id=None)
        report(ledger, "message.delivered", job=job)
        row = ledger.job(job)
        assert (row.state, row.rule, row.message_id, row.look_at) == ("sent", "delivery_report", "m1", None)
