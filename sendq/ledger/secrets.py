"""Random keys that the ledger makes for itself when it first needs them, and keeps encrypted like a body.

Without an encryption key, whoever reads the ledger reads them too, as they could read the bodies: they can then test
whether a digest is that of an address that they guess. A key never changes: digests must stay comparable.
"""

from __future__ import annotations

import os

from sqlalchemy import Connection, select

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
    query = select(table.c.value, table.c.cipher_key).where(table.c.name == _DIGESTS)
    row = connection.execute(query).first()
    if row is None:
        sealed = vault.seal(os.urandom(KEY_BYTES), context=secret_context(_DIGESTS))
        new = {"name": _DIGESTS, "value": sealed.data, "cipher_key": sealed.key_name}
        insert_new(connection, table, [new], returning="name")
        row = connection.execute(query).one()
    if row.cipher_key is None:  # from before there was an encryption key; nothing of it goes out
        return bytes(row.value)
    return vault.open(bytes(row.value), row.cipher_key, context=secret_context(_DIGESTS))
