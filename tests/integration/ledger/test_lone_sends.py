"""One `send` on PostgreSQL, of a queue that has the ledger's URL: its round trips, and its connection."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, exc, text
from sqlalchemy.orm import Session

from sendq import LedgerUnavailable, SendQueue
from sendq.ledger.db.engine import FRESH_S, open_callers_engine
from sendq.ledger.db.kept_connection import KeptConnection
from tests.support.ledger import MESSAGE, Ledger, until_it_waits
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S


@pytest.fixture
def queue(pg_server: PgServer) -> Iterator[SendQueue]:
    """On a new ledger; its connection and what it remembers are fresh."""
    with pg_server.ledger() as url:
        queue = SendQueue(url)
        queue.send("g0", MESSAGE)
        yield queue
        queue.close()


@contextmanager
def traced(queue: SendQueue) -> Iterator[list[str]]:
    """What the queue's connection sends to the server meanwhile and must await an answer to, as libpq writes it."""
    sent: list[str] = []
    with tempfile.NamedTemporaryFile("w+") as file:
        driver: Any = queue._ledger.write(None, lambda connection: connection.connection.driver_connection)
        libpq = driver.pgconn
        libpq.trace(file.fileno())
        try:
            yield sent
        finally:
            libpq.untrace()
        file.seek(0)
        kinds = (line.rstrip("\n").split("\t") for line in file)
        sent += ["\t".join(parts[3:]) for parts in kinds if parts[1] == "F" and parts[3] in ("Query", "Sync")]


def jobs(queue: SendQueue) -> int:
    with queue._ledger.engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM sendq_job")).scalar_one())


class TestOneSend:
    @pytest.mark.parametrize(("options", "most"), [({}, 1), ({"tags": {"a": "b"}}, 1), ({"key": "k"}, 1)])
    def test_takes_few_round_trips(self, queue: SendQueue, options: dict[str, Any], most: int) -> None:
        with traced(queue) as sent:
            queue.send("g1", MESSAGE, **options)
        assert len(sent) == most, sent
        assert jobs(queue) == 2

    def test_is_one_transaction_with_what_is_recorded_of_its_recipients(self, queue: SendQueue) -> None:
        def own_list(_application: str, _category: str | None, _all: object) -> list[str]:
            return ["nyah@example.com"]

        picky = SendQueue(queue._ledger.engine.url, suppressed=own_list)
        picky.send("g0", MESSAGE)
        both = MESSAGE.model_copy(update={"to": ["leyah@example.com", "nyah@example.com"]})
        with traced(picky) as sent:
            assert picky.send("g1", both, suppressed="drop").dropped == ("to[1]",)
        picky.close()
        assert sent[0].startswith('Query\t "BEGIN')
        assert [one for one in sent if one.startswith('Query\t "')] == [sent[0], 'Query\t "COMMIT"']

    @pytest.mark.parametrize("cap", [1, 2])
    def test_is_stored_only_if_the_lane_has_room(self, queue: SendQueue, cap: int) -> None:
        capped = SendQueue(queue._ledger.engine.url, lane_cap=cap)
        if cap == 1:
            with pytest.raises(Exception, match="g0"):
                capped.send("g0", MESSAGE)
        else:
            capped.send("g0", MESSAGE)
        capped.close()
        assert jobs(queue) == cap

    def test_in_a_session_of_the_same_engine_is_the_sessions_to_commit(self, queue: SendQueue) -> None:
        with Session(queue._ledger.engine) as session:
            queue.send("g1", MESSAGE, session=session)
            session.rollback()
            assert jobs(queue) == 1
            queue.send("g1", MESSAGE, session=session)
            session.commit()
        assert jobs(queue) == 2

    def test_that_fails_stores_nothing_and_leaves_a_connection_that_works(self, queue: SendQueue) -> None:
        with queue._ledger.engine.begin() as connection:
            connection.execute(text("ALTER TABLE sendq_wake ADD CONSTRAINT few CHECK (grant_id <> 'g1')"))
        with pytest.raises(exc.IntegrityError) as caught:
            queue.send("g1", MESSAGE)
        assert MESSAGE.to[0].email not in str(caught.value)
        queue.send("g2", MESSAGE)
        assert jobs(queue) == 2

    def test_waits_as_psycopg_does(self, queue: SendQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        """Under gevent its waiting function lets other greenlets run; a blocking call of libpq would not."""
        wait, waits = psycopg.waiting.wait, []

        def count(*arguments: Any, **named: Any) -> Any:
            waits.append(arguments)
            return wait(*arguments, **named)

        monkeypatch.setattr(psycopg.waiting, "wait", count)
        with traced(queue) as sent:
            queue.send("g1", MESSAGE, key="k")
        assert len(waits) == len(sent)


class Interrupted(Exception):
    """What a handler of signals raises, such as Celery's for its soft time limit."""


def interrupt(*_: object) -> None:
    raise Interrupted


class TestASendThatWaitsForAnotherOfItsKey:
    def test_is_read_committed_whatever_the_databases_default_is(self, queue: SendQueue, pg_server: PgServer) -> None:
        """In a snapshot from before it waited, the other's key would be a conflict with nothing that can be seen."""
        url = queue._ledger.engine.url
        pg_server.execute(f"ALTER DATABASE {url.database} SET default_transaction_isolation = 'repeatable read'")
        ledger, second = Ledger(queue._ledger.engine), SendQueue(url)
        second.send("g0", MESSAGE)
        with Session(queue._ledger.engine) as session, ThreadPoolExecutor(1) as pool:
            first = queue.send("g1", MESSAGE, key="k", session=session)
            waiting = pool.submit(second.send, "g1", MESSAGE, key="k")
            until_it_waits(ledger, waiting)
            session.commit()
            assert waiting.result(LIMIT_S).id == first.id
        second.close()

    def test_passes_on_what_interrupts_it_and_leaves_its_connection(self, queue: SendQueue) -> None:
        before = queue._ledger.write(None, session_of)
        handler = signal.signal(signal.SIGALRM, interrupt)
        try:
            with Session(queue._ledger.engine) as session:
                queue.send("g1", MESSAGE, key="k", session=session)
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                with pytest.raises(Interrupted):
                    queue.send("g1", MESSAGE, key="k")
                session.rollback()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
        assert checked_out(queue) == 0
        assert queue._ledger.write(None, session_of) != before
        queue.send("g2", MESSAGE)


class TestAConnectionThatWasUsedJustNow:
    def test_is_replaced_unseen_if_the_server_has_ended_it(self, queue: SendQueue, pg_server: PgServer) -> None:
        ends_all(pg_server, queue)
        queue.send("g1", MESSAGE)
        assert jobs(queue) == 2

    @pytest.mark.parametrize("kept", [True, False], ids=["kept", "in the pool"])
    def test_is_not_pinged_until_it_has_rested(
        self, pg_url: str, pg_server: PgServer, kept: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at, pinged = [1_000.0], list[object]()
        engine = open_callers_engine(pg_url, monotonic=lambda: at[0])
        ping: Callable[[Any], bool] = engine.dialect.do_ping
        kept_one = KeptConnection(engine, monotonic=lambda: at[0])

        def count(connection: Any) -> bool:
            pinged.append(connection)
            return ping(connection)

        def asked() -> int:
            if kept:
                return kept_one.write(session_of)
            with engine.begin() as connection:
                return session_of(connection)

        monkeypatch.setattr(engine.dialect, "do_ping", count)
        sessions = set()
        for rested, pings in ((0.0, 0), (FRESH_S / 2, 0), (FRESH_S * 1.5, 1)):
            at[0] += rested
            sessions.add(asked())
            assert len(pinged) == pings
        assert len(sessions) == 1
        pg_server.execute(f"SELECT pg_terminate_backend({sessions.pop()}, 5000)")
        at[0] += FRESH_S * 1.5
        asked()
        kept_one.close()
        engine.dispose()

    def test_that_breaks_during_the_call_is_an_error_and_then_replaced(
        self, queue: SendQueue, pg_server: PgServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether the server stored it cannot be known then, so nothing may be tried again without being asked."""
        with queue._ledger.engine.begin() as connection:
            connection.execute(text("CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                                    "PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"))  # fmt: skip
            connection.execute(text("CREATE TRIGGER ends BEFORE INSERT ON sendq_wake FOR EACH ROW WHEN "
                                    "(NEW.grant_id = 'g1') EXECUTE FUNCTION ends()"))  # fmt: skip
        with pytest.raises(LedgerUnavailable):
            queue.send("g1", MESSAGE)
        queue.send("g2", MESSAGE)
        assert jobs(queue) == 2


class TestTheKeptConnection:
    def test_is_used_for_one_transaction_at_a_time(self, queue: SendQueue) -> None:
        def inside(connection: Connection) -> tuple[int, int]:
            return session_of(connection), queue._ledger.write(None, session_of)

        outer, inner = queue._ledger.write(None, inside)
        assert outer != inner
        assert queue._ledger.write(None, session_of) in (outer, inner)
        assert checked_out(queue) == 1

    def test_goes_back_after_an_error_and_has_rolled_back(self, queue: SendQueue) -> None:
        def fails(connection: Connection) -> None:
            connection.execute(text("DELETE FROM sendq_job"))
            raise RuntimeError

        with pytest.raises(RuntimeError):
            queue._ledger.write(None, fails)
        assert checked_out(queue) == 0
        assert jobs(queue) == 1

    def test_is_closed_with_the_queue_which_opens_another_one(self, queue: SendQueue) -> None:
        before = queue._ledger.write(None, session_of)
        queue.close()
        assert checked_out(queue) == 0
        assert queue._ledger.write(None, session_of) != before

    def test_does_not_go_to_a_child_process(self, queue: SendQueue) -> None:
        mine = queue._ledger.write(None, session_of)
        ends, begins = os.pipe()
        child = os.fork()
        if not child:
            os.write(begins, str(queue._ledger.write(None, session_of)).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert int(os.read(ends, 20)) != mine
        assert queue._ledger.write(None, session_of) == mine
        os.close(ends)
        os.close(begins)


def session_of(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def checked_out(queue: SendQueue) -> int:
    pool: Any = queue._ledger.engine.pool
    return int(pool.checkedout())


def ends_all(server: PgServer, queue: SendQueue) -> None:
    name = queue._ledger.engine.url.database
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")
