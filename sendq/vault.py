"""Encryption of message contents in the ledger, with keys that are not in the ledger.

    vault = Vault.parse("2026-11:q83v…,2026-05:7Wpx…")     the first key encrypts, all of them decrypt
    sealed = vault.seal(body, context=context_of("payload", job_id))
    vault.open(sealed.data, sealed.key_name, context=context_of("payload", job_id))

AES-256-GCM with a random nonce per piece (``cryptography``, the extra ``sendq[encryption]``; imported only when there
is a key). The context, which is the piece's owner, is authenticated: a body that was moved to another job cannot be
decrypted. A vault without keys does not encrypt, and returns unencrypted data unchanged.

The name says which key to try first, and which is missing; only the authentication decides whether a key fits. So keys
can be renamed, and a key that was configured under a wrong name can be added under another.

Random nonces are safe for about 2**32 pieces per key (NIST SP 800-38D, 8.3), so a new key once a year is enough.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from sendq.errors import Unreadable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12

# The first byte of all encrypted data, authenticated with it: distinguishes another format from a wrong key.
_FORMAT = b"\x01"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}").fullmatch


class Sealed(NamedTuple):
    """The data to store, and the name of the key that encrypted it (None: not encrypted)."""

    data: bytes
    key_name: str | None


class Vault:
    """Named keys; the first one encrypts, all of them decrypt. Immutable, never shows its keys, safe to share.

    ``keys`` maps names (1 to 40 of letters, digits, ``.``, ``_``, ``-``) to 32 random bytes each, in order. Without
    keys nothing is encrypted.

    Raises ``ValueError`` for an invalid name or key, and ``RuntimeError`` if ``cryptography`` is not installed; neither
    message contains a key.
    """

    __slots__ = ("_ciphers", "_names")

    def __init__(self, keys: Mapping[str, bytes] | None = None) -> None:
        keys = keys or {}
        for position, (name, key) in enumerate(keys.items(), start=1):
            if not _NAME(name):  # not shown: without the name, this is the key
                raise ValueError(f"encryption key {position}: its name is not 1 to 40 of A-Z, a-z, 0-9, '.', '_', '-'")
            if len(key) != KEY_BYTES:
                raise ValueError(f"encryption key {name!r}: has {len(key)} bytes; it must have {KEY_BYTES} random ones")
        self._ciphers = {name: _cipher(key) for name, key in keys.items()}
        self._names = tuple(keys)

    @classmethod
    def parse(cls, text: str) -> Vault:
        """Keys written as ``name:base64`` and separated by commas, spaces or line breaks; empty text: no keys.

        Raises the same errors as `Vault`.
        """
        keys: dict[str, bytes] = {}
        for position, word in enumerate(re.split(r"[\s,]+", text.strip()) if text.strip() else (), start=1):
            name, colon, encoded = word.partition(":")
            if not colon or not _NAME(name):
                raise ValueError(f"encryption key {position}: write it as name:base64, as `sendq keys new` does")
            if name in keys:
                raise ValueError(
                    f"encryption key {position}: has the same name as an earlier one; names must be unique"
                )
            try:
                keys[name] = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            except (binascii.Error, ValueError):
                raise ValueError(f"encryption key {name!r}: is not base64; copy it again, all of it") from None
        return cls(keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the keys; the first one encrypts."""
        return self._names

    @property
    def seals_with(self) -> str | None:
        """The name of the key that encrypts; None: nothing is encrypted."""
        return self._names[0] if self._names else None

    def seal(self, data: bytes, *, context: bytes) -> Sealed:
        """Encrypt ``data`` of ``context`` (see `context_of`); without keys it is returned unchanged."""
        name = self.seals_with
        if name is None:
            return Sealed(data, None)
        nonce = os.urandom(NONCE_BYTES)
        return Sealed(_FORMAT + nonce + self._ciphers[name].encrypt(nonce, data, _FORMAT + context), name)

    def open(self, data: bytes, key_name: str | None, *, context: bytes) -> bytes:
        """Decrypt data of this context. ``key_name`` None: it is not encrypted, and returned unchanged.

        Raises:
            Unreadable: there is no key of that name, or no key decrypts it (another key under that name, another
                context, damaged data).
        """
        if key_name is None:
            return data
        for cipher in self._in_order(key_name):
            if (opened := _opened(cipher, data, context)) is not None:
                return opened
        raise Unreadable(key_name, missing=key_name not in self._ciphers)

    def _in_order(self, key_name: str) -> Iterable[AESGCM]:
        """The key of that name, then the others."""
        named = self._ciphers.get(key_name)
        if named is not None:
            yield named
        yield from (cipher for cipher in self._ciphers.values() if cipher is not named)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._names)})"


def context_of(kind: str, identity: UUID | bytes) -> bytes:
    """The owner of a piece: the kind of row, and its id."""
    return kind.encode() + b" " + (identity.bytes if isinstance(identity, UUID) else identity)


def new_key(name: str) -> str:
    """A new random key in the format of `Vault.parse`. Raises ``ValueError`` for an invalid name."""
    if not _NAME(name):
        raise ValueError("the name is not 1 to 40 of A-Z, a-z, 0-9, '.', '_', '-'; use one like 2026-11")
    return f"{name}:{base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode().rstrip('=')}"


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise RuntimeError(
            "there is an encryption key, but the package `cryptography` is not installed; install sendq[encryption]"
        ) from None
    return AESGCM(key)


def _opened(cipher: AESGCM, data: bytes, context: bytes) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    start = len(_FORMAT) + NONCE_BYTES
    if data[: len(_FORMAT)] != _FORMAT or len(data) < start:
        return None
    try:
        return cipher.decrypt(data[len(_FORMAT) : start], data[start:], _FORMAT + context)
    except InvalidTag:
        return None
