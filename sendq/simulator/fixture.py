"""The pytest fixture ``nylas_simulator``: a new simulator for each test.

Enable it in a conftest: ``pytest_plugins = ["sendq.simulator.fixture"]``. To configure it, mark the test:
``@pytest.mark.nylas_simulator(latency=0.2, auto_grants=False)``; the arguments are those of `Simulator`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sendq.simulator.server import Simulator


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nylas_simulator(**options): how the simulator of this test is set up")


@pytest.fixture
def nylas_simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """A running `Simulator`; it is stopped when the test ends."""
    mark = request.node.get_closest_marker("nylas_simulator")
    with Simulator(**(mark.kwargs if mark else {})) as simulator:
        yield simulator
