"""The connections of a worker process: which are asked whether they live, and what happens to those that do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from sendq.errors import LedgerUnavailable
from sendq.ledger.engine import FRESH_S, open_busy_engine, reading
from tests.support.servers import PgServer

PID = text("SELECT pg_backend_pid()")


class Stopwatch:
    """Goes only when told."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def engine(pg_url: str, stopwatch: Stopwatch) -> Iterator[Engine]:
    engine = open_busy_engine(pg_url, monotonic=stopwatch)
    yield engine
    engine.dispose()


def asked(engine: Engine) -> int:
    """Ask something; the session that answered."""
    with reading(engine) as connection:
        return int(connection.execute(PID).scalar_one())


class TestAConnectionThatTheServerEnded:
    def test_is_replaced_unseen_if_it_has_rested(
        self, engine: Engine, stopwatch: Stopwatch, pg_server: PgServer
    ) -> None:
        first = asked(engine)
        pg_server.execute(f"SELECT pg_terminate_backend({first}, 5000)")
        stopwatch.at += FRESH_S * 1.5
        assert asked(engine) != first

    def test_breaks_off_one_transaction_if_it_was_just_in_use(self, engine: Engine, pg_server: PgServer) -> None:
        first = asked(engine)
        pg_server.execute(f"SELECT pg_terminate_backend({first}, 5000)")
        with pytest.raises(LedgerUnavailable):
            asked(engine)
        assert asked(engine) != first


class TestAConnectionThatLives:
    def test_is_asked_so_only_after_a_rest(
        self, engine: Engine, stopwatch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ping, asked_for_life = engine.dialect.do_ping, []

        def count(connection: Any) -> bool:
            asked_for_life.append(connection)
            return ping(connection)

        monkeypatch.setattr(engine.dialect, "do_ping", count)
        for _ in range(5):
            asked(engine)
        assert asked_for_life == []
        stopwatch.at += FRESH_S * 1.5
        asked(engine)
        assert len(asked_for_life) == 1

    def test_is_used_again_before_one_that_rests(self, engine: Engine) -> None:
        with reading(engine) as one, reading(engine) as other:
            sessions = {one.execute(PID).scalar_one(), other.execute(PID).scalar_one()}
        assert len(sessions) == 2
        assert len({asked(engine) for _ in range(4)}) == 1
