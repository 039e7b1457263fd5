"""How a command comes to the settings and to the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

    from sendq import Operators, SendQueue
    from settings import Settings

T = TypeVar("T")

CONNECT_S = 10  # a server that is not there should not keep a person waiting for minutes


def load_settings() -> Settings:
    """The settings in the environment; raises `SettingsError`."""
    from settings import Settings

    return Settings.load()


@contextmanager
def open_queue() -> Iterator[SendQueue]:
    """A queue over the configured ledger. Raises `LedgerUnavailable` rather than make a SQLite file by looking."""
    from sendq import SendQueue
    from sendq.ledger.db.engine import open_engine

    settings = load_settings()
    queue = SendQueue(open_engine(ledger_address(settings)), metadata_key=settings.metadata_key, vault=settings.vault)
    try:
        yield queue
    finally:
        queue.close()


@contextmanager
def open_operators() -> Iterator[Operators]:
    """What operators ask and do, over the configured ledger. Raises `LedgerUnavailable` as `open_queue` does."""
    from sendq import Operators

    operators = Operators(ledger_address(load_settings()))
    try:
        yield operators
    finally:
        operators.close()


def read_ledger(question: Callable[[Connection], T]) -> T:
    """One question to the configured ledger, in one transaction."""
    with open_ledger(writes=False) as connection:
        return question(connection)


@contextmanager
def open_ledger(*, writes: bool) -> Iterator[Connection]:
    """One transaction on the configured ledger, committed at the end of the block if it ``writes``."""
    from sendq.ledger.db.engine import reading, writing

    with ledger_engine() as engine, writing(engine) if writes else reading(engine) as connection:
        yield connection


@contextmanager
def ledger_engine() -> Iterator[Engine]:
    """The configured ledger, for several transactions; one that is away, or not this version's, is refused."""
    from sendq.ledger.db import migrate
    from sendq.ledger.db.engine import open_engine

    engine = open_engine(ledger_address(load_settings()))
    try:
        migrate.require(engine)
        yield engine
    finally:
        engine.dispose()


def ledger_address(settings: Settings) -> str:
    """The configured ledger's URL, with a limit for connecting. Raises `LedgerUnavailable` as `open_queue` does."""
    from sqlalchemy import make_url

    from sendq.errors import LedgerUnavailable

    url = make_url(settings.ledger_url.get_secret_value())
    if url.get_backend_name() == "sqlite":
        if not Path(url.database or "").exists():
            raise LedgerUnavailable(
                f"the ledger's SQLite file {url.database} is not there yet; run: sendq migrate (or correct "
                "DATABASE_URL, which must be set wherever sendq is called)"
            )
    elif "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(CONNECT_S)})
    return url.render_as_string(hide_password=False)
