"""The turns that this process has in hand: those that its threads are claiming, and those that its loop carries out.

The ledger may think that it has more. A claim whose answer was lost is one, and a turn that a bug broke off: the worker
lives, so that nobody takes them back, and their lanes would wait for as long as it does. Such *strays* are found by
comparing the ledger with this book, which is why a turn is written down here before it is claimed.
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
        self._names: Counter[Name] = Counter()  # a message that comes twice is in two hands for a moment
        self._lost = False

    @contextmanager
    def claiming(self, names: Collection[Name]) -> Iterator[None]:
        """While these are being claimed; what `keep` was not told of is out of hand again afterwards."""
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
