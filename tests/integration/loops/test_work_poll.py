"""One question to the ledger for all of the leader's loops."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sendq import LedgerUnavailable
from sendq.ledger.db.engine import open_engine
from tests.integration.loops.test_dispatcher import statements
from tests.support.ledger import Ledger
from worker.leading.work_poll import WorkPoll


def questions(seen: list[str]) -> int:
    return sum("EXISTS" in statement for statement in seen)


class TestOneQuestion:
    def test_is_enough_for_all_loops_that_are_due_at_the_same_time(self, ledger: Ledger) -> None:
        poll, due_at = WorkPoll(ledger.engine, now=ledger.clock), time.monotonic()
        with statements(ledger) as seen, ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(poll.since, [due_at] * 8))
        assert questions(seen) == 1
        assert answers == [answers[0]] * 8

    def test_is_asked_again_for_a_loop_that_is_due_later(self, ledger: Ledger) -> None:
        poll = WorkPoll(ledger.engine, now=ledger.clock)
        assert not poll.since(time.monotonic()).unknown_providers
        ledger.send("g1")
        ledger.absorb()
        assert poll.since(time.monotonic()).unknown_providers

    def test_to_a_ledger_that_is_away_fails_for_all_and_is_asked_again_later(self, tmp_path: Any) -> None:
        asked = []

        def now() -> int:
            asked.append(1)
            raise LedgerUnavailable("it is away")

        engine = open_engine(f"sqlite:///{tmp_path}/ledger.db")
        poll, due_at = WorkPoll(engine, now=now), time.monotonic()
        for at in (due_at, due_at, time.monotonic() + 1.0):
            with pytest.raises(LedgerUnavailable):
                poll.since(at)
        assert len(asked) == 2
        engine.dispose()
