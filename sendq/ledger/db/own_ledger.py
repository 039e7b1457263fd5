"""Whether a caller's session is on the queue's own ledger.

In another database with a ledger of its own, a job would be stored where no worker of this queue looks. An address
tells that two are the same; if addresses differ (a pooler, another name of the host), the ledgers' own names decide,
once for each address.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, select

from sendq.ledger.db import schema

Address = tuple[str | None, int | None, str, str]


@dataclass(frozen=True, slots=True)
class Stranger:
    """A session whose address is not known to be the ledger's: its address, and the name of the ledger there."""

    address: Address | None
    ledger: object


class OwnLedger:
    """The addresses of one ledger. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        own = address_of_url(engine.url)
        self._engine = engine
        self._known: set[Address] = set() if own is None else {own}

    def stranger(self, session: object, connection: Connection) -> Stranger | None:
        """What is to be compared before anything is stored through ``session``; None: it is on this ledger."""
        if connection.engine.pool is self._engine.pool:
            return None
        address = address_of(session, connection)
        return None if address in self._known else Stranger(address, name_of_ledger(connection))

    def compare(self, stranger: Stranger, own: object) -> None:
        """Raise ``TypeError`` unless the stranger's ledger is this one, whose name is ``own``."""
        if stranger.ledger != own:
            raise TypeError(
                "session: belongs to another database than the ledger of this queue; pass a session of the ledger's "
                "database, or use a queue on the session's"
            )
        if stranger.address is not None:
            self._known.add(stranger.address)


def address_of(session: object, connection: Connection) -> Address | None:
    """The database of a caller's connection; None if only the connection itself knows it."""
    settings: Any = getattr(session, "settings_dict", None)
    if isinstance(settings, dict):  # Django's, whose driver connection is borrowed
        name = str(settings.get("NAME") or "")
        if connection.dialect.name == "sqlite":
            return _file(name)
        port = str(settings.get("PORT") or "")
        return (settings.get("HOST") or None, int(port) if port.isdigit() else None, name, "") if name else None
    return address_of_url(connection.engine.url)


def address_of_url(url: URL) -> Address | None:
    """The database that a URL names: host, port, database, and the options that may choose a schema in it."""
    if url.get_backend_name() == "sqlite":
        return _file(url.database or "")
    if not url.database or "host" in url.query:
        return None
    return url.host or None, url.port, url.database, str(url.query.get("options", ""))


def name_of_ledger(connection: Connection) -> object:
    """The name of the ledger that this connection sees."""
    return connection.execute(select(schema.leader.c.line)).scalars().first()


def _file(name: str) -> Address | None:
    if not name or name == ":memory:" or name.startswith("file:"):
        return None
    return None, None, str(Path(name).resolve()), ""
