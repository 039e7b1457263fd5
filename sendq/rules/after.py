"""A job that follows another: when it may begin, and what ends it before. Pure.

    waiting ─▶ timed ─▶ released        the other is sent; the delay is over, and nothing of ``unless`` has happened
       └─────────┴────▶ done            it was released, or it ended

A *follower* waits with `HELD` as its time and the rule ``after``, and only the leading process
moves it on (`sendq.ledger.dispatching.followers`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from sendq.errors import Problem
from sendq.rules.delivery import Delivery
from sendq.rules.rule_ids import AFTER_FAILED, UNLESS_BOUNCED, UNLESS_REPLIED
from sendq.rules.states import Event, State

# Jobs that follow one another, at most: longer chains come from a loop in a program.
DEPTH_MOST: Final = 100

# A year: longer than any sequence of mails, and any time for which jobs are kept.
DELAY_MOST: Final = timedelta(days=366)


class Unless(StrEnum):
    """What ends a follower instead of sending it."""

    REPLIED = "replied"  #  somebody answered in the thread of the mail that it follows
    BOUNCED = "bounced"  #  that mail bounced, was rejected, or was marked as spam


class Stage(StrEnum):
    """How far a follower is."""

    WAITING = "waiting"  #    the job that it follows has no outcome yet
    TIMED = "timed"  #        that job was sent; the delay runs, or the thread is to be read
    RELEASED = "released"  #  it may begin; while it waits in its lane, the thread is read again now and then
    DONE = "done"  #          nothing more is to be decided


# The worst news count: a mail that was marked as spam, or refused for its content, is not followed up either.
BAD_NEWS = frozenset({Delivery.BOUNCED, Delivery.COMPLAINED, Delivery.REJECTED})


@dataclass(frozen=True, slots=True)
class Ending:
    """How a follower ends without being sent."""

    event: Event
    rule: str


def check_unless(unless: object) -> list[Problem]:
    """What is wrong with ``unless``."""
    names = ", ".join(Unless)
    if isinstance(unless, Collection) and not isinstance(unless, str | bytes | Mapping):
        given = list(unless)
    else:
        given = [unless]
    if unless is None or (given and all(isinstance(one, str) and one in tuple(Unless) for one in given)):
        return []
    return [Problem("unless", f"is not one of {names}, or a list of them", "pass one of them, both in a list, or None")]


def stored_unless(unless: str | Collection[str] | None) -> str | None:
    """Checked ``unless`` as the ledger keeps it."""
    if unless is None:
        return None
    return " ".join(sorted({str(one) for one in ([unless] if isinstance(unless, str) else unless)}))


def each_unless(stored: str | None) -> tuple[Unless, ...]:
    """The conditions in a stored ``unless``."""
    return tuple(Unless(name) for name in (stored or "").split())


def needs_message_id(stored: str | None, *, replies: bool) -> bool:
    """Whether a follower with this stored ``unless`` cannot be sent without the id of the message that it follows."""
    return replies or Unless.REPLIED in each_unless(stored)


def check_delay(delay: object) -> list[Problem]:
    """What is wrong with ``delay``."""
    if delay is None:
        return []
    if not isinstance(delay, timedelta):
        return [Problem("delay", "is not a timedelta", "pass one, like timedelta(days=3)")]
    if not timedelta(0) <= delay <= DELAY_MOST:
        return [Problem("delay", f"is not between 0 and {DELAY_MOST.days} days", "pass a shorter one, or none")]
    return []


def ending(state: str | None) -> Ending | None:
    """How a follower ends because of the state of the job that it follows (None: that job is gone); None: it does not.

    A decision not to send the one counts for the other; a failure makes it a dead letter, which can be retried once the
    other was.
    """
    if state is None or state in (State.DEAD, State.EXPIRED):
        return Ending(Event.GIVE_UP, AFTER_FAILED)
    return Ending(Event.CANCEL, AFTER_FAILED) if state == State.CANCELLED else None


def ending_by_facts(unless: Sequence[Unless], *, replied: bool, delivery: str | None) -> Ending | None:
    """How a follower ends because of what became of the mail that it follows; None: it does not."""
    if replied and Unless.REPLIED in unless:
        return Ending(Event.CANCEL, UNLESS_REPLIED)
    if delivery in BAD_NEWS and Unless.BOUNCED in unless:
        return Ending(Event.CANCEL, UNLESS_BOUNCED)
    return None
