"""Alerts: what needs a person, reported to Sentry with ids only.

Sentry groups them by kind and rule (the fingerprint): dead letters, grants whose owners must sign in, holds of a
provider or an application, budgets that are used up, sends in doubt, missing encryption keys, and answers that no row
of the policy knows. Retries are breadcrumbs, not issues. Without ``SENTRY_DSN`` the log alone has all this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from uuid import UUID

from sendq.facts.outcomes import Outcome
from sendq.facts.turns import Recorded, Unopened
from sendq.rules.rule_ids import INTEGRITY, NO_KEY, NOT_ENCRYPTED
from sendq.rules.states import Event
from settings.sentry import active_sentry
from tasks.policy.row import Policy

# A thousand dead letters of one rule are one problem: this process reports a kind and rule again after this long.
QUIET_S = 60.0


class Alerts:
    """Reports those recorded outcomes that need a person."""

    def __init__(self, policy: Policy, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._quiet_until: dict[tuple[str, str], float] = {}
        self._keys: set[str] = set()
        self._alerting = {row.id for row in policy.rows if row.alert or not row.documented}

    def recorded(self, outcomes: Sequence[Outcome], recorded: Recorded) -> None:
        """Report a committed group of outcomes."""
        sentry = active_sentry()
        if sentry is None:
            return
        incidents = {outcome.id for outcome in recorded.incidents}
        for outcome in outcomes:
            if outcome.id in incidents:
                alert("hold", outcome.rule, level="error", scope=outcome.hold.scope if outcome.hold else "")
            elif outcome.event is Event.GIVE_UP:
                self._alert("dead_letter", outcome.rule, job=str(outcome.job_id), sent=outcome.sent)
            elif outcome.hold is not None and not outcome.hold.above_grant and outcome.rule in self._alerting:
                self._alert("hold", outcome.rule, scope=outcome.hold.scope, job=str(outcome.job_id))
            elif outcome.event is not Event.DOUBT and outcome.rule in self._alerting and outcome.hold is None:
                self._alert("unexpected_answer", outcome.rule, job=str(outcome.job_id))
            elif outcome.event is Event.RETURN and outcome.attempt is not None:
                crumb = {"job": str(outcome.job_id), "rule": outcome.rule}
                sentry.add_breadcrumb(category="sendq.retry", message=outcome.rule, data=crumb)
        for outcome in recorded.sent_twice:
            alert("sent_twice", outcome.rule, level="fatal", job=str(outcome.job_id))

    def unopened(self, unopened: Unopened) -> None:
        """Jobs did not begin because of their encryption: one issue per missing key, and one for each other rule."""
        if not active_sentry():
            return
        for key_name in unopened.missing.keys() - self._keys:
            self._keys.add(key_name)
            alert(NO_KEY, key_name, level="error")
        if unopened.unencrypted:
            self._alert("hold", NOT_ENCRYPTED, level="error")
        for id_ in unopened.altered[:1]:
            self._alert("dead_letter", INTEGRITY, level="error", job=str(id_))
        for id_ in unopened.altered_lanes[:1]:
            self._alert("hold", INTEGRITY, level="error", lane=str(id_))

    def in_doubt(self, job: UUID, rule: str | None) -> None:
        """A job went in doubt, whatever the cause. Called once per job, when reconciliation starts."""
        if active_sentry():
            self._alert("in_doubt", rule or "", job=str(job))

    def _alert(self, kind: str, rule: str, *, level: str = "warning", **ids: str) -> None:
        now = self._monotonic()
        if now >= self._quiet_until.get((kind, rule), now):
            self._quiet_until[kind, rule] = now + QUIET_S
            alert(kind, rule, level=level, **ids)


def alert(kind: str, rule: str, *, level: str = "warning", **ids: str) -> None:
    """Send one event to Sentry, grouped by kind and rule."""
    sentry = active_sentry()
    if sentry is None:
        return
    with sentry.new_scope() as scope:
        scope.fingerprint = ["sendq", kind, rule]
        scope.set_tag("sendq.kind", kind)
        scope.set_tag("sendq.rule", rule)
        scope.set_context("sendq", ids)
        scope.set_level(level)
        sentry.capture_message(f"{kind}: {rule}", scope=scope)
