"""What one transaction changes in a lane that it has locked, as verbs. Pure.

A change starts from the lane as it was locked, and collects the columns to set; `sendq.ledger.dispatching.lanes` writes
them, with the time of the lane's next turn. One incident counts once: calls that were on the wire when a hold began
neither lengthen it nor slow the lane down again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import FLOORS, Lane
from sendq.facts.outcomes import Hold, Outcome
from sendq.facts.turns import End
from sendq.rules import refused_jobs
from sendq.rules.pace import BEHAVES_AFTER, relaxed, stretched
from sendq.rules.rule_ids import GRANT_DELETED
from sendq.rules.states import Event

# Between two checks of one closed grant with the API: rarely, because most people sign in again within minutes or not
# today.
CHECK_FIRST: Micros = 60 * SECOND
CHECK_MOST: Micros = 15 * 60 * SECOND

_NO_TURN: Mapping[str, Any] = {"turn": None, "turn_at": None, "turn_worker": None, "turn_slots": 0}


def pause_after(checks: int) -> Micros:
    """How long to wait before the next check of a grant after this many: 1, 2, 4 … 15 minutes."""
    return min(CHECK_MOST, CHECK_FIRST << checks)


class LaneChange:
    """The changes to one lane. ``lane`` is the lane as it was locked, ``columns`` are the columns to set."""

    __slots__ = ("columns", "lane")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.columns: dict[str, Any] = {}

    @property
    def after(self) -> Lane:
        """The lane with its changes."""
        return self.lane._replace(**self.columns)

    def _now(self, column: str) -> Any:
        """The value of a column with the changes so far."""
        return self.columns[column] if column in self.columns else getattr(self.lane, column)

    # --- waiting jobs -------------------------------------------------------------------------------------------------

    def lower(self, priority: int, at: Micros) -> None:
        """A job waits again from ``at``: the floor where scans begin must not be later."""
        floor = FLOORS[priority]
        self.columns[floor] = min(self._now(floor), at)

    def scan_all(self) -> None:
        """Scan for waiting jobs from the beginning, whatever the floors are."""
        self.columns |= dict.fromkeys(FLOORS, 0)

    # --- the turn -----------------------------------------------------------------------------------------------------

    def close_turn(self, *, used: str | None = None) -> None:
        """Take the open turn back. ``used``: the pace that it used, as far as is known."""
        self.columns |= _NO_TURN
        if used is not None:
            self.columns["used"] = used

    def shrink(self, slots: int) -> None:
        """The open turn holds only ``slots`` slots from now on."""
        self.columns["turn_slots"] = slots

    def end(self, end: End, *, now: Micros) -> None:
        """The open turn is over: keep what it used and learned of the pace."""
        lane = self.lane
        self.close_turn(used=end.used)
        self.columns |= {"ready_at": end.ready_at, "served_at": now}
        if lane.stretch and end.successes:
            self.columns["stretch"] = relaxed(self._now("stretch"), end.successes)
        # A hold that began during the turn has reset the ramp; the turn must not undo that, whether the hold is in this
        # transaction or was recorded before.
        ramp = min(end.ramp, lane.width)
        if lane.held_since is not None and lane.held_since >= (lane.turn_at or 0):
            ramp = min(ramp, lane.ramp)
        self.columns.setdefault("ramp", ramp)

    # --- what an answer says ------------------------------------------------------------------------------------------

    def apply(self, outcome: Outcome, *, now: Micros) -> list[tuple[str, str | None]]:
        """Apply an outcome to its own lane; returns the events to record, each with its reason.

        A hold above the grant does not change the lane.
        """
        events: list[tuple[str, str | None]] = []
        if outcome.event is Event.ACCEPT and not outcome.is_replayed:
            self.succeed()
        if outcome.width is not None and (width := self.narrow(outcome.width)) is not None:
            events.append(("narrowed", f"to {width} at once"))
        if outcome.spacing is not None:
            self.space(outcome.spacing, now=now)
        if outcome.throttled:
            self.slow_down(begun_at=outcome.begun_at)
        hold = outcome.hold
        if hold is not None and not hold.above_grant:
            if hold.until is None:
                kind = self.refuse(hold, outcome.job_id, begun_at=outcome.begun_at, now=now)
            else:
                kind = "hold" if self.hold(hold, hold.until, begun_at=outcome.begun_at, now=now) else None
            if kind is not None:
                events.append((kind, None))
        return events

    def succeed(self) -> None:
        """A call was accepted: earlier failures no longer count."""
        if self.lane.streak or self.lane.refused:
            self.columns |= {"streak": 0, "refused": 0, "checks": 0, "announced_at": None}

    def narrow(self, width: int) -> int | None:
        """No more than ``width`` calls at once; returns the new width if it was wider before."""
        before = self._now("width")
        width = max(1, min(before, width))
        narrower = width < before
        self.columns |= {"width": width, "ramp": min(self._now("ramp"), width)}
        return width if narrower else None

    def space(self, spacing: Micros, *, now: Micros) -> None:
        """Keep at least ``spacing`` between two modifications, until the lane has not been throttled for a while."""
        self.columns |= {"spacing": max(self._now("spacing"), spacing), "spacing_until": now + BEHAVES_AFTER}

    def slow_down(self, *, begun_at: Micros) -> None:
        """An unpublished limit throttled a call begun at ``begun_at``: space calls further apart."""
        lane = self.lane
        if lane.held_since is None or begun_at >= lane.held_since:
            self.columns["stretch"] = stretched(lane.stretch)

    def hold(self, hold: Hold, until: Micros, *, begun_at: Micros, now: Micros) -> bool:
        """No calls until ``until``, and a single one first after it; False: an earlier answer of the same incident
        already began the hold, or the lane is held for longer.
        """
        held_since = self._now("held_since")
        if (held_since is not None and begun_at < held_since) or until < (self.lane.held_until or 0):
            return False
        self.hold_until(until, since=now, rule=hold.rule, by=hold.by)
        self.columns |= {"ramp": 1, "streak": self.lane.streak + 1}
        if hold.identify:
            self.columns["ask_at"] = now
        return True

    def refuse(self, hold: Hold, job: UUID, *, begun_at: Micros, now: Micros) -> str | None:
        """A call begun at ``begun_at`` was refused: the grant must be authorised again; returns the event, if any.

        A call begun before the lane was last opened does not close it again, and a suspicion does not change a lane
        that is closed.
        """
        lane = self.lane
        closed = self._now("closed_at") is not None
        known = closed and (hold.suspected or not self._now("suspected"))
        if known or (lane.opened_at is not None and begun_at < lane.opened_at):
            return None
        # The number of checks since the last success is kept: they become rarer.
        check_at = now if hold.suspected else now + pause_after(lane.checks)
        self.close(hold.rule, at=now, check_at=check_at, suspected=hold.suspected, gone=hold.gone)
        if hold.suspected:
            self.columns["refused_jobs"] = refused_jobs.one_more(self._now("refused_jobs"), job)
        if hold.gone:
            return "grant_gone"
        return None if closed else "closed"

    def blamed(self, *, begun_at: Micros) -> frozenset[UUID]:
        """The jobs that are at fault if another job's call, begun at ``begun_at``, succeeded: the grant works.

        A call that was on the wire when the lane was closed proves nothing.
        """
        lane = self.lane
        if lane.refused_jobs is None or lane.is_closed or begun_at < (lane.opened_at or 0):
            return frozenset()
        return refused_jobs.blamed(lane.refused_jobs)

    def forget_refusals(self, jobs: Collection[UUID]) -> None:
        """These jobs have ended."""
        self.columns["refused_jobs"] = refused_jobs.without(self._now("refused_jobs"), jobs)

    # --- holding, closing and opening ---------------------------------------------------------------------------------

    def hold_until(self, until: Micros, *, since: Micros, rule: str, by: str) -> None:
        """No calls until ``until``."""
        self.columns |= {"held_until": until, "held_since": since, "held_rule": rule, "held_by": by}

    def hold_after_check(self, until: Micros, *, rule: str, by: str, now: Micros) -> None:
        """No calls until ``until``, because of a check of the grant; a single one first after it."""
        self.hold_until(until, since=now, rule=rule, by=by)
        self.columns |= {"ramp": 1, "streak": self.lane.streak + 1}

    def release(self) -> None:
        """The hold is over and was not an incident: the lane continues as before it."""
        self.columns |= {"held_until": None, "held_since": None, "held_rule": None}

    def release_by_hand(self, at: Micros | None = None) -> None:
        """The hold is over now, or at ``at`` if that is earlier than its end; a single call first."""
        until = None if at is None else min(at, self.lane.held_until or at)
        self.columns |= {"held_until": until, "ramp": 1}

    def restart(self) -> None:
        """A single call first."""
        self.columns["ramp"] = 1

    def close(
        self, rule: str, *, at: Micros, check_at: Micros | None, suspected: bool = False, gone: bool = False
    ) -> None:
        """No turn until the grant is authorised again; the API is asked about it at ``check_at``."""
        self.columns |= {
            "closed_at": at,
            "closed_rule": rule,
            "suspected": suspected,
            "gone": gone,
            "check_at": check_at,
        }

    def restart_checks(self) -> None:
        """The next check of the grant counts as the first."""
        self.columns["checks"] = 0

    def confirm(self, *, now: Micros) -> None:
        """The suspicion is confirmed: the grant is at fault, and no job is."""
        check_at = now + pause_after(max(0, self.lane.checks - 1))
        self.columns |= {"suspected": False, "check_at": check_at, "refused_jobs": None}

    def believe(self, *, now: Micros) -> None:
        """Several jobs were refused, so that the grant is at fault, although the API calls it valid."""
        self.confirm(now=now)
        self.columns["refused_jobs"] = refused_jobs.one_chance_each(self.lane.refused_jobs)

    def reopen(self, *, now: Micros) -> None:
        """Open a closed lane, with a single call first."""
        self.columns |= {
            "closed_at": None,
            "closed_rule": None,
            "suspected": False,
            "announced_at": None,
            "check_at": None,
            "checks": 0,
            "gone": False,
            "opened_at": now,
            "ramp": 1,
            "refused_jobs": None,
        }

    def reopen_authorised(self, *, now: Micros) -> None:
        """Open it because its owner has signed in: earlier failures no longer count."""
        self.reopen(now=now)
        self.columns |= {"streak": 0, "refused": 0}

    def reopen_on_trial(self, *, now: Micros) -> None:
        """Open it because the API says that the grant is valid. Until a call succeeds, checks and notices are
        remembered: the next check comes later, and no owner is notified twice.
        """
        lane = self.lane
        self.reopen(now=now)
        # A notification that the grant was deleted is no refusal of its provider.
        refused = lane.refused + (lane.suspected and lane.closed_rule != GRANT_DELETED)
        self.columns |= {
            "refused": refused,
            "refused_jobs": lane.refused_jobs,
            "announced_at": lane.announced_at,
            "checks": lane.checks,
        }
