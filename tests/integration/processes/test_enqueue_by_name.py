"""``app.send_task("sendq.enqueue", …)`` from another Celery application, through a real broker and real workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from sendq import State
from tests.support.servers import PgServer
from tests.support.system import System, running
from tests.support.waiting import eventually
from worker.redis.embedded import redis_client

QUEUE = "sendq.enqueue"
MESSAGE = {"to": ["leyah@marked.example"], "subject": "marked subject", "body": "<p>marked body</p>"}


@pytest.fixture
def database(pg_server: PgServer) -> Iterator[str]:
    with pg_server.database() as name:
        yield name


@pytest.fixture
def system(pg_server: PgServer, database: str, tmp_path: Path) -> Iterator[System]:
    with running(pg_server.url(database), tmp_path) as system:
        yield system


@pytest.fixture(scope="module")
def refusing(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system for all that is refused."""
    with pg_server.ledger() as url, running(url, tmp_path_factory.mktemp("system")) as system:
        system.start_worker(SENDQ_ENQUEUE_TASK="true")
        yield system


@pytest.fixture
def web(system: System) -> Iterator[Celery]:
    """Somebody else's application on our broker; it knows the task's name and nothing of us."""
    app = Celery("web", broker=system.redis.url, set_as_current=False)
    yield app
    app.close()


def enqueue(web: Celery, *args: Any, queue: str = QUEUE, **kwargs: Any) -> str:
    return str(web.send_task("sendq.enqueue", args=args, kwargs=kwargs, queue=queue).id)


def send(web: Celery, key: str | None = None, **kwargs: Any) -> str:
    given = {"operation": "send", "grant_id": "g1", "key": key or f"key-{uuid4()}", "message": MESSAGE}
    return enqueue(web, **(given | kwargs))


def lost_to_nobody(system: System) -> int:
    """Messages that wait, or that a worker has taken and not acknowledged."""
    with redis_client(system.redis.url) as client:
        return int(client.llen(QUEUE)) + int(client.hlen("sendq.unacked"))


def refused(system: System) -> int:
    return system.workers[-1].said().count('"event": "enqueue_rejected"')


class TestWhenItIsSwitchedOn:
    def test_it_enqueues_what_sendqueue_would(self, system: System, web: Celery) -> None:
        system.start_worker(SENDQ_ENQUEUE_TASK="true")
        send(web, "invoice-42", priority="high", due_at="2026-01-01T00:00:00Z", expires_at="never")
        enqueue(
            web,
            operation="modify",
            grant_id="g1",
            key="mark-read",
            message_ids=["m1", "m2"],
            unread=False,
            starred=True,
        )
        system.wait_for(State.SENT, 3)
        view = system.queue.job(key="invoice-42")
        assert (view.operation, view.grant_id, view.expires_at) == ("send", "g1", None)
        assert system.api.mailbox[0].payload["subject"] == "marked subject"
        assert system.queue.batch(key="mark-read").total == 2
        eventually(lambda: lost_to_nobody(system) == 0, "the acknowledgements")
        # It was Celery's to carry; what is told of it is not.
        assert "marked" not in system.workers[0].said()

    def test_a_message_that_comes_twice_makes_one_job(self, system: System, web: Celery) -> None:
        system.start_worker(SENDQ_ENQUEUE_TASK="true")
        for _ in range(5):
            send(web, "invoice-42")
        send(web, "last")
        system.wait_for(State.SENT, 2)
        eventually(lambda: lost_to_nobody(system) == 0, "the acknowledgements")
        assert system.states() == {State.SENT: 2}

    def test_other_content_under_a_used_key_is_refused(self, system: System, web: Celery) -> None:
        system.start_worker(SENDQ_ENQUEUE_TASK="true")
        send(web, "invoice-42")
        system.wait_for(State.SENT, 1)
        send(web, "invoice-42", message=MESSAGE | {"subject": "marked otherwise"})
        eventually(lambda: refused(system) == 1, "the refusal")
        assert system.states() == {State.SENT: 1}
        assert "marked" not in system.workers[0].said()

    def test_nothing_is_lost_or_doubled_while_the_ledger_is_away(
        self, system: System, web: Celery, pg_server: PgServer, database: str
    ) -> None:
        worker = system.start_worker(SENDQ_ENQUEUE_TASK="true", SENDQ_GRACE_S="6")
        send(web)
        system.wait_for(State.SENT, 1)
        pg_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        pg_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
        try:
            for _ in range(30):
                send(web)
            eventually(lambda: worker.said().count("enqueue_requeued") > 10, "the second round")
            worker.terminate()
            assert lost_to_nobody(system) == 30
        finally:
            pg_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        system.start_worker(SENDQ_ENQUEUE_TASK="true")
        system.wait_for(State.SENT, 31)
        eventually(lambda: lost_to_nobody(system) == 0, "the acknowledgements")
        assert system.states() == {State.SENT: 31}
        assert "marked" not in worker.said()


class TestBadInput:
    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"key": None}, "key"),
            ({"message": {"to": ["no address"]}}, "to[0].email"),
            ({"message": {"to": "leyah@marked.example"}}, "message.to"),
            ({"message": 7}, "message"),
            ({"grant_id": "leyah@marked.example"}, "grant_id"),
            ({"operation": "destroy"}, "operation"),
            ({"due_at": "tomorrow"}, "due_at"),
            ({"due_at": "2026-07-01T09:00:00"}, "due_at"),
            ({"on_outcome": "mail_outcome"}, "on_outcome"),
            ({"attachments": []}, "attachments"),
            ({"message": MESSAGE | {"attachments": ["/etc/hostname"]}}, "message.attachments"),
        ],
    )
    def test_what_cannot_become_a_job_is_told_once_and_is_over(
        self, refusing: System, wrong: dict[str, Any], field: str
    ) -> None:
        web = Celery("web", broker=refusing.redis.url, set_as_current=False)
        before = refused(refusing)
        task = enqueue(web, **({"operation": "send", "grant_id": "g1", "key": "k", "message": MESSAGE} | wrong))
        eventually(lambda: refused(refusing) > before, "the refusal")
        eventually(lambda: lost_to_nobody(refusing) == 0, "its end")
        web.close()
        lines = refusing.workers[0].said().splitlines()
        (line,) = [line for line in lines if task in line and "enqueue_rejected" in line]
        assert f'"{field}: ' in line
        assert "marked" not in refusing.workers[0].said()
        assert refusing.states() == {}


class TestWhenItIsNot:
    def test_its_queue_waits_and_a_message_elsewhere_is_refused_for_all_to_see(
        self, system: System, web: Celery
    ) -> None:
        system.start_worker()
        send(web)
        enqueue(web, queue="sendq", operation="send", grant_id="g1", key="k", message=MESSAGE)
        eventually(lambda: refused(system) == 1, "the refusal")
        assert "SENDQ_ENQUEUE_TASK is not set" in system.workers[0].said()
        assert "marked" not in system.workers[0].said()
        eventually(lambda: lost_to_nobody(system) == 1, "its end")
        assert system.states() == {}
