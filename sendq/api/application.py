"""The HTTP API as an ASGI application: its addresses, and what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sendq.api.bodies import EACH_MOST, KEPT_MOST
from sendq.api.endpoint import ALWAYS, AT_ONCE, EACH_AT_ONCE, TURN_S, WRITES_AT_ONCE, Desk, Endpoint
from sendq.api.limits import BodyMemory, FailedLogins, Rate, Turns
from sendq.api.openapi import document
from sendq.api.operation import Operation
from sendq.api.problems import Answer, Refused
from sendq.api.routes import OPERATIONS
from sendq.api.tokens import TokenFile
from sendq.queue import SendQueue
from sendq.web.proxies import Proxies

# Requests per second of one token, in one process.
RATE = 100.0


def api(
    queue: str | SendQueue,
    *,
    tokens: str | Path | TokenFile,
    rate: float = RATE,
    trusted_proxies: Collection[str] = (),
) -> Starlette:
    """The HTTP API over a ledger, as an application to mount (at any path) or to serve.

    queue            a database URL, or a `SendQueue` of yours, which you close yourself
    tokens           the token file, or its path; `sendq token create` writes it
    rate             requests per second of each token, in this process; bursts of twice as many
    trusted_proxies  addresses or networks whose ``X-Forwarded-For`` is believed when failed logins are counted

    Raises `TokenFileError` for a token file that cannot be used, and ``ValueError`` for an invalid network or rate. The
    end of its lifespan closes the queue that it has opened. An application that mounts it enters
    ``router.lifespan_context`` in its own lifespan: Starlette does not.
    """
    if not rate > 0:
        raise ValueError("rate: is not a positive number; pass requests per second")
    owned = not isinstance(queue, SendQueue)
    desk = Desk(
        queue=queue if isinstance(queue, SendQueue) else SendQueue(queue),
        tokens=tokens if isinstance(tokens, TokenFile) else TokenFile(tokens),
        rate=Rate(rate),
        failed=FailedLogins(),
        proxies=Proxies(trusted_proxies),
        memory=BodyMemory(KEPT_MOST, each=EACH_MOST),
        turns=Turns(AT_ONCE, writes=WRITES_AT_ONCE, each=EACH_AT_ONCE, wait_s=TURN_S),
    )

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        yield
        if owned:
            desk.queue.close()

    paths: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation
    openapi = Answer(document(), headers={"cache-control": "max-age=60"})

    async def described(request: Request) -> Response:
        return openapi

    application = Starlette(
        routes=[
            *(Route(path, Endpoint(desk, operations), methods=None) for path, operations in paths.items()),
            Route("/v1/openapi.json", described, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _no_such_address},
        lifespan=lifespan,
    )
    # A redirect would go to whatever host the client names, over HTTP behind a proxy that speaks HTTPS.
    application.router.redirect_slashes = False
    return application


async def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refused = Refused("no-such-method", "This address allows GET.", headers=dict(error.headers or {}))
    else:
        refused = Refused("not-found", "There is no such address; see /v1/openapi.json.")
    answer = refused.answer()
    answer.headers.update(ALWAYS)
    return answer
