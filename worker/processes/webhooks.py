"""`sendq webhooks`: receives Nylas webhooks for every application that has a webhook secret."""

from __future__ import annotations

import signal
from collections.abc import Callable

import uvicorn

from sendq import SendQueue
from sendq.errors import Problem
from sendq.facts.notices import OutcomeOptions
from sendq.webhooks import asgi, unsubscribe_asgi
from sendq.webhooks.endpoint import Application, Receive, Scope, Send
from settings import Settings, SettingsError
from worker.processes.http_connections import limited, server_config
from worker.processes.listening import at, leave, listening

# Notifications about grants are rare. Concurrent requests beyond this get a 503, and Nylas retries them. Each may hold
# a body of a megabyte.
REQUESTS_MOST = 200

# Links are requested by anyone: however many these are, none takes a notification's place. A form has 4 KB at most.
LINK_REQUESTS_MOST = 500

LINKS = "/unsubscribe/"

# Requests end within the 10 s that Nylas waits for an answer.
GRACE_S = 10

DEFAULT = "default"


def secrets_of(settings: Settings) -> dict[str, str]:
    """The webhook secrets by application; raises ``SettingsError`` if there is none."""
    secrets = {
        name: application.webhook_secret.get_secret_value()
        for name, application in settings.applications.items()
        if application.webhook_secret is not None
    }
    if not secrets:
        remedy = "set it to the secret that Nylas showed when the webhook was created"
        raise SettingsError([Problem("NYLAS_WEBHOOK_SECRET", "is not set", remedy)])
    return secrets


def serve(
    queue: SendQueue,
    secrets: dict[str, str],
    *,
    host: str,
    port: int,
    say: Callable[[str], None],
    outcomes: OutcomeOptions,
) -> None:
    """Serve until asked to stop; ``say`` prints the addresses once it accepts connections. Port 0 means a free one.

    SIGTERM ends it with ``SystemExit(0)``, Ctrl-C with ``KeyboardInterrupt``, both after the current requests.

    Raises ``SettingsError`` if it cannot listen on the address.
    """
    with listening(host, port) as listener:
        signal.signal(signal.SIGTERM, leave)
        for name, url in addresses(secrets, host, listener.getsockname()[1]).items():
            say(f"{name}: {url}")
        config = server_config(receiver(queue, secrets, outcomes), grace_s=GRACE_S, lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])


def receiver(queue: SendQueue, secrets: dict[str, str], outcomes: OutcomeOptions) -> Application:
    """Notifications and unsubscribe links, each with its own limit of concurrent requests."""
    notifications = limited(
        asgi(
            queue,
            secret=secrets,
            delivered_outcomes=outcomes.delivered,
            outcome_addresses=outcomes.addresses,
            unsubscribe_path=None,
        ),
        requests=REQUESTS_MOST,
    )
    links = limited(unsubscribe_asgi(queue, path=LINKS), requests=LINK_REQUESTS_MOST)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        is_link = scope["type"] == "http" and scope["path"].startswith(LINKS)
        await (links if is_link else notifications)(scope, receive, send)

    return serve


def addresses(secrets: dict[str, str], host: str, port: int) -> dict[str, str]:
    """The webhook address of each application."""
    return {name: at(host, port) + ("" if name == DEFAULT else name) for name in secrets}
