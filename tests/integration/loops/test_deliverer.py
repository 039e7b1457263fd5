"""Telling outcomes to real receivers on sockets: what they get, and that none of them delays another."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from benchmarks.certificate import write_certificate
from sendq import SendQueue, clock
from sendq.ids import lane_id
from sendq.ledger import deliveries, grants
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine, writing
from sendq.ledger.outcomes import append_jobs
from sendq.outcomes import ID, SIGNATURE, TIMESTAMP, BadOutcome, verify
from settings import Settings
from tasks.policy.table import POLICY
from tests.support.leading import FixedLeadership
from tests.support.ledger import MESSAGE, Ledger
from tests.support.receivers import SECRET, Receiver, receiving
from tests.support.waiting import eventually
from worker.leading.work_poll import WorkPoll
from worker.notifying.deliverer import Deliverer
from worker.redis.embedded import EmbeddedRedis, redis_client

TIMEOUT_S = 60.0  # of a receiver that answers
HANGING_S = 1.0  # of one that does not


@pytest.fixture
def ledger(sqlite_ledger_url: str) -> Iterator[Ledger]:
    """The queries are shown on both databases elsewhere; what goes over sockets is the same for both."""
    engine = open_engine(sqlite_ledger_url)
    ledger = Ledger(engine)
    ledger.queue = SendQueue(engine)
    yield ledger
    engine.dispose()


@contextmanager
def delivering(ledger: Ledger, *, leadership: FixedLeadership | None = None, **given: Any) -> Iterator[Deliverer]:
    """A deliverer at work; its receivers are endpoints by name, ``receivers``."""
    receivers: dict[str, Receiver] = given.pop("receivers", {})
    settings = Settings(
        outcome_secret=SECRET,
        outcome_endpoints={name: {"url": receiver.url} for name, receiver in receivers.items()},
        **({"outcome_timeout_s": TIMEOUT_S} | given),
    )
    deliverer = Deliverer(
        ledger.engine,
        leadership or FixedLeadership(),
        WorkPoll(ledger.engine, now=clock.now),
        settings,
        policy=POLICY,
        now=clock.now,
    )
    deliverer.start()
    try:
        yield deliverer
    finally:
        deliverer.stop(limit_s=1.0)


def ended(ledger: Ledger, target: str, number: int = 1, key: str | None = None) -> list[str]:
    """So many jobs that have ended, whose outcome is told to ``target``."""
    with ledger.writing() as connection:
        jobs = [
            ledger.queue.send("g1", MESSAGE, on_outcome=target, key=key, session=connection).id for _ in range(number)
        ]
        for job in jobs:
            ledger.queue.cancel(job, session=connection)
    return jobs


def states(ledger: Ledger, receiver: str) -> set[str]:
    return {row.state for row in ledger.rows(schema.delivery) if row.receiver == receiver}


def delivered(ledger: Ledger, receiver: str) -> bool:
    return states(ledger, receiver) == {"delivered"}


def errors(ledger: Ledger) -> list[str]:
    return [row.error for row in ledger.rows(schema.delivery) if row.error]


def due_now(ledger: Ledger) -> None:
    """The pauses of all receivers and deliveries are over."""
    with ledger.writing() as connection:
        connection.execute(schema.receiver.update().values(held_until=None))
        connection.execute(schema.delivery.update().values(next_at=0))


class TestAWebhook:
    def test_gets_each_outcome_signed_and_with_words(self, ledger: Ledger) -> None:
        with receiving() as receiver, delivering(ledger, receivers={"billing": receiver}):
            (job,) = ended(ledger, "webhook:billing")
            eventually(lambda: delivered(ledger, "webhook:billing"), "the delivery")
        (heard,) = receiver.heard
        assert heard.outcome is not None  # the signature is right, or it would be None
        assert {name: heard.outcome[name] for name in ("job_id", "kind", "rule", "title", "grant_id")} == {
            "job_id": job, "kind": "cancelled", "rule": "cancelled", "title": "Cancelled", "grant_id": "g1",
        }  # fmt: skip
        assert heard.headers["Content-Type"] == "application/json"
        assert heard.headers[ID] == heard.outcome["id"]
        assert "example.com" not in heard.raw.decode()

    def test_can_tell_a_tampered_one(self, ledger: Ledger) -> None:
        with receiving() as receiver, delivering(ledger, receivers={"billing": receiver}):
            ended(ledger, "webhook:billing")
            eventually(lambda: delivered(ledger, "webhook:billing"), "the delivery")
        (heard,) = receiver.heard
        for raw, headers in (
            (heard.raw.replace(b"cancelled", b"sent"), heard.headers),
            (heard.raw, heard.headers | {TIMESTAMP: str(int(heard.headers[TIMESTAMP]) + 1)}),
            (heard.raw, heard.headers | {SIGNATURE: "v1,AAAA"}),
        ):
            with pytest.raises(BadOutcome):
                verify(raw, headers, secret=SECRET)

    def test_that_refuses_is_told_again_with_a_new_signature_and_the_same_id(self, ledger: Ledger) -> None:
        with receiving(Receiver(status=500)) as receiver, delivering(ledger, receivers={"billing": receiver}):
            ended(ledger, "webhook:billing")
            eventually(lambda: errors(ledger) == ["status 500"], "the refusal")
            receiver.status = 204
            with ledger.writing() as connection:  # as if some time had passed
                connection.execute(schema.delivery.update().values(next_at=0))
            eventually(lambda: delivered(ledger, "webhook:billing"), "the delivery")
        first, second = (one.outcome for one in receiver.heard)
        assert first is not None
        assert second is not None
        assert (first["id"], first["sequence"]) == (second["id"], second["sequence"])

    def test_that_redirects_is_not_followed(self, ledger: Ledger) -> None:
        with (
            receiving() as other,
            receiving(Receiver(status=307, answer_headers={"Location": other.url})) as receiver,
            delivering(ledger, receivers={"billing": receiver}),
        ):
            ended(ledger, "webhook:billing")
            eventually(lambda: errors(ledger) == ["status 307"], "the refusal")
        assert other.heard == []

    def test_that_answers_without_end_is_not_read_to_it(self, ledger: Ledger) -> None:
        large = Receiver(answer=b"x" * 50_000_000)
        with receiving(large) as receiver, delivering(ledger, receivers={"billing": receiver}):
            ended(ledger, "webhook:billing", 3)
            eventually(lambda: delivered(ledger, "webhook:billing"), "the deliveries")
        assert len(receiver.heard) == 3

    def test_tells_in_order_though_one_was_refused(self, ledger: Ledger) -> None:
        choosy = Receiver(refuses=frozenset({"cancelled"}))
        with receiving(choosy) as receiver, delivering(ledger, receivers={"billing": receiver}):
            (job,) = ended(ledger, "webhook:billing")
            eventually(lambda: errors(ledger) == ["status 500"], "the refusal")
            ledger.set_job(UUID(job), state="sent")
            with ledger.writing() as connection:
                append_jobs(connection, [UUID(job)], now=clock.now())
            (other,) = ended(ledger, "webhook:billing")
            eventually(lambda: other in {one for one, _ in receiver.taken_in()}, "the other job's")
            assert receiver.kinds(job) == ["cancelled"]
            receiver.refuses = frozenset()
            due_now(ledger)
            eventually(lambda: delivered(ledger, "webhook:billing"), "the deliveries")
        assert receiver.kinds(job) == ["cancelled", "cancelled", "sent"]


class TestAReceiverThatFails:
    def test_delays_nobody_else_though_many_hang_for_long(self, ledger: Ledger) -> None:
        """They have a minute each; the others are told within half of that."""
        with receiving() as good, receiving(Receiver(hangs=True)) as hanging:
            names = [f"hangs-{number:02}" for number in range(20)]
            receivers = {"good": good} | dict.fromkeys(names, hanging)
            with delivering(ledger, receivers=receivers):
                for name in names:
                    ended(ledger, f"webhook:{name}", 5)
                eventually(lambda: len(hanging.heard) == 80, "four requests to each")
                for _ in range(3):
                    (job,) = ended(ledger, "webhook:good")
                    eventually(partial(good.kinds, job), "the other receiver's", limit_s=TIMEOUT_S / 2)
                eventually(lambda: delivered(ledger, "webhook:good"), "the deliveries", limit_s=TIMEOUT_S / 2)
        assert (len(hanging.heard), errors(ledger)) == (80, [])

    @pytest.mark.parametrize("trouble", ["hangs", "500", "503", "closed"])
    def test_delays_nobody_else_and_is_left_alone(
        self, ledger: Ledger, trouble: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deliveries, "PAUSE_FIRST", 3_600 * clock.SECOND)  # longer than this test takes anywhere
        bad = Receiver(hangs=trouble == "hangs", status=int(trouble) if trouble.isdigit() else 200)
        with receiving() as good, receiving(bad):
            if trouble == "closed":
                bad.port = 1  # nobody listens there
            with delivering(ledger, receivers={"good": good, "bad": bad}, outcome_timeout_s=HANGING_S):
                ended(ledger, "webhook:bad", 50)
                eventually(lambda: bad.heard or errors(ledger), "the trouble")
                for _ in range(5):
                    (job,) = ended(ledger, "webhook:good")
                    eventually(partial(good.kinds, job), "the other receiver's")
                eventually(lambda: delivered(ledger, "webhook:good"), "the other receiver's")
                eventually(lambda: errors(ledger), "the failure")
        assert states(ledger, "webhook:bad") == {"waiting"}
        assert len(bad.heard) <= (8 if trouble == "500" else 4)  # then it is left alone

    def test_is_told_everything_once_it_is_back(self, ledger: Ledger) -> None:
        with (
            receiving(Receiver(hangs=True)) as receiver,
            delivering(ledger, receivers={"billing": receiver}, outcome_timeout_s=HANGING_S),
        ):
            jobs = ended(ledger, "webhook:billing", 30)
            eventually(lambda: errors(ledger), "the failure")
            receiver.hangs = False
            due_now(ledger)
            eventually(lambda: delivered(ledger, "webhook:billing"), "the deliveries")
        assert {job for job, _ in receiver.taken_in()} == set(jobs)

    def test_holds_up_nobodys_end(self, ledger: Ledger) -> None:
        hanging = Receiver(hangs=True)
        with receiving(hanging) as receiver, delivering(ledger, receivers={"billing": receiver}) as deliverer:
            ended(ledger, "webhook:billing")
            eventually(lambda: receiver.heard, "the request")
            deliverer.stop(limit_s=0.1)
            assert not deliverer._thread.is_alive()
        assert states(ledger, "webhook:billing") == {"waiting"}


class TestAnAddress:
    def test_is_called_over_trusted_tls_if_its_host_is_on_the_list(
        self, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certificate, key = write_certificate(tmp_path)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        with receiving(tls=tls) as receiver:
            host = f"127.0.0.1:{receiver.port}"
            with delivering(ledger, outcome_hosts=host):
                ended(ledger, receiver.url)
                eventually(lambda: errors(ledger), "the refusal")
            assert errors(ledger) == ["its certificate is not trusted"]
            assert receiver.heard == []
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            due_now(ledger)
            with delivering(ledger, outcome_hosts=f"hooks.example.com, {host}"):
                eventually(lambda: delivered(ledger, f"https://{host}"), "the delivery")
        assert [one.path for one in receiver.heard] == ["/hook"]
        assert receiver.heard[0].outcome is not None

    def test_is_not_called_if_its_host_is_not(self, ledger: Ledger) -> None:
        with receiving() as receiver, delivering(ledger, outcome_hosts="hooks.example.com"):
            ended(ledger, f"https://127.0.0.1:{receiver.port}/hook")
            eventually(lambda: errors(ledger), "the refusal")
        assert errors(ledger) == ["the host is not in SENDQ_OUTCOME_HOSTS"]
        assert receiver.heard == []

    def test_is_not_shown_by_what_is_told_of_failures(self, ledger: Ledger) -> None:
        with delivering(ledger, outcome_hosts="127.0.0.1:1"):
            ended(ledger, "https://127.0.0.1:1/token-of-somebody")
            eventually(lambda: errors(ledger), "the failure")
        (row,) = ledger.rows(schema.delivery)
        assert "token-of-somebody" not in row.receiver + str(row.error)


class TestWhatIsNotConfigured:
    @pytest.mark.parametrize(
        ("target", "error"),
        [
            ("webhook:nobody", "SENDQ_OUTCOME_ENDPOINTS has no such endpoint"),
            ("billing.tasks.mail_outcome", "SENDQ_OUTCOME_BROKER_URL is not set"),
        ],
    )
    def test_waits_and_says_what_is_missing(self, ledger: Ledger, target: str, error: str) -> None:
        with delivering(ledger):
            ended(ledger, target)
            eventually(lambda: errors(ledger), "the failure")
        assert errors(ledger) == [error]


class TestAGrantThatNeedsItsOwner:
    def test_is_told_with_the_address_where_to_sign_in(self, ledger: Ledger) -> None:
        ledger.queue.send("g1", MESSAGE, on_outcome="webhook:billing")
        ledger.clock.at = clock.now()
        ledger.absorb()
        now = clock.now()
        with writing(ledger.engine) as connection:
            grants.close(connection, lane_id("default", "g1"), rule="grant_expired", by="webhook", now=now)
            grants.announce_closed(connection, closed_before=now, now=now, limit=1)
        with (
            receiving() as receiver,
            delivering(ledger, receivers={"billing": receiver}, reauth_url="https://app.example.com/in/{grant_id}"),
        ):
            eventually(lambda: delivered(ledger, "webhook:billing"), "the delivery")
        said = receiver.heard[0].outcome
        assert said is not None
        assert (said["kind"], said["title"], said["url"]) == (
            "reauth_required", "Grant expired", "https://app.example.com/in/g1",
        )  # fmt: skip


class TestWhoDoesNotLead:
    def test_tells_nobody_until_it_does(self, ledger: Ledger) -> None:
        leadership = FixedLeadership(leads=False)
        with (
            receiving() as receiver,
            delivering(ledger, receivers={"billing": receiver}, leadership=leadership) as deliverer,
        ):
            ended(ledger, "webhook:billing")
            eventually(lambda: deliverer.looks >= 2, "two looks")
            assert receiver.heard == []
            leadership.leads = True
            eventually(lambda: delivered(ledger, "webhook:billing"), "the delivery")


class TestATaskThatIsNotAllowed:
    def test_is_not_published_and_holds_up_no_other(self, ledger: Ledger, redis_url: str) -> None:
        """Another queue's, one of sendq itself that was stored before it was refused, and one that is no list."""
        with redis_client(redis_url) as client:
            client.set("shop.taken", "a string")
            with delivering(ledger, outcome_broker_url=redis_url, outcome_tasks=("shop.*",)):
                ended(ledger, "customers.tasks.delete_all@shop")
                (job,) = ended(ledger, "shop.tasks.heard@shop.taken")
                (ours,) = ended(ledger, "shop.tasks.heard@ours")
                with writing(ledger.engine) as connection:
                    connection.execute(text("UPDATE sendq_delivery SET target = 'a.b@sendq.unacked'"
                                            " WHERE target LIKE '%@ours'"))  # fmt: skip
                eventually(lambda: len(errors(ledger)) == 3, "three refusals")
                ended(ledger, "shop.tasks.heard@shop")
                eventually(lambda: client.llen("shop"), "the one that is allowed")
            assert job != ours
            assert sorted(key.decode() for key in client.keys("s*")) == ["shop", "shop.taken"]
        assert sorted(errors(ledger)) == [
            "SENDQ_OUTCOME_TASKS does not allow this task and queue",
            "its queue is a key of another type in the broker",
            "this version does not deliver to it: it names a queue that sendq or Celery itself uses",
        ]

    def test_is_every_one_by_default_but_the_operators_own(self, ledger: Ledger, redis_url: str) -> None:
        with (
            redis_client(redis_url) as client,
            delivering(ledger, outcome_broker_url=redis_url, on_reauth="ops.tasks.sign_in@ops"),
        ):
            ended(ledger, "shop.tasks.heard@shop")
            eventually(lambda: errors(ledger), "the refusal")
            ended(ledger, "ops.tasks.sign_in@ops")
            eventually(lambda: client.llen("ops"), "the one that is allowed")
            assert not client.exists("shop")


class TestABroker:
    def test_that_is_frozen_holds_up_no_webhook_and_gets_all_when_it_is_back(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        with EmbeddedRedis(tmp_path / "redis") as redis, receiving() as receiver:
            with redis_client(redis.url) as client:
                pid = int(client.info()["process_id"])
            with delivering(
                ledger,
                receivers={"billing": receiver},
                outcome_broker_url=redis.url,
                outcome_tasks=("*",),
                outcome_timeout_s=HANGING_S,
            ):
                ended(ledger, "foreign.tasks.heard", key="whom-it-is-for")
                eventually(lambda: delivered(ledger, "celery"), "the first")
                os.kill(pid, signal.SIGSTOP)
                try:
                    ended(ledger, "foreign.tasks.heard", 20)
                    for _ in range(3):
                        (job,) = ended(ledger, "webhook:billing")
                        eventually(partial(receiver.kinds, job), "the webhook")
                    eventually(lambda: errors(ledger), "the failure")
                finally:
                    os.kill(pid, signal.SIGCONT)
                due_now(ledger)
                eventually(lambda: delivered(ledger, "celery"), "the tasks")
            with redis_client(redis.url) as client:
                messages = [json.loads(one) for one in client.lrange("celery", 0, -1)]
        assert {message["headers"]["task"] for message in messages} == {"foreign.tasks.heard"}
        assert len({message["headers"]["id"] for message in messages}) == 21
        bodies = [base64.b64decode(message["body"]).decode() for message in messages]
        assert all('"kind"' in body and "whom-it-is-for" not in body for body in bodies)
