"""Which URLs a ledger can have, and what is said of the others."""

from __future__ import annotations

import sys

import pytest
from sqlalchemy import make_url

from sendq import AsyncSendQueue, SendQueue
from sendq.ledger.db.urls import for_asyncpg, ledger_url


class TestALedgersUrl:
    @pytest.mark.parametrize("short", ["postgres://u@h/d", "postgresql://u@h/d"])
    def test_means_psycopg_3_where_no_driver_is_named(self, short: str) -> None:
        assert ledger_url(short).drivername == "postgresql+psycopg"

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("nonsense", "not a database URL"),
            ("mysql://u@h/d", "cannot live in 'mysql'"),
            ("postgresql+pg8000://u@h/d", r"is not installed; write one of postgresql\+psycopg, "),
            ("postgresql+asyncpg://u@h/d", "use AsyncSendQueue"),
            ("sqlite+aiosqlite:///x.db", "use AsyncSendQueue"),
        ],
    )
    def test_that_cannot_be_one_is_refused_with_what_to_do(self, url: str, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            SendQueue(url)

    def test_whose_driver_is_missing_is_refused_with_the_package_that_brings_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(ValueError, match=r"not installed; pip install 'psycopg\[binary\]'"):
            SendQueue("postgresql://u@h/d")

    def test_of_an_async_queue_needs_an_async_driver(self) -> None:
        with pytest.raises(ValueError, match="no asyncio driver"):
            AsyncSendQueue("postgresql+psycopg2://u@h/d")


class TestTheUrlOfAsyncpg:
    def test_keeps_nothing_that_asyncpg_would_not_take(self) -> None:
        url = make_url(
            "postgresql+asyncpg://u:p@h/d?sslmode=require&application_name=a%20b&connect_timeout=7&client_encoding=utf8"
            "&prepared_statement_cache_size=0"
        )
        kept, arguments = for_asyncpg(url)
        assert kept.query == {"prepared_statement_cache_size": "0"}
        assert (kept.host, kept.password) == ("h", "p")
        assert arguments == {"timeout": 7.0, "dsn": "postgresql://?application_name=a+b&sslmode=require"}

    @pytest.mark.parametrize(
        "query", ["channel_binding=require", "keepalives=1", "client_encoding=latin1", "nonsense=1"]
    )
    def test_that_it_cannot_follow_is_refused_with_the_parameters_name(self, query: str) -> None:
        name = query.partition("=")[0]
        with pytest.raises(ValueError, match=f"'{name}' has no counterpart in asyncpg; remove it"):
            AsyncSendQueue(f"postgresql+asyncpg://u:secret@h/d?{query}")

    def test_needs_a_number_of_seconds(self) -> None:
        with pytest.raises(ValueError, match="connect_timeout"):
            AsyncSendQueue("postgresql://u@h/d?connect_timeout=soon")
