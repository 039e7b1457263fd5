"""A server throttles a thousand mailboxes at once: found, understood, released."""

from __future__ import annotations

import time

from examples.stories.page import Page
from examples.stories.play import Scene, invoice
from sendq import Options, Send, State
from sendq.simulator import Fault, Simulator

TITLE = "A thousand mailboxes throttle: found, understood, released"
SETTINGS: dict[str, str] = {}

MAILBOXES = 1_000
OTHER = "google-anna"

THROTTLED = Fault.status(
    429,
    type="rate_limit_error",
    message="Exchange account throttled: sync has been temporarily paused",
    headers={"Retry-After": "1200"},
)


def names() -> list[str]:
    """The grants of the mailboxes on the server."""
    return [f"exchange-{number:04}" for number in range(MAILBOXES)]


def set_up(nylas: Simulator) -> None:
    """The first call of every mailbox of the server is throttled."""
    for name in names():
        nylas.grant(name, provider="ews")
        nylas.will(THROTTLED, grant=name, operation="send")
    nylas.grant(OTHER, provider="google")


def play(scene: Scene, page: Page) -> None:
    """From the first 429 to the last message."""
    page.tell(
        f"A self-hosted Exchange server has {MAILBOXES:,} mailboxes; an application sends one invoice from each. The "
        "server throttles all of them, for twenty minutes:"
    )
    jobs = scene.queue.send_many(
        [Send(name, invoice(number), Options(provider="ews")) for number, name in enumerate(names())]
    )
    scene.until(lambda: _held(scene) == MAILBOXES, "a thousand holds")

    began = time.monotonic()
    page.tell("Found, in one command:")
    page.run("status", shows="exchange_throttled")
    page.tell("Understood, in a second one:")
    page.run("explain --status 429 --provider ews --body 'Exchange account throttled'", shows="exchange_throttled")
    page.tell("The administrator lifts the limits. What would be released?")
    release = "release --rule exchange_throttled --provider ews --reason 'limits lifted' --by ops"
    page.run(f"{release} --dry-run", shows="1,000 grants would be released")
    page.tell("Released, as one act:")
    page.run(release, shows="1,000 grants released")
    took = time.monotonic() - began

    last = [job.id for job in jobs]
    scene.until(lambda: all(scene.queue.job(job).state is State.SENT for job in last[-1:]), "the last mailbox")
    scene.until(lambda: len(scene.nylas.mailbox) == MAILBOXES, "every message")
    sent = time.monotonic() - began
    page.tell("Every message is out, and the journal has one event for the act:")
    page.run("status", shows="sent")
    page.run("events --kind release", shows="1,000 grants")
    page.tell(
        f"From the first command to the last grant released: {took:.2f} s; to the last of {len(scene.nylas.mailbox):,} "
        f"messages: {sent:.2f} s."
    )


def _held(scene: Scene) -> int:
    """How many grants the ledger has as held."""
    from sendq import Operators

    operators = Operators(scene.environ["DATABASE_URL"])
    try:
        return sum(group.grants for group in operators.held(rule="exchange_throttled"))
    finally:
        operators.close()
