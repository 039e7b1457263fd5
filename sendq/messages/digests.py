"""Keyed digests of recipients' addresses and of requests: they recognise one again, and do not show it. Pure."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from itertools import chain

from sendq.messages.addresses import parse, trimmed, wire_form

DIGEST_BYTES = 16

is_digest = re.compile(r"[0-9a-f]{32}").fullmatch
"""Whether a text is a digest in hexadecimal digits, as outcomes and lists have it."""


def same_form(address: str) -> str:
    """The form in which addresses of one mailbox are equal.

    Without a display name, and without the white space and invisible characters around it; an international domain in
    ASCII. In lower case: domains have none, and although RFC 5321 lets a mailbox tell ``Leyah`` from ``leyah``, no
    provider does. Everything else stays: ``leyah+news@`` and ``l.eyah@`` may be other mailboxes.
    """
    plain = trimmed(parse(address)[0])
    return (wire_form(plain) or plain).casefold()


def digest_of(key: bytes, application: str, address: str) -> bytes:
    """HMAC-SHA256 of an address in its `same_form`, cut to 16 bytes; another application's digests differ."""
    named = f"{application}\0{same_form(address)}"
    return hmac.digest(key, named.encode(errors="replace"), "sha256")[:DIGEST_BYTES]


def request_digest(
    key: bytes, form: str, content_type: str, opening: bytes, pieces: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """HMAC-SHA256 of a request, cut to 16 bytes. ``pieces``: the digest of each content, and the bytes after it."""
    digest = hmac.new(key, b"request\0", "sha256")
    for part in (form.encode(), content_type.encode(), opening, *chain.from_iterable(pieces)):
        digest.update(len(part).to_bytes(8) + part)  # or parts with other borders would be equal
    return digest.digest()[:DIGEST_BYTES]


def digest_in(recipient: str, key: bytes, application: str) -> bytes:
    """The digest of a recipient, given as an address or as that digest in hexadecimal digits."""
    return bytes.fromhex(recipient) if is_digest(recipient) else digest_of(key, application, recipient)
