"""The pages that people see who follow an unsubscribe link."""

from __future__ import annotations

import html
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from sendq.messages.unsubscribe import ONE_CLICK

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
     b"frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),  # the link is the person's
    (b"x-content-type-options", b"nosniff"),
    (b"x-robots-tag", b"noindex, nofollow"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: its status, a heading and a sentence, and whether there is a button."""

    status: int
    title: str
    says: str
    button: bool = False

    def html(self) -> bytes:
        """The whole page."""
        field, value = ONE_CLICK.split("=")
        form = (
            f'<form method="post"><input type="hidden" name="{field}" value="{value}">'
            "<button>Unsubscribe</button></form>"
        )
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(self.title)}</title><style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:32rem;"
            "margin:4rem auto;padding:0 1rem}button{font:inherit;padding:.5rem 1rem}</style>"
            f"<h1>{html.escape(self.title)}</h1><p>{html.escape(self.says)}</p>{form if self.button else ''}</html>"
        ).encode()


UNKNOWN = Page(404, "This link is not valid", "It may have been cut off. Use the whole link in the mail.")
NOT_ASKED = Page(400, "Not unsubscribed", "Use the button on the page of the link.")
BUSY = Page(429, "Not yet unsubscribed", "There are too many requests. Try again in a minute.")
DOWN = Page(503, "Not yet unsubscribed", "Try again in a few minutes.")
TOO_LARGE = Page(413, "Not unsubscribed", "The request is too large.")
TOO_LATE = Page(408, "Not unsubscribed", "The request did not arrive in time.")
NO_METHOD = Page(405, "Not possible", "Use the link in the mail.")


def question(category: str) -> Page:
    """The page of a link."""
    return Page(200, "Unsubscribe?", f"Press the button to stop mail of the kind “{category}”.", button=True)


def done(category: str) -> Page:
    """The answer once the person is on the list."""
    return Page(200, "Unsubscribed", f"You will get no more mail of the kind “{category}”.")


async def send_page(
    send: Callable[[MutableMapping[str, Any]], Any], page: Page, *, http_version: str, head: bool = False
) -> None:
    """Send a page in one piece. ``http_version``: of the request, as ASGI names it."""
    body = page.html()
    headers = [
        (b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode()), *_HEADERS,
    ]  # fmt: skip
    if page.status in (429, 503):
        headers.append((b"retry-after", b"60"))
    if page.status == 405:
        headers.append((b"allow", b"GET, HEAD, POST"))
    if page.status in (408, 413) and http_version.startswith("1"):  # HTTP/2 does not allow it
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
