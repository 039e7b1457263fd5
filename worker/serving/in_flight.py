"""The turns of this process: those that its threads are claiming and those that its event loop carries out.

The ledger may list more: a claim whose answer was lost, or a turn that a bug ended. The worker is alive, so no rescuer
takes these back, and their lanes would wait until it ends. Such lost turns are found by comparing the ledger with this
register, so a turn must be entered here before it is claimed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

Name = tuple[UUID, int]  # lane and fence


class InFlight:
    """Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._claims = 0
        self._names: Counter[Name] = Counter()  # a message delivered twice is entered twice for a moment
        self._check_requested = False

    @contextmanager
    def claiming(self, names: Collection[Name]) -> Iterator[None]:
        """Enter turns while they are being claimed; those that are not passed to `keep` are removed afterwards."""
        with self._changed:
            self._claims += 1
            self._names.update(names)
        try:
            yield
        finally:
            with self._changed:
                self._claims -= 1
                self._drop(names)
                self._changed.notify_all()

    def keep(self, names: Iterable[Name]) -> None:
        """Keep claimed turns in the register until `remove`."""
        with self._changed:
            self._names.update(names)

    def remove(self, name: Name, *, lost: bool = False) -> None:
        """Remove a turn that is over; ``lost``: the ledger may still list it, so request a check."""
        with self._changed:
            self._drop([name])
            self._check_requested = self._check_requested or lost

    def request_check(self) -> None:
        """Request a comparison with the ledger, which may list a turn that is not here."""
        with self._changed:
            self._check_requested = True

    def take_check_request(self) -> bool:
        """Whether a check was requested; clears the request."""
        with self._changed:
            requested, self._check_requested = self._check_requested, False
            return requested

    def __contains__(self, name: object) -> bool:
        with self._changed:
            return name in self._names

    def wait_for_claims(self, limit_s: float) -> bool:
        """Wait until no thread is claiming; False if the limit passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._claims == 0, limit_s)

    def _drop(self, names: Iterable[Name]) -> None:
        for name in names:
            self._names[name] -= 1
            if self._names[name] <= 0:
                del self._names[name]
