"""The checker: looks after lanes that are closed because their owners must sign in again.

Webhooks are only a hint, so the API is asked about each such grant that has jobs waiting, ever more rarely; an answer
that could have meant something else is looked into before anybody is bothered; and many grants that fail alike are
taken for what they are, the trouble of their application. Only the process that leads does this.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from sqlalchemy import Engine as Ledger
from sqlalchemy import exc

from sendq import clock
from sendq.errors import SendqError
from sendq.ledger import grants
from sendq.ledger.engine import writing
from sendq.ledger.grants import Check
from settings import Settings
from tasks.failure import Answer, Failure, parse
from tasks.policy import POLICY
from tasks.row import Scope
from worker import journal
from worker.alerts import alert
from worker.engine import Engine
from worker.reauth import reauth_url

ROUND_S = 1.0

# Nylas allows 50 questions about grants per second and application, and others ask too.
CHECKS_MOST = 20

# Longer than the connection and the slowest lookup; the answer to a question that takes longer is not worth a thread.
ASK_LIMIT_S = 30.0

END_MOST = 500
ANNOUNCE_MOST = 100


class Verdict(StrEnum):
    """What the API says of a grant."""

    VALID = "valid"
    INVALID = "invalid"
    GONE = "gone"
    UNKNOWN = "unknown"  # no answer, or one that says nothing of the grant


def verdict_of(answer: Answer) -> Verdict:
    """Read the answer to ``GET /v3/grants/{id}`` ("Grant lifecycle": ``grant_status`` is valid or invalid)."""
    if answer.status == 200:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            status = json.loads(answer.body)["data"]["grant_status"]
            return {"valid": Verdict.VALID, "invalid": Verdict.INVALID}.get(status, Verdict.UNKNOWN)
        return Verdict.UNKNOWN
    result = parse(answer, provider="unknown", operation="modify", now=0.0)
    if isinstance(result, Failure):
        row = POLICY.rule(result)
        if row.id == "grant_not_found":
            return Verdict.GONE
        # The key itself was refused: that says nothing of the grant.
        if result.status in (401, 403) and row.scope is Scope.GRANT:
            return Verdict.INVALID
    return Verdict.UNKNOWN


class Checker:
    """A loop in a thread of its own. ``run_once`` is one round of it."""

    def __init__(
        self, ledger: Ledger, engine: Engine, settings: Settings, *, leads: Callable[[], bool], now: clock.Clock
    ) -> None:
        self._ledger, self._engine, self._settings, self._leads, self._now = ledger, engine, settings, leads, now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sendq-checker", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(limit_s)

    def _run(self) -> None:
        while not self._stopping.wait(ROUND_S):
            try:
                if self._leads():
                    self.run_once()
            except (SendqError, exc.SQLAlchemyError):
                continue  # the dispatcher says so already
            except Exception:
                journal.bug("checker")

    def run_once(self) -> None:
        """One round: look higher first, then ask, then call for people, then end what nobody can send any more."""
        self._escalate()
        with writing(self._ledger) as connection:
            checks = grants.to_check(connection, now=self._now(), limit=CHECKS_MOST)
        for check in checks:
            self._check(check)
        self._announce()
        with writing(self._ledger) as connection:
            ended = grants.end_gone(connection, now=self._now(), limit=END_MOST)
        if ended:
            journal.ended_with_grant(ended)

    def _escalate(self) -> None:
        s, now = self._settings, self._now()
        with writing(self._ledger) as connection:
            found = grants.escalate(
                connection,
                since=now - clock.seconds(s.escalate_window_s),
                number=s.escalate_grants,
                held_until=now + clock.seconds(s.escalate_hold_s),
                now=now,
            )
        for one in found:
            journal.escalated(one.application, one.provider, one.rule, grants=one.grants)
            alert("escalated", one.rule, level="error", application=one.application, provider=one.provider)

    def _check(self, check: Check) -> None:
        application = self._engine.application(check.application)
        try:
            answer = self._engine.ask(lambda client: client.grant(application, check.grant_id), limit_s=ASK_LIMIT_S)
        except TimeoutError:
            return
        verdict = verdict_of(answer)
        journal.checked(check.grant_id, verdict.value)
        now = self._now()
        with writing(self._ledger) as connection:
            if verdict is Verdict.VALID:
                grants.found_valid(connection, check.lane_id, now=now)
            elif verdict is Verdict.INVALID:
                grants.found_invalid(connection, check.lane_id, now=now)
            elif verdict is Verdict.GONE:
                grants.found_gone(connection, check.lane_id, rule="grant_not_found", by="check", now=now)

    def _announce(self) -> None:
        now = self._now()
        before = now - clock.seconds(self._settings.announce_after_s)
        with writing(self._ledger) as connection:
            rows = grants.to_announce(connection, closed_before=before, now=now, limit=ANNOUNCE_MOST)
        for row in rows:
            url = reauth_url(self._settings, row.application, row.grant_id)
            journal.reauth_required(row.application, row.grant_id, row.closed_rule, url)
            alert("reauth_required", row.closed_rule, application=row.application, grant=row.grant_id)
