"""A short selection of the scenarios, for ``./dev test-all``; ``./dev chaos`` plays all of them and measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import report, servers
from tests.chaos.stage import Played, Scenario, play
from tests.chaos.workers import kills
from tests.support.servers import Cluster, running_cluster

pytestmark = [pytest.mark.chaos, pytest.mark.long]

# Deaths are noticed within seconds; on a busy machine live workers are sometimes declared dead too, which must not
# matter either.
QUICK = {
    "SENDQ_BEAT_INTERVAL_S": "0.5",
    "SENDQ_STALE_AFTER_S": "3",
    "SENDQ_TURN_S": "1",
    "SENDQ_UNCLAIMED_AFTER_S": "3",
    "SENDQ_LEASE_S": "1.5",
}
SEED = 1

# Deaths with each kind of trace: in the ledger, in the broker, at the API, and in work that others take back.
PLACES = ("offered", "claimed", "waiting", "answered", "recording", "recorded", "burying")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL that may be broken."""
    with running_cluster() as cluster:
        yield cluster


def played(scenario: Scenario, cluster: Cluster, directory: Path) -> Played:
    quick = replace(scenario, settings=QUICK, rate=20.0, lanes=20, backlog=20, crew=2)
    return play(quick, cluster, directory, SEED)


def test_deaths_around_the_wire_lose_nothing_and_send_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    it = played(kills(len(PLACES), places=PLACES, gap_s=(0.0, 0.5)), cluster, tmp_path)
    assert it.holds, list(report.complaints(it))
    assert {death.place for death in it.deaths} >= set(PLACES)


@pytest.mark.parametrize("name", ["redis-replaced", "postgres-killed"])
def test_a_server_that_breaks_takes_nothing_along(name: str, cluster: Cluster, tmp_path: Path) -> None:
    (scenario,) = (one for one in servers.SCENARIOS if one.name == name)
    it = played(scenario, cluster, tmp_path)
    assert it.holds, list(report.complaints(it))
