"""`sendq api`: serves the HTTP API over the configured ledger."""

from __future__ import annotations

import signal
from collections.abc import Callable

import uvicorn

from sendq import SendQueue
from sendq.api import TokenFile, TokenFileError, api
from sendq.errors import Problem
from settings import Settings, SettingsError
from worker.processes.http_connections import connection_class, limited
from worker.processes.listening import at, leave, listening

# Requests at once, most of which wait for the ledger or for their body; beyond this, they get a 503.
REQUESTS_MOST = 500

# How long requests may take to end when the server stops.
GRACE_S = 20


def tokens_of(settings: Settings) -> TokenFile:
    """The token file. Raises ``SettingsError``."""
    if settings.api_tokens_file is None:
        remedy = "name a file there, and put a token into it with `sendq token create`"
        raise SettingsError([Problem("SENDQ_API_TOKENS_FILE", "is not set", remedy)])
    try:
        return TokenFile(settings.api_tokens_file)
    except TokenFileError as error:
        reason, _, remedy = str(error).partition("; ")
        raise SettingsError([Problem("SENDQ_API_TOKENS_FILE", reason, remedy)]) from None


def serve(settings: Settings, queue: SendQueue, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until asked to stop; ``say`` prints the address once it accepts connections. Port 0 means a free one.

    SIGTERM ends it with ``SystemExit(0)``, Ctrl-C with ``KeyboardInterrupt``. Raises ``SettingsError`` if it cannot
    listen on the address, or has no token file.
    """
    application = api(
        queue, tokens=tokens_of(settings), rate=settings.api_rate, trusted_proxies=settings.api_trusted_proxies
    )
    with listening(host, port, remedy="choose others (sendq up: --api-port)") as listener:
        signal.signal(signal.SIGTERM, leave)
        say(f"api: {at(host, listener.getsockname()[1])}v1/openapi.json")
        config = uvicorn.Config(
            limited(application, requests=REQUESTS_MOST),
            http=connection_class(),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the API itself decides which proxies it believes
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=GRACE_S,
        )
        uvicorn.Server(config).run(sockets=[listener])
