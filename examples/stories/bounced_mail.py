"""One mail bounces, and another fails after the API has accepted it."""

from __future__ import annotations

import json

from examples.stories.page import Page
from examples.stories.play import Scene
from sendq import Delivery, Message, State, webhooks
from sendq.simulator import Simulator
from sendq.simulator.reports import signature

TITLE = "A mail that bounced, and one that failed later"
SECRET = "the-secret-of-the-webhook"  # noqa: S105 - of a simulated API
SETTINGS: dict[str, str] = {}

GRANT = "agent-mia"


def set_up(nylas: Simulator) -> None:
    """An Agent Account: Nylas reports what becomes of each of its mails."""
    nylas.grant(GRANT, provider="nylas")


def play(scene: Scene, page: Page) -> None:
    """From "sent" to the mailbox."""
    queue = scene.queue
    bounced = Message(
        to=["leyah@example.com"], cc=["bounce@example.com"], subject="Invoice 1", body="<p>Please pay.</p>"
    )
    failed = Message(to=["late-failure@example.com"], subject="Invoice 2", body="<p>Please pay.</p>")
    jobs = [
        queue.send(GRANT, message, key=f"invoice-{number}", provider="nylas").id
        for number, message in enumerate((bounced, failed), 1)
    ]
    scene.until(lambda: all(queue.job(job).state is State.SENT for job in jobs), "both mails")
    page.tell(
        "Two invoices are sent: the API has accepted them. Of the second it says that it will send it soon (202):"
    )
    page.run("why --key invoice-2", shows="has not confirmed yet")
    page.tell("Then Nylas's webhooks come, which the shop passes on:")
    page.show(
        'received = webhooks.receive(queue, secret=secret, raw_body=body, signature=headers["x-nylas-signature"])\n'
        "print(received.status, received.says)"
    )
    page.print("\n".join(dict.fromkeys(deliver(scene))))
    page.tell("The first invoice was delivered to Leyah, but her accountant's address does not exist:")
    page.run("jobs --delivery bounced", shows="sent")
    page.run("why --key invoice-1", shows="delivery: bounced")
    page.tell(
        """Recipients are named by their place in the message, and by a digest that recognises an address without
        showing it. The second invoice never went out, so it is a dead letter now:"""
    )
    page.run("why --key invoice-2", shows="never went out")
    page.tell("Nobody has it, so it can be sent again:")
    page.run('retry --rule failed_later --reason "the quota is back" --by ops', shows="1 dead letter")
    scene.until(lambda: queue.job(jobs[1]).state is State.SENT, "the second send")
    deliver(scene)
    status = queue.job(jobs[1]).delivery
    assert status is not None
    assert status.delivery is Delivery.DELIVERED
    page.run("why --key invoice-2", shows="delivery: delivered")
    page.tell(f"The mailbox has {len(scene.nylas.mailbox)} messages for 2 invoices.")


def deliver(scene: Scene) -> list[str]:
    """Pass on every notification so far; what was answered."""
    answers = []
    for notification in scene.nylas.notifications:
        body = json.dumps(notification.envelope).encode()
        received = webhooks.receive(scene.queue, secret=SECRET, raw_body=body, signature=signature(SECRET, body))
        answers.append(f"{received.status} {received.says}")
    return answers
