"""Keyed digests of recipients' addresses: they recognise a recipient again, and do not show who it is. Pure."""

from __future__ import annotations

import hmac

from sendq.messages.addresses import parse, wire_form

DIGEST_BYTES = 16


def digest_of(key: bytes, application: str, address: str) -> bytes:
    """HMAC-SHA256 of an address, cut to 16 bytes; another application's digests differ.

    Case does not matter, nor how an international domain is written.
    """
    plain = parse(address)[0]
    same = (wire_form(plain) or plain).casefold()
    return hmac.digest(key, f"{application}\0{same}".encode(errors="replace"), "sha256")[:DIGEST_BYTES]
