"""The suppression list of each application: entries, looked up by the digest of an address; never the address itself.

An entry blocks all mail, or that of one category (`sendq.rules.suppression`). It is not pruned, and `forget`
leaves it: without it the recipient would be mailed again. Without an entry, an application costs a probe of an index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, select, tuple_

from sendq.clock import Micros
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks, insert_new, one_of


class Entry(NamedTuple):
    """A row of ``sendq_suppression``."""

    application: str
    digest: bytes
    category: str
    reason: str
    at: Micros
    source: str


Name = tuple[str, bytes, str]
"""What identifies an entry: application, digest, category."""


def exists(connection: Connection, name: Name) -> bool:
    """Whether there is this entry."""
    table = schema.suppression.c
    query = select(table.application).where(tuple_(table.application, table.digest, table.category) == name)
    return connection.execute(query).first() is not None


def applications(connection: Connection) -> list[str]:
    """The applications whose list has an entry: one probe of the primary key for each."""
    table = schema.suppression.c
    found: list[str] = []
    while True:
        query = select(func.min(table.application)).where(*([table.application > found[-1]] if found else []))
        name = connection.execute(query).scalar_one()
        if name is None:
            return found
        found.append(name)


def entries_of(
    connection: Connection, application: str, digests: Collection[bytes]
) -> dict[bytes, list[tuple[str, str]]]:
    """The entries of these recipients, as (category, reason); those without one are left out."""
    table = schema.suppression.c
    found: dict[bytes, list[tuple[str, str]]] = {}
    for some in chunks(sorted(digests)):
        query = select(table.digest, table.category, table.reason).where(
            table.application == application, one_of(connection, table.digest, some)
        )
        for row in connection.execute(query):
            found.setdefault(bytes(row.digest), []).append((row.category, row.reason))
    return found


def add(connection: Connection, entries: Iterable[Entry]) -> int:
    """Add entries; one that exists stays as it is. Returns how many are new.

    They are inserted in order, so that two transactions with the same ones wait for each other in one order.
    """
    # By application and category, because only the digests of new ones are returned.
    groups: dict[tuple[str, str], dict[bytes, Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.application, entry.category), {}).setdefault(entry.digest, entry)
    added = 0
    for name in sorted(groups):
        for some in chunks(sorted(groups[name].values())):
            rows = [entry._asdict() for entry in some]
            added += len(insert_new(connection, schema.suppression, rows, returning="digest"))
    return added


def remove(connection: Connection, names: Sequence[Name]) -> int:
    """Remove entries; returns how many there were."""
    table = schema.suppression.c
    removed = 0
    for some in chunks(sorted(set(names))):
        these = tuple_(table.application, table.digest, table.category).in_(some)
        removed += connection.execute(delete(schema.suppression).where(these)).rowcount
    return removed


def names_of(connection: Connection, application: str, digests: Collection[bytes]) -> list[Name]:
    """The entries of these recipients, whatever their category."""
    found = entries_of(connection, application, digests)
    return [(application, digest, category) for digest, listed in found.items() for category, _ in listed]
