"""A person's sign-in expires, and is renewed."""

from __future__ import annotations

import hashlib
import hmac
import json
import time

from examples.stories.page import Page
from examples.stories.play import Scene, invoice
from sendq import State, webhooks
from sendq.simulator import Simulator

TITLE = "An expired sign-in, from the first refusal to the last message"
SECRET = "the-secret-of-the-webhook"  # noqa: S105 - of a simulated API

# An owner is called after half a minute, in case many accounts failed alike; a story need not wait that long.
SETTINGS = {"SENDQ_ANNOUNCE_AFTER_S": "0.5", "SENDQ_REAUTH_URL": "https://shop.example/sign-in?grant={grant_id}"}

GRANT = "imap-ivy"
MESSAGES = 4


def set_up(nylas: Simulator) -> None:
    """The second message finds out."""
    nylas.grant(GRANT, provider="imap")


def play(scene: Scene, page: Page) -> None:
    """From the refusal to the last message."""
    first = scene.queue.send(GRANT, invoice(0), key="invoice-0", provider="imap")
    scene.until(lambda: scene.queue.job(first.id).state is State.SENT, "the first message")
    page.tell("An invoice goes out through Ivy's mailbox. Then she changes her password, and the next ones meet a 401:")
    scene.nylas.grant(GRANT, status="invalid")
    numbers = range(1, MESSAGES)
    jobs = [scene.queue.send(GRANT, invoice(number), key=f"invoice-{number}", provider="imap") for number in numbers]
    scene.until(lambda: "https://" in scene.run("grants"), "the call for the owner")
    page.run(f"why --key invoice-{MESSAGES - 1}", shows="sign in again")
    page.tell(
        f"""{refused(scene.nylas)} call was spent on finding out. The lane is closed, and its jobs wait, each until its
        own expiry. Whoever is on call sees who has to do something, and where:"""
    )
    page.run("grants", shows="https://shop.example")
    page.tell("The shop shows Ivy that address. She signs in, and Nylas says so by a webhook, which the shop takes in:")
    scene.nylas.grant(GRANT, status="valid")
    page.show(
        'received = webhooks.receive(queue, secret=secret, raw_body=body, signature=headers["x-nylas-signature"])\n'
        "print(received.status, received.says)"
    )
    body, signature = notification()
    received = webhooks.receive(scene.queue, secret=SECRET, raw_body=body, signature=signature)
    page.print(f"{received.status} {received.says}")
    scene.until(lambda: all(scene.queue.job(job.id).state is State.SENT for job in jobs), "the last message")
    page.tell("The API confirms it, the lane opens, and the mail that waited goes out by itself:")
    page.run(f"jobs --grant {GRANT}", shows="sent")
    page.tell("And it is on record when the owner was called, and what opened the account again:")
    page.run(f"events --grant {GRANT}", shows="reopened")
    page.tell(f"The mailbox has {len(scene.nylas.mailbox)} messages for {MESSAGES} invoices.")


def refused(nylas: Simulator) -> int:
    """Sends that the API answered with 401."""
    return sum(request.operation == "send" and request.status == 401 for request in nylas.requests)


def notification() -> tuple[bytes, str]:
    """What Nylas delivers when a grant works again, with its signature."""
    facts = {"application_id": "a1", "object": {"grant_id": GRANT, "provider": "imap"}}
    told = {"specversion": "1.0", "type": "grant.updated", "id": "n1", "time": int(time.time()) + 1, "data": facts}
    body = json.dumps(told).encode()
    return body, hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
