"""The grant checker: handles lanes that are closed because the account's owner must sign in again.

Webhooks are only a hint, so the API is queried about each such grant with waiting jobs, at growing intervals. A refusal
that may have another cause is checked before anyone is notified, and many grants that fail alike are treated as a
problem of their application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from concurrent.futures import CancelledError
from uuid import UUID

from sqlalchemy import Engine as Ledger

from sendq import clock
from sendq.clock import Micros
from sendq.facts.outcomes import Scope
from sendq.ledger import escalation, grants, missing_grants
from sendq.ledger.db.engine import writing
from sendq.ledger.grants import Check
from sendq.rules.rule_ids import GRANT_DELETED, GRANT_NOT_FOUND
from settings import Settings
from tasks.calling.nylas import NylasClient
from tasks.policy.failure import Answer
from tasks.policy.grant_verdict import (
    KeyRuling,
    Verdict,
    key_ruling,
    provider_of,
    refusal,
    verdict_of,
    wrong_application,
)
from tasks.policy.row import Policy, Route
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.leading.work_poll import WorkPoll
from worker.notifying.reauth import reauth_url
from worker.serving.engine import Engine
from worker.telemetry import journal
from worker.telemetry.alerts import alert

ROUND_S = 2.0  # the longest wait after signing in; when idle, each round costs CPU

# Nylas allows 50 requests about grants per second and application, and others make such requests too.
CHECKS_MOST = 20

# Longer than connecting and the slowest lookup; an answer that takes longer is not worth blocking a thread.
ASK_LIMIT_S = 30.0
# Added to that for a busy event loop.
LATE_S = 5.0

_NO_ANSWER = Answer(None, {}, b"", "timeout")

END_MOST = 500
ANNOUNCE_MOST = 100


def doubtful_rules(policy: Policy) -> frozenset[str]:
    """Refusals of a grant that may also be a problem of the application: rules for 401 and 403 only.

    A revoked refresh token, for example, concerns only its owner, however many there are.
    """
    return frozenset(
        row.id
        for row in policy.rows
        if row.route is Route.REAUTH and row.scope is Scope.GRANT and row.status and set(row.status) <= {401, 403}
    )


def _one_missing_of_each(checks: Sequence[Check]) -> tuple[list[Check], list[Check]]:
    """The grants to ask about first, with one missing grant of each application, and the other missing ones: if the
    key is wrong, each of them would get the same answer.
    """
    first, later, seen = list[Check](), list[Check](), set[str]()
    for check in checks:
        (later if check.is_missing and check.application in seen else first).append(check)
        if check.is_missing:
            seen.add(check.application)
    return first, later


class GrantChecker(LeaderLoop):
    """See the module."""

    def __init__(
        self,
        ledger: Ledger,
        leadership: Leads,
        poll: WorkPoll,
        engine: Engine,
        settings: Settings,
        *,
        now: clock.Clock,
    ) -> None:
        super().__init__("grant-checker", leadership, every_s=ROUND_S)
        self._ledger, self._poll, self._engine, self._settings, self._now = ledger, poll, engine, settings, now
        self._doubtful = doubtful_rules(engine.policy)
        self._provider_rules = frozenset(row.id for row in engine.policy.rows if row.scope is Scope.PROVIDER)
        self._paces = settings.lane_paces

    def lead_once(self) -> None:
        """One round: check grants, escalate, reopen lanes, announce, then end the jobs of deleted grants.

        Lanes of valid grants are opened only after the escalation, so that they count among the grants that fail alike.
        """
        pending = self._poll.since(self.due_at)
        if pending.unknown_providers and self._settings.ask_providers:
            self._identify()
        if pending.closed_lanes:
            self._look_after_closed()

    def _look_after_closed(self) -> None:
        with writing(self._ledger) as connection:
            checks = grants.to_check(connection, now=self._now(), limit=CHECKS_MOST)
        first, later = _one_missing_of_each(checks)
        verdicts = self._verdicts(first)
        missing = [check for check, verdict in verdicts if verdict is Verdict.GONE]
        for check in (check for check in missing if check.rule == GRANT_DELETED):
            self._note_gone(check)  # Nylas's signed notification and the API say so
        right = self._check_keys(
            [check for check in missing if check.rule != GRANT_DELETED],
            known={check.application for check, verdict in verdicts if verdict in (Verdict.VALID, Verdict.INVALID)},
        )
        also_missing = self._verdicts([check for check in later if check.application in right])
        for check in (check for check, verdict in also_missing if verdict is Verdict.GONE):
            self._note_gone(check)
        self._escalate()
        for check in (check for check, verdict in [*verdicts, *also_missing] if verdict is Verdict.VALID):
            with writing(self._ledger) as connection:
                grants.found_valid(connection, check.lane_id, now=self._now())
        self._announce()
        with writing(self._ledger) as connection:
            ended = grants.end_gone(connection, now=self._now(), limit=END_MOST)
        if ended:
            journal.grant_deleted_jobs_ended(ended)

    def _verdicts(self, checks: Sequence[Check]) -> list[tuple[Check, Verdict]]:
        """Ask about grants; what an answer says by itself is recorded."""
        asked_at = self._now()
        verdicts = []
        for check, answer in self._answers(checks):
            verdict = verdict_of(answer)
            journal.grant_checked(check.grant_id, verdict.value)
            verdicts.append((check, verdict))
            if verdict is Verdict.REFUSED:
                self._note_refusal(check, answer, asked_at=asked_at)
            elif verdict is Verdict.INVALID:
                with writing(self._ledger) as connection:
                    grants.found_invalid(connection, check.lane_id, now=self._now())
        return verdicts

    def _check_keys(self, missing: Sequence[Check], *, known: Collection[str]) -> set[str]:
        """Whether the keys of applications are right; what depends on that ends, is held, or keeps waiting.

        ``missing``: grants that the API does not know; others of their application are asked about. ``known``:
        applications of which it has just known a grant, so that their key is right: the grant that was missing may be
        the one that it knows now. Returns the applications whose key is right.
        """
        right = set(known)
        for application in sorted({check.application for check in missing} | right):
            of_it = [check for check in missing if check.application == application]
            ruling = KeyRuling.RIGHT if application in known else self._ask_about_others(application, of_it)
            if ruling is KeyRuling.RIGHT:
                right.add(application)
                for check in of_it:
                    self._note_gone(check)
                with writing(self._ledger) as connection:
                    missing_grants.key_is_right(connection, application, now=self._now())
            elif ruling is KeyRuling.WRONG:
                self._note_wrong_key(application, since=max(check.closed_at or 0 for check in of_it))
            elif ruling is KeyRuling.ALONE:
                for check in of_it:
                    self._note_alone(check)
        return right

    def _ask_about_others(self, application: str, missing: Sequence[Check]) -> KeyRuling:
        """What the API says about other grants of an application than these."""
        with writing(self._ledger) as connection:
            others = missing_grants.others(
                connection,
                application,
                [check.lane_id for check in missing],
                start=UUID(int=int(self._engine.chance() * 2**128)),
                now=self._now(),
            )
        ruling = key_ruling(len(missing), [verdict_of(answer) for _, answer in self._answers(others)])
        journal.key_checked(application, ruling.value)
        return ruling

    def _note_wrong_key(self, application: str, *, since: Micros) -> None:
        now = self._now()
        with writing(self._ledger) as connection:
            rule = missing_grants.key_is_wrong(
                connection,
                application,
                hold_of=lambda streak: wrong_application(now=now, streak=streak),
                since=since,
                now=now,
            )
        if rule is not None:
            alert("hold", rule, level="error", scope=Scope.APPLICATION)

    def _note_alone(self, check: Check) -> None:
        """No other grant can show whether the key is right: a deleted grant and a wrong key look alike."""
        if check.closed_at is None or self._now() - check.closed_at >= clock.seconds(self._settings.escalate_window_s):
            self._note_gone(check)

    def _note_gone(self, check: Check) -> None:
        with writing(self._ledger) as connection:
            grants.found_gone(connection, check.lane_id, rule=GRANT_NOT_FOUND, by="check", now=self._now())

    def _identify(self) -> None:
        with writing(self._ledger) as connection:
            unknown = grants.to_ask(connection, now=self._now(), limit=CHECKS_MOST)
        for check, answer in self._answers(unknown):
            provider = provider_of(answer)
            if provider is not None:
                with writing(self._ledger) as connection:
                    rule = grants.found_provider(
                        connection,
                        check.lane_id,
                        provider,
                        paces=self._paces,
                        provider_rules=self._provider_rules,
                        now=self._now(),
                    )
                journal.provider_found(check.grant_id, provider)
                if rule is not None:
                    alert("hold", rule, level="error", scope=Scope.PROVIDER)

    def _escalate(self) -> None:
        s, now = self._settings, self._now()
        with writing(self._ledger) as connection:
            escalation.open_stragglers(connection, now=now)
        with writing(self._ledger) as connection:
            found = escalation.escalate(
                connection,
                rules=self._doubtful,
                since=now - clock.seconds(s.escalate_window_s),
                number=s.escalate_grants,
                held_until=now + clock.seconds(s.escalate_hold_s),
                now=now,
            )
        for one in found:
            journal.escalated(one.application, one.provider, one.rule, grants=one.grants)
            alert("escalated", one.rule, level="error", application=one.application, provider=one.provider)

    def _answers(self, checks: Sequence[Check]) -> list[tuple[Check, Answer]]:
        """Ask about all of them concurrently, so that a slow answer does not delay the others; each has an answer, or
        the note that there was none.
        """
        if not checks:
            return []

        async def answer(client: NylasClient, check: Check) -> Answer:
            question = client.grant(self._engine.application(check.application), check.grant_id)
            try:
                return await asyncio.wait_for(question, ASK_LIMIT_S)
            except TimeoutError:
                return _NO_ANSWER

        async def answers(client: NylasClient) -> list[Answer]:
            return await asyncio.gather(*(answer(client, check) for check in checks))

        try:
            answered = self._engine.ask(answers, limit_s=ASK_LIMIT_S + LATE_S)
        except (TimeoutError, CancelledError):  # the process is ending
            answered = [_NO_ANSWER] * len(checks)
        return list(zip(checks, answered, strict=True))

    def _note_refusal(self, check: Check, answer: Answer, *, asked_at: Micros) -> None:
        """The key or the way to the API is at fault: hold the application, and ask no owner to sign in."""
        now = self._now()
        with writing(self._ledger) as connection:
            rule = grants.question_refused(
                connection,
                check.lane_id,
                refusal=lambda streak: refusal(answer, now=now, streak=streak),
                asked_at=asked_at,
                now=now,
            )
        if rule is not None:
            alert("hold", rule, level="error", scope=Scope.APPLICATION)

    def _announce(self) -> None:
        now = self._now()
        before = now - clock.seconds(self._settings.announce_after_s)
        with writing(self._ledger) as connection:
            rows = grants.announce_closed(
                connection, closed_before=before, now=now, limit=ANNOUNCE_MOST, receiver=self._settings.on_reauth
            )
        for row in rows:
            url = reauth_url(self._settings, row.application, row.grant_id)
            journal.reauth_required(row.application, row.grant_id, row.closed_rule, url)
            alert("reauth_required", row.closed_rule, application=row.application, grant=row.grant_id)
