"""The summary: is every enqueued job accounted for, and did the API see each exactly once?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sendq import State
from sendq.simulator import Simulator
from settings.environ import IN_CHECKOUT
from worker.demo.scene import Scene
from worker.demo.story import CHANGES, EXPIRING, JOBS, MESSAGES, TIDIED


@dataclass(frozen=True, slots=True)
class Account:
    """The ledger's counts and the API's. ``repeated``: messages and changes that were made more than once."""

    sent: int
    dead: int
    reauth: int
    other: int
    messages: int
    changes: int
    repeated: int
    faults: Counter[str]
    bounced: int

    @property
    def adds_up(self) -> bool:
        """Whether nothing is missing, nothing was done twice, and both sides agree."""
        return (
            self.sent + self.dead + self.reauth == JOBS
            and self.messages + self.changes == self.sent
            and self.changes == CHANGES
            and self.repeated == 0
        )


def account(scene: Scene, nylas: Simulator, *, bounced: int) -> Account:
    """Compare the ledger with the API. ``bounced``: mails that were reported later as such."""
    messages = Counter(accepted.job for accepted in nylas.mailbox)
    changes = Counter((modified.grant, modified.id) for modified in nylas.modified)
    sent, dead = scene.count(State.SENT), scene.count(State.DEAD)
    return Account(
        sent=sent,
        dead=dead,
        reauth=scene.reauth,
        other=JOBS - sent - dead - scene.reauth,
        messages=len(messages),
        changes=len(changes),
        repeated=sum(number - 1 for number in (*messages.values(), *changes.values())),
        faults=Counter(request.fault for request in nylas.requests if request.fault is not None),
        bounced=bounced,
    )


def lines(found: Account, elapsed_s: float, home_url: str) -> Iterator[str]:
    """The summary, for people."""
    yield f"{JOBS} jobs in {elapsed_s:.1f} s: {MESSAGES} messages over 12 grants, and {CHANGES} changes for {TIDIED}"
    yield ""
    yield f"  {found.sent:4d}  sent         the API accepted each"
    yield f"  {found.dead:4d}  dead         the recipient was rejected: not delivered, and retrying would not help"
    yield f"  {found.reauth:4d}  reauth       {EXPIRING} must sign in again; then they are sent automatically"
    if found.other:
        yield f"  {found.other:4d}  unfinished   unexpected"
    yield f"= {found.sent + found.dead + found.reauth + found.other:4d}"
    yield ""
    verdict = "the two agree" if found.adds_up else "THE TWO DO NOT AGREE"
    yield (
        f"The API itself has {found.messages} messages and {found.changes} changes, "
        f"{found.repeated} of them twice: {verdict}."
    )
    failures = ", ".join(f"{name} ({number})" for name, number in sorted(found.faults.items()))
    yield f"Failures along the way: {failures}."
    yield f"Reported of the mail afterwards, by webhooks: {found.bounced} bounced, and no other bad news."
    yield ""
    yield "Next, with the simulator instead of a Nylas account:"
    yield ""
    command = "./dev sendq" if IN_CHECKOUT else "sendq"
    yield f"    {command} simulator --port 8799"
    yield f"    NYLAS_API_URI=http://127.0.0.1:8799 NYLAS_API_KEY=test-key {command} up     # in another terminal"
    yield ""
    python = "./dev python" if IN_CHECKOUT else sys.executable
    yield f"and in your own program ({python} has everything it needs; for your application see README.md):"
    yield ""
    yield "    from sendq import Message, SendQueue"
    yield f'    queue = SendQueue("{home_url}")'
    yield '    queue.send("your-grant-id", Message(to=["you@example.com"], subject="Hello", body="<p>Hello!</p>"))'
