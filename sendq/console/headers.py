"""Headers of every answer: what a browser may do with the pages, which is little. And a check of ``Host``."""

from __future__ import annotations

from starlette.datastructures import Headers as Given
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sendq.console.identity import hostname_in

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

ALWAYS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}


BAD_HOST = PlainTextResponse("The header Host of this request is not valid.\n", 400)


class Headers:
    """Adds them, and answers a request whose ``Host`` is not valid.

    Pages are not stored anywhere; a file that has its digest in its address may be.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        host = Given(scope=scope).get("host")
        valid = host is None or hostname_in(host) is not None
        await (self._application if valid else BAD_HOST)(scope, receive, add)
