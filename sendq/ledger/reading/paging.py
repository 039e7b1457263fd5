"""Keyset pagination by an index: a page costs the same at the beginning of a list and at its end.

A page starts at the place where the previous one ended (its cursor), not at a number of rows: rows that are added or
removed meanwhile shift nothing. Filters that no index serves are applied to at most `SCAN_MOST` rows of the key's
index; if too few of them match, the page is short and its cursor continues after the last row that was looked at.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, or_, select, tuple_

from sendq.errors import InvalidArgument, Problem
from sendq.ledger.db import schema
from sendq.rules.states import State

# Rows that one page scans to find those that match: some ten milliseconds.
SCAN_MOST = 10_000

# Where a page ended: the key of its last row.
Place: TypeAlias = tuple[Any, ...]


def walk(
    connection: Connection,
    wanted: Select[Any],
    key: Sequence[ColumnElement[Any]],
    *,
    within: Sequence[ColumnElement[bool]] = (),
    filters: Sequence[ColumnElement[bool]] = (),
    after: Place | None,
    limit: int,
    upwards: bool = False,
) -> tuple[Sequence[Row[Any]], Place | None]:
    """Up to ``limit`` rows of ``wanted`` after ``after``, by ``key``, and the place where the page ended; in descending
    order, or ``upwards``.

    A page that ends after a row that it only looked at names no such row: of an id that has a time, only the time.

    The rows must contain ``key``. ``within`` are conditions that its index serves, ``filters`` all others.
    """
    order = [column.asc() if upwards else column.desc() for column in key]
    among = list(within)
    if after is not None:
        among.append(_place(key) > _place(after) if upwards else _place(key) < _place(after))
    edge: Place | None = None
    if filters:
        last = select(*key).where(*among).order_by(*order).offset(SCAN_MOST - 1).limit(1)
        row = connection.execute(last).first()
        if row is not None:
            edge = tuple(row) if upwards else tuple(map(_without_chance, row))
            among.append(_place(key) <= _place(edge) if upwards else _place(key) >= _place(edge))
    rows = connection.execute(wanted.where(*among, *filters).order_by(*order).limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, edge
    return rows[:limit], tuple(rows[limit - 1]._mapping[column] for column in key)


def _without_chance(value: Any) -> Any:
    """The smallest id of the same moment: going down, a page ends before it, and the next one begins after it."""
    if not isinstance(value, UUID) or value.version != 7:
        return value
    return UUID(int=value.int >> 62 << 62)


def _place(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple_(*values)


def in_states(states: Iterable[State], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Jobs in states that have a partial index, which is read whole: in a subquery, because SQLite would otherwise walk
    along the primary key, past all other jobs.

    ``conditions`` are about columns of `sendq_job` alone.
    """
    job = schema.job.c
    alike = or_(*(job.state == literal(state) for state in sorted(states)))
    return job.id.in_(select(job.id).where(alike, *conditions).correlate(None))


def literal(state: State) -> ColumnElement[str]:
    """A state spelled out in the statement: SQLite uses a partial index only if it sees the value."""
    return bindparam(None, state.value, literal_execute=True)


def cursor(of: str, place: Place | None) -> str | None:
    """A place in the list ``of`` as an opaque string."""
    if place is None:
        return None
    parts = [value.hex if isinstance(value, UUID) else _plain(value) for value in place]
    return urlsafe_b64encode(json.dumps([of, *parts], separators=(",", ":")).encode()).rstrip(b"=").decode()


def _plain(value: Any) -> Any:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else value


def place(of: str, given: str | None, *kinds: type[int] | type[UUID] | type[str] | type[bytes]) -> Place | None:
    """The place that a cursor of the list ``of`` encodes. Raises `InvalidArgument` for any other string."""
    if given is None:
        return None
    try:
        name, *parts = json.loads(urlsafe_b64decode(given + "=" * (-len(given) % 4)))
        if name == of and len(parts) == len(kinds):
            return tuple(_part(part, kind) for part, kind in zip(parts, kinds, strict=True))
    except (ValueError, TypeError, AttributeError):  # not base64, not JSON, not a list, or other parts
        pass
    remedy = "pass the cursor that the previous page ended with, unchanged, to the same list with the same filters"
    raise InvalidArgument([Problem("cursor", "is not a cursor of this list", remedy)])


def _part(part: Any, kind: type[int] | type[UUID] | type[str] | type[bytes]) -> int | UUID | str | bytes | None:
    if part is None or (kind in (int, str) and type(part) is kind):
        return part
    if kind is bytes:
        return bytes.fromhex(part)
    if kind is UUID:
        return UUID(part)
    raise ValueError(part)
