"""The same lists on terminals of 80 and of 120 columns."""

from __future__ import annotations

from uuid import UUID

from examples.stories.dead_letter import NOT_ENABLED
from examples.stories.page import Page
from examples.stories.play import Scene, invoice
from examples.stories.thousand_throttled import THROTTLED
from sendq import State
from sendq.simulator import Simulator
from sendq.views.grants import GrantState

TITLE = "The lists of the command line at 80 and at 120 columns"
SETTINGS: dict[str, str] = {}

WIDTHS = (80, 120)

# As Nylas names them.
HELD, CLOSED, SICK = (str(UUID(int=0x3B9C << 100 | number)) for number in range(3))


def set_up(nylas: Simulator) -> None:
    """Two of the accounts refuse what is sent."""
    nylas.grant(HELD, provider="ews")
    nylas.will(THROTTLED, grant=HELD, operation="send", times=2)
    nylas.grant(CLOSED, provider="google", status="invalid")
    nylas.grant(SICK, provider="microsoft")
    nylas.will(NOT_ENABLED, grant=SICK, operation="send")


def play(scene: Scene, page: Page) -> None:
    """Each list, at both widths."""
    jobs = [
        scene.queue.send(grant, invoice(number), key=f"invoice-{number}", provider=provider)
        for number, (grant, provider) in enumerate([(HELD, "ews"), (CLOSED, "google"), (SICK, "microsoft")])
    ]
    scene.until(lambda: scene.queue.grant(HELD).state is GrantState.HELD, "a hold")
    scene.until(lambda: scene.queue.job(jobs[2].id).state is State.DEAD, "a dead letter")
    scene.until(lambda: scene.queue.grant(CLOSED).state is GrantState.CLOSED, "a closed grant")
    page.tell(
        "A list chooses its columns by the width of the terminal, and becomes a block for each row where it is too "
        "narrow. State and ids are never left out and never cut. Without a terminal, as in a pipe, a row is one line."
    )
    for columns in WIDTHS:
        page.tell(f"On {columns} columns:")
        page.run("status", shows="exchange_throttled", columns=columns)
        page.run("grants", shows=HELD, columns=columns)
        page.run("jobs", shows="queued", columns=columns)
        page.run("dead --rule mailbox_not_enabled", shows=SICK, columns=columns)
