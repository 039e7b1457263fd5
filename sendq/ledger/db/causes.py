"""What an error of the database means for the caller, by its SQLSTATE: each cause in its own words.

Drivers give the SQLSTATE of a statement's error. When a connection is refused, psycopg and psycopg2 give only the
server's text, so that is compared with what PostgreSQL says; servers in other languages are then "cannot be reached".
None of the texts quotes the error, which may contain names, addresses and values.
"""

from __future__ import annotations

from dataclasses import dataclass

from sendq.errors import LedgerUnavailable, NoRight, Retryable, SchemaMismatch

Meaning = Retryable | LedgerUnavailable | SchemaMismatch


@dataclass(frozen=True, slots=True)
class Cause:
    """``kind``: the exception that callers see. ``leave``: whether other connections are no better, and are closed."""

    kind: type[Meaning]
    says: str
    leave: bool = False

    def error(self) -> Meaning:
        """The exception to raise."""
        return self.kind(self.says)


ABORTED = Cause(Retryable, "the database aborted the transaction; roll back and run it again")
# Of statements that `sendq.ledger.db.direct` has prepared.
FORGOTTEN = Cause(Retryable, "the session has lost its prepared statements; run the transaction again", leave=True)
CHANGED = Cause(
    Retryable, "a migration has changed what a prepared statement returns; run the transaction again", leave=True
)
NO_TABLE = Cause(SchemaMismatch, "the ledger has no such table or column; run: python -m sendq migrate")
UNREACHABLE = Cause(
    LedgerUnavailable, "the ledger cannot be reached; check the database URL and that the server runs", leave=True
)
READ_ONLY = Cause(
    LedgerUnavailable,
    "the ledger takes no writes: the server is a replica, or was made read-only (maintenance, a full disk); connect "
    "to the primary, or end the cause",
    leave=True,
)
REPLICA = Cause(
    LedgerUnavailable, "the ledger's server is a replica that is catching up; connect to the primary", leave=True
)
RESTARTING = Cause(LedgerUnavailable, "the ledger's server is starting, stopping or recovering", leave=True)
ENDED = Cause(LedgerUnavailable, "the server ended the connection, which was idle or busy for too long", leave=True)
TIMED_OUT = Cause(
    LedgerUnavailable,
    "the server cancelled the statement: statement_timeout is too short for it, or an administrator ended it",
)
DISK_FULL = Cause(LedgerUnavailable, "the ledger's disk is full; make room on the database server")
NO_MEMORY = Cause(LedgerUnavailable, "the ledger's server is out of memory or of another resource")
TOO_MANY = Cause(
    LedgerUnavailable,
    "the ledger's server has no connection left for this user or database; raise max_connections, or put PgBouncer in "
    "front",
)
NO_DATABASE = Cause(LedgerUnavailable, "the server has no such database; create it, or correct the database URL")
NO_SCHEMA = Cause(
    LedgerUnavailable,
    "the search path names no schema that exists; run CREATE SCHEMA in this database, or correct the path",
)
NO_OPTIONS = Cause(
    LedgerUnavailable,
    "PgBouncer does not pass on a startup parameter of the database URL; remove it there, and set it for the role "
    "instead (for `options=-csearch_path`: ALTER ROLE … SET search_path = …)",
)
CLOSED = Cause(LedgerUnavailable, "the ledger's database does not accept connections at present", leave=True)
REJECTED = Cause(LedgerUnavailable, "the server rejects the user or password, or this host; correct the database URL")
NO_RIGHT = Cause(
    NoRight,
    "the database role has no right to do this in the ledger; with the roles of deploy/roles.sql, connect as "
    "sendq_worker, or run that file again after a migration; without them, grant the role SELECT, INSERT, UPDATE and "
    "DELETE on all tables whose names begin with sendq_",
)
BROKEN = Cause(LedgerUnavailable, "the ledger's server reports an internal error; see the server's log", leave=True)

_STATES = {
    "25006": READ_ONLY,
    "25P03": ENDED, "25P04": ENDED, "57P05": ENDED,  # idle_in_transaction_, transaction_ and idle_session_timeout
    "28000": REJECTED, "28P01": REJECTED,
    "3D000": NO_DATABASE, "3F000": NO_SCHEMA,
    "40001": ABORTED, "40P01": ABORTED, "55P03": ABORTED,
    "42501": NO_RIGHT,
    "42P01": NO_TABLE, "42703": NO_TABLE,
    "53100": DISK_FULL, "53300": TOO_MANY,
    "55000": CLOSED,
    "57014": TIMED_OUT,
    "57P01": RESTARTING, "57P02": RESTARTING, "57P03": RESTARTING, "57P04": NO_DATABASE,
}  # fmt: skip

_CLASSES = {"08": UNREACHABLE, "53": NO_MEMORY, "57": RESTARTING, "58": BROKEN}

UNSUPPORTED = "unsupported startup parameter"  # PgBouncer's words

# Part of what a server says when it refuses a connection ("FATAL: …") -> the cause. The first that is found counts.
_REFUSALS = {
    UNSUPPORTED: NO_OPTIONS,
    "too many": TOO_MANY, "connection slots": TOO_MANY, "no more connections": TOO_MANY, "query_wait_timeout": TOO_MANY,
    "accepting connections": CLOSED,
    "starting up": RESTARTING, "shutting down": RESTARTING, "recovery": RESTARTING,
    "authentication failed": REJECTED, "no password supplied": REJECTED, "pg_hba.conf": REJECTED,
    "not permitted to log in": REJECTED, "role ": REJECTED,
    "permission denied": NO_RIGHT,
    "database ": NO_DATABASE,
}  # fmt: skip


def of_state(state: str, message: str) -> Cause | None:
    """The cause that an SQLSTATE names; None: the statement was wrong, which is a bug."""
    if state in ("40001", "40P01") and "recovery" in message:  # a query on a replica that stood in the way
        return REPLICA
    if state.startswith("08") and UNSUPPORTED in message:
        return NO_OPTIONS
    if state == "55000" and "accepting connections" not in message:
        return None
    return _STATES.get(state) or _CLASSES.get(state[:2])


def of_refusal(message: str) -> Cause:
    """The cause of a failed connection attempt, or of a connection that broke, by the words of server or libpq."""
    if "session is read-only" in message or "in hot standby mode" in message:  # with target_session_attrs
        return READ_ONLY
    if "no password supplied" in message:  # by libpq, before the server is asked
        return REJECTED
    found = (cause for words, cause in _REFUSALS.items() if "FATAL" in message and words in message)
    return next(found, UNREACHABLE)


def of_sqlite(message: str) -> Cause | None:
    """The cause of an error of SQLite; None: the statement was wrong, which is a bug."""
    return next((cause for words, cause in _SQLITE.items() if words in message), None)


_LOCKED = Cause(Retryable, "the SQLite ledger is locked by another writer; roll back and run it again")
_NO_FILE = Cause(
    LedgerUnavailable, "the SQLite ledger cannot be opened for writing; check its path and permissions", leave=True
)
_SQLITE = {
    "locked": _LOCKED, "busy": _LOCKED,
    "no such table": NO_TABLE, "no such column": NO_TABLE,
    "unable to open": _NO_FILE, "readonly": _NO_FILE,
    "is full": Cause(LedgerUnavailable, "the disk of the SQLite ledger is full; make room on it"),
    "disk I/O error": Cause(LedgerUnavailable, "the disk of the SQLite ledger fails; check it", leave=True),
}  # fmt: skip
