"""The console as an ASGI application: its addresses, and what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from sendq.console import files
from sendq.console.desk import Desk, ReauthUrl
from sendq.console.doing import Acting, Progress, Stop
from sendq.console.headers import Headers
from sendq.console.identity import Who
from sendq.console.live import EVERY_S, Fragments
from sendq.console.looking_up import LookUp
from sendq.console.pages import PAGES
from sendq.console.passwords import PasswordFile
from sendq.console.serving import Page, failed, not_found
from sendq.console.sessions import Sessions, Signer
from sendq.console.signing_in import SignIn, SignOut
from sendq.console.texts import RuleText
from sendq.operators import Operators
from sendq.queue import SendQueue
from sendq.vault import Vault
from sendq.web.proxies import Proxies


def console(
    ledger: str | Operators,
    *,
    who: Who | PasswordFile,
    rules: Mapping[str, RuleText] | None = None,
    reauth_url: ReauthUrl | None = None,
    secret: str | None = None,
    trusted_proxies: Collection[str] = (),
    every_s: float = EVERY_S,
    vault: Vault | None = None,
    queue: SendQueue | None = None,
) -> Starlette:
    """The console over a ledger, as an application to mount (at any path) or to serve.

    ledger           a database URL, or `Operators` of yours (over an engine, for instance), which you close yourself
    who              says who sends a request and what they may do: a function of yours, a `ProxyHeader`, `anyone` (on
                     this machine, to read), or a `PasswordFile`, which adds a page to sign in
    rules            what the rules of the error policy mean, by id (`tasks.policy.words.words_of`)
    reauth_url       the address where a grant's owner signs in again, by application and grant
    secret           signs sessions and forms: give the same to every process that serves this console; by default each
                     makes its own
    trusted_proxies  addresses or networks whose ``X-Forwarded-For`` is believed when attempts to sign in are counted
    every_s          how often an open page is updated, in seconds; all who look at the same page share one query
    vault            the encryption keys of the ledger, if it is encrypted: needed only to look up by an address whether
                     a recipient is suppressed, and to undo a batch
    queue            replaces messages of sends that wait, with its own keys and options; you close it yourself. None:
                     that act is refused

    Raises ``ValueError`` for a short secret or an invalid network. The ledger is first used by the first page.
    The end of its lifespan ends live updates, asks acts to stop after their current step, and closes the ledger. An
    application that mounts it enters ``router.lifespan_context`` in its own lifespan: Starlette does not.
    """
    signer = Signer(secret)
    asks: Who = Sessions(who, signer) if isinstance(who, PasswordFile) else who
    owned = not isinstance(ledger, Operators)
    desk = Desk(
        operators=ledger if isinstance(ledger, Operators) else Operators(ledger),
        who=asks,
        signer=signer,
        sessions=asks if isinstance(asks, Sessions) else None,
        proxies=Proxies(trusted_proxies),
        rules=rules or {},
        reauth_url=reauth_url or (lambda application, grant_id: None),
        fragments=Fragments(every_s=every_s),
        vault=vault or Vault(),
        queue=queue,
    )

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        yield
        desk.fragments.close()
        desk.runs.stop_all()
        if owned:
            desk.operators.close()

    application = Starlette(
        routes=_routes(desk),
        middleware=[Middleware(Headers)],
        exception_handlers={404: not_found(desk), 405: not_found(desk), Exception: failed(desk)},
        lifespan=lifespan,
    )
    application.state.desk = desk
    return application


def _routes(desk: Desk) -> list[Route]:
    routes = [
        *(Route(path, Page(desk, page), methods=["GET"]) for path, page in PAGES.items()),
        Route("/suppressions", LookUp(desk), methods=["POST"]),
        Route("/acts/{act}", Acting(desk), methods=["GET", "POST"]),
        Route("/runs/{run}", Progress(desk), methods=["GET"]),
        Route("/runs/{run}/stop", Stop(desk), methods=["POST"]),
        Route("/files/{name}", files.serve, methods=["GET"]),
    ]
    if desk.sessions is not None:
        routes += [
            Route("/sign-in", SignIn(desk, desk.sessions), methods=["GET", "POST"]),
            Route("/sign-out", SignOut(desk, desk.sessions), methods=["POST"]),
        ]
    return routes
