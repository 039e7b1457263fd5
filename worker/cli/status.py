"""``sendq status``: the ledger at a glance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_operators
from worker.cli.held_text import tell_groups
from worker.cli.output import (
    Column,
    clean,
    clear_screen,
    complain,
    json_option,
    tell,
    tell_json,
    tell_table,
    when,
)

if TYPE_CHECKING:
    from sendq.views import Approvals, Backlog, BrokerView, LaneCounts, Status, WorkerView


# Clocks that are set differ by less, the one of the API included.
CLOCK_S = 10.0


@click.command()
@click.option(
    "--watch", is_flag=False, flag_value=2.0, type=click.FloatRange(min=0.2), metavar="[SECONDS]",
    help="Refresh every SECONDS (default: 2) until Ctrl-C; with --json, one object per line.",
)  # fmt: skip
@json_option
def status(watch: float | None, as_json: bool) -> None:
    """Show jobs by state, how long they wait, calls in the last minute, holds, workers and the leader.

    A lane is the queue of one grant. A job is eligible when it is due and no hold, closed lane or pace delays it. The
    leader is the worker that assigns lanes to all workers.
    """
    from sendq.errors import SendqError

    with open_operators() as operators:
        while True:
            try:
                seen = operators.status()
            except SendqError as error:
                if watch is None:
                    raise
                complain(str(error))  # the next look may find it again
            else:
                if watch is not None:
                    clear_screen()
                if as_json:
                    tell_json(seen.as_json())
                else:
                    _tell_jobs(seen)
                    for line in (
                        *_approvals(seen.approvals),
                        *_budgets(seen),
                        *_broker(seen.broker),
                        *_backlog(seen.deliveries),
                    ):
                        tell(line)
                    tell()
                    _tell_lanes(seen.lanes)
                    _tell_holds(seen)
                    _tell_workers(seen)
                if watch is None:
                    return
            time.sleep(watch)


def _tell_jobs(seen: Status) -> None:
    from sendq.rules.states import WAITING
    from sendq.views.status import CALLS_S, JOBS_MOST

    if seen.shut is not None:
        since, until = when(seen.shut.since), _iso(seen.shut.known_until)
        tell(f"dispatching stopped at {since}: {seen.shut.says} --since {until} --reason …")
        if seen.shut.because == "unproven":
            tell("if nothing was restored and no replica took over: sendq recover --nothing-lost --reason …")
        tell()
    if seen.clock_behind_s >= CLOCK_S:
        tell(
            f"the clock is {seen.clock_behind_s:,.0f} s behind the latest time that a worker saw: it was set back. "
            "Times that lie too far ahead are brought back: sendq events --kind clock_set_back"
        )
        tell()
    jobs = [
        f"{number:,}" + ("+" if state in WAITING and number >= JOBS_MOST else "") for state, number in seen.jobs.items()
    ]
    tell_table(("", *(state.value for state in seen.jobs)), [("jobs", *jobs)])
    calls = sum(seen.calls.values())
    others = ", ".join(f"{number:,} {route}" for route, number in sorted(seen.calls.items()) if route != "done")
    tell(f"calls in the last minute: {calls:,} ({calls / CALLS_S:.1f}/s)" + (f"; of these {others}" if others else ""))
    if seen.outside_window and seen.next_opening is not None:
        more = "+" * (seen.outside_window >= JOBS_MOST)
        number = f"{seen.outside_window:,}{more}"
        tell(f"jobs that wait for their windows: {number}, the first until {when(seen.next_opening)}")
    waits = ", ".join(f"{age:,.0f} s ({name} priority)" for name, age in seen.oldest_s.items() if age >= 1)
    tell(f"longest wait of an eligible job: {waits or 'none over 1 s'}")


def _budgets(seen: Status) -> Iterator[str]:
    """Nothing without budgets of which some is used in their current windows."""
    for one in seen.budgets:
        what = f"budget of application {one.application}" + (f", tag {one.tag}" if one.tag else "")
        over = f"; more sends wait until {when(one.until)}" if one.over else ""
        yield f"{what}: {one.used:,} of {one.most:,} per {one.per} used{over}"


def _approvals(seen: Approvals) -> Iterator[str]:
    """Nothing while no job waits for approval."""
    from sendq.views.status import APPROVALS_MOST

    if seen.first_end is not None:
        number = f"{seen.waiting:,}" + ("+" if seen.waiting >= APPROVALS_MOST else "")
        ends = f"unless approved, the first is given up at {when(seen.first_end)}"
        yield f"jobs that wait for approval: {number}; {ends}; see: sendq jobs --rule needs_approval"


def _broker(seen: BrokerView) -> Iterator[str]:
    """Nothing while turns go through the broker."""
    from sendq.rules.why import FAILING, UNCLAIMED, UNPUBLISHED

    if seen.failing_since is not None:  # its turns are not claimed either, and Redis is not the cause
        yield f"{FAILING} since {when(seen.failing_since)}"
        return
    if seen.unpublished_since is not None:
        yield f"{UNPUBLISHED} since {when(seen.unpublished_since)}; see: sendq health"
    if seen.unclaimed_since is not None:
        yield f"{UNCLAIMED} since {when(seen.unclaimed_since)}; see: sendq health"


def _backlog(seen: Backlog) -> Iterator[str]:
    """Nothing while every outcome is delivered in time."""
    from sendq.views.status import DELIVERIES_MOST

    def number(count: int) -> str:
        return f"{count:,}" + (" or more" if count >= DELIVERIES_MOST else "")

    if seen.waiting:
        yield f"outcomes to deliver: {number(seen.waiting)}, the oldest for {seen.oldest_s:,.0f} s"
    if seen.failing:
        yield f"failing receivers: {', '.join(map(clean, seen.failing))}; see: sendq deliveries --state waiting"
    if seen.given_up:
        yield f"outcomes not delivered, given up: {number(seen.given_up)}; see: sendq deliveries --state given_up"


def _tell_lanes(lanes: LaneCounts) -> None:
    idle = lanes.total - lanes.served - lanes.waiting - lanes.held - lanes.closed
    numbers = (lanes.served, lanes.waiting, lanes.held, lanes.closed, idle)
    names = ("", "being served", "waiting", "held", "closed: sign-in needed", "idle")
    tell_table(names, [("lanes", *(f"{number:,}" for number in numbers))])


def _tell_holds(seen: Status) -> None:
    from sendq.scope import Scope

    if not seen.holds:
        return
    tell()
    more = seen.lanes.held + seen.lanes.closed - sum(hold.grant_id is not None for hold in seen.holds)
    if more > 0:
        tell_groups(seen.held)
        tell("each of these grants: sendq grants --rule RULE --provider PROVIDER")
        return
    columns = (Column("held", folds=True), Column("since", extra=True), "until", "rule", "by")
    tell_table(
        columns,
        [
            (
                Scope(hold.application, hold.grant_id, hold.provider, hold.tag),
                hold.since, hold.until or "its owner signs in again", hold.rule, hold.by,
            )
            for hold in seen.holds
        ],
    )  # fmt: skip


def _tell_workers(seen: Status) -> None:
    tell()
    if not seen.workers:
        tell("no worker is running; start one with: sendq worker")
        return
    tell_table(
        ("worker", "pid", "calls at once", *(Column(name, extra=True) for name in ("started", "last heartbeat")), ""),
        [
            (
                worker.name, worker.pid, worker.capacity, worker.started_at, worker.beat_at,
                _condition(worker),
            )
            for worker in seen.workers
        ],
    )  # fmt: skip
    if all(worker.is_silent for worker in seen.workers):
        tell("no worker sends heartbeats: all are dead, or cannot write to the ledger; see their logs")


def _condition(worker: WorkerView) -> str:
    condition = "stopping" if worker.stopping else "leader" if worker.leads else ""
    if worker.is_silent:
        silent = f"silent for {worker.silent_s:,.0f} s"
        return f"{condition}, {silent}" if condition else silent
    return condition


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
