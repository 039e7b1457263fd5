"""What wakes the sleeping dispatcher."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from sendq.ledger.db.engine import open_engine
from tests.support.waiting import LIMIT_S
from worker.leading import wakeup as wakeups
from worker.leading.wakeup import PostgresWakeup, SqliteWakeup, Wakeup


def waited(wakeup: Wakeup, limit_s: float) -> float:
    began = time.monotonic()
    wakeup.wait_for(limit_s)
    return time.monotonic() - began


class TestPostgres:
    def test_that_begins_to_listen_has_a_round_find_what_it_missed(self, pg_url: str) -> None:
        engine = open_engine(pg_url)
        wakeup = PostgresWakeup(engine)
        try:
            assert wakeup.can_notify
            assert waited(wakeup, LIMIT_S) < LIMIT_S / 2  # the first returns at once
            assert waited(wakeup, 0.05) >= 0.05
        finally:
            wakeup.close()
            engine.dispose()


class TestSqlite:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        """A connection of another process, as it were."""
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)) as one:
            one.execute("PRAGMA journal_mode=WAL")
            one.execute("CREATE TABLE job (body)")
            yield one

    @pytest.fixture(params=["inotify", "looking"])
    def wakeup(
        self, request: pytest.FixtureRequest, tmp_path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[SqliteWakeup]:
        if request.param == "looking":
            monkeypatch.setitem(sys.modules, "asyncinotify", None)
        one = SqliteWakeup(str(tmp_path / "ledger.db"))
        assert (one._watch is not None) == (request.param == "inotify")
        try:
            yield one
        finally:
            one.close()

    def test_is_woken_by_a_commit_and_by_nothing_else(self, wakeup: SqliteWakeup, other: sqlite3.Connection) -> None:
        assert waited(wakeup, 0.05) >= 0.05
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(waited, wakeup, LIMIT_S)
            other.execute("INSERT INTO job VALUES (1)")
            assert waiting.result() < LIMIT_S / 2
        assert waited(wakeup, 0.05) >= 0.05

    def test_is_woken_by_what_was_committed_before_it_sleeps(
        self, wakeup: SqliteWakeup, other: sqlite3.Connection
    ) -> None:
        other.execute("INSERT INTO job VALUES (1)")
        assert waited(wakeup, LIMIT_S) < LIMIT_S / 2

    def test_is_not_woken_by_what_a_round_has_seen(self, wakeup: SqliteWakeup, other: sqlite3.Connection) -> None:
        for _ in range(3):
            other.execute("INSERT INTO job VALUES (1)")
            wakeup.catch_up()
            assert waited(wakeup, 0.05) >= 0.05
        other.execute("INSERT INTO job VALUES (1)")
        assert waited(wakeup, LIMIT_S) < LIMIT_S / 2

    def test_that_cannot_read_the_file_leaves_it_to_the_round_to_say_so(self, wakeup: SqliteWakeup) -> None:
        wakeup._writes.close()
        assert wakeup._writes.has_changed()
        wakeup.catch_up()

    def test_is_not_woken_by_what_is_written_before_its_commit(
        self, wakeup: SqliteWakeup, other: sqlite3.Connection, tmp_path: Path
    ) -> None:
        log = tmp_path / "ledger.db-wal"
        before = log.stat().st_size
        other.execute("PRAGMA cache_size=1")
        other.execute("BEGIN")
        other.executemany("INSERT INTO job VALUES (?)", [("x" * 10_000,) for _ in range(50)])
        assert log.stat().st_size > before
        assert waited(wakeup, 0.05) >= 0.05
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(waited, wakeup, LIMIT_S)
            other.execute("COMMIT")
            assert waiting.result() < LIMIT_S / 2

    def test_looks_often_until_what_was_written_is_committed(
        self, tmp_path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(SqliteWakeup(str(tmp_path / "ledger.db"))) as wakeup:
            seen = iter([False] * 4 + [True])  # as if a slow fsync came between the write and its commit
            monkeypatch.setattr(wakeup._writes, "has_changed", lambda: next(seen))
            other.execute("INSERT INTO job VALUES (1)")
            assert waited(wakeup, LIMIT_S) < LIMIT_S / 2

    def test_looks_if_there_is_no_more_of_what_the_system_gives(
        self, tmp_path: Path, other: sqlite3.Connection
    ) -> None:
        assert wakeups._watch(str(tmp_path / "none")) is None

    def test_looks_once_the_system_has_kept_a_write_to_itself(
        self, tmp_path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "silent").touch()
        watch = wakeups._watch
        # As on a file system that takes the watch and reports nothing.
        monkeypatch.setattr(wakeups, "_watch", lambda _log: watch(str(tmp_path / "silent")))
        with closing(SqliteWakeup(str(tmp_path / "ledger.db"))) as wakeup:
            assert waited(wakeup, 0.05) >= 0.05
            for _ in range(wakeups.SILENT_AFTER):
                other.execute("INSERT INTO job VALUES (1)")
                waited(wakeup, 0.05)
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(waited, wakeup, LIMIT_S)
                other.execute("INSERT INTO job VALUES (1)")
                assert waiting.result() < LIMIT_S / 2
            assert waited(wakeup, 0.05) >= 0.05

    def test_goes_on_though_one_report_was_of_two_commits(
        self, wakeup: SqliteWakeup, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watched = wakeup._watch is not None
        for _ in range(3):
            other.execute("INSERT INTO job VALUES (1)")
            assert waited(wakeup, LIMIT_S) < LIMIT_S / 2
            with monkeypatch.context() as patch:  # the report of this one was read with the one before
                patch.setattr(wakeup._writes, "has_changed", lambda: True)
                wakeup.catch_up()
            assert (wakeup._watch is not None) == watched

    def test_goes_on_with_what_the_system_reports_however_slow_commits_are(
        self, tmp_path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(SqliteWakeup(str(tmp_path / "ledger.db"))) as wakeup:
            for number in range(5):
                seen = iter([False] * number + [True])
                with monkeypatch.context() as patch:
                    patch.setattr(wakeup._writes, "has_changed", lambda seen=seen: next(seen))
                    other.execute("INSERT INTO job VALUES (1)")
                    assert waited(wakeup, LIMIT_S) < LIMIT_S / 2
                wakeup._writes.has_changed()
            assert wakeup._watch is not None
