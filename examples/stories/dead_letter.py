"""Dead letters are found, explained, and sent round again."""

from __future__ import annotations

from examples.stories.page import Page
from examples.stories.play import Scene, invoice
from sendq import State
from sendq.simulator import Fault, Simulator

TITLE = "Dead letters: found, explained, sent round again"
SETTINGS: dict[str, str] = {}

GRANT = "microsoft-dan"
MESSAGES = 3

NOT_ENABLED = Fault.status(
    404,
    type="api.provider_error",
    message="Mailbox not enabled for REST API",
    provider_error={
        "error": {"code": "MailboxNotEnabledForRESTAPI", "message": "REST API is not yet supported for this mailbox."}
    },
)


def set_up(nylas: Simulator) -> None:
    """A mailbox that cannot send yet."""
    nylas.grant(GRANT, provider="microsoft")
    nylas.will(NOT_ENABLED, grant=GRANT, operation="send", times=MESSAGES)


def play(scene: Scene, page: Page) -> None:
    """From the refusal to the mailbox."""
    numbers = range(MESSAGES)
    jobs = [
        scene.queue.send(GRANT, invoice(number), key=f"invoice-{number}", provider="microsoft") for number in numbers
    ]
    scene.until(lambda: all(scene.queue.job(job.id).state is State.DEAD for job in jobs), "the dead letters")
    page.tell("Dan has a new mailbox, and nothing that the shop sends through it goes out:")
    page.run("dead", shows="mailbox_not_enabled")
    page.tell("What did the API say about one of them?")
    page.run("why --key invoice-0", shows="is dead")
    page.tell("Dan's administrator gives the mailbox a licence. How many messages would go round again?")
    page.run("retry --rule mailbox_not_enabled --dry-run", shows="3 dead letters would")
    page.tell("Each of them is known not to have gone out, so they can:")
    page.run(
        'retry --rule mailbox_not_enabled --reason "the mailbox has its licence now" --by ops',
        shows="3 dead letters retried",
    )
    scene.until(lambda: all(scene.queue.job(job.id).state is State.SENT for job in jobs), "the mail")
    page.run("jobs --limit 3", shows="sent")
    page.tell("The trail keeps both rounds, and the record who sent them round again, and why:")
    page.run("why --key invoice-0", shows="is sent")
    page.run("events", shows="retry")
    page.tell(f"The mailbox has {len(scene.nylas.mailbox)} messages for {MESSAGES} invoices.")
