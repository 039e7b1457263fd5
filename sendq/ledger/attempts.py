"""Attempts: the one place that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from sendq.facts.outcomes import Attempt
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new, insert_rows


def append_attempts(connection: Connection, attempts: Sequence[Attempt]) -> None:
    """Write attempts that cannot exist yet."""
    insert_rows(connection, schema.attempt, [attempt._asdict() for attempt in attempts])


def insert_new_attempts(connection: Connection, attempts: Sequence[Attempt]) -> set[UUID]:
    """Write those attempts that do not exist yet; returns their ids."""
    return insert_new(connection, schema.attempt, [attempt._asdict() for attempt in attempts], returning="id")
