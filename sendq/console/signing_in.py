"""Signing in with a name and a password, and out again."""

from __future__ import annotations

import logging
import math
import secrets

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.identity import ANONYMOUS, hostname_of, is_loopback
from sendq.console.passwords import PasswordFileError
from sendq.console.serving import Endpoint, Refused, asked_of, error_page, form_of, require_own
from sendq.console.sessions import LOGIN_COOKIE, Sessions, set_cookie

log = logging.getLogger("sendq.console")

WRONG = "The name or the password is wrong."
FORM_LASTS_S = 3600

# Forms that are read at once: everybody may send them, and they must not take the place of people who are signed in.
FORMS_MOST = 50


class SignIn:
    """The page to sign in, which is open to everybody."""

    def __init__(self, desk: Desk, sessions: Sessions) -> None:
        self._desk, self._sessions = desk, sessions
        self._reading = 0
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        asked = asked_of(self._desk, request, ANONYMOUS)
        if request.method == "POST":
            try:
                response = await self._signed_in(request, asked)
            except Refused as refused:
                response = error_page(self._desk, asked, refused.status, refused.title, refused.says)
        else:
            response = self._page(request, asked)
        await response(scope, receive, send)

    async def _signed_in(self, request: Request, asked: Asked) -> Response:
        form = await self._form(request)
        nonce = request.cookies.get(LOGIN_COOKIE, "")
        if not nonce or not self._desk.signer.verify(form.get("csrf", ""), "sign-in", nonce):
            return self._page(
                request, asked, "That page was too old, or this browser keeps no cookies. Try again.", 403
            )
        name, address = form.get("name", "").strip(), self._desk.proxies.client_of(request)
        self._warn_of_proxy(request)
        wait_s = self._desk.attempts.begin(name, address)
        if wait_s:
            log.warning("too many attempts to sign in from %s", address)
            minutes = math.ceil(wait_s / 60)
            says = f"Too many attempts. Try again in {minutes} minute{'s' * (minutes > 1)}."
            response = self._page(request, asked, says, 429)
            response.headers["retry-after"] = str(math.ceil(wait_s))
            return response
        try:
            entry = await run_in_threadpool(self._sessions.people.check, name, form.get("password", ""))
        except PasswordFileError as error:
            log.error("nobody can sign in: %s", error)
            return self._page(request, asked, "The password file cannot be read; the console's log says why.", 503)
        if entry is None:
            log.warning("an attempt to sign in failed from %s", address)
            return self._page(request, asked, WRONG, 401)
        self._desk.attempts.succeeded(name, address)
        response = RedirectResponse(asked.url(""), 303)
        self._sessions.begin(entry, request, response)
        set_cookie(request, response, LOGIN_COOKIE, "", 0)
        return response

    def _warn_of_proxy(self, request: Request) -> None:
        """Once: all who come through a proxy that is not trusted count as one address, and lock each other out."""
        if self._warned or "x-forwarded-for" not in request.headers or self._desk.proxies.sent(request):
            return
        self._warned = True
        log.warning(
            "X-Forwarded-For from %s is ignored: if that is your proxy, name it in SENDQ_CONSOLE_TRUSTED_PROXIES; "
            "until then attempts to sign in of all its clients are counted as those of one",
            request.client.host if request.client is not None else "a socket file",
        )

    async def _form(self, request: Request) -> dict[str, str]:
        if self._reading >= FORMS_MOST:
            raise Refused(503, "Too many at once", "Too many people are signing in. Try again in a few seconds.")
        self._reading += 1
        try:
            return await form_of(request)
        finally:
            self._reading -= 1

    def _page(self, request: Request, asked: Asked, says: str | None = None, status: int = 200) -> Response:
        nonce = request.cookies.get(LOGIN_COOKIE) or secrets.token_urlsafe(16)
        scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
        plain = scheme == "http" and not is_loopback(hostname_of(request))
        values = {"says": says, "token": self._desk.signer.sign("sign-in", nonce), "plain": plain}
        response = HTMLResponse(self._desk.render(View("sign_in.html", values), asked), status)
        set_cookie(request, response, LOGIN_COOKIE, nonce, FORM_LASTS_S)
        return response


class SignOut(Endpoint):
    """Ends a session."""

    def __init__(self, desk: Desk, sessions: Sessions) -> None:
        super().__init__(desk)
        self._sessions = sessions

    async def answer(self, request: Request, asked: Asked) -> Response:
        require_own(self.desk, request, asked.person, await form_of(request))
        response = RedirectResponse(asked.url("sign-in"), 303)
        self._sessions.end(request, response)
        return response
