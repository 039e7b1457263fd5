"""``sendq keys``: make encryption keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.output import tell

if TYPE_CHECKING:
    pass


@click.group()
def keys() -> None:
    """Encryption keys: make new ones."""


@keys.command()
@click.argument("name")
def new(name: str) -> None:
    """Print a new encryption key called NAME (say 2026-11), for SENDQ_ENCRYPTION_KEYS. It is stored nowhere else."""
    from sendq.vault import new_key

    try:
        tell(new_key(name))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
