"""Which URLs a ledger can have, and what is said of the others."""

from __future__ import annotations

import sys

import pytest

from sendq import AsyncSendQueue, SendQueue
from sendq.ledger.db.urls import ledger_url


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
