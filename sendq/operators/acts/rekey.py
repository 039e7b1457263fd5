"""Encrypt everything in the ledger with the first key of a vault, while workers keep running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from sendq.errors import Problem
from sendq.ledger import events
from sendq.ledger.operators.rekey import KEPT, Step, step, still_with
from sendq.operators.acts.checks import refuse
from sendq.operators.base import Ledger
from sendq.vault import Vault


@dataclass(frozen=True, slots=True)
class RekeyProgress:
    """The progress of a change of the encryption key. ``key``: the name of the key that encrypts now.

    ``sealed``: rows encrypted with it so far. These are not changed: ``unreadable``, rows that no given key decrypts,
    by the name of their key; ``unencrypted``, unless the vault accepts them; ``altered``, which are not what was
    stored.
    ``rows`` (known at the end) counts all rows by the key that they need now, None for rows
    that are not encrypted.
    """

    dry_run: bool
    key: str
    sealed: int = 0
    unreadable: Mapping[str, int] = field(default_factory=dict)
    unencrypted: int = 0
    altered: int = 0
    rows: Mapping[str | None, int] = field(default_factory=dict)


def first_key(vault: Vault) -> str:
    """The name of the key that a vault encrypts with. Raises `InvalidArgument`."""
    if vault.seals_with is None:
        refuse([Problem("vault", "has no key", "give one with the new key first")])
    assert vault.seals_with is not None
    return vault.seals_with


def rekey(ledger: Ledger, vault: Vault, *, by: str, reason: str | None, dry_run: bool) -> Iterator[RekeyProgress]:
    """Encrypt with the first key the rows that have another one or none; each part is one transaction."""
    done = RekeyProgress(dry_run, first_key(vault))
    if not dry_run:
        words = f"under {done.key}" + (f": {reason}" if reason else "")
        with ledger.writing() as connection:
            events.append(connection, "rekey", at=ledger.now(), by=by, reason=words)
        for part in _parts(ledger, vault, done):
            yield part
            done = part
    with ledger.reading() as connection:
        rows = still_with(connection)
    yield replace(done, rows=rows)


def _parts(ledger: Ledger, vault: Vault, done: RekeyProgress) -> Iterator[RekeyProgress]:
    so_far = Step()
    for kept in KEPT:
        after = None
        while True:
            with ledger.writing() as connection:
                so_far += step(connection, kept, vault, after=after)
            after = so_far.after
            yield replace(
                done,
                sealed=so_far.sealed,
                unreadable=dict(so_far.unreadable),
                unencrypted=so_far.unencrypted,
                altered=so_far.altered,
            )
            if after is None:
                break
