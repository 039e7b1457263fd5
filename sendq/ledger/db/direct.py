"""Constant statements on libpq itself, in one blocking call each: for a worker's own connections with psycopg.

A cursor of psycopg costs several times what libpq and the server take for a short statement: its generators, its own
waiting, its checks of what was asked. So the statements of `sendq.ledger.db.constant`, BEGIN, COMMIT and ROLLBACK go
around it here; values and rows are still converted by psycopg. Everything else about the connection is psycopg's, and
both ways can be mixed in one transaction.

Not for a caller's process: under gevent a blocking call would stop every other greenlet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from psycopg import Connection, OperationalError, ProgrammingError, abc, errors
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

_PARAMETER = re.compile(r"%\((\w+)\)s")

# As `sendq.ledger.db.engine` has it: READ COMMITTED, whatever the database's default is.
_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"


class DirectConnection(Connection[tuple[Any, ...]]):
    """A connection of psycopg that also executes statements without its cursors. Used by one thread at a time."""

    _converter: abc.Transformer | None = None  # kept, because it remembers how each type is converted

    def direct_rows(self, text: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Execute a statement with parameters of the form ``%(name)s``; returns all of its rows.

        Raises the exceptions that a cursor would.
        """
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            self._command(_BEGIN)
        statement, names, formats = _in_form_of_libpq(text)
        converter = self._converter
        if converter is None:
            self._converter = converter = Transformer(self)
        try:
            given = converter.dump_sequence([values[name] for name in names], formats)
        except KeyError as error:
            raise ProgrammingError(f"query parameter missing: {error}") from None
        result = self.pgconn.exec_params(statement, given, converter.types, converter.formats, Format.TEXT)
        if result.status == ExecStatus.COMMAND_OK:
            return []
        if result.status != ExecStatus.TUPLES_OK:
            self._fail(result)
        converter.set_pgresult(result)
        try:
            return converter.load_rows(0, result.ntuples, tuple)
        finally:
            converter.set_pgresult(None)  # or it would keep what may be many bodies

    def commit(self) -> None:
        """As psycopg's own."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            self._command(b"COMMIT")

    def rollback(self) -> None:
        """As psycopg's own."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            self._command(b"ROLLBACK")

    def _command(self, command: bytes) -> None:
        result = self.pgconn.exec_(command)
        if result.status != ExecStatus.COMMAND_OK:
            self._fail(result)

    def _fail(self, result: PGresult) -> NoReturn:
        """Raise the error of a result."""
        if self.pgconn.status != ConnStatus.OK and result.error_field(DiagnosticField.SQLSTATE) is None:
            raise OperationalError(f"the connection is lost: {self.pgconn.get_error_message()}")
        raise errors.error_from_result(result, encoding=self.info.encoding)


@lru_cache(maxsize=1_000)
def _in_form_of_libpq(text: str) -> tuple[bytes, tuple[str, ...], tuple[PyFormat, ...]]:
    """The statement with numbered parameters, their names in order, and the format of each (psycopg chooses)."""
    names: list[str] = []

    def place(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    numbered = _PARAMETER.sub(place, text).replace("%%", "%")
    return numbered.encode(), tuple(names), (PyFormat.AUTO,) * len(names)
