"""Parameters in PostgreSQL's binary format: whole numbers, texts, booleans, bytes, UUIDs, and lists of one of these.

psycopg converts values of any type, and asks for each, and for each list, how. These few types are all that a worker's
statements are given for every job, and so take a third of the time. Formats: the functions ``*_send`` of PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from struct import Struct
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.pq import Format

_INT8 = Struct("!q").pack
_LENGTH = Struct("!i").pack
# Of an array: dimensions, whether it has nulls, type of its elements; then length and lower bound of its dimension.
_HEAD = Struct("!iiIii").pack
_NULL = _LENGTH(-1)


class Parameters(NamedTuple):
    """As libpq wants them; the types are object ids of PostgreSQL's types."""

    values: Sequence[Any]
    types: tuple[int, ...]
    formats: Sequence[Format]


class _Kind(NamedTuple):
    """How values of one of Python's types are sent, and what a list of one such value begins with."""

    type: int
    list_type: int
    send: Callable[[Any], bytes]
    head_of_one: bytes


def _kind(type_: int, list_type: int, send: Callable[[Any], bytes]) -> _Kind:
    return _Kind(type_, list_type, send, _HEAD(1, 0, type_, 1, 1))


_KINDS: Mapping[type, _Kind] = {
    int: _kind(20, 1016, _INT8),
    str: _kind(25, 1009, str.encode),
    bool: _kind(16, 1000, lambda value: b"\1" if value else b"\0"),
    bytes: _kind(17, 1001, lambda value: value),
    UUID: _kind(2950, 2951, lambda value: value.bytes),
}
_UNKNOWN = 0  # the type of a null, which the statement's own casts determine


def encoded(values: Sequence[Any]) -> Parameters | None:
    """The values as parameters, texts as UTF-8; None if one of them is of another type."""
    sent: list[bytes | None] = []
    types: list[int] = []
    for value in values:
        kind = _KINDS.get(type(value))
        if kind is not None:
            sent.append(kind.send(value))
            types.append(kind.type)
        elif value is None:
            sent.append(None)
            types.append(_UNKNOWN)
        elif type(value) is list and (kind := _kind_of(value)) is not None:
            sent.append(_array(value, kind))
            types.append(kind.list_type)
        else:
            return None
    return Parameters(sent, tuple(types), [Format.BINARY] * len(sent))


def _kind_of(values: list[Any]) -> _Kind | None:
    """The kind of all elements that are not null, if it is one."""
    if len(values) == 1:  # a job that comes alone has no longer lists
        return _KINDS.get(type(values[0]))
    kinds = set(map(type, values)) - {type(None)}
    return _KINDS.get(kinds.pop()) if len(kinds) == 1 else None


def _array(values: list[Any], kind: _Kind) -> bytes:
    if len(values) == 1:
        return kind.head_of_one + _with_length(kind.send(values[0]))
    nulls = None in values
    head = _HEAD(1, nulls, kind.type, len(values), 1)
    if nulls:
        parts = [_NULL if value is None else _with_length(kind.send(value)) for value in values]
        return head + b"".join(parts)
    items = list(map(kind.send, values))
    lengths = map(_LENGTH, map(len, items))
    return head + b"".join(chain.from_iterable(zip(lengths, items, strict=True)))


def _with_length(item: bytes) -> bytes:
    return _LENGTH(len(item)) + item
