"""`sendq console`: serves the console over the configured ledger."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import uvicorn

from sendq import Operators, SendQueue
from sendq.console import PasswordFile, PasswordFileError, ProxyHeader, anyone, console
from sendq.console.identity import Who, is_loopback
from sendq.console.texts import RuleText
from sendq.errors import Problem
from settings import Settings, SettingsError
from worker.notifying.reauth import reauth_url
from worker.processes.http_connections import limited, server_config
from worker.processes.listening import at, leave, listening, setting_error

# Open pages each hold one request for their live updates; beyond this, requests get a 503.
REQUESTS_MOST = 700

# How long requests may take to end when the server stops.
GRACE_S = 5


def who_of(settings: Settings, host: str) -> Who | PasswordFile:
    """Who may do what. Without a login everybody on this machine may read. Raises ``SettingsError``."""
    if settings.console_passwords_file is not None:
        try:
            return PasswordFile(settings.console_passwords_file)
        except PasswordFileError as error:
            raise setting_error("SENDQ_CONSOLE_PASSWORDS_FILE", error) from None
    if settings.console_proxy_header is not None:
        return ProxyHeader(
            settings.console_proxy_header,
            trusted=settings.console_trusted_proxies,
            operators=settings.console_operators,
        )
    if is_loopback(host):
        return anyone
    remedy = "set SENDQ_CONSOLE_PASSWORDS_FILE or SENDQ_CONSOLE_PROXY_HEADER; without a login it listens on 127.0.0.1"
    raise SettingsError([Problem("--host", "lets other machines reach a console without a login", remedy)])


def serve(
    settings: Settings,
    operators: Operators,
    queue: SendQueue,
    rules: dict[str, RuleText],
    *,
    host: str,
    port: int,
    say: Callable[[str], None],
) -> None:
    """Serve until asked to stop; ``say`` prints the address once it accepts connections. Port 0 means a free one.

    SIGTERM ends it with ``SystemExit(0)``, Ctrl-C with ``KeyboardInterrupt``. Raises ``SettingsError`` if it cannot
    listen on the address, or has no login where it needs one.
    """
    secret = settings.console_secret
    application = console(
        operators,
        who=who_of(settings, host),
        rules=rules,
        reauth_url=lambda application, grant_id: reauth_url(settings, application, grant_id),
        secret=None if secret is None else secret.get_secret_value(),
        trusted_proxies=settings.console_trusted_proxies,
        vault=settings.vault,
        queue=queue,
    )
    with listening(host, port, remedy="choose others (sendq up: --console-port)") as listener:
        signal.signal(signal.SIGTERM, leave)
        login = settings.console_passwords_file or settings.console_proxy_header
        say(f"console: {at(host, listener.getsockname()[1])}" + ("" if login else " (read-only: no login is set)"))
        config = server_config(limited(application, requests=REQUESTS_MOST), grace_s=GRACE_S, lifespan="on")
        _Server(config, application.state.desk.fragments.close).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends the live updates before it waits for requests to end: they have no end of their own."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)
