"""Pause a grant, a provider, an application or a tag until a given time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from sendq.clock import Micros, moment
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.ledger.operators import holds
from sendq.scope import Scope, ScopeState


@dataclass(frozen=True, slots=True)
class HoldResult:
    """What a hold did. ``before``: the scope as it was.

    ``allowed``: False if the scope is already held for longer; then nothing was changed.
    """

    scope: Scope
    until: datetime
    before: ScopeState
    allowed: bool
    dry_run: bool

    @property
    def done(self) -> bool:
        """Whether this act holds the scope until the given time."""
        return self.allowed and not self.dry_run


def hold(
    connection: Connection, scope: Scope, *, until: Micros, by: str, reason: str, dry_run: bool, now: Micros
) -> HoldResult:
    """Hold a scope, unless it is already held for longer."""
    before = state_of(connection, scope, now=now)
    if dry_run:
        allowed = before.held_until is None or before.held_until <= moment(until)
    elif scope.grant_id is not None:
        allowed = holds.hold_grant(
            connection, scope.application, scope.grant_id, until=until, by=by, reason=reason, now=now
        )
    elif scope.tag is not None:
        allowed = holds.hold_tag(connection, scope.application, scope.tag, until=until, by=by, reason=reason, now=now)
    else:
        pair = provider_of_pair(scope)
        allowed = holds.hold_pair(connection, scope.application, pair, until=until, by=by, reason=reason, now=now)
    return HoldResult(scope, moment(until), before, allowed, dry_run)


def state_of(connection: Connection, scope: Scope, *, now: Micros) -> ScopeState:
    """A scope as it is now."""
    if scope.grant_id is not None:
        return holds.grant_state(connection, scope.application, scope.grant_id, now=now)
    if scope.tag is not None:
        return holds.tag_state(connection, scope.application, scope.tag, now=now)
    return holds.pair_state(connection, scope.application, provider_of_pair(scope), now=now)


def provider_of_pair(scope: Scope) -> str:
    """The provider of the pair that stores the hold of a provider or an application."""
    return scope.provider or WHOLE_APPLICATION
