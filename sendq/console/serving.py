"""From a request to an answer: who asks, the page's function in a thread, and errors that name the remedy."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sendq.console.asked import Asked, Redirect, View
from sendq.console.desk import Desk
from sendq.console.forms import fields_of
from sendq.console.headers import ALWAYS
from sendq.console.identity import ANONYMOUS, Person, anyone
from sendq.console.live import STREAMS_MOST, Rendered
from sendq.console.texts import words
from sendq.errors import (
    InvalidArgument,
    LedgerUnavailable,
    NoRight,
    NotFound,
    Retryable,
    SchemaMismatch,
    SendqError,
)

T = TypeVar("T")
PageFunction = Callable[[Desk, Asked], "View | Redirect"]

log = logging.getLogger("sendq.console")

# Bytes of a form: a reason and a few fields.
FORM_MOST = 32 * 1024

# How long sending a form may take, in seconds: signing in needs no login yet, and each form holds a request.
FORM_S = 4.0
LARGE_FORM_S = 60.0  # of an operator who replaces a message, over a slow connection

# A page whose ledger cannot be used loads itself again after this many seconds.
AGAIN_S = 5


class Refused(Exception):
    """The request is not allowed, with a page that says why."""

    def __init__(self, status: int, title: str, says: str) -> None:
        self.status, self.title, self.says = status, title, says


def _not_ours() -> Refused:
    return Refused(
        403,
        "Not from this page",
        "The form was not sent from a page of this console that you opened while signed in. Nothing was changed. "
        "Open the page again and repeat it.",
    )


class Endpoint:
    """One address. Subclasses answer; every answer to somebody unknown is the same."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await (await self._answered(request))(scope, receive, send)

    async def _answered(self, request: Request) -> Response:
        person = await who(self.desk, request)
        if person is None:
            return self._unknown(request)
        asked = asked_of(self.desk, request, person)
        try:
            return await self.answer(request, asked)
        except Refused as refused:
            return error_page(self.desk, asked, refused.status, refused.title, refused.says)
        except SendqError as error:
            return sendq_error(self.desk, asked, error, reloads=request.method == "GET")

    async def answer(self, request: Request, asked: Asked) -> Response:
        """The answer to a person who is known."""
        raise NotImplementedError

    def _unknown(self, request: Request) -> Response:
        if self.desk.sessions is not None:
            base = request.scope.get("root_path", "")
            return RedirectResponse(f"{base}/sign-in", 303)
        asked = asked_of(self.desk, request, ANONYMOUS)
        says = "Sign in with the application that this console belongs to, or open it through its proxy."
        if self.desk.who is anyone:
            says = (
                "This console has no login, so it can be read on its own machine alone, and not through a proxy. "
                "Set up a login to open it from elsewhere."
            )
        return error_page(self.desk, asked, 403, "Not signed in", says)


class Page(Endpoint):
    """A page that is read: whole, or (to whom asks for ``text/event-stream``) its live part whenever it changes."""

    def __init__(self, desk: Desk, page: PageFunction) -> None:
        super().__init__(desk)
        self._page = page

    async def answer(self, request: Request, asked: Asked) -> Response:
        if request.headers.get("accept", "") == "text/event-stream":
            return self._stream(request, asked)
        view = await run_in_threadpool(self._page, self.desk, asked)
        if isinstance(view, Redirect):
            return RedirectResponse(view.url, 303)
        return HTMLResponse(self.desk.render(view, asked), view.status, headers={"vary": "accept"})

    def _stream(self, request: Request, asked: Asked) -> Response:
        if self.desk.fragments.streams >= STREAMS_MOST:
            return Response(status_code=503, headers={"retry-after": "60"})
        desk = self.desk

        def rendered() -> Rendered:
            now = replace(asked_of(desk, request, asked.person), update=True)
            try:
                view = self._page(desk, now)
                assert isinstance(view, View), "a page that moves has no live part"
                return Rendered("page", desk.render(view, now, fragment=True))
            except SendqError as error:
                return Rendered("trouble", explained(error)[2])
            except Exception:
                log.exception("a live update failed")
                return Rendered("trouble", FAILED)

        async def render() -> Rendered:
            return await run_in_threadpool(rendered)

        async def allowed() -> bool:
            return await who(desk, request) == asked.person

        # What a page shows depends on the role, never on the person.
        key = (asked.person.role, asked.base, asked.path, request.scope["query_string"].decode("latin-1"))
        stream = desk.fragments.stream(key, render, allowed)
        headers = {"x-accel-buffering": "no", "vary": "accept"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def who(desk: Desk, request: Request) -> Person | None:
    """Who sends a request. A function of an application may block: it runs in a thread."""
    found = await run_in_threadpool(desk.who, request)
    return await found if inspect.isawaitable(found) else found


def asked_of(desk: Desk, request: Request, person: Person) -> Asked:
    """What is asked, as pages see it."""
    base = request.scope.get("root_path", "")
    path = request.scope["path"].removeprefix(base)
    return Asked(
        person=person,
        base=base,
        path=path or "/",
        query=dict(request.query_params),
        values=request.path_params,
        now=datetime.now(UTC),
        csrf=csrf_of(desk, request, person),
    )


def csrf_of(desk: Desk, request: Request, person: Person) -> str:
    """The token that a person's forms carry: no other site can read it."""
    session = desk.sessions.of(request) if desk.sessions is not None else None
    return desk.signer.sign("csrf", person.name, "" if session is None else session.id)


def is_large(request: Request) -> bool:
    """Whether a form has more than `FORM_MOST` bytes, or may have: its length is not known."""
    length = request.headers.get("content-length", "")
    return not (length.isdecimal() and len(length) < 10 and int(length) <= FORM_MOST)


async def form_of(request: Request, *, most: int | None = None, too_large: str = "Shorten it.") -> dict[str, str]:
    """The fields of a form. Raises `Refused` for one that a browser sends from another site (before it is read), that
    is larger than ``most`` (None: `FORM_MOST`) bytes (``too_large`` says what to do), or that takes longer than
    `FORM_S`, or, if it may be large, `LARGE_FORM_S`.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise _not_ours()
    seconds, limit = (FORM_S, FORM_MOST) if most is None else (LARGE_FORM_S, most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    says = f"This form is too large for the console. Nothing was changed. {too_large}"
                    raise Refused(413, "Too large", says)
    except TimeoutError:
        raise Refused(408, "Too slow", "The form did not arrive in time. Nothing was changed. Send it again.") from None
    except ClientDisconnect:
        raise Refused(400, "Not a form", "The connection ended within the form. Nothing was changed.") from None
    try:
        return await run_in_threadpool(fields_of, bytes(body))
    except ValueError:
        raise Refused(400, "Not a form", "This is not a form of the console.") from None


def require_own(desk: Desk, request: Request, person: Person, form: Mapping[str, str]) -> None:
    """Raise `Refused` unless a form comes from a page of this console that this person has opened."""
    session = desk.sessions.of(request) if desk.sessions is not None else None
    token = form.get("csrf", "")
    good = desk.signer.verify(token, "csrf", person.name, "" if session is None else session.id)
    if not good:
        raise _not_ours()


FAILED = "This page failed by a mistake of the console. Its log has the details."


def explained(error: Exception) -> tuple[int, str, str]:
    """Status, heading and text for an error."""
    if isinstance(error, NotFound):
        return 404, "Not found", sentence(str(error))
    if isinstance(error, InvalidArgument):
        return 400, "Not understood", invalid(error)
    if isinstance(error, NoRight):
        return 500, "The database does not allow this", sentence(str(error))
    if isinstance(error, LedgerUnavailable):
        return 503, "The ledger cannot be reached", sentence(str(error))
    if isinstance(error, SchemaMismatch):
        return 503, "The ledger belongs to another version", sentence(str(error))
    if isinstance(error, Retryable):
        return 503, "The ledger is busy", "The database aborted the transaction; nothing was changed. Try it again."
    if isinstance(error, SendqError):
        return 500, "Not possible", sentence(str(error))
    raise error


# Arguments of `Operators` that have another name on the pages.
LABELS = {
    "which": "this address", "cursor": "the page in this address", "apart_s": "rate", "recipients[0]": "recipient",
}  # fmt: skip


def invalid(error: InvalidArgument) -> str:
    """What is wrong, with the names that the pages have for fields."""
    parts = []
    for problem in error.problems:
        label = LABELS.get(problem.field) or words(problem.field.removesuffix("_id"))
        parts.append(sentence(f"{label} {problem.reason}; {re.sub(r'_id(?![a-z])', '', problem.remedy)}"))
    return " ".join(parts)


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def sendq_error(desk: Desk, asked: Asked, error: Exception, *, reloads: bool) -> Response:
    """The page of an error; one about the ledger loads itself again until the ledger is back (``reloads``), unless what
    was entered in a form would be lost by that.
    """
    status, title, says = explained(error)
    again = AGAIN_S if status == 503 and reloads else None
    if status == 503 and not reloads:
        says = f"{says} Go back in your browser, and send the form again."
    return error_page(desk, asked, status, title, says, again=again)


def error_page(desk: Desk, asked: Asked, status: int, title: str, says: str, *, again: int | None = None) -> Response:
    """A page that says what is wrong and what to do."""
    view = View("error.html", {"title": title, "says": says, "again": again})
    headers = {} if again is None else {"retry-after": str(again)}
    if status == 408:
        headers["connection"] = "close"  # the rest of the request is not read
    return HTMLResponse(desk.render(view, asked), status, headers=headers)


def not_found(desk: Desk) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The answer where there is no page, to those who may read."""

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        person = await who(desk, request) or ANONYMOUS
        says = "There is no such page in this console. The search finds jobs, batches and grants by their ids."
        return error_page(desk, asked_of(desk, request, person), error.status_code, "Not found", says)

    return answer


def failed(desk: Desk) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The answer to a mistake of ours. Starlette logs it."""

    async def answer(request: Request, error: Exception) -> Response:
        response = error_page(desk, asked_of(desk, request, ANONYMOUS), 500, "Failed", FAILED)
        response.headers.update(ALWAYS)  # this answer is made outside of the middleware
        return response

    return answer
