"""Constant statements on libpq itself, in one blocking call each: for a worker's own connections with psycopg.

A cursor of psycopg costs several times what libpq and the server take for a short statement: its generators, its own
waiting, its checks of what was asked. So the statements of `sendq.ledger.db.constant`, BEGIN, COMMIT and ROLLBACK go
around it here, with values of the usual types; rows and other values are still converted by psycopg. Everything else
about the connection is psycopg's, and both ways can be mixed in one transaction.

A connection that `keeps_plans` prepares a statement when it is executed for the second time. That saves the server from
parsing and planning it again, which is more work than executing it. A kept plan may have been made when the tables were
empty, so the session allows only plans that are right at any size: `KEEPING_PLANS`.

Not for a caller's process: under gevent a blocking call would stop every other greenlet. That has
`sendq.ledger.db.cooperative`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from psycopg import Connection, OperationalError, ProgrammingError, abc, errors
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.types.numeric import Int8BinaryDumper

from sendq.ledger.db.causes import CHANGED, FORGOTTEN, Cause
from sendq.ledger.db.parameters import Parameters, encoded

_PARAMETER = re.compile(r"%\((\w+)\)s")

# As `sendq.ledger.db.engine` has it: READ COMMITTED, whatever the database's default is.
_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"

# Settings of a session that keeps plans. A worker's frequent statements find a few rows through an index, by nested
# loops, in the order of the index; while a table is small, the planner would also read or join all of it. Compiling a
# plan (jit) costs more than executing it, and a generic plan's estimates can make it look worthwhile.
KEEPING_PLANS = (
    b"SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off;"
    b" SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off"
)

# The server ends a transaction, and its locks, if nothing comes for so long: of a process that is frozen (SIGSTOP, a
# suspended host) while its connection lives on. Others can then take back its turns in the time that they promise.
ENDING_FROZEN = b"SET idle_in_transaction_session_timeout = '8s'"

# Statements that a connection remembers, prepared or executed once; then it begins again. A worker has some hundred.
PREPARED_MOST = 300


# What the server says of a prepared statement that it cannot execute: there is none of that name, or another one.
_FORGOTTEN = frozenset({b"26000", b"42P05"})


class UnusablePlan(OperationalError):
    """A prepared statement cannot be executed; the same transaction can, on a new connection."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.says)
        self.cause = cause


class DirectConnection(Connection[tuple[Any, ...]]):
    """A connection of psycopg that also executes statements without its cursors. Used by one thread at a time."""

    _converter: abc.Transformer | None = None  # kept, because it remembers how each type is converted
    # By text and types of the parameters: the name, None if it was executed only once. None: it keeps no plans.
    _kept: dict[tuple[bytes, tuple[int, ...]], bytes | None] | None = None
    _kept_so_far = 0  # for the next name
    _is_utf8: bool | None = None  # whether it sends texts as UTF-8
    is_read_committed = False  # whether a statement without BEGIN is executed at the isolation level of `_BEGIN`

    def set_up(self, *, keeps_plans: bool) -> None:
        """Make the settings of a worker's session, if PostgreSQL itself is at the other end; call it at once.
        ``keeps_plans``: prepare frequent statements from now on.

        Behind a pooler, the next transaction may be another session's, which has other settings and knows nothing of
        what was prepared in this one. The process that answered the connection's start is then the pooler's own, or has
        an invented number.
        """
        answer = self.pgconn.exec_(b"SELECT pg_backend_pid()")
        if answer.status != ExecStatus.TUPLES_OK or answer.get_value(0, 0) != b"%d" % self.pgconn.backend_pid:
            return
        settings = (ENDING_FROZEN, KEEPING_PLANS) if keeps_plans else (ENDING_FROZEN,)
        if self.pgconn.exec_(b"; ".join(settings)).status == ExecStatus.COMMAND_OK and keeps_plans:
            self._kept = {}

    def direct_rows(self, text: str, values: Mapping[str, Any], *, last: bool = False) -> list[tuple[Any, ...]]:
        """Execute a statement with parameters of the form ``%(name)s``; returns all of its rows.

        ``last``: the transaction has no further statement. If it has no earlier one either, this one is executed
        without BEGIN and COMMIT, as a transaction by itself.

        Raises the exceptions that a cursor would.
        """
        if self.pgconn.transaction_status == TransactionStatus.IDLE and not (last and self.is_read_committed):
            self._command(_BEGIN)
        statement, names, formats = _in_form_of_libpq(text)
        converter = self._converter
        if converter is None:
            self._converter = converter = Transformer(_WideNumbers(self))
        try:
            wanted = [values[name] for name in names]
        except KeyError as error:
            raise ProgrammingError(f"query parameter missing: {error}") from None
        if self._is_utf8 is None:
            self._is_utf8 = self.info.encoding == "utf-8"
        given = encoded(wanted) if self._is_utf8 else None
        if given is None:
            dumped = converter.dump_sequence(wanted, formats)
            given = Parameters(dumped, converter.types or (), converter.formats or ())
        result = self._execute(statement, given)
        if result.status == ExecStatus.COMMAND_OK:
            return []
        if result.status != ExecStatus.TUPLES_OK:
            self._fail(result)
        if not result.ntuples:
            return []
        converter.set_pgresult(result)
        try:
            return converter.load_rows(0, result.ntuples, tuple)
        finally:
            converter.set_pgresult(None)  # or it would keep what may be many bodies

    def _execute(self, statement: bytes, given: Parameters) -> PGresult:
        name = None if self._kept is None else self._name_of(statement, given.types)
        if name is None:
            return self.pgconn.exec_params(statement, given.values, given.types, given.formats, Format.TEXT)
        return self.pgconn.exec_prepared(name, given.values, given.formats, Format.TEXT)

    def _name_of(self, statement: bytes, types: tuple[int, ...]) -> bytes | None:
        """The name under which a statement is prepared; None when it is executed for the first time."""
        assert self._kept is not None
        key = statement, types
        if key not in self._kept:
            if len(self._kept) >= PREPARED_MOST:
                self._command(b"DEALLOCATE ALL")
                self._kept.clear()
            self._kept[key] = None
            return None
        name = self._kept[key]
        if name is None:
            self._kept_so_far += 1
            name = b"sendq_%d" % self._kept_so_far
            result = self.pgconn.prepare(name, statement, types)
            if result.status != ExecStatus.COMMAND_OK:
                self._fail(result)
            self._kept[key] = name
        return name

    def commit(self) -> None:
        """As psycopg's own."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            self._command(b"COMMIT")

    def rollback(self) -> None:
        """As psycopg's own."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            self._command(b"ROLLBACK")

    def _command(self, command: bytes) -> None:
        result = self._exec(command)
        if result.status != ExecStatus.COMMAND_OK:
            self._fail(result)

    def _exec(self, command: bytes) -> PGresult:
        return self.pgconn.exec_(command)

    def _fail(self, result: PGresult) -> NoReturn:
        """Raise the error of a result."""
        if self.pgconn.status != ConnStatus.OK and result.error_field(DiagnosticField.SQLSTATE) is None:
            raise OperationalError(f"the connection is lost: {self.pgconn.get_error_message()}")
        if self._kept:
            if result.error_field(DiagnosticField.SQLSTATE) in _FORGOTTEN:
                raise UnusablePlan(FORGOTTEN)
            if result.error_field(DiagnosticField.SOURCE_FUNCTION) == b"RevalidateCachedQuery":
                raise UnusablePlan(CHANGED)
        raise errors.error_from_result(result, encoding=self.info.encoding)


class _WideNumbers:
    """How a connection converts values, but with each whole number as a bigint: psycopg chooses by the value, and then
    a statement would be prepared once for each combination of sizes. Every one of them casts its parameters.
    """

    def __init__(self, connection: DirectConnection) -> None:
        self.connection = connection
        self.adapters = AdaptersMap(connection.adapters)
        self.adapters.register_dumper(int, Int8BinaryDumper)


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
