"""Database URLs of the ledger: which are accepted, and in which form."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import URL, exc
from sqlalchemy.engine import make_url

_SEVERAL_HOSTS = re.compile(
    r"(?P<before>postgres(?:ql)?(?:\+\w+)?://(?:[^/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<after>[/?].*)?",
    re.DOTALL,
)

_HOST = re.compile(r"[^:\[\]]+(:\d+)?")


def parsed_url(url: str | URL) -> URL:
    """The URL as SQLAlchemy's.

    Several hosts, which libpq separates by commas (``postgresql://user@a:5432,b:5432/name``), become SQLAlchemy's
    parameters ``host``. Then, unless the URL says otherwise, the server that takes writes is meant: a connection to a
    standby would be of no use (https://www.postgresql.org/docs/current/libpq-connect.html, ``target_session_attrs``).

    Raises:
        ArgumentError, ValueError: it is not a URL.
    """
    hosts: list[str] = []
    if isinstance(url, str) and (found := _SEVERAL_HOSTS.fullmatch(url)):
        hosts = found["hosts"].split(",")
        if not all(_HOST.fullmatch(one) for one in hosts):
            raise ValueError("the ledger's URL has several hosts, which must be host or host:port, separated by commas")
        url = f"{found['before']}{found['after'] or ''}"
    parsed = make_url(url)
    if hosts:
        parsed = parsed.update_query_pairs([("host", one if ":" in one else f"{one}:5432") for one in hosts])
    if isinstance(parsed.query.get("host"), tuple) and "target_session_attrs" not in parsed.query:
        parsed = parsed.update_query_dict({"target_session_attrs": "read-write"})
    return parsed


def ledger_url(url: str | URL) -> URL:
    """The URL with its driver named: ``postgres://`` and ``postgresql://`` mean psycopg 3.

    Raises:
        ValueError: it is not a database URL, or names a database other than PostgreSQL and SQLite.
    """
    try:
        parsed = parsed_url(url)
    except exc.ArgumentError:
        raise ValueError(
            "the ledger's URL is not a database URL; write postgresql://user@host/name or sqlite:///path"
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("postgresql", "sqlite"):
        raise ValueError(
            f"the ledger cannot live in {parsed.get_backend_name()!r}; write postgresql://user@host/name or sqlite:///path"
        )
    return parsed


def worker_url(url: str) -> str:
    """The URL as workers use it: PostgreSQL through psycopg 3, or a SQLite file that several processes can open.

    Raises:
        ValueError: it is neither; the message does not show the URL, which may contain a password.
    """
    try:
        parsed = parsed_url(url)
    except (exc.ArgumentError, ValueError):
        raise ValueError("is not a database address") from None
    kind, _, driver = parsed.drivername.partition("+")
    if kind not in ("postgres", "postgresql", "sqlite"):
        raise ValueError("is neither PostgreSQL nor SQLite")
    if driver not in ("", "psycopg", "pysqlite"):
        raise ValueError("names another driver; workers use psycopg 3 (or sqlite3)")
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ValueError("is an in-memory database, which processes cannot share")
        parsed = parsed.set(drivername="sqlite")
    else:
        if not parsed.database:
            raise ValueError("names no database")
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


# Parameters of a URL that asyncpg itself reads, from an address in libpq's form.
_ASYNCPG_READS = frozenset(
    {
        "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "passfile", "krbsrvname",
        "application_name", "options",
    }
)  # fmt: skip
# And those that SQLAlchemy's dialect reads, or passes on as they are.
_DIALECT_READS = frozenset({"host", "port", "ssl", "prepared_statement_cache_size", "async_fallback"})


def for_asyncpg(url: URL) -> tuple[URL, dict[str, object]]:
    """``url`` without the parameters of libpq, which asyncpg does not take by name, and what to connect with instead.

    Raises:
        ValueError: names a parameter for which asyncpg has nothing; the value is not shown.
    """
    arguments: dict[str, object] = {}
    read: dict[str, str | tuple[str, ...]] = {}
    for name, value in url.query.items():
        if name in _DIALECT_READS:
            continue
        if name in _ASYNCPG_READS:
            read[name] = value
        elif name == "connect_timeout":
            arguments["timeout"] = _seconds(value)
        elif not (name == "client_encoding" and str(value).lower() in ("utf8", "utf-8")):  # asyncpg knows no other
            raise ValueError(
                f"the URL's parameter {name!r} has no counterpart in asyncpg; remove it, or write postgresql+psycopg://"
            )
    if read:
        arguments["dsn"] = URL.create("postgresql", query=read).render_as_string()
    return url.set(query={name: value for name, value in url.query.items() if name in _DIALECT_READS}), arguments


def _seconds(value: str | tuple[str, ...]) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ValueError("the URL's parameter 'connect_timeout' is not a number of seconds") from None
