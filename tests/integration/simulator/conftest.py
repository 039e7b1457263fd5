"""A simulator for each test, with a clock of its own, and who asks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sendq.simulator import Simulator
from tests.integration.simulator.asking import Client, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sim(clock: Clock) -> Iterator[Simulator]:
    with Simulator(clock=clock) as simulator:
        yield simulator


@pytest.fixture
def client(sim: Simulator) -> Client:
    return Client(sim.url)
