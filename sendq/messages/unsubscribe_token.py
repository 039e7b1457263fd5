"""The token of an unsubscribe link: who unsubscribes, and from what. Pure.

    1 byte     version
    16 bytes   digest of the recipient's address: it does not show the address
    2 bytes    length of the application's name
               name of the application, then the category, in UTF-8
    16 bytes   HMAC-SHA256 of all that, cut

Base64 without padding, so that it is one segment of a path. It does not expire: a link in an old mail must work. It is
not bound to a mail, so equal mails have equal bytes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import urlsplit

from sendq.messages.digests import DIGEST_BYTES

_VERSION = b"\x01"
_MAC_BYTES = 16
_HEAD = len(_VERSION) + DIGEST_BYTES + 2

# Characters: a name of 255 and a category of 100 characters, of four bytes each, and the rest.
TOKEN_MOST = 2_000

_token = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_uris = re.compile(r"<\s*([^<>\s]+)\s*>").findall


class Token(NamedTuple):
    """What a valid token says."""

    application: str
    category: str
    digest: bytes


def signing_key(digest_key: bytes) -> bytes:
    """The key that signs tokens, derived from the key of the digests (`sendq.ledger.secrets`)."""
    return blake2b(key=digest_key, person=b"sendq unsubscrib", digest_size=32).digest()


def sign(key: bytes, token: Token) -> str:
    """The token as text."""
    name = token.application.encode()
    said = _VERSION + token.digest + len(name).to_bytes(2, "big") + name + token.category.encode()
    return base64.urlsafe_b64encode(said + _mac(key, said)).decode().rstrip("=")


def read(key: bytes, text: str) -> Token | None:
    """What a token says; None: it was not signed with this key, or is no token."""
    if len(text) > TOKEN_MOST or not _token(text):
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    said, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    if len(said) <= _HEAD or not said.startswith(_VERSION) or not hmac.compare_digest(mac, _mac(key, said)):
        return None
    end = _HEAD + int.from_bytes(said[_HEAD - 2 : _HEAD], "big")
    # Base64 leaves bits unused at the end: only the text that was signed counts.
    token = Token(said[_HEAD:end].decode(), said[end:].decode(), said[1 : 1 + DIGEST_BYTES])
    return token if sign(key, token) == text else None


def category_of(key: bytes, headers: list[str], application: str) -> str | None:
    """The category of the first valid token of this application in these values of ``List-Unsubscribe``; else None."""
    for value in headers:
        for uri in _uris(value):
            found = read(key, urlsplit(uri).path.rpartition("/")[2]) if uri.lower().startswith("https:") else None
            if found is not None and found.application == application:
                return found.category
    return None


def _mac(key: bytes, said: bytes) -> bytes:
    return hmac.digest(key, said, "sha256")[:_MAC_BYTES]
