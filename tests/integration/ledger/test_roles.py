"""deploy/roles.sql and deploy/redis.acl on real servers: each role can do its work, and nothing of another's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from queue import Empty
from typing import Any

import psycopg
import pytest
from celery import Celery
from psycopg.errors import InsufficientPrivilege
from redis.exceptions import NoPermissionError

from sendq import Attachment, LedgerUnavailable, Message, NewBatch, Query, Send, SendQueue, State, SuppressedRecipients
from sendq.api.problems import refusal
from sendq.clock import SECOND, moment
from sendq.console.serving import explained
from sendq.ledger import batches, retention
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_engine
from sendq.ledger.dispatching import workers
from sendq.operators import Operators
from sendq.scope import Scope
from settings import Settings
from settings.celery import QUEUE, celery_config
from tests.support.ledger import START, Clock, Ledger
from tests.support.servers import PgServer
from tests.support.system import ROOT
from tests.support.waiting import LIMIT_S
from worker.doctor import check as checks
from worker.doctor.check_redis import RIGHTS, redis_items
from worker.redis import transport
from worker.redis.embedded import redis_client

ROLES = (ROOT / "deploy" / "roles.sql").read_text(encoding="utf-8")
ACL = (ROOT / "deploy" / "redis.acl").read_text(encoding="utf-8")
BY: dict[str, Any] = {"by": "anna", "reason": "a test"}


def mail(number: int = 42) -> Message:
    terms = Attachment(filename="terms.pdf", content=b"42" * 2_000_000)  # large enough for a row of its own
    return Message(to=["leyah@example.com"], subject=f"Invoice {number}", body="42", attachments=[terms])


@dataclass
class Database:
    """A ledger whose tables belong to ``sendq_owner``."""

    server: PgServer
    name: str

    def url(self, role: str) -> str:
        return self.server.url(self.name).replace("postgres@", f"{role}@")

    def execute(self, role: str, statement: str) -> list[Any]:
        with psycopg.connect(
            host=self.server.host, port=self.server.port, user=role, dbname=self.name, autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def ledger(self, role: str, clock: Clock) -> Iterator[Ledger]:
        engine = open_engine(self.url(role))
        try:
            yield Ledger(engine, clock)
        finally:
            engine.dispose()


@pytest.fixture(scope="module")
def database(pg_server: PgServer) -> Iterator[Database]:
    with pg_server.database() as name:
        found = Database(pg_server, name)
        found.execute("postgres", ROLES)
        migrate.run(found.url("sendq_owner"))
        found.execute("postgres", ROLES)
        yield found
    for role in ("sendq_owner", "sendq_worker", "sendq_app"):
        pg_server.execute(f"DROP ROLE {role}")


class TestTheRoles:
    def test_the_application_enqueues_reads_and_cancels_what_the_worker_role_carries_out(
        self, database: Database
    ) -> None:
        clock = Clock()
        with database.ledger("sendq_app", clock) as web, database.ledger("sendq_worker", clock) as work:
            with work.writing() as connection:
                workers.register(
                    connection, work.worker, name="w", pid=1, version="0", load=workers.Load(9), now=clock()
                )
                assert workers.lead(connection, work.worker, now=clock(), lease=60 * SECOND)
                workers.sleep_until(connection, work.worker, clock() + 3600 * SECOND)
            queue = SendQueue(web.engine, lane_cap=10, now=clock)
            first = queue.send("g1", mail(), key="a", on_outcome="webhook:shop")
            assert queue.send("g1", mail(), key="a").id == first.id
            queue.send("g1", mail())  # the same file once more
            work.finish(work.serve())
            cancelled = queue.send("g1", mail(43), on_outcome="webhook:shop")
            assert queue.cancel(cancelled.id) is State.CANCELLED
            batch = queue.modify("g1", ["m1", "m2"], unread=False)
            queue.cancel_batch(batch.id)
            walk = queue.modify_matching("g1", Query(unread=True), unread=False)
            queue.cancel_batch(walk.id)
            later = queue.send("g1", mail(44), due_at=moment(clock() + 60 * SECOND))
            changed = queue.modify("g1", ["m3", "m4"], unread=False)
            each: tuple[tuple[dict[str, Any], int], ...] = (({"job_id": later.id}, 1), ({"batch_id": changed.id}, 2))
            for named, number in each:
                assert queue.reschedule(**named, due_at=moment(clock() + 90 * SECOND), by="anna") == number
                assert queue.set_priority(**named, priority="low") == number
                assert queue.hold(**named) == queue.release(**named) == number
            assert sum(event.number == 2 for event in web.rows(schema.event)) == 4
            with work.writing() as connection:
                batches.finish_batches(connection, now=clock(), limit=100)
            assert queue.job(first.id).state is State.SENT
            assert queue.batch(batch.id).counts[State.CANCELLED] == 2
            assert {line.id for line in queue.jobs("g1").items} >= {first.id, cancelled.id}
            assert queue.why(cancelled.id).reason
            assert queue.grant("g1").provider
            assert queue.eta("g1").ahead == 0

    def test_the_application_sends_many_merges_and_keeps_to_the_suppression_list(self, database: Database) -> None:
        clock = Clock()
        with database.ledger("sendq_app", clock) as web, closing(SendQueue(web.engine, now=clock)) as queue:
            text = "same text " * 300
            many = [Send("g3", Message(to=[f"a{n}@example.com"], subject="x", body=text)) for n in range(3)]
            batch = queue.send_many(many, batch=NewBatch(key="may", tags={"campaign": "may"}, open=True))
            assert queue.add(batch.id, many)
            queue.close_batch(batch.id)
            assert queue.batch(batch.id).total == 6
        endpoint = "https://shop.example/unsubscribe"
        with database.ledger("sendq_app", clock) as web:
            with closing(SendQueue(web.engine, now=clock, unsubscribe_url=endpoint)) as queue:
                token = queue.unsubscribe_url("bea@example.com", "news").rpartition("/")[2]
                assert queue.unsubscribe(token)
            with (
                database.ledger("sendq_worker", clock) as work,
                closing(Operators(work.engine, now=clock)) as operators,
            ):
                list(operators.suppress(["ann@example.com"], **BY))
            with closing(SendQueue(web.engine, now=clock)) as queue:
                to_both = Message(to=["ann@example.com", "zoe@example.com"], subject="x", body="x")
                with pytest.raises(SuppressedRecipients):
                    queue.send("g3", to_both)
                assert queue.send("g3", to_both, suppressed="drop").dropped

    def test_the_application_is_told_that_it_may_not_replace_a_message(self, database: Database) -> None:
        with database.ledger("sendq_app", Clock()) as web, closing(SendQueue(web.engine, now=web.clock)) as queue:
            job = queue.send("g4", mail())
            with pytest.raises(LedgerUnavailable, match="connect as sendq_worker") as refused:
                queue.replace(job.id, mail(43))
            assert queue.job(job.id).state is State.QUEUED
            assert not [row for row in web.rows(schema.event) if row.kind == "replace"]
        assert explained(refused.value)[:2] == (500, "The database does not allow this")
        problem = refusal(refused.value)
        assert (problem.kind, problem.answer().status_code) == ("no-right", 500)

    @pytest.mark.parametrize("decision", ["approve", "reject"])
    def test_the_application_approves_and_rejects(self, database: Database, decision: str) -> None:
        with database.ledger("sendq_app", Clock()) as web, closing(SendQueue(web.engine, now=web.clock)) as queue:
            one = queue.send("g5", mail(), needs_approval=True, on_outcome="webhook:shop")
            many = queue.send_many([Send("g5", mail())] * 2, batch=NewBatch(needs_approval=True))
            read = queue.job(one.id).content_version
            assert getattr(queue, decision)(one.id, content=read, by="anna") == 1
            assert getattr(queue, decision)(batch_id=many.id, by="anna") == 2
            events = [(row.kind, row.number) for row in web.rows(schema.event) if row.kind == decision]
            assert events == [(decision, None), (decision, 2)]
            if decision == "approve":
                queue.cancel(one.id)
                queue.cancel_batch(many.id)

    def test_operators_act_with_the_worker_role(self, database: Database) -> None:
        clock = Clock(START + 86_400 * SECOND)
        with database.ledger("sendq_worker", clock) as work, closing(Operators(work.engine, now=clock)) as operators:
            job = work.send("g2")
            scope = Scope.of_grant("g2")
            operators.hold(scope, until=moment(clock()) + timedelta(hours=1), **BY)
            operators.release(scope, **BY)
            operators.cancel(str(job), **BY)
            list(operators.forget("g2", **BY))
            assert operators.status().workers
            clock.advance(400 * 86_400)
            with work.writing() as connection:
                retention.drop_jobs(connection, State.CANCELLED, before=clock(), now=clock())
                retention.drop_keys(connection, before=clock())

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO sendq_job_tag (tag, job_id) VALUES ('campaign=may', gen_random_uuid())",
            "UPDATE sendq_batch SET open = false, total = 1, lane_id = NULL",
        ],
    )
    def test_the_application_tags_and_closes_batches(self, database: Database, statement: str) -> None:
        assert database.execute("sendq_app", statement) == []

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM sendq_attempt",
            "UPDATE sendq_attempt SET rule = 'x'",
            "INSERT INTO sendq_event (id, at, kind, by) VALUES (gen_random_uuid(), 0, 'x', 'x')",
            "INSERT INTO sendq_event (id, at, kind, by) VALUES (gen_random_uuid(), 0, 'hold', 'x')",
            "UPDATE sendq_event SET by = 'x'",
            "DELETE FROM sendq_event",
            "UPDATE sendq_lane SET held_until = NULL",
            "UPDATE sendq_pair SET held_until = NULL",
            "UPDATE sendq_leader SET fence = 9",
            "UPDATE sendq_job SET generation = 9",
            "UPDATE sendq_job SET content_version = 9",
            "UPDATE sendq_payload SET body = ''",
            "UPDATE sendq_delivery SET state = 'x'",
            "DELETE FROM sendq_job",
            "DELETE FROM sendq_key",
            "DELETE FROM sendq_wake",
            "TRUNCATE sendq_wake",
            "UPDATE sendq_secret SET value = ''",
            "DELETE FROM sendq_secret",
            "UPDATE sendq_suppression SET reason = 'x'",
            "DELETE FROM sendq_suppression",
            "UPDATE sendq_version SET version_num = '9'",
            "ALTER TABLE sendq_job ADD COLUMN x int",
            "DROP TABLE sendq_job",
            "CREATE TABLE sendq_mine (id int)",
        ],
    )
    def test_the_application_changes_nothing_that_workers_record(self, database: Database, statement: str) -> None:
        with pytest.raises(InsufficientPrivilege):
            database.execute("sendq_app", statement)

    @pytest.mark.parametrize(
        "statement",
        [
            "ALTER TABLE sendq_job ADD COLUMN x int",
            "DROP TABLE sendq_job",
            "UPDATE sendq_version SET version_num = '9'",
        ],
    )
    def test_workers_change_no_table_itself(self, database: Database, statement: str) -> None:
        with pytest.raises(InsufficientPrivilege):
            database.execute("sendq_worker", statement)

    def test_every_table_belongs_to_the_owner(self, database: Database) -> None:
        owners = database.execute("postgres", "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'sendq%'")
        assert owners == [("sendq_owner",)]

    def test_check_accepts_the_worker_role_and_names_what_it_lacks(self, database: Database) -> None:
        settings = Settings(database_url=database.url("sendq_worker"))
        assert [item.state for item in checks.ledger_items(settings)][:2] == ["ok", "ok"]
        database.execute("postgres", "REVOKE DELETE ON sendq_wake FROM sendq_worker")
        database.execute("postgres", "REVOKE USAGE ON SEQUENCE sendq_batch_change_id_seq FROM sendq_worker")
        item = next(iter(checks.ledger_items(settings)))
        assert (item.state, item.says) == (
            "fail", "the database user may not write to sendq_batch_change_id_seq, sendq_wake",
        )  # fmt: skip
        assert "deploy/roles.sql" in item.remedy
        database.execute("postgres", ROLES)
        assert next(iter(checks.ledger_items(settings))).state == "ok"


class TestTheBrokersUser:
    @pytest.fixture
    def url(self, redis_url: str) -> Iterator[str]:
        """The broker's address, as the user of deploy/redis.acl, with a password."""
        (line,) = (line for line in ACL.splitlines() if line.startswith("user sendq "))
        with redis_client(redis_url) as client:
            client.execute_command("ACL", "SETUSER", *line.split()[1:])
            client.execute_command("ACL", "SETUSER", "sendq", ">pass")
            try:
                yield redis_url.replace("redis+socket://", "redis+socket://sendq:pass@")
            finally:
                client.execute_command("ACL", "DELUSER", "sendq")

    def test_has_just_the_rights_that_check_asks_for(self, url: str) -> None:
        assert ACL.splitlines()[1] == f"user sendq reset on {RIGHTS}"
        assert ACL.splitlines()[0] == "user default reset off"
        assert {item.name: item.state for item in redis_items(Settings(redis_url=url))}["redis rights"] == "ok"

    def test_a_workers_connection_publishes_takes_acknowledges_and_restores(self, url: str) -> None:
        transport.register()
        with closing(Celery("ours", set_as_current=False, config_source=celery_config(Settings(redis_url=url)))) as app:
            app.send_task("sendq.bundle", ([],), queue=QUEUE)
            with app.connection() as connection, connection.SimpleQueue(app.amqp.queues[QUEUE]) as queue:
                queue.get(timeout=LIMIT_S).requeue()
                queue.get(timeout=LIMIT_S).ack()
                queue.channel.qos.restore_visible()
                with pytest.raises(Empty):
                    queue.get_nowait()
            assert app.control.inspect(timeout=0.01).ping() is None  # remote control: no worker answers
            with app.events.default_dispatcher() as dispatcher:
                dispatcher.send("worker-online")

    def test_reads_no_key_of_others(self, url: str) -> None:
        with redis_client(url) as client:
            for command in (("GET", "celery"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*")):
                with pytest.raises(NoPermissionError):
                    client.execute_command(*command)
