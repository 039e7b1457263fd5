"""One-click unsubscribe (RFC 8058, RFC 2369): the headers of a mail, made from ``Message(unsubscribe=…)``.

    List-Unsubscribe: <https://mail.example.com/unsubscribe/TOKEN>, <mailto:unsubscribe@example.com?subject=TOKEN>
    List-Unsubscribe-Post: List-Unsubscribe=One-Click

Mail programs show a button, and post to the address without asking the person to sign in. The token names application,
category and recipient (`sendq.messages.unsubscribe_token`), so such a mail has one recipient.

Nylas passes headers on in ``custom_headers``. Microsoft Graph and iCloud carry no ``List-Unsubscribe`` (Nylas, "Custom
headers"): with these providers the body must have the link.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import StrictStr

from sendq.errors import Problem
from sendq.messages.addresses import fault, wire_form
from sendq.messages.characters import header_fault
from sendq.messages.digests import digest_in
from sendq.messages.parts import Part
from sendq.messages.unsubscribe_token import Token, sign, signing_key
from sendq.rules.suppression import CATEGORY_MOST

LINK, POST = "List-Unsubscribe", "List-Unsubscribe-Post"
ONE_CLICK = "List-Unsubscribe=One-Click"

# Providers that drop the header.
WITHOUT_HEADER = frozenset({"microsoft", "icloud"})

# RFC 5322, section 2.1.1: a line has at most 998 characters. Python's and other programs' folding does not split a URL.
LINE_MOST = 998 - len(LINK) - 2


class Unsubscribe(Part):
    """How the recipient of a mail unsubscribes from mails of its category."""

    category: StrictStr
    """What the person unsubscribes from, such as ``newsletter``; at most 100 characters."""
    url: StrictStr | None = None
    """The https address of the endpoint (`sendq.webhooks`). None: the queue's ``unsubscribe_url``."""
    mailto: StrictStr | None = None
    """An address that accepts unsubscribe mails, with the token as the subject: your program reads them, and calls
    `SendQueue.unsubscribe`.
    """

    @classmethod
    def of(cls, item: object) -> Self:
        """As for every part, or from a string: the category."""
        return cls(category=item) if isinstance(item, str) else super().of(item)

    @classmethod
    def or_none(cls, item: object) -> Self | None:
        """The value of a message's field."""
        return None if item is None else cls.of(item)


@dataclass(frozen=True, slots=True, repr=False)
class Links:
    """Makes unsubscribe links. ``key``: of the ledger's digests; ``url``: of the endpoint if a message names none."""

    key: bytes
    url: str | None

    def token(self, application: str, category: str, recipient: str) -> str:
        """The token of a recipient."""
        digest = digest_in(recipient, self.key, application)
        return sign(signing_key(self.key), Token(application, category, digest))

    def headers(self, unsubscribe: Unsubscribe, application: str, address: str) -> list[tuple[str, str]]:
        """The headers of a mail whose ``unsubscribe`` has been checked."""
        token = self.token(application, unsubscribe.category, address)
        uris = [f"<{link_to(unsubscribe.url or self.url or '', token)}>"]
        if unsubscribe.mailto is not None:
            uris.append(f"<mailto:{wire_form(unsubscribe.mailto)}?subject={token}>")
        return [(LINK, ", ".join(uris)), (POST, ONE_CLICK)]


def link_to(url: str, token: str) -> str:
    """The link with a token."""
    return f"{url.rstrip('/')}/{token}"


def category_fault(category: object) -> str | None:
    """Why this is no category; None: it is one."""
    if not isinstance(category, str):
        return "is not a string"
    if not 0 < len(category) <= CATEGORY_MOST or category.strip() != category:
        return f"is not 1 to {CATEGORY_MOST} characters without spaces around them"
    return header_fault(category)


def url_fault(url: str) -> str | None:
    """Why this is not the address of an endpoint; None: it is one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme != "https" or not parts.hostname or port == 0:
        return "is not an https URL, which one-click unsubscribe requires (RFC 8058)"
    if not url.isascii() or not url.isprintable() or any(one in url for one in ' <>,"\\'):
        return "has a character that a header cannot have in a URL"
    if parts.query or parts.fragment or "?" in url or "#" in url or parts.username is not None:
        return "has a query, a fragment or a user name; the token is appended to its path"
    return None


def unsubscribe_problems(unsubscribe: Unsubscribe, *, recipients: int, names: list[str]) -> list[Problem]:
    """What is wrong with a mail's ``unsubscribe``. ``recipients``: how many it has; ``names``: of its own headers."""
    problems = []
    if (wrong := category_fault(unsubscribe.category)) is not None:
        problems.append(Problem("unsubscribe.category", wrong, "use a short name, like newsletter"))
    if unsubscribe.url is not None and (wrong := url_fault(unsubscribe.url)) is not None:
        problems.append(Problem("unsubscribe.url", wrong, "use the https address of the endpoint"))
    if unsubscribe.mailto is not None and wire_form(unsubscribe.mailto) is None:
        problems.append(Problem("unsubscribe.mailto", fault(unsubscribe.mailto), "correct it"))
    elif unsubscribe.mailto is not None and any(one in unsubscribe.mailto for one in "?&%\"'`#/ "):
        problems.append(Problem("unsubscribe.mailto", "has a character that a link cannot have", "use a plain address"))
    if recipients > 1:
        reason = f"is set, and the message has {recipients} recipients in to, cc and bcc: the link is one person's"
        problems.append(Problem("unsubscribe", reason, "send a message to each"))
    if {name.lower() for name in names} & {LINK.lower(), POST.lower()}:
        reason = "is set, and so is the header that it makes"
        problems.append(Problem("unsubscribe", reason, f"leave {LINK} and {POST} out of custom_headers"))
    return problems


def as_digested(unsubscribe: Unsubscribe) -> Mapping[str, Any]:
    """What counts in the digest of a message: not the address of the endpoint, which may move between repeats."""
    return unsubscribe.model_dump(exclude_none=True, exclude={"url"})
