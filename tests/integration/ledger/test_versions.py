"""Two versions side by side: what another one wrote is neither lost nor harmful, and said once."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from sqlalchemy import text

from sendq import State
from sendq.errors import Retryable
from sendq.ids import new_id
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching import rescue, turns
from sendq.ledger.dispatching.loading import FOREIGN_RECHECK
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, Ledger, end, outcome
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import LIMIT_S, eventually
from worker.redis.embedded import redis_client
from worker.redis.transport import SET_ASIDE
from worker.redis.unknown_messages import take_back


@pytest.fixture
def other(system: System) -> Iterator[Celery]:
    """Another version's Celery application, on the same broker."""
    app = Celery("other", broker=system.redis.url, set_as_current=False)
    yield app
    app.close()


def send(app: Celery, name: str, *args: Any, **kwargs: Any) -> None:
    app.send_task(name, args=args, kwargs=kwargs, queue="sendq", ignore_result=True)


def works_on(system: System) -> None:
    """A worker does its work, whatever it met before."""
    job = system.queue.send("works-on", mail()).id
    eventually(lambda: system.state(job) is State.SENT, "a job that comes after it")
    (worker,) = system.workers
    assert worker.process.poll() is None
    assert "Traceback" not in worker.said()


def foreign(system: System) -> list[str]:
    """What the worker said of other versions."""
    lines = (json.loads(line) for line in system.workers[0].said().splitlines() if line.startswith("{"))
    return [f"{line['what']}: {line['name']}" for line in lines if line["event"] == "newer_version"]


class TestABundle:
    @pytest.mark.parametrize("args", [(), ("nonsense",), ([7, "x", {"lane": 1}],), ([["no id", 1, 1]],), ({"a": 1},)])
    def test_of_another_shape_is_left_and_said_once(self, system: System, other: Celery, args: tuple[Any, ...]) -> None:
        system.start_worker()
        for _ in range(3):
            send(other, "sendq.bundle", *args)
        works_on(system)
        eventually(lambda: foreign(system) == ["message: sendq.bundle"], "a word about it")

    def test_with_more_than_this_version_knows_is_carried_out(self, system: System, other: Celery) -> None:
        system.start_controlled_worker(SENDQ_UNCLAIMED_AFTER_S="60", SENDQ_LOCAL_TURNS="false")
        system.control("cancel_consumer", "sendq")
        job = system.queue.send("g1", mail()).id
        eventually(lambda: system.scalar("SELECT count(*) FROM sendq_lane WHERE turn = 'offered'"), "a turn")
        system.lose_messages()
        (lane,) = system.rows(schema.lane)
        send(other, "sendq.bundle", [[lane.id.hex, lane.fence, lane.turn_slots, "more"]], {"hint": 1}, region="eu")
        system.control("add_consumer", "sendq")
        eventually(lambda: system.state(job) is State.SENT, "the sending")

    def test_that_is_damaged_ends_no_worker(self, system: System) -> None:
        system.start_worker()
        good = {"id": "1", "task": "sendq.bundle", "argsrepr": "", "kwargsrepr": ""}
        delivery = {"exchange": "", "routing_key": "sendq"}
        properties = {"delivery_tag": "t", "body_encoding": "base64", "delivery_info": delivery}
        envelopes: list[Any] = [
            {"body": encoded("no list"), "headers": good},
            {"body": encoded([]), "headers": good},
            {"body": base64.b64encode(b"\xff not json").decode(), "headers": good},
            {"body": encoded([[], {}, {}]), "headers": {}},
            {"body": encoded([[], {}, {}]), "headers": good, "content-type": "application/x-python-serialize"},
        ]
        with redis_client(system.redis.url) as client:
            for number, envelope in enumerate(envelopes):
                whole = {"content-type": "application/json", "content-encoding": "utf-8"} | envelope
                whole["properties"] = properties | {"delivery_tag": f"t{number}"}
                client.lpush("sendq", json.dumps(whole))
        works_on(system)


def encoded(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


class TestATask:
    def test_that_nobody_knows_is_kept_for_who_will_and_its_body_stays_out_of_the_log(
        self, system: System, other: Celery
    ) -> None:
        system.start_worker()
        for number in range(3):
            send(other, "sendq.later", number, to="leyah@example.com", subject="a secret subject")
        works_on(system)
        with redis_client(system.redis.url) as client:
            eventually(lambda: client.llen(SET_ASIDE) == 3, "three kept messages")
        assert foreign(system) == ["task: sendq.later"]
        said = system.workers[0].said()
        assert "secret subject" not in said
        assert "leyah" not in said
        # A version that knows it comes, looks, and hands them back in order, as they were.
        other.task(name="sendq.later")(later)
        system.workers[0].kill()
        with other.connection_for_write() as connection:
            assert take_back(other, connection) == 3
            queue = connection.SimpleQueue("sendq")
            found = [queue.get(timeout=LIMIT_S) for _ in range(3)]
            assert [one.payload[0] for one in found] == [[0], [1], [2]]
            assert found[0].payload[1] == {"to": "leyah@example.com", "subject": "a secret subject"}
            assert found[0].headers["task"] == "sendq.later"
            queue.close()


def later(number: int, *, to: str, subject: str) -> None:
    """A task of that version."""


class TestAJob:
    def test_of_an_unknown_operation_is_left_and_holds_nobody_up(self, ledger: Ledger) -> None:
        strange = ledger.send()
        ledger.set_job(strange, operation="draft")
        known = ledger.send()
        claimed = ledger.serve()
        assert [job.id for job in claimed.jobs] == [known]
        assert claimed.foreign == {"draft"}
        ledger.finish(claimed)
        before = ledger.job(strange)
        assert (before.state, before.attempts, before.deaths) == ("queued", 0, 0)
        assert ledger.due() == [], "it is not asked about over and over"
        ledger.clock.advance(FOREIGN_RECHECK / 1e6)
        again = ledger.serve()
        assert again.jobs == []
        assert again.foreign == {"draft"}

    def test_of_an_unknown_operation_keeps_its_place_before_later_ones_of_its_message(self, ledger: Ledger) -> None:
        (first,) = ledger.modify("g1", ["m1"])
        ledger.clock.advance(1)
        ledger.modify("g1", ["m1"])
        ledger.set_job(first, operation="move")
        assert ledger.serve().jobs == []

    def test_of_an_unknown_operation_that_died_on_the_wire_is_believed_the_worst_of(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.set_job(job, operation="draft", cancel_at=ledger.clock())
        with ledger.writing() as connection:
            rescue.bury(connection, claimed.worker, now=ledger.clock())
        assert ledger.state(job) is State.IN_DOUBT

    def test_in_an_unknown_state_is_shown_as_it_is_and_never_touched(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.set_job(job, state="in_review")
        recorded = ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(claimed)])
        assert len(recorded.late) == 1
        assert len(ledger.rows(schema.attempt)) == 1, "the fact is kept"
        view = ledger.queue.job(str(job))
        assert view.state == "in_review"
        assert ledger.queue.why(str(job)).reason == "foreign"
        assert ledger.queue.cancel(str(job)) == "in_review"
        ledger.clock.advance(3600)
        assert ledger.offer() == []

    def test_in_an_unknown_state_is_not_over_for_its_batch(self, ledger: Ledger) -> None:
        ids = ledger.modify("g1", ["m1", "m2"])
        row = {"batch_id": ledger.job(ids[0]).batch_id, "state": "in_review", "count": 1, "at": 0}
        ledger.set_job(ids[0], state="in_review")
        with ledger.writing() as connection:
            connection.execute(schema.batch_change.insert(), [row, row | {"state": "muted"}])
        batch = ledger.queue.batch(str(ledger.job(ids[0]).batch_id))
        assert (batch.waiting, batch.progress) == (2, 0)

    def test_of_a_newer_version_goes_to_a_worker_of_it(self, system: System) -> None:
        """A worker of this version gives it back untouched, and works on."""
        job = system.queue.send("g1", mail()).id
        with writing(system.engine) as connection:
            connection.execute(schema.job.update().where(schema.job.c.id == UUID(job)).values(operation="draft"))
        system.start_worker()
        works_on(system)
        eventually(lambda: foreign(system) == ["operation: draft"], "a word about it")
        assert system.state(job) is State.QUEUED
        assert system.queue.job(job).trail == ()


ADDED = (
    "ALTER TABLE sendq_job ADD COLUMN newer text",
    "ALTER TABLE sendq_job ADD COLUMN counted integer NOT NULL DEFAULT 7",
    "ALTER TABLE sendq_lane ADD COLUMN newer bigint",
    "ALTER TABLE sendq_attempt ADD COLUMN newer text",
    "ALTER TABLE sendq_wake ADD COLUMN newer text",
    "ALTER TABLE sendq_worker ADD COLUMN newer text",
    "ALTER TABLE sendq_pair ADD COLUMN newer text",
    "CREATE TABLE sendq_newer (id integer)",
)


def add_to(system: System) -> None:
    """What a later step of the schema does; under load it may meet a deadlock, and is run again."""

    def added() -> bool:
        try:
            with writing(system.engine) as connection:
                for statement in ADDED:
                    connection.execute(text(statement))
                version = f"UPDATE {schema.VERSION_TABLE} SET version_num = '{migrate.wanted()}.1'"
                connection.execute(text(version))
        except Retryable:
            return False
        return True

    eventually(added, "the migration")


class TestASchemaThatGrew:
    @pytest.mark.parametrize("database", ["sqlite", "postgresql"])
    def test_under_a_worker_and_an_application_stops_neither(
        self, pg_server: PgServer, tmp_path: Path, database: str
    ) -> None:
        with pg_server.database() as name:
            url = pg_server.url(name) if database == "postgresql" else f"sqlite:///{tmp_path}/sendq.db"
            with running(url, tmp_path, latency=0.05) as system:
                system.start_worker()
                jobs = [system.queue.send(f"g{number % 5}", MESSAGE).id for number in range(40)]
                eventually(lambda: system.states()[State.SENT] >= 10, "work")
                add_to(system)
                jobs += [system.queue.send(f"g{number % 5}", MESSAGE).id for number in range(40)]
                system.wait_for(State.SENT, 80)
                assert all(system.accepted()[job] == 1 for job in jobs)
                assert '"bug"' not in system.workers[0].said()

    def test_lets_a_worker_of_before_start_and_says_so(self, system: System) -> None:
        add_to(system)
        system.start_worker()
        works_on(system)
        assert foreign(system) == [f"schema: {migrate.wanted()}.1"]

    def test_is_left_alone_by_a_migration_of_before(self, system: System) -> None:
        add_to(system)
        grown = f"{migrate.wanted()}.1"
        assert migrate.run(system.ledger_url) == migrate.Upgrade(grown, grown, ())
        assert migrate.state(system.engine) == migrate.SchemaState(grown, migrate.wanted(), "ahead")


def test_ids_of_another_version_are_no_trouble(ledger: Ledger) -> None:
    """A turn of a lane that is not there, offered by nobody: nothing is claimed."""
    with ledger.writing() as connection:
        assert turns.claim(connection, [(new_id(), 3)], worker=new_id(), now=ledger.clock(), jobs_each=5) == []
