"""Tracebacks without words: place and kind stay, what an exception quotes does not."""

from __future__ import annotations

import errno
import os

import pytest
from sqlalchemy import create_engine, exc, text

from sendq.errors import NotFound
from settings.trace import NOT_SHOWN, trace, words


class TestTheTrace:
    def test_says_where_and_which_kind_without_the_words(self) -> None:
        quoted = "hush"
        with pytest.raises(ValueError) as raised:
            raise ValueError(f"cannot read {quoted}")
        said = trace(raised.value)
        assert "test_says_where_and_which_kind" in said
        assert said.endswith(f"\nValueError: {NOT_SHOWN}")
        assert "hush" not in said.replace('quoted = "hush"', "")

    def test_shows_the_chain_in_its_order(self) -> None:
        quoted = "hush"

        def fail() -> None:
            try:
                raise KeyError(quoted)
            except KeyError as error:
                raise RuntimeError(quoted) from error

        with pytest.raises(RuntimeError) as raised:
            fail()
        said = trace(raised.value)
        assert said.index("KeyError: (text") < said.index("direct cause") < said.index("RuntimeError: (text")
        assert quoted not in said

    def test_leaves_out_what_was_suppressed(self) -> None:
        def fail() -> None:
            try:
                raise KeyError("hush")
            except KeyError:
                raise RuntimeError from None

        with pytest.raises(RuntimeError) as raised:
            fail()
        assert "KeyError:" not in trace(raised.value)

    def test_ends_where_exceptions_go_in_a_circle(self) -> None:
        first, second = ValueError(), TypeError()
        first.__context__, second.__context__ = second, first
        assert trace(first).count("Traceback") == 2


class TestTheWords:
    def test_of_our_own_errors_stay(self) -> None:
        assert words(NotFound("there is no such job")) == "there is no such job"

    def test_of_a_database_are_its_state_alone(self) -> None:
        engine = create_engine("sqlite://")
        with pytest.raises(exc.SQLAlchemyError) as raised, engine.connect() as connection:
            connection.execute(text("SELECT hush"))
        engine.dispose()  # as of CPython 3.13 a connection that is only forgotten warns
        assert words(raised.value) == NOT_SHOWN
        raised.value.orig.sqlstate = "23505"  # type: ignore[attr-defined]
        assert words(raised.value) == "SQL state 23505"

    def test_of_the_system_are_its_own_sentence(self) -> None:
        assert words(OSError(errno.ENOENT, os.strerror(errno.ENOENT), "hush")) == "No such file or directory"
        assert words(OSError("hush")) == NOT_SHOWN
