"""Begin or end the warm-up of an account."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from sendq.clock import Micros
from sendq.ledger.operators import warm_ups
from sendq.rules.warm_up import WarmUp, readable_warm_up


@dataclass(frozen=True, slots=True)
class WarmUpResult:
    """What a change of an account's warm-up did, or (``dry_run``) would do; None: no warm-up.

    ``before`` is also None if a newer version wrote it.
    """

    dry_run: bool
    before: WarmUp | None
    warm_up: WarmUp | None


def set_warm_up(
    connection: Connection,
    application: str,
    grant_id: str,
    warm_up: WarmUp | None,
    *,
    by: str,
    reason: str,
    dry_run: bool,
    now: Micros,
) -> WarmUpResult:
    """Begin it anew, or end it."""
    stored = warm_ups.warm_up_of(connection, application, grant_id)
    if not dry_run and (stored is not None or warm_up is not None):
        warm_ups.set_warm_up(connection, application, grant_id, warm_up, by=by, reason=reason, now=now)
    before = None if stored is None else readable_warm_up(stored)
    return WarmUpResult(dry_run, None if before is None else before[0], warm_up)
