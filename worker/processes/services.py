"""The services of a process, in the order in which they start; they stop in reverse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from worker.telemetry import journal


class Loop(Protocol):
    """Runs in a thread of its own until it is stopped."""

    def start(self) -> None:
        """Start its thread."""

    def stop(self, limit_s: float) -> None:
        """Stop; waits for what is under way, for ``limit_s`` seconds at most."""


@dataclass(frozen=True, slots=True)
class Service:
    """One part of a process, by its name."""

    name: str
    start: Callable[[], object]
    stop: Callable[[], object]


def loop(name: str, running: Loop, *, limit_s: float) -> Service:
    """A loop as a service; stopping waits no longer than ``limit_s`` seconds for it."""
    return Service(name, running.start, partial(running.stop, limit_s=limit_s))


def resource(name: str, close: Callable[[], object]) -> Service:
    """Something that is open already, and is closed after everything that uses it has stopped."""
    return Service(name, lambda: None, close)


class Services:
    """A process's list of services."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = tuple(services)

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services)

    def start(self) -> None:
        """Start all, in order. Raises what one of them raises; those after it are not started."""
        for service in self._services:
            service.start()

    def stop(self) -> None:
        """Stop all, the last first. A bug in one does not keep the others running."""
        for service in reversed(self._services):
            try:
                service.stop()
            except Exception:
                journal.bug("stop", service=service.name)
