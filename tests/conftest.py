"""What every test gets: no network beyond this machine, and the same examples in every run."""

from __future__ import annotations

import gc
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

# The same examples in every run, so that a red run means a change; `--hypothesis-profile=explore` looks for new ones.
# No deadline: the machine may be busy. Few examples keep the unit tests within seconds; `./dev test-all` takes more.
SAME = hypothesis.settings(deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("repeatable", SAME, max_examples=25)
hypothesis.settings.register_profile("thorough", SAME, max_examples=250)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what collection has made: it lives to the end."""
    gc.freeze()


def _is_here(family: int, address: Any) -> bool:
    """Whether a socket address lies on this machine: a unix socket, or loopback."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = address[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def network_stays_here() -> Iterator[None]:
    """Whoever connects to anything but loopback or a unix socket gets an error that says so.

    Holds for this process and for sockets that Python opens; libpq, libuv and processes that a test starts are not
    seen, so their addresses must come from fixtures.
    """

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: socket.socket, *args: Any) -> Any:
            if not _is_here(self.family, args[-1]):
                raise RuntimeError(f"a test reached for the network: {args[-1][0]}; tests use this machine alone")
            return real(self, *args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        yield


@pytest.fixture(autouse=True)
def log_stays_with_its_test() -> Iterator[None]:
    """A program that a test runs in this process sends the log to the stderr of that test, which is closed after it."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)
        root.setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def no_listener_stays() -> Iterator[None]:
    """A listener that a test registers for all engines (so does Sentry's SDK with its default integrations) would turn
    off the statements that go to the driver itself, in every later test.
    """
    yield
    engine = sys.modules.get("sqlalchemy.engine")
    if engine is not None and engine.Engine._has_events:
        engine.Engine._has_events = False
        pytest.fail("the test has left a listener to the statements of all engines")
