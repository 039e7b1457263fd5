"""``sendq retry``: dead letters back into the queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import click

from worker.cli.connection import ledger_engine, read_ledger
from worker.cli.filters import batch_option, grant_options, id_of, lane_of, refuse_unknown_rule, rule_option
from worker.cli.output import FAILED, complain, json_option, tell, tell_json
from worker.cli.params import by_option, rate, reason_option, since_option

if TYPE_CHECKING:
    from uuid import UUID

    from sendq.ledger.operators.retry import DeadLetterPart, DeadLetterSelection
    from sendq.rules.states import State


# Why a dead letter stays one, and what a person can do about it; a test holds these to the ledger's own reasons.
REFUSED = {
    "partly": "went out to some of their recipients, who would get them twice; --even-partly sends them all the same",
    "maybe": "may have gone out; --even-partly sends them all the same",
    "overtaken": "would undo a newer change of the same message; --even-overtaken makes them all the same",
    "cancelled": "were cancelled while they were on the wire; enqueue them anew if they are wanted after all",
    "forgotten": "have no body any more: it was erased (sendq forget)",
    "gone": "belong to a grant that exists no more; if it does: sendq release --grant …",
}


# What to do about a job that is no dead letter.
INSTEAD = {
    "queued": "it waits already; see: sendq why",
    "sending": "it is on the wire",
    "in_doubt": "it may have gone out, which has to be settled first: sendq resolve",
    "sent": "it went out",
    "cancelled": "it was cancelled; enqueue it again",
    "expired": "its time was over; enqueue it anew",
}


@dataclass(slots=True)
class Tally:
    """What became of the dead letters that were looked at."""

    revived: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, found: DeadLetterPart) -> None:
        """Count one part."""
        self.revived += [str(row.id) for row in found.ready]
        self.refused.update(reason.value for reason in found.refused.values())


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@rule_option("Those that this rule gave up.")
@grant_options("Those of this grant.")
@batch_option("Those of this batch.")
@since_option("Those given up since")
@click.option("--limit", type=click.IntRange(1), help="How many at most.")
@click.option("--rate", "apart_s", type=rate, help="No faster than this, like 10/s or 100/m (default: as they can).")
@click.option("--even-partly", is_flag=True, help="Also mail that some people have, or may have: they get it twice.")
@click.option("--even-overtaken", is_flag=True, help="Also changes of messages that were changed again since.")
@reason_option(required=False)
@by_option
@click.option("--dry-run", is_flag=True, help="Count what would be retried, and change nothing.")
@json_option
def retry(
    jobs: tuple[str, ...],
    rule: str | None,
    grant: str | None,
    application: str,
    batch: str | None,
    since: datetime | None,
    limit: int | None,
    apart_s: float | None,
    even_partly: bool,
    even_overtaken: bool,
    reason: str | None,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send dead letters round again: the named JOBs, or all that fit every given filter.

    Body and trail stay, attempts are counted anew, and the request goes under a new idempotency key. Exit status 1 if a
    named job is not retried.
    """
    filters = (rule, grant, batch, since)
    if bool(jobs) == any(given is not None for given in filters):
        raise click.UsageError("name JOBs, or filter with --rule, --grant, --batch and --since")
    wanted = _wanted(jobs, rule, grant, application, batch, since, even_partly, even_overtaken)
    apart = round((apart_s or 0) * 1_000_000)
    tally = _all(wanted, limit=limit, apart=apart, by=by, reason=reason, dry_run=dry_run)
    others = _others(wanted, tally)
    if not (tally.revived or tally.refused):
        refuse_unknown_rule(rule)
    if as_json:
        tell_json(
            {"dry_run": dry_run, "retried": len(tally.revived), "jobs": tally.revived if jobs else None}
            | {"refused": dict(tally.refused), "not_dead": {str(job): state for job, state in others.items()}}
        )
    else:
        _tell(tally, dry_run=dry_run)
        for job, state in others.items():
            complain(f"{job} is " + (f"{state}, no dead letter: {INSTEAD[state]}" if state else "not in this ledger"))
    if jobs and (others or tally.refused):
        raise SystemExit(FAILED)


def _wanted(
    jobs: tuple[str, ...],
    rule: str | None,
    grant: str | None,
    application: str,
    batch: str | None,
    since: datetime | None,
    even_partly: bool,
    even_overtaken: bool,
) -> DeadLetterSelection:
    from sendq.clock import micros
    from sendq.ledger.operators.retry import DeadLetterSelection
    from sendq.ledger.reading.lookup import parse_id

    return DeadLetterSelection(
        jobs=[parse_id(job, what="job") for job in jobs] if jobs else None,
        rule=rule,
        lane_id=lane_of(application, grant),
        batch_id=id_of(batch, "batch"),
        since=micros(since) if since is not None else None,
        even_partly=even_partly,
        even_overtaken=even_overtaken,
    )


def _all(
    wanted: DeadLetterSelection, *, limit: int | None, apart: int, by: str, reason: str | None, dry_run: bool
) -> Tally:
    """Part by part, each in a transaction of its own: what is interrupted goes on when it is run again."""
    from sendq import clock
    from sendq.ledger.db.engine import reading, writing
    from sendq.ledger.operators import retry as redo

    tally, after, next_at = Tally(), None, 0
    with ledger_engine() as engine:
        while True:
            most = redo.CHUNK if limit is None else min(redo.CHUNK, limit - len(tally.revived))
            if dry_run:
                with reading(engine) as connection:
                    found = redo.find(connection, wanted, after=after, limit=most)
            else:
                now = clock.now()
                first_at = max(now, next_at)
                with writing(engine) as connection:
                    found = redo.retry(
                        connection, wanted, after=after, first_at=first_at, apart=apart,
                        by=by, reason=reason, now=now, limit=most,
                    )  # fmt: skip
                next_at = first_at + apart * len(found.ready)
            tally.add(found)
            after = found.after
            if after is None or len(tally.revived) == limit:
                return tally


def _others(wanted: DeadLetterSelection, tally: Tally) -> dict[UUID, State | None]:
    """The named jobs that were not dead letters, with their states; None: there is no such job."""
    from sendq.ledger.operators.retry import states_of as states

    if wanted.jobs is None:
        return {}
    there = read_ledger(lambda connection: states(connection, wanted.jobs or ()))
    revived = set(tally.revived)
    found: dict[UUID, State | None] = {job: there.get(job) for job in wanted.jobs if str(job) not in revived}
    return {job: state for job, state in found.items() if state != "dead"}


def _tell(tally: Tally, *, dry_run: bool) -> None:
    number = len(tally.revived)
    are = "1 dead letter" if number == 1 else f"{number:,} dead letters"
    tell(f"{are} would be retried; nothing was changed" if dry_run else f"{are} retried")
    for reason, count in sorted(tally.refused.items()):
        tell(f"{count:,} not retried: they {REFUSED[reason]}")
