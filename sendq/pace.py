"""How fast a lane may go, and when it wants its next turn. Pure: no clock, no ledger.

The widths are ours, below what each provider allows (calls at once for one mailbox), because a send is several calls
to the provider behind Nylas's one.
"""

from __future__ import annotations

from dataclasses import dataclass

from sendq.clock import SECOND, Micros

PROVIDERS = ("google", "microsoft", "ews", "imap", "icloud", "yahoo", "unknown")


@dataclass(frozen=True, slots=True)
class Pace:
    """``width``: calls at once; ``spacing``: least time between two starts, in microseconds."""

    width: int
    spacing: Micros = 0


PACES: dict[str, Pace] = {
    "google": Pace(width=4),  # 100 units a send of 15,000 (since May 2026: 6,000) a minute
    "microsoft": Pace(width=2),  # Graph allows 4 at once for one app and mailbox; a send is up to 4 calls there
    "ews": Pace(width=1),  # 400 commands in 10 minutes, then 20 minutes of silence: never two at once
    "imap": Pace(width=1),  # SMTP servers count connections, and publish no limits
    "icloud": Pace(width=1),
    "yahoo": Pace(width=1),
    "unknown": Pace(width=2),
}


def pace_of(provider: str) -> Pace:
    """The pace of a lane whose provider is ``provider``."""
    return PACES.get(provider, PACES["unknown"])


def next_turn_at(
    waiting_at: Micros | None, *, ready_at: Micros, held_until: Micros | None, closed: bool
) -> Micros | None:
    """When a lane next wants a turn, given when its first waiting job is due; None: not by itself.

    A closed lane (reauth required) wants none until somebody opens it.
    """
    if closed or waiting_at is None:
        return None
    return max(waiting_at, ready_at, held_until or 0)


# An application or provider whose last success is older than this has to prove itself again: its key may have been
# revoked meanwhile, and 500 calls would be on the wire before the first 401 is back.
PROVEN_FOR: Micros = 10 * 60 * SECOND

# From here on a pair's ramp is no limit any more: more calls at once than most installations make.
RAMP_MOST = 512


# How long a call of a pair that has to prove itself may take before others of that pair need not wait for it: one
# mailbox that hangs says nothing about the application's key.
PROBE_PATIENCE: Micros = 2 * SECOND


def probing_room(ramp: int, *, young: int, old: int) -> int:
    """How many more calls a pair may begin while it is not known to work.

    ``young`` calls were begun within `PROBE_PATIENCE`, ``old`` ones before and have no answer yet: each of those lets
    one more go, so that with calls that hang the number doubles as it does with calls that succeed.
    """
    return ramp + old - young


def next_ramp(ramp: int, width: int, *, succeeded: bool) -> int:
    """Slow start: 1, 2, 4 … up to the width while calls succeed; one call at a time after one that did not."""
    return min(width, ramp * 2) if succeeded else ramp
