"""The services of a process, in the order in which they start; they stop in reverse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from worker.telemetry import journal


class Loop(Protocol):
    """Runs in its own thread until it is stopped."""

    def start(self) -> None:
        """Start the thread."""

    def stop(self, limit_s: float) -> None:
        """Stop; waits up to ``limit_s`` seconds for current work."""


@dataclass(frozen=True, slots=True)
class Service:
    """One part of a process."""

    name: str
    start: Callable[[], object]
    stop: Callable[[], object]


def loop(name: str, running: Loop, *, limit_s: float) -> Service:
    """A loop as a service; stopping waits no longer than ``limit_s`` seconds for it."""
    return Service(name, running.start, partial(running.stop, limit_s=limit_s))


def resource(name: str, close: Callable[[], object]) -> Service:
    """Something that is already open, closed after everything that uses it has stopped."""
    return Service(name, lambda: None, close)


class Services:
    """The services of a process, in order."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = tuple(services)
        self._to_stop = self._services

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services)

    def start(self) -> None:
        """Start all, in order. If one of them raises, those before it are stopped and the exception propagates."""
        for number, service in enumerate(self._services):
            try:
                service.start()
            except BaseException:
                self._to_stop = self._services[:number]
                self.stop()
                self._to_stop = ()
                raise

    def stop(self) -> None:
        """Stop all, the last first. If one of them raises, the others are stopped nevertheless."""
        for service in reversed(self._to_stop):
            try:
                service.stop()
            except Exception:
                journal.bug("stop", service=service.name)
