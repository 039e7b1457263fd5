"""Encryption of message contents in the ledger, with keys that are not in the ledger.

    vault = Vault.parse("2026-11:q83v…,2026-05:7Wpx…")     the first key encrypts, all of them decrypt
    sealed = vault.seal(body, context=context)             the context: everything that the body must not be parted from
    vault.open(sealed.data, sealed.key_name, context=context)

AES-256-GCM with a random nonce per piece (``cryptography``, the extra ``sendq[encryption]``; imported only when there
is a key). The context is authenticated (`sendq.bindings`): what was moved to another place cannot be decrypted there.
Rows that have nothing to hide but must not be changed get a tag, a keyed BLAKE2b of their context. A vault without keys
does not encrypt, and returns unencrypted data unchanged; one with keys refuses such data, which anybody with write
access can store, unless it is to accept them while encryption is being introduced.

Sealed data begin with an id of the key, derived from the key itself. So keys can be renamed, one that was configured
under a wrong name can be added under another, and altered data are told apart from a key that is not at hand.

Random nonces are safe for about 2**32 pieces per key (NIST SP 800-38D, 8.3), so a new key once a year is enough.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from hashlib import blake2b
from hmac import compare_digest
from typing import TYPE_CHECKING, NamedTuple

from sendq.errors import Altered, NotEncrypted, Unreadable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16

# The first byte of all sealed data, authenticated with it: another format gets another number.
_FORMAT = b"\x01"

# Bytes of a key's id. Two keys with one id would both be tried.
_ID_BYTES = 4
_DATA_AT = len(_FORMAT) + _ID_BYTES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}").fullmatch


class Sealed(NamedTuple):
    """The data to store, and the name of the key that encrypted it (None: not encrypted)."""

    data: bytes
    key_name: str | None


class _Key(NamedTuple):
    """A key in use. Tags are made with a key of their own, derived from it."""

    id: bytes
    cipher: AESGCM
    tagging: bytes


class Vault:
    """Named keys; the first one encrypts, all of them decrypt. Immutable, never shows its keys, safe to share.

    ``keys`` maps names (1 to 40 of letters, digits, ``.``, ``_``, ``-``) to 32 random bytes each, in order. Without
    keys nothing is encrypted. ``accept_unencrypted``: with keys, whether unencrypted data are accepted too.

    Raises ``ValueError`` for an invalid name or key, and ``RuntimeError`` if ``cryptography`` is not installed; neither
    message contains a key.
    """

    __slots__ = ("_keys", "_names", "accepts_unencrypted")

    def __init__(self, keys: Mapping[str, bytes] | None = None, *, accept_unencrypted: bool = False) -> None:
        keys = keys or {}
        for position, (name, key) in enumerate(keys.items(), start=1):
            if not _NAME(name):  # not shown: without the name, this is the key
                raise ValueError(f"encryption key {position}: its name is not 1 to 40 of A-Z, a-z, 0-9, '.', '_', '-'")
            if len(key) != KEY_BYTES:
                raise ValueError(f"encryption key {name!r}: has {len(key)} bytes; it must have {KEY_BYTES} random ones")
        self._keys = [_key(key) for key in keys.values()]
        self._names = tuple(keys)
        self.accepts_unencrypted = accept_unencrypted or not keys

    @classmethod
    def parse(cls, text: str, *, accept_unencrypted: bool = False) -> Vault:
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
        return cls(keys, accept_unencrypted=accept_unencrypted)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the keys; the first one encrypts."""
        return self._names

    @property
    def seals_with(self) -> str | None:
        """The name of the key that encrypts; None: nothing is encrypted."""
        return self._names[0] if self._names else None

    def seal(self, data: bytes, *, context: bytes) -> Sealed:
        """Encrypt ``data`` of ``context`` (`sendq.bindings.context_of`); without keys it is returned unchanged."""
        if not self._keys:
            return Sealed(data, None)
        key, nonce = self._keys[0], os.urandom(NONCE_BYTES)
        return Sealed(_FORMAT + key.id + nonce + key.cipher.encrypt(nonce, data, _FORMAT + context), self._names[0])

    def open(self, data: bytes, key_name: str | None, *, context: bytes) -> bytes:
        """Decrypt data of this context. ``key_name`` None: it is not encrypted, and returned unchanged if accepted.

        Raises:
            NotEncrypted: it is not encrypted, and this vault does not accept that.
            Unreadable: the key that encrypted it is not among these.
            Altered: it was encrypted with one of these keys, but not these bytes, or not in this context.
        """
        if key_name is None:
            return self._unencrypted(data)
        from cryptography.exceptions import InvalidTag

        start = _DATA_AT + NONCE_BYTES
        for key in self._keys_of(data, key_name):
            try:
                return key.cipher.decrypt(data[_DATA_AT:start], data[start:], _FORMAT + context)
            except InvalidTag:
                continue
        raise Altered(key_name)

    def tag(self, context: bytes) -> Sealed:
        """A tag that proves that ``context`` is what a holder of the first key stored; without keys an empty one."""
        if not self._keys:
            return Sealed(b"", None)
        key = self._keys[0]
        return Sealed(_FORMAT + key.id + _tag(key, context), self._names[0])

    def verify(self, tag: bytes, key_name: str | None, *, context: bytes) -> None:
        """Check a tag of this context. ``key_name`` None: there is none. Raises the same errors as `open`."""
        if key_name is None:
            self._unencrypted(b"")
        elif not any(compare_digest(_tag(key, context), tag[_DATA_AT:]) for key in self._keys_of(tag, key_name)):
            raise Altered(key_name)

    def _unencrypted(self, data: bytes) -> bytes:
        if not self.accepts_unencrypted:
            raise NotEncrypted
        return data

    def _keys_of(self, data: bytes, key_name: str) -> list[_Key]:
        """The keys with the id that sealed data begin with. Raises `Unreadable`, or `Altered` if there is no id."""
        if not data.startswith(_FORMAT) or len(data) < _DATA_AT + NONCE_BYTES:
            raise Altered(key_name)
        found = [key for key in self._keys if key.id == data[len(_FORMAT) : _DATA_AT]]
        if not found:
            raise Unreadable(key_name, missing=key_name not in self._names)
        return found

    def __bool__(self) -> bool:
        return bool(self._names)

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._names)})"


def new_key(name: str) -> str:
    """A new random key in the format of `Vault.parse`. Raises ``ValueError`` for an invalid name."""
    if not _NAME(name):
        raise ValueError("the name is not 1 to 40 of A-Z, a-z, 0-9, '.', '_', '-'; use one like 2026-11")
    return f"{name}:{base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode().rstrip('=')}"


def _key(key: bytes) -> _Key:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise RuntimeError(
            "there is an encryption key, but the package `cryptography` is not installed; install sendq[encryption]"
        ) from None
    identity = blake2b(key=key, person=b"sendq key id", digest_size=_ID_BYTES).digest()
    return _Key(identity, AESGCM(key), blake2b(key=key, person=b"sendq tags", digest_size=KEY_BYTES).digest())


def _tag(key: _Key, context: bytes) -> bytes:
    return blake2b(_FORMAT + context, key=key.tagging, digest_size=TAG_BYTES).digest()
