"""End a hold, or reopen the lane of a grant whose owner had to sign in again."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from sendq.clock import Micros
from sendq.ledger.operators import holds
from sendq.ledger.operators.holds import Released
from sendq.operators.acts.hold import provider_of_pair, state_of
from sendq.scope import Scope, ScopeState


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """What a release did, or (``dry_run``) would do. ``before``: the scope as it was.

    ``outcome``: ``released`` (a hold ended), ``reopened`` (the lane was closed), or None (there was nothing to end).
    ``held_above``: what still holds the scope: its provider, its application, or both.
    """

    scope: Scope
    before: ScopeState
    outcome: Released | None
    held_above: tuple[Scope, ...]
    dry_run: bool

    @property
    def done(self) -> bool:
        """Whether this act changed anything."""
        return self.outcome is not None and not self.dry_run


def release(connection: Connection, scope: Scope, *, by: str, reason: str, dry_run: bool, now: Micros) -> ReleaseResult:
    """End the hold of a scope, or reopen it."""
    before = state_of(connection, scope, now=now)
    above = holds.held_above(connection, scope.application, grant_id=scope.grant_id, provider=scope.provider, now=now)
    outcome: Released | None
    if dry_run:
        outcome = "reopened" if before.closed else "released" if before.held_until is not None else None
    elif scope.grant_id is not None:
        outcome = holds.release_grant(connection, scope.application, scope.grant_id, by=by, reason=reason, now=now)
    elif scope.tag is not None:
        outcome = holds.release_tag(connection, scope.application, scope.tag, by=by, reason=reason, now=now)
    else:
        pair = provider_of_pair(scope)
        outcome = holds.release_pair(connection, scope.application, pair, by=by, reason=reason, now=now)
    around = tuple(Scope(scope.application, provider=None if one == "*" else one) for one in above)
    return ReleaseResult(scope, before, outcome, around, dry_run)
