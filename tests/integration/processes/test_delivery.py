"""What became of mail, on a real system: the simulated API, a worker, and the receiver of webhooks on a socket."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from examples.follow_up.sequence import begin
from sendq import Delivery, Operators, Send, SendQueue, State, SuppressedRecipients
from sendq.enqueueing.options import Options
from sendq.ledger.db import schema
from sendq.webhooks import asgi
from tests.integration.processes.test_webhooks_served import served
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import eventually

SECRET = "s3cret"


@pytest.fixture(scope="module")
def system(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("system")
    with pg_server.database() as name, running(pg_server.url(name), directory) as system:
        system.start_worker()
        queue = SendQueue(system.engine)
        with served(asgi(queue, secret=SECRET)) as receiver:
            # A report that comes before the record of its call, as on a busy machine, is refused until then.
            system.api.webhook(f"http://127.0.0.1:{receiver.port}/", SECRET, again_after=10.0)
            yield system


def delivery(system: System, job: str) -> Any:
    status = system.queue.job(job).delivery
    return None if status is None else status.delivery


def copies(system: System, job: str) -> int:
    return sum(one.job == job for one in system.api.mailbox)


class TestAMailThatFailedLater:
    def test_is_a_dead_letter_and_its_retry_sends_one_copy(self, system: System) -> None:
        system.api.grant("burst", provider="nylas")
        job = system.queue.send("burst", mail("late-failure@example.com"), provider="nylas").id
        eventually(lambda: system.state(job) is State.DEAD, "the report of its failure")
        assert (system.queue.job(job).rule, copies(system, job)) == ("failed_later", 0)
        operators = Operators(system.engine)
        (done,) = [one for one in operators.retry([job], by="anna", reason="the quota is back") if one.retried][-1:]
        assert done.jobs == (job,)
        eventually(lambda: delivery(system, job) is Delivery.DELIVERED, "its delivery")
        # The report may come before the record of its acceptance.
        eventually(lambda: system.state(job) is State.SENT, "the record of its acceptance")
        assert copies(system, job) == 1
        system.api.deliver_again()
        eventually(lambda: all(len(one.statuses) > 1 for one in system.api.notifications), "all notifications again")
        assert (system.state(job), copies(system, job)) == (State.SENT, 1)


class TestABounce:
    def test_is_known_at_its_job_whoever_sent_it(self, system: System) -> None:
        options = {name: Options(provider=name) for name in ("nylas", "google")}
        calls = [Send(f"of-{name}", mail("bounce@example.com"), one) for name, one in options.items()]
        for grant in options:
            system.api.grant(f"of-{grant}", provider=grant)
        jobs = [job.id for job in system.queue.send_many(calls)]
        eventually(lambda: {delivery(system, job) for job in jobs} == {Delivery.BOUNCED}, "both bounces")
        assert {system.state(job) for job in jobs} == {State.SENT}
        assert "refused it" in system.queue.why(jobs[0]).says
        kept = [system.rows(table) for table in (schema.delivery_status, schema.recipient_status, schema.webhook)]
        assert "bounce@" not in str(kept)


class TestARecipientWhoBounced:
    def test_is_refused_at_the_next_enqueue_and_gets_no_mail_that_waits(self, system: System) -> None:
        system.api.grant("supp", provider="nylas")
        address = "bounce+suppressed@example.com"
        first = system.queue.send("supp", mail(address), provider="nylas").id
        later = datetime.now(UTC) + timedelta(hours=1)
        waiting = system.queue.send("supp", mail(address), provider="nylas", due_at=later).id
        eventually(lambda: delivery(system, first) is Delivery.BOUNCED, "the report of the bounce")
        (entry,) = system.queue.suppressions(address)
        assert (entry.reason, entry.source, entry.category) == ("bounced", "message.bounced", None)
        with pytest.raises(SuppressedRecipients, match=r"to\[0\]: is on the suppression list"):
            SendQueue(system.engine).send("supp", mail(address))
        system.queue.reschedule(waiting, due_at=None)
        eventually(lambda: system.state(waiting) is State.DEAD, "the end of the mail that waited")
        assert (system.queue.job(waiting).rule, copies(system, waiting)) == ("suppressed", 0)
        assert "suppression list" in system.queue.why(waiting).says
        assert system.queue.unsuppress(address)
        retried = Operators(system.engine).retry([waiting], by="anna", reason="a typo at their provider").finish()
        assert retried.jobs == (waiting,)
        eventually(lambda: copies(system, waiting) == 1, "the mail after the removal")


class TestAFollowUp:
    def test_replies_in_the_thread_and_ends_when_it_is_answered(self, system: System) -> None:
        system.api.grant("follow", provider="google")
        steps = [(timedelta(0), "Hello {name}"), (timedelta(0), "Again"), (timedelta(days=7), "The last")]
        jobs = [job.id for job in begin(system.queue, "follow", 42, "leyah@example.com", "Leyah", steps)]
        eventually(lambda: system.state(jobs[1]) is State.SENT, "the second step")
        first, second = (one for one in system.api.mailbox if one.job in jobs)
        assert (first.job, second.job, second.thread_id) == (jobs[0], jobs[1], first.thread_id)
        assert second.payload["reply_to_message_id"] == first.id
        assert system.state(jobs[2]) is State.QUEUED
        eventually(lambda: system.queue.why(jobs[2]).until is not None, "the time of the third")
        system.api.answer(first)  # notified at once, days before the third step is due
        eventually(lambda: system.state(jobs[2]) is State.CANCELLED, "the end of the third")
        assert system.queue.job(jobs[2]).rule == "unless_replied"

    def test_is_not_sent_if_its_thread_shows_an_answer_that_nobody_notified(self, system: System) -> None:
        system.api.grant("silent", provider="google")
        first = system.queue.send("silent", mail()).id
        eventually(lambda: system.state(first) is State.SENT, "the first step")
        system.api.answer(next(one for one in system.api.mailbox if one.job == first))
        second = system.queue.send("silent", mail(), after=first, unless="replied").id
        eventually(lambda: system.state(second) is State.CANCELLED, "the end of the second")
        assert copies(system, second) == 0
        assert "was answered" in system.queue.why(second).says
