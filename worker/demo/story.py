"""What the demo enqueues, and which failures it causes."""

from __future__ import annotations

import json
from itertools import cycle, islice

from sendq import Message, Options, Send, SendQueue
from sendq.ledger.mail_notices import APPLIED, SAYS
from sendq.simulator import Fault, Simulator
from sendq.simulator.reports import signature
from sendq.webhooks import receive

SECRET = "the-secret-of-the-webhook"  # noqa: S105 - of a simulated API

# Grant -> provider. Readable names instead of Nylas's ids.
GRANTS = {
    "google-anna": "google",
    "google-ben": "google",
    "google-cleo": "google",
    "microsoft-dan": "microsoft",
    "microsoft-eve": "microsoft",
    "microsoft-finn": "microsoft",
    "ews-gina": "ews",
    "imap-hugo": "imap",
    "imap-ivy": "imap",
    "icloud-jo": "icloud",
    "yahoo-kim": "yahoo",
    "yahoo-lee": "yahoo",
}
MESSAGES = 200
CHANGES = 300
JOBS = MESSAGES + CHANGES

TIDIED = "google-anna"  # whose 300 messages are marked as read
EXPIRING = "imap-ivy"  # whose sign-in expires in the middle

# Duration of each call, in seconds. Real sends take about two, with which the batch would take minutes; with a tenth of
# this there would be nothing to watch.
LATENCY_S = 0.2

# Recipients that cause failures in the simulator: number of the message -> local part of its address.
RECIPIENTS = {
    15: "throttle",  #   microsoft-dan: 429, Retry-After: 1 s
    37: "bounce",  #     google-ben: accepted, and reported later as bounced
    70: "refused",  #    yahoo-kim: 402, nobody has it: a dead letter
    92: "reauth",  #     imap-ivy: 401 from the provider, and the grant is invalid from here on
    117: "throttle",  #  icloud-jo: the same
}


def set_up(nylas: Simulator) -> None:
    """Create the grants, the messages to modify, and the failures that no recipient causes."""
    for grant, provider in GRANTS.items():
        nylas.grant(grant, provider=provider)
    slowly = Fault.status(
        429,
        name="throttled for 3 s",
        type="rate_limit_error",
        message="Exchange account throttled",
        provider_error={"error": {"code": "ErrorServerBusy", "message": "The server cannot service this request now."}},
        headers={"Retry-After": "3"},
    )
    nylas.will(slowly, grant="ews-gina", operation="send")
    nylas.will("throttle", grant=TIDIED, operation="modify")
    nylas.will("tempfail", grant="yahoo-kim", operation="send")


def enqueue(queue: SendQueue) -> str:
    """200 messages in one transaction, then the batch; returns the batch's id."""
    queue.send_many([_send(number, grant) for number, grant in enumerate(islice(cycle(GRANTS), MESSAGES))])
    changes = [f"message-{number:03d}" for number in range(CHANGES)]
    return queue.modify(TIDIED, changes, unread=False, provider=GRANTS[TIDIED], key="demo-batch").id


def pass_on_reports(queue: SendQueue, nylas: Simulator) -> int:
    """Pass on what the API reports about mail, as its webhooks would; returns how many mails bounced."""
    bounced = 0
    for notification in nylas.notifications:
        body = json.dumps(notification.envelope).encode()
        received = receive(queue, secret=SECRET, raw_body=body, signature=signature(SECRET, body))
        bounced += received.says == SAYS[APPLIED]
    return bounced


def _send(number: int, grant: str) -> Send:
    name = RECIPIENTS.get(number, "somebody")
    message = Message(
        to=[f"{name}@example.com"], subject=f"Invoice {number}", body=f"<p>Dear customer, this is number {number}.</p>"
    )
    return Send(grant, message, Options(key=f"demo-{number}", provider=GRANTS[grant]))
