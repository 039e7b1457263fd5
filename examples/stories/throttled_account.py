"""An Exchange account is throttled, and comes back."""

from __future__ import annotations

from examples.stories.page import Page
from examples.stories.play import Scene, invoice
from sendq import State
from sendq.simulator import Fault, Simulator

TITLE = "A throttled account, from the first 429 to the last message"
SETTINGS: dict[str, str] = {}

GRANT, OTHER = "exchange-gina", "google-anna"
MESSAGES = 8

# Twenty minutes are what Exchange takes as a rule; the story's server names a time of its own, so that it ends today.
THROTTLED = Fault.status(
    429,
    type="rate_limit_error",
    message="Exchange account throttled: sync has been temporarily paused",
    headers={"Retry-After": "30"},
)


def set_up(nylas: Simulator) -> None:
    """The third message meets the throttle."""
    nylas.grant(GRANT, provider="ews")
    nylas.grant(OTHER, provider="google")
    nylas.will(Fault.slow(0), grant=GRANT, operation="send", times=2)
    nylas.will(THROTTLED, grant=GRANT, operation="send")


def play(scene: Scene, page: Page) -> None:
    """From enqueue to the last message."""
    page.tell(f"{MESSAGES} invoices are to go out through a self-hosted Exchange account.")
    page.show(
        f'jobs = [queue.send("{GRANT}", invoice(number), key=f"invoice-{{number}}") for number in range({MESSAGES})]'
    )
    jobs = [
        scene.queue.send(GRANT, invoice(number), key=f"invoice-{number}", provider="ews") for number in range(MESSAGES)
    ]
    last = jobs[-1].id
    scene.until_says(last, "held")

    page.tell("Two are sent. The third is answered with 429, and the whole account is left alone:")
    page.run("status", shows="exchange_throttled")
    page.tell("The last invoice has not been tried at all. Why does it wait, and until when?")
    page.run(f"why --key invoice-{MESSAGES - 1}", shows="rule: exchange_throttled")
    page.tell("Which row of the policy decided that, and what if the answer had named no time?")
    page.run("explain --status 429 --provider ews --body 'Exchange account throttled'", shows="1200 s")

    page.tell("Meanwhile another account's mail goes out as ever:")
    other = scene.queue.send(OTHER, invoice(100), key="invoice-100", provider="google")
    scene.until(lambda: scene.queue.job(other.id).state is State.SENT, "the other account's mail")
    page.run("why --key invoice-100", shows="is sent")

    scene.until(lambda: all(scene.queue.job(job.id).state is State.SENT for job in jobs), "the last message")
    page.tell("The time is over; one call goes first, and when that succeeds, the others follow:")
    page.run(f"jobs --grant {GRANT}", shows="sent")
    page.tell("The trail of the one that was throttled. The wait has cost it no attempt:")
    page.run("why --key invoice-2", shows="requeue")

    calls = sum(request.grant in (GRANT, OTHER) and request.operation == "send" for request in scene.nylas.requests)
    copies = len(scene.nylas.mailbox)
    page.tell(f"The API has seen {calls} calls for {MESSAGES + 1} messages, and has {copies} of them in its mailboxes.")
