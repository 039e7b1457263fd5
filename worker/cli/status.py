"""``sendq status``: what is going on."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from worker.cli.connection import ledger_engine
from worker.cli.output import clean, clear_screen, complain, json_option, tell, tell_json, tell_table, when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sendq.ledger.deliveries import Backlog
    from sendq.ledger.reading.overview import Hold, Overview


@click.command()
@click.option(
    "--watch", is_flag=False, flag_value=2.0, type=click.FloatRange(min=0.2), metavar="[SECONDS]",
    help="Again every so many seconds (2 if not said), until Ctrl-C; with --json an object a line.",
)  # fmt: skip
@json_option
def status(watch: float | None, as_json: bool) -> None:
    """Jobs by state, how long they wait and how many go out, lanes, what is held and why, workers, and who leads."""
    from sendq import clock
    from sendq.errors import SendqError
    from sendq.ledger.db.engine import reading
    from sendq.ledger.reading.overview import overview

    with ledger_engine() as engine:
        while True:
            try:
                with reading(engine) as connection:
                    seen = overview(connection, now=clock.now())
            except SendqError as error:
                if watch is None:
                    raise
                complain(str(error))  # who watches wants to see it come back
            else:
                if watch is not None:
                    clear_screen()
                if as_json:
                    tell_json(seen.as_json())
                else:
                    _tell_overview(seen)
                if watch is None:
                    return
            time.sleep(watch)


def _tell_overview(seen: Overview) -> None:
    from sendq.ledger.reading.overview import COUNT_MOST, RATE_S
    from sendq.rules.states import WAITING

    if seen.shut is not None:
        tell(f"shut since {when(seen.shut.since)}: {seen.shut.says} --since {_iso(seen.shut.known_until)} --reason …")
        tell()
    jobs = [
        f"{number:,}" + ("+" if state in WAITING and number >= COUNT_MOST else "")
        for state, number in seen.jobs.items()
    ]
    tell_table(("", *(state.value for state in seen.jobs)), [("jobs", *jobs)])
    calls = sum(seen.calls.values())
    failed = ", ".join(f"{number:,} {route}" for route, number in sorted(seen.calls.items()) if route != "done")
    tell(
        f"calls in the last minute: {calls:,} ({calls / RATE_S:.1f} a second)"
        + (f", of them {failed}" if failed else "")
    )
    waits = [f"{age:,.0f} s ({name})" for name, age in seen.oldest_s.items() if age >= 1]
    tell(f"the oldest job that nothing holds has waited {', '.join(waits)}" if waits else "nothing waits that could go")
    for line in _outcomes_to_tell(seen.deliveries):
        tell(line)
    lanes = seen.lanes
    idle = lanes.total - lanes.served - lanes.waiting - lanes.held - lanes.closed
    tell()
    numbers = (lanes.served, lanes.waiting, lanes.held, lanes.closed, idle)
    names = ("", "served now", "wait for a turn or a time", "held", "closed for reauth", "idle")
    tell_table(names, [("lanes", *(f"{number:,}" for number in numbers))])
    if seen.holds:
        tell()
        tell_table(
            ("held", "since", "until", "rule", "by"),
            [
                (_scope(hold), hold.since, hold.until or "its owner signs in again", hold.rule, hold.by)
                for hold in seen.holds
            ],
            folds=True,
        )
        more = lanes.held + lanes.closed - sum(hold.grant_id is not None for hold in seen.holds)
        if more > 0:
            tell(f"and {more:,} more grants; see: sendq grants")
    tell()
    if not seen.workers:
        tell("no worker is running; start one with: sendq worker")
        return
    tell_table(
        ("worker", "pid", "calls at once", "started", "last beat", ""),
        [
            (
                worker.name, worker.pid, worker.capacity, worker.started_at, worker.beat_at,
                "stopping" if worker.stopping else "leads" if worker.leads else "",
            )
            for worker in seen.workers
        ],
        folds=True,
    )  # fmt: skip


def _outcomes_to_tell(seen: Backlog) -> Iterator[str]:
    """Nothing while everybody is told in time."""
    from sendq.ledger.deliveries import COUNT_MOST

    def number(count: int) -> str:
        return f"{count:,}" + (" or more" if count >= COUNT_MOST else "")

    if seen.waiting:
        yield f"outcomes to tell: {number(seen.waiting)}, the oldest for {seen.oldest_s:,.0f} s"
    if seen.failing:
        yield f"receivers that fail: {', '.join(map(clean, seen.failing))}; see: sendq deliveries --state waiting"
    if seen.given_up:
        yield f"outcomes given up: {number(seen.given_up)}; see: sendq deliveries --state given_up"


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _scope(hold: Hold) -> str:
    if hold.grant_id is not None:
        return f"grant {hold.grant_id}" + ("" if hold.application == "default" else f" of {hold.application}")
    return f"application {hold.application}" + (f", provider {hold.provider}" if hold.provider else "")
