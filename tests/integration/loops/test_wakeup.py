"""What wakes the sleeping dispatcher, on PostgreSQL."""

from __future__ import annotations

import time

from sendq.ledger.db.engine import open_engine
from tests.support.waiting import LIMIT_S
from worker.leading.wakeup import PostgresWakeup


def test_a_connection_that_begins_to_listen_has_a_round_find_what_it_missed(pg_url: str) -> None:
    engine = open_engine(pg_url)
    wakeup = PostgresWakeup(engine)
    try:
        assert wakeup.can_notify
        began = time.monotonic()
        wakeup.wait_for(LIMIT_S)  # the first returns at once
        assert time.monotonic() - began < LIMIT_S / 2
        began = time.monotonic()
        wakeup.wait_for(0.05)
        assert time.monotonic() - began >= 0.05
    finally:
        wakeup.close()
        engine.dispose()
