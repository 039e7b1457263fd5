"""Outcomes through real processes: workers that are killed, a receiver on a socket, another Celery application."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendq import Send, State
from sendq.enqueueing.options import Options
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing
from tests.support.receivers import SECRET, ForeignApplication, Receiver, receiving
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import eventually
from worker.redis.embedded import EmbeddedRedis

HOOK = "webhook:billing"
TASK = f"{ForeignApplication.task}@outcomes"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignApplication]:
    """Another application with a Redis of its own."""
    directory = tmp_path_factory.mktemp("foreign")
    with EmbeddedRedis(directory / "redis") as redis:
        application = ForeignApplication(redis.url, directory, "celery", "outcomes")
        yield application
        application.close()


@pytest.fixture(scope="module")
def system(
    pg_server: PgServer, receiver: Receiver, foreign: ForeignApplication, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("system")
    with pg_server.ledger() as url, running(url, directory, latency=0.02) as system:
        yield system


def start(system: System, receiver: Receiver, foreign: ForeignApplication) -> None:
    """One more worker."""
    system.start_worker(
        SENDQ_OUTCOME_ENDPOINTS=json.dumps({"billing": {"url": receiver.url, "secret": SECRET}}),
        SENDQ_OUTCOME_BROKER_URL=foreign.broker_url,
        SENDQ_OUTCOME_TASKS=TASK,
        SENDQ_ANNOUNCE_AFTER_S="0.5",
        SENDQ_ON_REAUTH=HOOK,
    )


class TestWorkersThatAreKilled:
    def test_leave_no_outcome_untold(self, system: System, receiver: Receiver, foreign: ForeignApplication) -> None:
        for _ in range(2):
            start(system, receiver, foreign)
        sends = [
            Send(f"g{number % 80}", mail("bad@example.com" if number % 10 == 0 else "leyah@example.com"),
                 Options(on_outcome=HOOK if number % 2 else TASK, provider="google"))
            for number in range(240)
        ]  # fmt: skip
        jobs = [job.id for job in system.queue.send_many(sends)]
        for round_ in range(1, 4):
            eventually(lambda more=50 * round_: len(receiver.taken_in()) + len(foreign.taken_in()) >= more, "outcomes")  # type: ignore[misc]
            system.workers[-2].kill()
            start(system, receiver, foreign)
        hooked, tasked = set(jobs[1::2]), set(jobs[0::2])
        # One whose call was on the wire at a kill is in doubt if its repeat is refused: that says nothing of the call.
        ended = {State.SENT, State.DEAD, State.IN_DOUBT}
        eventually(lambda: sum(system.states()[state] for state in ended) == len(jobs), "the ends")
        eventually(lambda: {job for job, _ in receiver.taken_in()} >= hooked, "the webhook's")
        eventually(lambda: {job for job, _ in foreign.taken_in()} >= tasked, "the task's")

        def told() -> dict[str, str]:
            """The last outcome of each job."""
            return dict(receiver.taken_in().keys()) | dict(foreign.taken_in().keys())

        # Each was told of what became of it, and of nothing else. A doubt may end now, which is told too.
        eventually(lambda: told() == {str(row.id): row.state for row in system.rows(schema.job)}, "the last outcomes")
        assert all(one.outcome is not None for one in receiver.heard)
        assert {one["queue"] for one in foreign.heard()} == {"outcomes"}
        assert all(one["task_id"] == one["id"] for one in foreign.heard())


class TestEveryKind:
    def test_is_told(self, system: System, receiver: Receiver, foreign: ForeignApplication) -> None:
        start(system, receiver, foreign)
        system.api.grant("closed", status="invalid")
        doubtful = system.queue.send("doubtful", mail("timeout@example.com"), on_outcome=HOOK).id
        waits, ends = (system.queue.send("closed", mail(), on_outcome=HOOK).id for _ in range(2))
        eventually(lambda: system.queue.why(waits).reason == "reauth", "the closed lane")
        eventually(lambda: ("closed", "reauth_required") in receiver.taken_in(), "reauth required")
        system.queue.cancel(waits)
        with writing(system.engine) as connection:
            connection.execute(schema.job.update().where(schema.job.c.id == ends).values(expires_at=1))
        for job, kind in ((waits, "cancelled"), (ends, "expired"), (doubtful, "in_doubt")):
            eventually(lambda job=job, kind=kind: kind in receiver.kinds(job), kind)  # type: ignore[misc]
        (said,) = [one.outcome for one in receiver.heard if one.outcome and one.outcome.get("job_id") == doubtful]
        assert (said["state"], said["key"]) == ("in_doubt", None)
        assert said["title"]
        assert said["remedy"]

    def test_nothing_private_is_told_or_logged(self, system: System, receiver: Receiver, tmp_path: Path) -> None:
        told = b"".join(one.raw for one in receiver.heard)
        logs = "".join(worker.said() for worker in system.workers)
        for private in ("leyah@example.com", "Invoice 42", "<p>42</p>"):
            assert private.encode() not in told
            assert private not in logs
        assert SECRET not in logs
        assert '"bug"' not in logs
