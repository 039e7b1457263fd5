"""Measures how long the turns of a dead worker are away: checks the open turns ten times per second."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import exc, select

from sendq.errors import SendqError
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from tests.chaos.board import Death
from tests.support.system import System

LOOK_S = 0.1

# An offered turn that is unclaimed for this long was in a message whose reader died, or was never published.
UNCLAIMED_S = 5.0


@dataclass(slots=True)
class _Turn:
    """An open turn as last seen."""

    first: float
    last: float
    pid: int | None = None  # of the worker that claimed it; None if unclaimed


class Watch:
    """Checks until it is stopped, by the same wall clock as `Death`."""

    def __init__(self, system: System) -> None:
        self._engine = system.engine
        self._turns: dict[tuple[UUID, int], _Turn] = {}
        self._pids: dict[UUID, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Start checking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop checking."""
        self._ended.set()
        self._thread.join()

    def away(self, deaths: Sequence[Death]) -> list[float]:
        """For each turn lost by a death: the seconds until it was back, including further deaths in the meantime."""
        found = []
        for turn in self._turns.values():
            meanwhile = [death for death in deaths if turn.first - LOOK_S <= death.at <= turn.last]
            took = [death.at for death in meanwhile if turn.pid in (None, death.pid)]
            if took and (turn.pid is not None or turn.last - turn.first > UNCLAIMED_S):
                found.append(turn.last + LOOK_S - took[0])
        return found

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            with suppress(SendqError, exc.SQLAlchemyError):
                self._look()

    def _look(self) -> None:
        lane, worker = schema.lane.c, schema.worker.c
        with reading(self._engine) as connection:
            open_turns = select(lane.id, lane.fence, lane.turn_worker).where(lane.turn.is_not(None))
            turns = connection.execute(open_turns).all()
            self._pids |= {row.id: row.pid for row in connection.execute(select(worker.id, worker.pid))}
        now = time.time()
        for row in turns:
            turn = self._turns.setdefault((row.id, row.fence), _Turn(now, now))
            turn.last = now
            if row.turn_worker is not None:
                turn.pid = self._pids.get(row.turn_worker)
