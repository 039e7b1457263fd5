"""The turns of this process: those that its threads are claiming, and those that its event loop carries out.

The ledger may list more: a claim whose answer was lost, or a turn that a bug ended. The worker is alive, so no rescuer
takes these back, and their lanes would wait for as long as it lives. Such lost turns are found by comparing the ledger
with this register, which is why a turn is entered here before it is claimed.
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
        self._lost = False

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
        """These are ours, until `let_go`."""
        with self._changed:
            self._names.update(names)

    def let_go(self, name: Name, *, lost: bool = False) -> None:
        """A turn is over; ``lost``: the ledger may not know."""
        with self._changed:
            self._drop([name])
            self._lost = self._lost or lost

    def lose(self) -> None:
        """The ledger may have given us a turn that we do not have."""
        with self._changed:
            self._lost = True

    def take_lost(self) -> bool:
        """Whether to look for strays; says so once."""
        with self._changed:
            lost, self._lost = self._lost, False
            return lost

    def __contains__(self, name: object) -> bool:
        with self._changed:
            return name in self._names

    def wait_for_claims(self, limit_s: float) -> bool:
        """Until no thread is claiming any more; False: the limit was over before."""
        with self._changed:
            return self._changed.wait_for(lambda: self._claims == 0, limit_s)

    def _drop(self, names: Iterable[Name]) -> None:
        for name in names:
            self._names[name] -= 1
            if self._names[name] <= 0:
                del self._names[name]
