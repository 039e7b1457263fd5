"""Three mails to one person, in one thread, days apart; after an answer or a bounce, no more of them are sent.

It reads two variables: FOLLOW_UP_LEDGER (the address of the ledger) and FOLLOW_UP_GRANT (the grant that mails).
Run it with the number of an offer:  python -m examples.follow_up.sequence 42 leyah@example.com Leyah
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta

from sendq import Job, Message, Options, Send, SendQueue, TrackingOptions

# When each step follows the one before, and what it says.
STEPS: Sequence[tuple[timedelta, str]] = (
    (timedelta(0), "<p>Hello {name}, here is the offer that you asked for.</p>"),
    (timedelta(days=3), "<p>Hello {name}, did you have time to look at it?</p>"),
    (timedelta(days=7), "<p>Hello {name}, the offer ends on Friday.</p>"),
)


def begin(
    queue: SendQueue, grant_id: str, offer: int, email: str, name: str, steps: Sequence[tuple[timedelta, str]]
) -> list[Job]:
    """Enqueue the whole sequence, or nothing. Doing it again for the same offer changes nothing."""
    sends = []
    for number, (delay, text) in enumerate(steps):
        message = Message(
            to=[email],
            subject="Your offer" if number == 0 else "Re: Your offer",
            body=text.format(name=name),
            # With it, Nylas notifies of an answer at once. Without it, the thread is read before the next step.
            tracking_options=TrackingOptions(thread_replies=True),
        )
        key = f"offer-{offer}-step-{number}"
        if number == 0:
            sends.append(Send(grant_id, message, Options(key=key)))
        else:
            follows = Options(key=key, reply_to=number - 1, delay=delay, unless=["replied", "bounced"])
            sends.append(Send(grant_id, message, follows))
    return queue.send_many(sends)


def report(queue: SendQueue, jobs: Sequence[Job]) -> list[str]:
    """What became of each step, or what it waits for."""
    found = [queue.why(job.id) for job in jobs]
    return [f"step {number}: {why.state.value}: {why.says}" for number, why in enumerate(found, start=1)]


def main() -> None:
    """Begin a sequence, and show its steps."""
    queue = SendQueue(os.environ["FOLLOW_UP_LEDGER"])
    jobs = begin(queue, os.environ["FOLLOW_UP_GRANT"], int(sys.argv[1]), sys.argv[2], sys.argv[3], STEPS)
    sys.stdout.writelines(f"{line}\n" for line in report(queue, jobs))
    queue.close()


if __name__ == "__main__":
    main()
