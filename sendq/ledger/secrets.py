"""Random keys that the ledger makes for itself when it first needs them, and keeps encrypted like a body.

Without an encryption key, whoever reads the ledger reads them too, as they could read the bodies: they can then test
whether a digest is that of an address that they guess. A key never changes: digests must stay comparable.
"""

from __future__ import annotations

import os

from sqlalchemy import Connection, Select, select

from sendq.bindings import secret_context
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new
from sendq.vault import Vault

KEY_BYTES = 32

_DIGESTS = "recipients"


def digest_key(connection: Connection, vault: Vault) -> bytes:
    """The key of the digests of recipients (`sendq.messages.digests`); made now if there is none.

    Raises `Unreadable` if it is encrypted with a key that ``vault`` does not have.
    """
    table = schema.secret
    if (known := stored_digest_key(connection, vault)) is not None:
        return known
    sealed = vault.seal(os.urandom(KEY_BYTES), context=secret_context(_DIGESTS))
    new = {"name": _DIGESTS, "value": sealed.data, "cipher_key": sealed.key_name}
    insert_new(connection, table, [new], returning="name")
    made = stored_digest_key(connection, vault)
    assert made is not None
    return made


def stored_digest_key(connection: Connection, vault: Vault) -> bytes | None:
    """`digest_key`, if there is one."""
    row = connection.execute(sealed_digest_key()).first()
    return None if row is None else opened_digest_key(row.value, row.cipher_key, vault)


def sealed_digest_key() -> Select[tuple[bytes, str | None]]:
    """The query of the key as it is stored, to be opened with `opened_digest_key`."""
    table = schema.secret.c
    return select(table.value, table.cipher_key).where(table.name == _DIGESTS)


def opened_digest_key(value: bytes, cipher_key: str | None, vault: Vault) -> bytes:
    """The key. Raises `Unreadable` if it is encrypted with a key that ``vault`` does not have."""
    if cipher_key is None:  # from before there was an encryption key; nothing of it goes out
        return bytes(value)
    return vault.open(bytes(value), cipher_key, context=secret_context(_DIGESTS))
