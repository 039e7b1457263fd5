"""`sendq api`: serves the HTTP API over the configured ledger."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import uvicorn

from sendq import SendQueue
from sendq.api import TokenFile, TokenFileError, api
from sendq.errors import Problem
from settings import Settings, SettingsError
from worker.processes.http_connections import limited, server_config
from worker.processes.listening import at, leave, listening, setting_error

# Requests at once, most of which wait for the ledger or for their body; beyond this, they get a 503.
REQUESTS_MOST = 500

# How long a thread that computes keeps the others waiting, in seconds; Python's default is 5 ms. A small request takes
# a hundred steps, each of which waits that long beside a large one.
SWITCH_S = 0.0005

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
        raise setting_error("SENDQ_API_TOKENS_FILE", error) from None


def serve(
    settings: Settings, queue: SendQueue, tokens: TokenFile, *, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Serve until asked to stop; ``say`` prints the address once it accepts connections. Port 0 means a free one.

    SIGTERM ends it with ``SystemExit(0)``, Ctrl-C with ``KeyboardInterrupt``. Raises ``SettingsError`` if it cannot
    listen on the address.
    """
    application = api(queue, tokens=tokens, rate=settings.api_rate, trusted_proxies=settings.api_trusted_proxies)
    sys.setswitchinterval(SWITCH_S)
    with listening(host, port, remedy="choose others (sendq up: --api-port)") as listener:
        signal.signal(signal.SIGTERM, leave)
        say(f"api: {at(host, listener.getsockname()[1])}v1/openapi.json")
        config = server_config(limited(application, requests=REQUESTS_MOST), grace_s=GRACE_S, lifespan="on")
        uvicorn.Server(config).run(sockets=[listener])
