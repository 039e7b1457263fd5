"""How a command comes to the settings and to the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sendq import Operators, SendQueue
    from settings import Settings


def load_settings() -> Settings:
    """The settings in the environment; raises `SettingsError`."""
    from settings import Settings

    return Settings.load()


@contextmanager
def open_queue() -> Iterator[SendQueue]:
    """A queue over the configured ledger. Raises `LedgerUnavailable` rather than make a SQLite file."""
    from sendq import SendQueue
    from worker.doctor.ledger_address import ledger_address

    settings = load_settings()
    queue = SendQueue(
        ledger_address(settings), metadata_key=settings.metadata_key, vault=settings.vault,
        unsubscribe_url=settings.unsubscribe_url,
    )  # fmt: skip
    try:
        yield queue
    finally:
        queue.close()


@contextmanager
def open_operators() -> Iterator[Operators]:
    """`Operators` over the configured ledger. Raises `LedgerUnavailable` rather than make a SQLite file."""
    from sendq import Operators
    from worker.doctor.ledger_address import ledger_address

    operators = Operators(ledger_address(load_settings()))
    try:
        yield operators
    finally:
        operators.close()


def require_ledger() -> None:
    """Raise `LedgerUnavailable` or `SchemaMismatch` unless the configured ledger answers and is this version's."""
    with open_operators() as operators:
        operators.require_ledger()
