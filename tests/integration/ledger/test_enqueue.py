"""Enqueue: what a call leaves in the ledger, in whose transaction, and what a key promises."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import create_engine, delete, event, func, select, text
from sqlalchemy.orm import Session

from sendq import (
    InvalidJob,
    KeyConflict,
    Message,
    NotFound,
    Options,
    Retryable,
    Send,
    SendQueue,
    State,
)
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine
from sendq.ledger.enqueue import notify
from tests.support.ledger import MESSAGE, Ledger
from tests.support.waiting import LIMIT_S

OTHER = Message(to=["nyah@example.com"], subject="Invoice 43")
TABLES = (schema.job, schema.payload, schema.batch, schema.key, schema.wake)


def counts(ledger: Ledger) -> dict[str, int]:
    """How many rows there are, in the tables that enqueue writes."""
    with ledger.engine.connect() as connection:
        found = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in TABLES
        }
    return {name.removeprefix("sendq_"): count for name, count in found.items() if count}


def waits_for_a_lock(ledger: Ledger, how_many: int = 1) -> None:
    """Until so many connections of this database wait for a lock (PostgreSQL)."""
    asked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with ledger.engine.connect() as connection:
            if connection.execute(asked).scalar_one() >= how_many:
                return
        time.sleep(0.005)
    raise AssertionError("nobody waits for a lock")


@pytest.fixture
def run() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in another thread; its end is awaited."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


class TestOneSend:
    @pytest.mark.parametrize(("options", "most"), [({}, 1), ({"key": "k"}, 1)])
    def test_takes_one_statement(self, pg_ledger: Ledger, options: dict[str, Any], most: int) -> None:
        pg_ledger.send("g0", **options | ({"key": "other"} if options else {}))  # the first one checks the schema
        statements: list[str] = []
        event.listen(pg_ledger.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        pg_ledger.send(**options)
        assert len(statements) == most, statements
        if options:
            assert pg_ledger.queue.send("g1", MESSAGE, **options).existed
            assert len(statements) == most + 2, statements
        assert counts(pg_ledger)["wake"] == counts(pg_ledger)["payload"] == 2

    def test_is_there_once_the_call_returns(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE)
        assert not job.existed
        assert ledger.queue.job(job.id).state is State.QUEUED
        assert counts(ledger) == {"job": 1, "payload": 1, "wake": 1}

    def test_writes_no_lane(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.modify("g2", ["m1"])
        assert ledger.rows(schema.lane) == ledger.rows(schema.pair) == []

    def test_with_problems_stores_nothing(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidJob):
            ledger.queue.send("me", MESSAGE, key="k")
        assert counts(ledger) == {}


class TestTheCallersTransaction:
    @pytest.mark.parametrize("kind", ["session", "connection"])
    def test_that_commits_has_stored_the_job(self, ledger: Ledger, kind: str) -> None:
        if kind == "session":
            with Session(ledger.engine) as session, session.begin():
                job = ledger.queue.send("g1", MESSAGE, key="k", session=session)
        else:
            with ledger.engine.begin() as connection:
                job = ledger.queue.send("g1", MESSAGE, key="k", session=connection)
        assert ledger.queue.job(key="k").id == job.id

    @pytest.mark.parametrize("kind", ["session", "connection"])
    def test_that_rolls_back_never_had_it(self, ledger: Ledger, kind: str) -> None:
        if kind == "session":
            with Session(ledger.engine) as session:
                ledger.queue.send("g1", MESSAGE, key="k", session=session)
                ledger.queue.modify("g1", ["m1", "m2"], starred=True, session=session)
                session.rollback()
        else:
            with ledger.engine.connect() as connection:
                ledger.queue.send("g1", MESSAGE, key="k", session=connection)
                connection.rollback()
        assert counts(ledger) == {}

    def test_is_not_committed_by_the_call(self, ledger: Ledger) -> None:
        with Session(ledger.engine) as session:
            ledger.queue.send("g1", MESSAGE, session=session)
            if ledger.engine.dialect.name == "postgresql":
                assert counts(ledger) == {}
            assert session.in_transaction()
            session.rollback()

    def test_holds_a_cancel_too(self, ledger: Ledger) -> None:
        job = ledger.send()
        with Session(ledger.engine) as session:
            assert ledger.queue.cancel(str(job), session=session) is State.CANCELLED
            session.rollback()
        assert ledger.state(job) is State.QUEUED

    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "sqlite"])
    def test_may_be_one_of_the_applications_own_engine(
        self, request: pytest.FixtureRequest, driver: str, run: Callable[..., Future[Any]]
    ) -> None:
        if driver == "sqlite":
            url = request.getfixturevalue("sqlite_ledger_url")
        else:
            url = request.getfixturevalue("pg_ledger_url").replace("+psycopg", f"+{driver}")
        engine = create_engine(url)  # plain, as an application makes it
        queue = SendQueue(engine)
        several = [Send("g1", MESSAGE, Options(key="a")), Send("g2", MESSAGE, Options(key="b"))]
        with Session(engine) as session:
            queue.send_many(several, session=session)
            session.rollback()
        for key in "ab":
            with pytest.raises(NotFound):
                queue.job(key=key)
        with Session(engine) as session, session.begin():
            queue.send_many(several, session=session)
        assert queue.job(key="a").state is queue.job(key="b").state is State.QUEUED
        engine.dispose()

    def test_of_asyncio_is_refused(self, ledger: Ledger) -> None:
        from sqlalchemy.ext.asyncio import AsyncSession

        with pytest.raises(TypeError, match="AsyncSendQueue"):
            ledger.queue.send("g1", MESSAGE, session=AsyncSession())
        assert counts(ledger) == {}


class TestAKey:
    def test_finds_its_job_again(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE, key="invoice-42")
        assert ledger.queue.job(key="invoice-42").id == job.id
        assert ledger.queue.why(key="invoice-42").job_id == job.id

    def test_used_again_for_the_same_content_gives_the_first_job_and_stores_nothing(self, ledger: Ledger) -> None:
        first = ledger.queue.send("g1", MESSAGE, key="k")
        before = counts(ledger)
        ledger.clock.advance(3_600)
        again = ledger.queue.send("g1", MESSAGE, key="k")
        assert (again.id, again.existed) == (first.id, True)
        assert counts(ledger) == before

    @pytest.mark.parametrize(("grant", "message"), [("g1", OTHER), ("g2", MESSAGE)])
    def test_used_again_for_other_content_is_a_conflict(self, ledger: Ledger, grant: str, message: Message) -> None:
        first = ledger.queue.send("g1", MESSAGE, key="leyah@example.com")
        before = counts(ledger)
        with pytest.raises(KeyConflict) as caught:
            ledger.queue.send(grant, message, key="leyah@example.com")
        assert caught.value.job_id == first.id
        assert "leyah" not in str(caught.value)
        assert counts(ledger) == before

    def test_belongs_to_its_application(self, ledger: Ledger) -> None:
        one = ledger.queue.send("g1", MESSAGE, key="k")
        two = ledger.queue.send("g1", OTHER, key="k", application="other")
        assert ledger.queue.job(key="k").id == one.id
        assert ledger.queue.job(key="k", application="other").id == two.id

    def test_of_two_applications_in_one_call_is_not_confused(self, ledger: Ledger) -> None:
        first = ledger.queue.send("g1", MESSAGE, key="k")
        again, new = ledger.queue.send_many(
            [Send("g1", MESSAGE, Options(key="k")), Send("g1", MESSAGE, Options(key="k", application="other"))]
        )
        assert (again.id, again.existed) == (first.id, True)
        assert not new.existed
        assert counts(ledger)["job"] == 2

    def test_conflicts_in_one_application_also_if_it_is_new_in_another(self, ledger: Ledger) -> None:
        ledger.queue.send("g1", MESSAGE, key="k")
        with pytest.raises(KeyConflict):
            ledger.queue.send_many(
                [Send("g1", OTHER, Options(key="k")), Send("g1", OTHER, Options(key="k", application="other"))]
            )
        assert counts(ledger)["job"] == 1

    def test_outlives_its_job(self, ledger: Ledger) -> None:
        first = ledger.queue.send("g1", MESSAGE, key="k")
        with ledger.writing() as connection:
            connection.execute(delete(schema.job))
            connection.execute(delete(schema.payload))
        again = ledger.queue.send("g1", MESSAGE, key="k")
        assert (again.id, again.existed) == (first.id, True)
        assert "job" not in counts(ledger)

    def test_of_a_batch_gives_the_first_batch(self, ledger: Ledger) -> None:
        first = ledger.queue.modify("g1", ["m1", "m2"], starred=True, key="k")
        again = ledger.queue.modify("g1", ["m2", "m1"], starred=True, key="k")
        assert (again.id, again.total, again.existed) == (first.id, 2, True)
        assert counts(ledger) == {"job": 2, "batch": 1, "key": 1, "wake": 1}
        assert ledger.queue.batch(key="k").id == first.id

    def test_of_a_batch_does_not_name_a_job(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m1"], starred=True, key="k")
        with pytest.raises(NotFound, match="batch"):
            ledger.queue.job(key="k")
        with pytest.raises(KeyConflict):
            ledger.queue.send("g1", MESSAGE, key="k")

    def test_that_nobody_used_finds_nothing(self, ledger: Ledger) -> None:
        with pytest.raises(NotFound):
            ledger.queue.job(key="k")

    def test_rolled_back_is_free_again(self, ledger: Ledger) -> None:
        with Session(ledger.engine) as session:
            ledger.queue.send("g1", MESSAGE, key="k", session=session)
            session.rollback()
        assert not ledger.queue.send("g1", OTHER, key="k").existed

    def test_is_inserted_in_the_order_of_keys_so_that_callers_cannot_wait_in_a_circle(
        self, sqlite_ledger_url: str
    ) -> None:
        engine = open_engine(sqlite_ledger_url)
        names = [(f"k{n}", application) for n in (3, 1, 2) for application in ("b", "a")]
        SendQueue(engine).send_many(
            [Send("g1", MESSAGE, Options(key=key, application=application)) for key, application in names]
        )
        with engine.connect() as connection:
            inserted = connection.execute(text("SELECT application, key FROM sendq_key ORDER BY rowid")).all()
        assert inserted == sorted(inserted)
        engine.dispose()


class TestAConflictThatTheCallerCatches:
    def test_leaves_nothing_of_the_call_though_the_caller_commits(self, ledger: Ledger) -> None:
        ledger.queue.send("g1", MESSAGE, key="m")
        before = counts(ledger)
        with Session(ledger.engine) as session, session.begin(), pytest.raises(KeyConflict):
            # Sorted, the conflict comes between two keys that are new.
            ledger.queue.send_many(
                [Send("g1", MESSAGE, Options(key=key)) for key in "az"] + [Send("g1", OTHER, Options(key="m"))],
                session=session,
            )
        assert counts(ledger) == before
        with pytest.raises(NotFound):
            ledger.queue.job(key="a")

    def test_leaves_what_the_caller_wrote_before(self, ledger: Ledger) -> None:
        ledger.queue.send("g1", MESSAGE, key="m")
        with Session(ledger.engine) as session, session.begin():
            ledger.queue.send("g2", MESSAGE, key="mine", session=session)
            with pytest.raises(KeyConflict):
                ledger.queue.send("g1", OTHER, key="m", session=session)
            with pytest.raises(KeyConflict):
                ledger.queue.modify("g1", ["m1"], starred=True, key="m", session=session)
        assert counts(ledger) == {"job": 2, "payload": 2, "key": 2, "wake": 2}


class TestTwoCallersAtOnce:
    """On PostgreSQL, where two can write at once."""

    def test_with_equal_keys_wait_for_each_other_and_one_job_results(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]]
    ) -> None:
        with Session(pg_ledger.engine) as session, session.begin():
            first = pg_ledger.queue.send("g1", MESSAGE, key="k", session=session)
            second = run(pg_ledger.queue.send, "g1", MESSAGE, key="k")
            waits_for_a_lock(pg_ledger)
        job = second.result(LIMIT_S)
        assert (job.id, job.existed) == (first.id, True)
        assert counts(pg_ledger)["job"] == 1

    def test_with_equal_keys_go_on_when_the_first_rolls_back(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]]
    ) -> None:
        with Session(pg_ledger.engine) as session:
            pg_ledger.queue.send("g1", OTHER, key="k", session=session)
            second = run(pg_ledger.queue.send, "g1", MESSAGE, key="k")
            waits_for_a_lock(pg_ledger)
            session.rollback()
        assert not second.result(LIMIT_S).existed
        assert counts(pg_ledger)["job"] == 1

    def test_with_other_keys_or_none_do_not_wait(self, pg_ledger: Ledger, run: Callable[..., Future[Any]]) -> None:
        with Session(pg_ledger.engine) as session, session.begin():
            pg_ledger.queue.send("g1", MESSAGE, key="k", session=session)
            assert not run(pg_ledger.queue.send, "g1", MESSAGE, key="other").result(LIMIT_S).existed
            assert not run(pg_ledger.queue.send, "g1", MESSAGE).result(LIMIT_S).existed

    def test_with_the_same_keys_in_opposite_order_do_not_deadlock(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]]
    ) -> None:
        keys = [f"k{n}" for n in range(200)]
        barrier = threading.Barrier(4)

        def enqueue(order: list[str]) -> int:
            sends = [Send("g1", MESSAGE, Options(key=key)) for key in order]
            barrier.wait(LIMIT_S)
            return sum(not job.existed for job in pg_ledger.queue.send_many(sends))

        futures = [run(enqueue, order) for order in (keys, keys[::-1], keys[100:] + keys[:100], keys[::-1])]
        assert sum(future.result(LIMIT_S) for future in futures) == 200
        assert counts(pg_ledger)["job"] == 200

    def test_for_the_same_two_grants_in_opposite_order_never_wait_or_deadlock(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]]
    ) -> None:
        barrier = threading.Barrier(2)

        def request(first: str, second: str) -> None:
            for _ in range(20):
                with Session(pg_ledger.engine) as session, session.begin():
                    pg_ledger.queue.send(first, MESSAGE, session=session)
                    # Both hold what they have written when either writes for its second grant.
                    barrier.wait(LIMIT_S)
                    pg_ledger.queue.send(second, MESSAGE, session=session)
                    # And neither has committed when both have done so: nobody waited.
                    barrier.wait(LIMIT_S)

        for future in [run(request, "gA", "gB"), run(request, "gB", "gA")]:
            future.result(LIMIT_S)
        assert counts(pg_ledger)["job"] == 80

    def test_do_not_wait_for_a_dispatcher_either(self, pg_ledger: Ledger, run: Callable[..., Future[Any]]) -> None:
        pg_ledger.send()
        pg_ledger.absorb()
        with pg_ledger.writing() as connection:
            connection.execute(select(schema.lane).with_for_update())
            run(pg_ledger.send, "g1").result(LIMIT_S)


class TestAnIsolatedCaller:
    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_gets_a_retryable_error_for_a_key_that_it_cannot_see(self, pg_ledger: Ledger, level: str) -> None:
        engine = pg_ledger.engine.execution_options(isolation_level=level)
        with engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM sendq_key"))  # its snapshot
            pg_ledger.queue.send("g1", MESSAGE, key="k")
            with pytest.raises(Retryable):
                pg_ledger.queue.send("g1", MESSAGE, key="k", session=connection)
            connection.rollback()
            assert pg_ledger.queue.send("g1", MESSAGE, key="k", session=connection).existed

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_may_enqueue(self, pg_ledger: Ledger, level: str) -> None:
        engine = pg_ledger.engine.execution_options(isolation_level=level)
        with engine.begin() as connection:
            pg_ledger.queue.modify("g1", ["m1"], starred=True, key="k", session=connection)
        assert counts(pg_ledger)["job"] == 1

    def test_of_sqlite_who_read_before_somebody_wrote_gets_a_retryable_error(self, sqlite_ledger_url: str) -> None:
        queue = SendQueue(sqlite_ledger_url)
        engine = create_engine(sqlite_ledger_url)

        @event.listens_for(engine, "connect")
        def opened(connection: Any, _: Any) -> None:
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def begun(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

        with engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM sendq_job")).scalar()
            queue.send("g1", MESSAGE)
            with pytest.raises(Retryable):
                queue.send("g1", MESSAGE, session=connection)
        engine.dispose()
        queue.close()

    def test_caught_in_a_deadlock_gets_a_retryable_error(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]]
    ) -> None:
        barrier = threading.Barrier(2)

        def request(first: str, second: str) -> str:
            # The application's own order of keys, over two calls: that circle is the application's.
            with Session(pg_ledger.engine) as session:
                pg_ledger.queue.send("g1", MESSAGE, key=first, session=session)
                barrier.wait(LIMIT_S)
                try:
                    pg_ledger.queue.send("g1", MESSAGE, key=second, session=session)
                except Retryable:
                    session.rollback()
                    return "retryable"
                session.commit()
                return "stored"

        futures = [run(request, "a", "b"), run(request, "b", "a")]
        assert sorted(future.result(LIMIT_S) for future in futures) == ["retryable", "stored"]


class TestSendMany:
    def test_stores_every_message_in_its_order(self, ledger: Ledger) -> None:
        jobs = ledger.queue.send_many([Send(f"g{n % 3}", MESSAGE) for n in range(9)])
        rows = [ledger.job(UUID(job.id)) for job in jobs]
        assert [row.next_at for row in rows] == sorted({row.next_at for row in rows})
        assert counts(ledger) == {"job": 9, "payload": 9, "wake": 3}

    def test_is_all_or_nothing(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidJob) as caught:
            ledger.queue.send_many([Send("g1", MESSAGE), Send("a@example.com", MESSAGE), Send("", MESSAGE)])
        assert {problem.field for problem in caught.value.problems} == {"[1].grant_id", "[2].grant_id"}
        assert counts(ledger) == {}

    def test_refuses_what_is_no_send(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidJob) as caught:
            ledger.queue.send_many([Send("g1", MESSAGE), ("g1", MESSAGE)])  # type: ignore[list-item]
        assert [problem.field for problem in caught.value.problems] == ["[1]"]
        assert counts(ledger) == {}

    def test_gives_old_and_new_jobs_in_the_order_of_the_call(self, ledger: Ledger) -> None:
        old = ledger.queue.send("g1", MESSAGE, key="b")
        found = ledger.queue.send_many([Send("g1", MESSAGE, Options(key=key)) for key in "abc"])
        assert [job.existed for job in found] == [False, True, False]
        assert found[1].id == old.id
        assert counts(ledger) == {"job": 3, "payload": 3, "key": 3, "wake": 2}

    def test_of_nothing_stores_nothing(self, ledger: Ledger) -> None:
        assert ledger.queue.send_many([]) == []
        assert counts(ledger) == {}


class TestModify:
    def test_makes_one_job_for_each_of_10_000_ids(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", (f"m{n}" for n in range(10_000)), unread=False)
        assert batch.total == 10_000
        assert counts(ledger) == {"job": 10_000, "batch": 1, "wake": 1}
        view = ledger.queue.batch(batch.id)
        assert (view.total, view.waiting, view.progress) == (10_000, 10_000, 0)
        rows = sorted(ledger.rows(schema.job), key=lambda row: int(row.next_at))
        assert [row.object_id for row in rows] == [f"m{n}" for n in range(10_000)]
        assert [row.id for row in rows] == sorted(row.id for row in rows)

    def test_with_an_id_twice_stores_nothing(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidJob, match=r"message_ids\[2\]"):
            ledger.queue.modify("g1", ["m1", "m2", "m1"], starred=True)
        assert counts(ledger) == {}

    def test_with_a_generator_that_raises_half_way_stores_nothing(self, ledger: Ledger) -> None:
        class Broken(Exception):
            pass

        def ids() -> Iterator[str]:
            yield from (f"m{n}" for n in range(2_500))
            raise Broken

        with Session(ledger.engine) as session, session.begin(), pytest.raises(Broken):
            ledger.queue.modify("g1", ids(), starred=True, session=session)
        assert counts(ledger) == {}

    def test_needs_no_more_memory_for_ten_times_the_jobs_but_for_their_ids(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", [f"w{n}" for n in range(1_500)], starred=True)  # whatever is only loaded once

        def peak(count: int) -> int:
            ids = [f"m{n}" for n in range(count)]
            tracemalloc.start()
            try:
                ledger.queue.modify("g1", ids, starred=True)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        # A list and a set of the ids (some 100 bytes each) are all that may grow; a row is some 700.
        assert peak(20_000) - peak(2_000) < 18_000 * 150


class TestWakingTheDispatcher:
    @pytest.mark.parametrize("with_key", [False, True])
    def test_is_done_only_while_it_sleeps_past_the_commit(self, pg_ledger: Ledger, with_key: bool) -> None:
        with pg_ledger.writing() as listening:
            raw = listening.connection.driver_connection
            assert raw is not None
            raw.rollback()
            raw.autocommit = True
            raw.execute("LISTEN sendq_wake")
            now = pg_ledger.clock()
            for sleeps_until, expected in ((0, 0), (now, 0), (now + 1, 1)):
                with pg_ledger.writing() as connection:
                    connection.execute(schema.leader.update().values(sleeps_until=sleeps_until))
                key = str(sleeps_until) if with_key else None
                pg_ledger.send(key=key)
                assert len(list(raw.notifies(timeout=0.05))) == expected, sleeps_until
            if with_key:
                pg_ledger.send(key=key)
                assert list(raw.notifies(timeout=0.05)) == []
            raw.execute("UNLISTEN *")
            raw.autocommit = False

    def test_costs_sqlite_nothing(self, sqlite_ledger_url: str) -> None:
        engine = open_engine(sqlite_ledger_url)
        with engine.begin() as connection:
            notify(connection, at=0)
        engine.dispose()
