"""Celery's remote control, cut down to what Flower reads.

Anyone who can write to Redis or reach Flower can send remote control commands. What Celery offers them would stop
consumers, resize the pool or end workers, and ``revoke`` would say "revoked" although the ledger dispatches
the job all the same. Here a worker answers what Flower and ``celery inspect`` ask, and everything else is refused: by
the process that sends it (`Control`), so that Flower does not claim an effect, and by the worker (`Mailbox`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.app.control import Control as CeleryControl
from celery.worker.consumer.control import Control as CeleryStep
from celery.worker.control import Panel
from celery.worker.pidbox import Pidbox

from worker.telemetry import journal

# What Flower and `celery inspect` ask. `enable_events` comes from Flower every few seconds.
READS = frozenset({
    "active", "active_queues", "clock", "conf", "disable_events", "enable_events", "heartbeat", "hello", "ping",
    "registered", "reserved", "revoked", "scheduled", "stats",
})  # fmt: skip

REFUSED = "sendq's workers refuse this command; use the command line, for example: sendq cancel JOB"


class Refused(Exception):
    """sendq's workers do not carry out this command."""


class Control(CeleryControl):  # type: ignore[misc]
    """What `celery control` and Flower send commands with."""

    def broadcast(self, command: str, *args: Any, **options: Any) -> Any:
        """Send a command. Raises `Refused`."""
        if command not in READS:
            raise Refused(REFUSED)
        return super().broadcast(command, *args, **options)


class Step(CeleryStep):  # type: ignore[misc]
    """Celery's step for remote control, with `Mailbox`."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.box = Mailbox(consumer)
        self.start, self.stop, self.shutdown = self.box.start, self.box.stop, self.box.shutdown


class Mailbox(Pidbox):  # type: ignore[misc]
    """A worker's mailbox: drops what is no command, and refuses what is no command of ours."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        found: dict[str, Callable[..., Any]] = dict.fromkeys(Panel.data, _refuse)
        found |= {name: Panel.data[name] for name in READS if name in Panel.data}
        found |= {name: _without_arguments(found[name]) for name in ("active", "reserved", "scheduled")}
        self.node.handlers = found

    def on_message(self, body: Any, message: Any) -> None:
        if self._is_command(body) and isinstance(message.headers.get("clock"), int | None):
            super().on_message(body, message)
        else:
            journal.message_dropped(self.node.mailbox.exchange.name, "not a command", size=len(message.body or b""))

    def _is_command(self, body: Any) -> bool:
        if not isinstance(body, dict) or body.get("pattern") is not None:  # a pattern may take for ever to match
            return False
        method, arguments, to, reply_to, ticket = (
            body.get(name) for name in ("method", "arguments", "destination", "reply_to", "ticket")
        )
        return (
            isinstance(method, str) and method in self.node.handlers
            and isinstance(arguments, dict | None)
            and isinstance(to, list | None) and all(isinstance(name, str) for name in to or ())
            and isinstance(ticket, str | None)
            and (reply_to is None or self._is_reply_address(reply_to))
        )  # fmt: skip

    def _is_reply_address(self, reply_to: Any) -> bool:
        """Whether it is a mailbox of this application: a reply must not be written into any other key."""
        exchange = self.node.mailbox.reply_exchange.name
        return (
            isinstance(reply_to, dict)
            and reply_to.get("exchange") == exchange
            and isinstance(reply_to.get("routing_key"), str)
        )


def _refuse(_state: Any, **_arguments: Any) -> dict[str, str]:
    return {"error": REFUSED}


def _without_arguments(reads: Callable[..., Any]) -> Callable[..., Any]:
    """The answer of ``reads`` without the arguments of tasks, which may be a mail (`tasks.enqueue`)."""

    def read(state: Any, **arguments: Any) -> list[Any]:
        return [_bare(entry) for entry in reads(state, **arguments)]

    return read


def _bare(entry: dict[str, Any]) -> dict[str, Any]:
    hidden: dict[str, Any] = {"args": [], "kwargs": {}}
    if isinstance(entry.get("request"), dict):
        return entry | {"request": entry["request"] | hidden}
    return entry | hidden
