"""Connections of a caller's process: constant statements without psycopg's cursors, but with psycopg's own waiting.

It lets other greenlets run under gevent, and threads and signals everywhere, as it does for a cursor. Nothing is
prepared and no setting is made, because there may be a pooler.
"""

from __future__ import annotations

import select
from typing import Any

from psycopg import Connection, OperationalError, generators
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from sendq.ledger.db.direct import DirectConnection
from sendq.ledger.db.parameters import Parameters


class CooperativeConnection(DirectConnection):
    """A connection of psycopg whose direct statements wait as a cursor does."""

    def note_isolation(self) -> None:
        """Ask for the default isolation level of its user and database; call it at once."""
        answer = self._exec(b"SHOW default_transaction_isolation")
        if answer.status != ExecStatus.TUPLES_OK:
            self._fail(answer)
        self.is_read_committed = answer.get_value(0, 0) == b"read committed"

    def _execute(self, statement: bytes, given: Parameters) -> PGresult:
        self.pgconn.send_query_params(statement, given.values, given.types, given.formats, Format.TEXT)
        return self._answer()

    def _exec(self, command: bytes) -> PGresult:
        self.pgconn.send_query(command)
        return self._answer()

    def _answer(self) -> PGresult:
        results: list[PGresult] = self.wait(generators.execute(self.pgconn))
        return results[0]


def may_be_closed(connection: Connection[Any]) -> bool:
    """Whether something has come over an idle connection, such as its end. Costs no round trip."""
    if not hasattr(select, "poll"):  # on Windows
        return True
    waiting = select.poll()
    try:
        waiting.register(connection.fileno(), select.POLLIN)
    except OperationalError:
        return True
    return bool(waiting.poll(0))
