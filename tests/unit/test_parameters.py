"""Parameters in PostgreSQL's binary format: the same bytes as psycopg's own."""

from __future__ import annotations

import struct
from typing import Any
from uuid import UUID

import pytest
from psycopg import adapters as usual
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import StrBinaryDumper

from sendq.ledger.db.parameters import encoded
from sendq.rules.states import State

ONE, TWO = UUID(int=1), UUID("0192f0c1-7c3e-7a10-8000-00000000ffff")


class _Binary:
    """psycopg's conversions, each value in the format and type in which we send it."""

    connection = None

    def __init__(self) -> None:
        self.adapters = AdaptersMap(usual)
        self.adapters.register_dumper(int, Int8BinaryDumper)
        self.adapters.register_dumper(str, StrBinaryDumper)


VALUES = [
    0, -1, 2**63 - 1, "", "ü€😀", "x" * 70_000, True, False, b"", b"\x00\xff", ONE, TWO,
    [1], [2**62, -5, 0], [1, None], ["a"],
    ["", None, "ü", "{},\""], [True, False, None], [b"\x00", b""], [ONE, TWO, None],
    list(range(1_000)),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_are_as_psycopg_sends_them(value: Any) -> None:
    found = encoded([None, value])
    assert found is not None
    psycopg = Transformer(_Binary())
    (sent,) = psycopg.dump_sequence([value], [PyFormat.BINARY])
    assert sent is not None
    assert (found.values, found.types) == ([None, bytes(sent)], (0, *(psycopg.types or ())))


@pytest.mark.parametrize(
    "value", [1.5, State.QUEUED, {}, [], [None], [1, "a"], [1, True], [[1]], (1,), bytearray(b"a")]
)
def test_of_another_type_are_left_to_psycopg(value: Any) -> None:
    assert encoded([1, value]) is None


@pytest.mark.parametrize("number", [0, 1, 100, 101, 130, 1_000])
def test_have_a_format_each(number: int) -> None:
    found = encoded(list(range(number)))
    assert found is not None
    assert len(found.values) == len(found.types) == number
    assert found.formats == [Format.BINARY] * number


def test_of_a_number_that_is_too_large_are_refused() -> None:
    with pytest.raises(struct.error):  # its words differ between versions of Python
        encoded([2**63])
