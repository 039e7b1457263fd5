"""``sendq resolve``: settle jobs in doubt by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from worker.cli.connection import ledger_engine, read_ledger
from worker.cli.filters import grant_options, lane_of, refuse_unknown_rule, rule_option
from worker.cli.output import FAILED, complain, json_option, tell, tell_json
from worker.cli.params import by_option, reason_option

if TYPE_CHECKING:
    from uuid import UUID

    from sendq.ledger.operators.resolve import DoubtPart, DoubtSelection
    from sendq.rules.by_hand import Answer
    from sendq.rules.states import State


# Spelled out, so that --help needs no import; a test holds them to the ledger's own.
ANSWERS = ("sent", "resend", "dead")


DONE = {"sent": "settled as sent", "resend": "sent again, under a new key", "dead": "given up"}


WARNING = "nobody knows who has such a message already: they get it twice; the account's sent mail would show it"


# Why a job is not sent again; a test holds these to the ledger's own reasons.
REFUSED = {
    "cancelled": "were cancelled; settle them as sent or dead",
    "gone": "belong to a grant that exists no more; settle them as sent or dead",
}


MESSAGE_ID_MOST = 512  # characters, as the ledger keeps ids of others


@dataclass(slots=True)
class Tally:
    """What became of the jobs in doubt that were looked at."""

    settled: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, found: DoubtPart) -> None:
        """Count one part."""
        self.settled += [str(row.id) for row in found.ready]
        self.refused.update(reason.value for reason in found.refused.values())


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.argument("answer", type=click.Choice(ANSWERS))
@rule_option("Those that fell into doubt by this rule.")
@grant_options("Those of this grant.")
@click.option("--all-in-doubt", is_flag=True, help="All of them.")
@click.option("--message-id", metavar="ID", help="With sent, and one JOB: the message that it became.")
@reason_option(required=True)
@by_option
@click.option("--dry-run", is_flag=True, help="Count what would be settled, and change nothing.")
@json_option
def resolve(
    jobs: tuple[str, ...],
    answer: str,
    rule: str | None,
    grant: str | None,
    application: str,
    all_in_doubt: bool,
    message_id: str | None,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Settle jobs in doubt by hand: they were sent, are to be sent again (resend), or are given up (dead).

    The named JOBs, or all that fit every given filter. What is sent again may reach people twice. Exit status 1 if a
    named job is not settled.
    """
    from sendq.rules.by_hand import Answer

    filters = rule is not None or grant is not None or all_in_doubt
    if bool(jobs) == filters:
        raise click.UsageError("name JOBs, or filter with --rule and --grant, or say --all-in-doubt")
    if message_id is not None and (answer != "sent" or len(jobs) != 1):
        raise click.UsageError("--message-id goes with one JOB that was sent")
    if message_id is not None and not (0 < len(message_id) <= MESSAGE_ID_MOST and message_id.isprintable()):
        raise click.UsageError(f"--message-id: give 1 to {MESSAGE_ID_MOST} printable characters")
    which = _which(jobs, rule, grant, application)
    tally = _all(which, Answer(answer), by=by, reason=reason, message_id=message_id, dry_run=dry_run)
    others = _others(which, tally)
    if not (tally.settled or tally.refused):
        refuse_unknown_rule(rule)
    if as_json:
        tell_json(
            {
                "dry_run": dry_run,
                "answer": answer,
                "settled": len(tally.settled),
                "jobs": tally.settled if jobs else None,
            }
            | {"refused": dict(tally.refused), "not_in_doubt": {str(job): state for job, state in others.items()}}
        )
    else:
        _tell(tally, answer, dry_run=dry_run)
    for job, state in others.items():
        complain(f"{job} is " + (f"{state}, not in doubt" if state else "not in this ledger"))
    if answer == "resend" and tally.settled:
        complain(WARNING)
    if jobs and (others or tally.refused):
        raise SystemExit(FAILED)


def _which(jobs: tuple[str, ...], rule: str | None, grant: str | None, application: str) -> DoubtSelection:
    from sendq.ledger.operators.resolve import DoubtSelection
    from sendq.ledger.reading.lookup import parse_id

    return DoubtSelection(
        jobs=[parse_id(job, what="job") for job in jobs] if jobs else None,
        rule=rule,
        lane_id=lane_of(application, grant),
    )


def _all(
    which: DoubtSelection, answer: Answer, *, by: str, reason: str, message_id: str | None, dry_run: bool
) -> Tally:
    """Part by part, each in a transaction of its own: what is interrupted goes on when it is run again."""
    from sendq import clock
    from sendq.ledger.db.engine import reading, writing
    from sendq.ledger.operators import resolve as resolving

    tally, after = Tally(), None
    with ledger_engine() as engine:
        while True:
            if dry_run:
                with reading(engine) as connection:
                    found = resolving.find(connection, which, answer, after=after)
            else:
                with writing(engine) as connection:
                    found = resolving.resolve(
                        connection, which, answer, by=by, reason=reason, message_id=message_id,
                        now=clock.now(), after=after,
                    )  # fmt: skip
            tally.add(found)
            after = found.after
            if after is None:
                return tally


def _others(which: DoubtSelection, tally: Tally) -> dict[UUID, State | None]:
    """The named jobs that were not in doubt, with their states; None: there is no such job."""
    from sendq.ledger.operators.retry import states_of as states

    if which.jobs is None:
        return {}
    settled = set(tally.settled)
    rest = [job for job in which.jobs if str(job) not in settled]
    there = read_ledger(lambda connection: states(connection, rest))
    found: dict[UUID, State | None] = {job: there.get(job) for job in rest}
    return {job: state for job, state in found.items() if state != "in_doubt"}


def _tell(tally: Tally, answer: str, *, dry_run: bool) -> None:
    number = len(tally.settled)
    jobs = "1 job in doubt" if number == 1 else f"{number:,} jobs in doubt"
    tell(f"{jobs} would be {DONE[answer]}; nothing was changed" if dry_run else f"{jobs} {DONE[answer]}")
    for reason, count in sorted(tally.refused.items()):
        tell(f"{count:,} not sent again: they {REFUSED[reason]}")
