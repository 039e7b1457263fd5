"""A ledger that is up and takes no writes, and a real worker: it says so, and sends again within seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from sendq import LedgerUnavailable, State, clock
from sendq.clock import moment
from sendq.operators import Operators
from sendq.views.status import SILENT_S
from tests.support.servers import Cluster, running_cluster
from tests.support.system import System, mail, running
from tests.support.waiting import eventually

BACK_S = 5.0  # the promise


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def system(cluster: Cluster, tmp_path: Path) -> Iterator[System]:
    with cluster.pg.ledger() as url, running(url, tmp_path) as system:
        yield system


def test_a_worker_and_a_web_application_are_back_within_seconds(cluster: Cluster, system: System) -> None:
    """Twice: with the old connections kept, and with connections that stay read-only when the ledger is back."""
    worker = system.start_worker()
    system.queue.send("g1", mail())
    system.wait_for(State.SENT, 1)
    database = system.ledger_url.rpartition("/")[2]
    cluster.pg.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    cluster.pg.execute("SELECT pg_reload_conf()")
    early = sends_before_it_is_refused(system)
    eventually(lambda: "ledger_unavailable" in worker.said(), "a word of the worker")
    eventually(lambda: Operators(system.engine).status().workers[0].silent_s > SILENT_S, "a mark in the status")
    cluster.pg.execute("ALTER SYSTEM RESET default_transaction_read_only")
    cluster.pg.execute("SELECT pg_reload_conf()")
    sends_soon(system, 2 + early)
    due = moment(clock.now()) + timedelta(seconds=3)
    for _ in range(12):
        system.queue.send("later", mail(), due_at=due)
    cluster.pg.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    cluster.pg.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'")
    early += sends_before_it_is_refused(system)
    seen = worker.said().count("ledger_unavailable")
    eventually(lambda: worker.said().count("ledger_unavailable") > seen + 10, "ten seconds of it")
    cluster.pg.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    sends_soon(system, 15 + early)
    assert worker.process.poll() is None
    assert set(system.accepted().values()) == {1}


def sends_before_it_is_refused(system: System) -> int:
    """How many calls went through before the server had read its configuration; then three are refused in a row."""
    passed = 0

    def refused() -> bool:
        nonlocal passed
        try:
            system.queue.send("g1", mail())
        except LedgerUnavailable as error:
            return "takes no writes" in str(error)
        passed += 1
        return False

    eventually(refused, "a refusal")
    assert all(refused() for _ in range(3))
    return passed


def sends_soon(system: System, number: int) -> None:
    """Enqueue one as soon as the ledger takes it, and wait until as many jobs are sent."""
    began = time.monotonic()

    def takes() -> bool:
        with suppress(LedgerUnavailable):
            system.queue.send("g1", mail())
            return True
        return False

    eventually(takes, "a ledger that takes writes")
    system.wait_for(State.SENT, number)
    assert time.monotonic() - began < BACK_S * system.slowness
