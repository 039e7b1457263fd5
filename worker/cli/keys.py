"""``sendq keys``: make encryption keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.output import tell

if TYPE_CHECKING:
    pass


@click.group()
def keys() -> None:
    """Make encryption keys."""


@keys.command()
@click.argument("name")
def new(name: str) -> None:
    """Print a new encryption key named NAME (like 2026-11) for SENDQ_ENCRYPTION_KEYS. It is not stored anywhere."""
    from sendq.vault import new_key

    try:
        tell(new_key(name))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
