"""Email addresses: whether a string is one, and the form in which it is sent.

Nylas cannot deliver to a local part (before the ``@``) with characters outside ASCII; its page on errors gives that as
the cause of its 402. A domain outside ASCII is sent in its ASCII form (IDNA). Whether a domain exists is not checked:
that would be a network call inside a web request, and the mail provider will find out.

White space and invisible characters around an address come from forms and copied text, and are removed (`trimmed`).
"""

from __future__ import annotations

import re
from functools import lru_cache

from sendq.messages.characters import code_point, header_fault

# RFC 5321 section 4.5.3.1.3, without the two angle brackets. The limit of 64 for the local part is not checked: longer
# ones exist (bounce addresses of mailing lists) and are delivered.
MOST_CHARACTERS = 254

# The form that nearly every address has (RFC 5322 dot-atom, a host name of two labels or more, a last label that ends
# with a letter). It is what email-validator accepts for ASCII, at a hundredth of the price: in a bulk call every
# address is new, so a cache alone would not help. Unlike there, reserved domains pass (.local is real at companies with
# their own Exchange, .test in our users' tests). "xn--" is left to email-validator, which knows whether it decodes.
_LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
# In quotes (RFC 5321, section 4.1.2) dots may stand anywhere: providers in Japan gave out such addresses. Commas,
# brackets, backslashes and the like are valid there too, but are refused: programs on the way that do not know quotes
# would take one address for two.
_LOCAL = rf"""(?:[{_ATEXT}]+(?:\.[{_ATEXT}]+)*|"[{_ATEXT}. ]+")"""
_plain = re.compile(rf"{_LOCAL}@(?:{_LABEL}\.)+{_LABEL}(?<=[A-Za-z])").fullmatch
_local = re.compile(_LOCAL).fullmatch
_dots_and_atoms = re.compile(rf"[{_ATEXT}.]+").fullmatch

_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
_invisible = re.compile(f"[{_INVISIBLE}]").search
_space = re.compile(r"\s").search
# What `trimmed` removes: both of the above, one by one for str.strip().
_EDGES = "".join(one for one in map(chr, range(0x10000)) if _space(one) or _invisible(one))

# "Name <address>". Quotes around the name are optional, but without them a name cannot hold what separates addresses:
# else the first address of a whole list would be taken for a name.
_named = re.compile(
    r"""(?: "(?P<quoted>(?:[^"\\]|\\.)*)" \s* | (?P<bare>[^"<>,;]*) ) <(?P<email>[^<>]*)>""", re.VERBOSE
).fullmatch


def trimmed(text: str) -> str:
    """``text`` without the white space and the invisible characters (zero width, direction marks) around it."""
    # Most texts begin and end with what is neither, so the pattern is needed for few.
    return text if text and text[0].isalnum() and text[-1].isalnum() else text.strip(_EDGES)


def parse(text: str) -> tuple[str, str | None]:
    """Split ``Leyah <leyah@example.com>`` into (address, name).

    Other text is returned as (``text``, None): `wire_form` decides whether it is an address.
    """
    if "<" not in text or (found := _named(trimmed(text))) is None:
        return text, None
    quoted = found["quoted"]
    name = trimmed(found["bare"]) if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return found["email"], name or None


def wire_form(email: str) -> str | None:
    """The address as it is sent, with its domain in ASCII; None if it is not an address that Nylas can deliver to."""
    if len(email) > MOST_CHARACTERS:
        return None
    return email if _plain(email) else _unusual_wire_form(email)


def fault(email: str) -> str:
    """Why `wire_form` returns None for ``email``, without showing it."""
    local, at, _ = email.rpartition("@")
    if (wrong := header_fault(email)) is not None:
        return wrong
    if (unseen := _invisible(email)) is not None:
        return f"contains an invisible character ({code_point(unseen[0])})"
    if at and not local.isascii():
        return "has a character outside ASCII before the @, which Nylas cannot deliver to"
    if len(email) > MOST_CHARACTERS:
        return f"has more than {MOST_CHARACTERS} characters"
    if local.startswith('"') and local.endswith('"'):
        return "has quotes before the @ with characters in them that servers on the way may read differently"
    if _space(email):
        return "contains white space"
    if _dots_and_atoms(local) and not _local(local):
        return "has a dot beside the @, at the beginning, or two in a row, which is valid only in quotes before the @"
    return "is not an email address"


# Small, because it keeps addresses in memory; only those with a domain outside ASCII (or none) are cached.
@lru_cache(maxsize=1024)
def _unusual_wire_form(email: str) -> str | None:
    local, _, domain = email.rpartition("@")
    if not _local(local) or (domain.isascii() and "xn--" not in domain.lower()):
        return None

    from email_validator import EmailNotValidError, validate_email  # few addresses need it, and a worker none

    try:
        # With another local part: the library does not take the same ones, and lowers some (POSTMASTER).
        ascii_domain = validate_email(f"a@{domain}", check_deliverability=False).ascii_domain
    except EmailNotValidError:
        return None
    wire = f"{local}@{ascii_domain}"
    return wire if len(wire) <= MOST_CHARACTERS else None
