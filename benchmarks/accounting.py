"""What PostgreSQL has done: pages, bytes on disk, time by statement, plans. The wheel has no extensions, so the times
of statements are from the server's log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Engine, text

from sendq.ledger.db.engine import reading
from tests.support.servers import PgServer

# Backends report their pages now and then; idle ones after 10 s.
PAGES_TOLD_S = 11.0

TABLES = ("sendq_job", "sendq_batch")
SHOWN = 170  # characters of a statement


def pages(ledger: Engine) -> int:
    """Pages of 8 kB that all sessions of this database have accessed, cached or not, as far as reported."""
    asked = text("SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()")
    with reading(ledger) as connection:
        return int(connection.execute(asked).scalar_one())


def bytes_per_job(ledger: Engine, jobs: int) -> dict[str, float]:
    """Bytes on disk per job, by table and index; values below 0.1 are left out."""
    asked = text(
        "SELECT c.relname AS name, pg_relation_size(c.oid) + CASE WHEN c.relkind = 'r' THEN"
        " pg_table_size(c.oid) - pg_relation_size(c.oid) ELSE 0 END AS bytes FROM pg_class AS c"
        " LEFT JOIN pg_index AS i ON i.indexrelid = c.oid LEFT JOIN pg_class AS t ON t.oid = i.indrelid"
        " WHERE coalesce(t.relname, c.relname) = ANY(:tables) ORDER BY bytes DESC"
    )
    with reading(ledger) as connection:
        rows = connection.execute(asked, {"tables": list(TABLES)}).all()
    found = {"all": round(sum(row.bytes for row in rows) / jobs, 1)}
    return found | {row.name: each for row in rows if (each := round(row.bytes / jobs, 1)) >= 0.1}


# --- statements -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Statement:
    """One kind of statement, with any number of values."""

    text: str
    calls: int = 0
    ms: float = 0.0
    slowest_ms: float = 0.0
    slowest: str = ""  # its text, with numbered parameters
    parameters: str = ""


@contextmanager
def logged(pg: PgServer) -> Iterator[list[Statement]]:
    """Let the server log each statement with its time; when the block ends, they are in the list, sorted by the total
    time of each kind. Logging costs the server some time.
    """
    log = pg.socket_dir / "postgres.log"
    found: list[Statement] = []
    begun = log.stat().st_size
    _set(pg, log_min_duration_statement="0", log_parameter_max_length="-1")
    try:
        yield found
    finally:
        _set(pg, log_min_duration_statement="-1", log_parameter_max_length="0")
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(begun)
        found += parse(lines.read())


def _set(pg: PgServer, **options: str) -> None:
    for name, value in options.items():
        pg.execute(f"ALTER SYSTEM SET {name} = {value}")
    pg.execute("SELECT pg_reload_conf()")


_ENTRY = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \w+ \[\d+\] ", re.MULTILINE)
_TIMED = re.compile(
    r"(?P<process>\d+)\] LOG:  duration: (?P<ms>[\d.]+) ms  (?P<step>parse|bind|execute|statement)[^:]*: (?P<text>.*)",
    re.DOTALL,
)
_PARAMETERS = re.compile(r"(?P<process>\d+)\] DETAIL:  [Pp]arameters: (?P<values>.*)", re.DOTALL)


def parse(log: str) -> list[Statement]:
    """The statements in a PostgreSQL log, the most expensive first."""
    kinds: dict[str, Statement] = {}
    slowest_of: dict[str, Statement] = {}  # by process: the statement whose parameters come next
    starts = [match.start() for match in _ENTRY.finditer(log)]
    for start, end in zip(starts, [*starts[1:], len(log)], strict=True):
        entry = log[start:end]
        if timed := _TIMED.search(entry):
            words = " ".join(timed["text"].split())
            kind = kinds.setdefault(_alike(words), Statement(_alike(words)))
            ms = float(timed["ms"])
            kind.ms += ms
            slowest_of.pop(timed["process"], None)
            if timed["step"] in ("execute", "statement"):
                kind.calls += 1
                if ms >= kind.slowest_ms:
                    kind.slowest_ms, kind.slowest, kind.parameters = ms, words, ""
                    slowest_of[timed["process"]] = kind
        elif (given := _PARAMETERS.search(entry)) and given["process"] in slowest_of:
            slowest_of.pop(given["process"]).parameters = given["values"].strip()
    return sorted(kinds.values(), key=lambda kind: kind.ms, reverse=True)


def _alike(statement: str) -> str:
    """The statement with unnumbered parameters, and lists of them shortened to the first."""
    unnumbered = re.sub(r"\$\d+", "$", statement)
    return re.sub(r"\((\$[:\w]*)(?:, \$[:\w]*)+\)", r"(\1 …)", unnumbered)


def rows_of(statements: Sequence[Statement], jobs: int, *, most: int = 20) -> list[Mapping[str, Any]]:
    """Table rows: the cost per job of each kind."""
    return [
        {
            "ms per job": round(one.ms / jobs, 4),
            "calls per job": round(one.calls / jobs, 3),
            "slowest ms": round(one.slowest_ms, 2),
            "statement": one.text[:SHOWN],
        }
        for one in statements[:most]
    ]


_VALUE = re.compile(r"\$\d+ = (NULL|'(?:[^']|'')*')")


def plans(pg: PgServer, database: str, statements: Sequence[Statement], *, most: int = 6) -> list[str]:
    """The plan of the slowest statement of each kind, executed again in a transaction that is rolled back."""
    lines = []
    wanted = [
        one
        for one in statements
        if one.slowest.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH"))
        and "fill_call" not in one.slowest  # the benchmark's own, from a temporary table
    ]
    with psycopg.connect(host=pg.host, port=pg.port, user="postgres", dbname=database) as connection:
        for one in wanted[:most]:
            values = ", ".join(_VALUE.findall(one.parameters))
            try:
                connection.execute(f"PREPARE again AS {one.slowest}".encode())
                asked = f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE again{f'({values})' if values else ''}"
                plan = [str(row[0]) for row in connection.execute(asked.encode())]
            except psycopg.Error as error:
                plan = [f"(no plan: {type(error).__name__})"]
            connection.rollback()
            connection.execute("DEALLOCATE ALL")
            connection.commit()
            lines += ["", f"`{one.text[:SHOWN]}`", "", "```", *plan, "```"]
    return lines
