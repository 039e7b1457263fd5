"""Which URLs a ledger can have, and what is said of the others."""

from __future__ import annotations

import sys

import pytest
from sqlalchemy import make_url

from sendq import AsyncSendQueue, SendQueue
from sendq.ledger.db.urls import for_asyncpg, ledger_url, worker_url


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


class TestAUrlOfSeveralHosts:
    @pytest.mark.parametrize(
        ("url", "hosts"),
        [
            ("postgresql://u:p%40@a:1,b:2/d", ("a:1", "b:2")),
            ("postgres://a,b.example.com/d", ("a:5432", "b.example.com:5432")),
            ("postgresql+psycopg://u@a,b,c:7/d?application_name=x", ("a:5432", "b:5432", "c:7")),
            ("postgresql://u@/d?host=a:1&host=b:2", ("a:1", "b:2")),
        ],
    )
    def test_means_the_one_that_takes_writes(self, url: str, hosts: tuple[str, ...]) -> None:
        found = ledger_url(url)
        assert (found.query["host"], found.query["target_session_attrs"]) == (hosts, "read-write")
        assert (found.host, found.database) == (None, "d")
        assert ledger_url(worker_url(url)) == found

    def test_may_say_which_server_it_wants(self) -> None:
        assert ledger_url("postgresql://a,b/d?target_session_attrs=any").query["target_session_attrs"] == "any"

    def test_may_have_a_comma_in_its_password(self) -> None:
        found = ledger_url("postgresql://u:p,q@a/d")
        assert (found.host, found.password, dict(found.query)) == ("a", "p,q", {})

    @pytest.mark.parametrize("url", ["postgresql://u:hush@[::1]:1,b:2/d", "postgresql://u:hush@a:x,b:2/d"])
    def test_that_cannot_be_read_is_refused_without_its_password(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"not a database URL|several hosts") as refused:
            ledger_url(url)
        assert "hush" not in str(refused.value)


class TestTheUrlOfAsyncpg:
    def test_keeps_several_hosts(self) -> None:
        kept, arguments = for_asyncpg(ledger_url("postgresql+asyncpg://u@a:1,b:2/d"))
        assert kept.query == {"host": ("a:1", "b:2")}
        assert arguments == {"dsn": "postgresql://?target_session_attrs=read-write"}

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
