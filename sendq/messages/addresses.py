"""Email addresses: whether a string is one, and the form in which it is sent.

Nylas cannot deliver to a local part (before the ``@``) with characters outside ASCII; its page on errors gives that as
the cause of its 402. A domain outside ASCII is sent in its ASCII form (IDNA). Whether a domain exists is not checked:
that would be a network call inside a web request, and the mail provider will find out.
"""

from __future__ import annotations

import re
from functools import lru_cache

from email_validator import EmailNotValidError, validate_email

# RFC 5321 section 4.5.3.1.3, without the two angle brackets. The limit of 64 for the local part is not checked: longer
# ones exist (bounce addresses of mailing lists) and are delivered.
MOST_CHARACTERS = 254

# The form that nearly every address has (RFC 5322 dot-atom, a host name of two labels or more, a last label that ends
# with a letter). It is what email-validator accepts for ASCII, at a hundredth of the price: in a bulk call every
# address is new, so a cache alone would not help. Unlike there, reserved domains pass (.local is real at companies with
# their own Exchange, .test in our users' tests). "xn--" is left to email-validator, which knows whether it decodes.
_LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_plain = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+{_LABEL}(?<=[A-Za-z])").fullmatch

# "Name <address>". Quotes around the name are optional, but without them a name cannot hold what separates addresses:
# else the first address of a whole list would be taken for a name.
_named = re.compile(
    r"""(?: "(?P<quoted>(?:[^"\\]|\\.)*)" \s* | (?P<bare>[^"<>,;]*) ) <(?P<email>[^<>]*)>""", re.VERBOSE
).fullmatch


def parse(text: str) -> tuple[str, str | None]:
    """Split ``Leyah <leyah@example.com>`` into (address, name).

    Other text is returned as (``text``, None): `wire_form` decides whether it is an address.
    """
    if (found := _named(text.strip())) is None:
        return text, None
    quoted = found["quoted"]
    name = found["bare"].strip() if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return found["email"], name or None


def wire_form(email: str) -> str | None:
    """The address as it is sent, with its domain in ASCII; None if it is not an address that Nylas can deliver to."""
    if len(email) > MOST_CHARACTERS:
        return None
    return email if _plain(email) else _unusual_wire_form(email)


def fault(email: str) -> str:
    """Why `wire_form` returns None for ``email``, without showing it."""
    local, at, _ = email.rpartition("@")
    if at and not local.isascii():
        return "has a character outside ASCII before the @, which Nylas cannot deliver to"
    if len(email) > MOST_CHARACTERS:
        return f"has more than {MOST_CHARACTERS} characters"
    return "is not an email address"


# Small, because it keeps addresses in memory; only those with a domain outside ASCII (or none) are cached.
@lru_cache(maxsize=1024)
def _unusual_wire_form(email: str) -> str | None:
    local, at, domain = email.rpartition("@")
    if not (at and local.isascii()) or (domain.isascii() and "xn--" not in domain.lower()):
        return None
    try:
        ascii_domain = validate_email(email, check_deliverability=False).ascii_domain
    except EmailNotValidError:
        return None
    # The local part is sent as written, although the library lowers some (POSTMASTER).
    wire = f"{local}@{ascii_domain}"
    return wire if len(wire) <= MOST_CHARACTERS else None
