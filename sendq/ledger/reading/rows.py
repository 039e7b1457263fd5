"""Rows as the frozen dataclasses that callers get: each field is the column of its name, converted to its type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Connection, Row, Table, select

from sendq.clock import Micros, moment
from sendq.facts.lanes import Lane
from sendq.ledger.db import schema
from sendq.rules.tags import read_tags
from sendq.rules.waiting_job import HELD

T = TypeVar("T")


def columns_of(kind: type[Any], table: Table) -> list[Column[Any]]:
    """The columns of ``table`` that ``kind`` has fields for, in the order of the fields."""
    return [table.c[field.name] for field in fields(kind) if field.name in table.c]


def as_one(kind: type[T], row: Row[*tuple[Any, ...]], **others: Any) -> T:
    """A row as a ``kind``: microseconds become datetimes, ids strings, tags a dict, and values enums where it has them.

    ``others`` are fields that are not columns of the row.
    """
    values = row._mapping
    given = {
        name: convert(values[name]) if values[name] is not None or convert is read_tags else None
        for name, convert in _converters(kind).items()  # type: ignore[arg-type]  # mypy takes no class for hashable
        if name not in others and name in values
    }
    return kind(**given, **others)


def next_start(next_at: Micros) -> datetime | None:
    """When a job may next begin; None: a person holds it, or it waits for approval or for another job."""
    return None if next_at >= HELD else moment(next_at)


def as_list(kind: type[T], rows: Iterable[Row[*tuple[Any, ...]]]) -> list[T]:
    """Rows as a list of ``kind``."""
    return [as_one(kind, row) for row in rows]


def first(connection: Connection, kind: type[T], table: Table, *conditions: ColumnElement[bool]) -> T | None:
    """The first row of ``table`` for which the conditions are true, as a ``kind``; None: there is none."""
    row = connection.execute(select(*columns_of(kind, table)).where(*conditions).limit(1)).first()
    return None if row is None else as_one(kind, row)


def lane_of(connection: Connection, lane_id: UUID) -> Lane | None:
    """A lane; None: the dispatcher has not seen a job for its grant yet."""
    row = connection.execute(select(schema.lane).where(schema.lane.c.id == lane_id)).first()
    return None if row is None else Lane._make(row)


@cache
def _converters(kind: type[Any]) -> dict[str, Callable[[Any], Any]]:
    hints = get_type_hints(kind)
    return {field.name: read_tags if field.name == "tags" else _converter(hints[field.name]) for field in fields(kind)}


def _converter(hint: Any) -> Callable[[Any], Any]:
    if get_origin(hint) in (UnionType, Union):
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
    if hint is datetime:
        return moment
    if hint is str or (isinstance(hint, type) and issubclass(hint, Enum)):
        converter: Callable[[Any], Any] = hint
        return converter
    return lambda value: value
