"""What a clock that was ahead has written counts from now on, once the clock has been set back. Pure.

Times in the ledger are compared with the present. One that a clock wrote which was minutes ahead would delay its lane
until real time has caught up. It is recognised by what it belongs to: a hold that began in the future, a pace that asks
for more patience than it ever does.
"""

from __future__ import annotations

from typing import Any

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import Lane, Pair
from sendq.rules.lane_change import CHECK_MOST
from sendq.rules.pace import BEHAVES_AFTER, pacer_of
from sendq.rules.rule_ids import BY_HAND

# Clocks that were set and agree differ by less; a shorter delay needs no repair.
SLACK: Micros = 5 * SECOND

# A grant's provider is asked for again after at most this long (`sendq.ledger.grants.ASK_AGAIN`).
ASK_MOST: Micros = 5 * 60 * SECOND


def lane_columns(lane: Lane, *, now: Micros) -> dict[str, Any]:
    """The columns of a lane that lie too far ahead, with what they are now."""
    columns = _hold_columns(lane, now=now)
    for name in ("served_at", "turn_at", "closed_at", "opened_at", "announced_at"):
        at = getattr(lane, name)
        if at is not None and at > now:
            columns[name] = now
    latest = pacer_of(lane, now=now).latest_start(now)
    if lane.ready_at > latest:
        columns["ready_at"] = latest
    for name, most in (("spacing_until", BEHAVES_AFTER), ("check_at", CHECK_MOST), ("ask_at", ASK_MOST)):
        at = getattr(lane, name)
        if at is not None and at > now + most:
            columns[name] = now + most
    return columns


def pair_columns(pair: Pair, *, now: Micros) -> dict[str, Any]:
    """The columns of a pair that lie too far ahead, with what they are now."""
    columns = _hold_columns(pair, now=now)
    if pair.proven_at is not None and pair.proven_at > now:
        columns["proven_at"] = now
    return columns


def _hold_columns(held: Lane | Pair, *, now: Micros) -> dict[str, Any]:
    """A hold that began in the future begins now, and lasts as long as it was meant to; an operator's names its end."""
    if held.held_since is None or held.held_since <= now:
        return {}
    columns: dict[str, Any] = {"held_since": now}
    if held.held_until is not None and held.held_rule != BY_HAND:
        columns["held_until"] = held.held_until - (held.held_since - now)
    return columns
