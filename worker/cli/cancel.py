"""``sendq cancel``: withdraw a job or a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.batch_text import batch_lines
from worker.cli.connection import ledger_engine, open_ledger, open_queue
from worker.cli.output import FAILED, complain, json_option, tell, tell_json
from worker.cli.params import by_option, reason_option

if TYPE_CHECKING:
    from sendq.rules.states import State
    from sendq.views import BatchView


CANCELLED = {
    "cancelled": "it will not go out",
    "sending": "it is on the wire; it is cancelled if the answer is that it did not go out",
    "in_doubt": "it may have gone out before; it is not tried again, and cancelled once it is shown not to be out",
}


@click.command()
@click.argument("job", required=False)
@click.option("--batch", metavar="ID", help="All jobs of this batch that have not gone out, and the rest of its walk.")
@reason_option(required=False)
@by_option
@click.option("--dry-run", is_flag=True, help="Say what would be withdrawn, and change nothing.")
@json_option
def cancel(job: str | None, batch: str | None, reason: str | None, by: str, dry_run: bool, as_json: bool) -> None:
    """Withdraw JOB, or a batch, and print how it is then. Exit status 1 if it had ended already, or is in doubt."""
    if (job is None) == (batch is None):
        raise click.UsageError("name either JOB or --batch ID")
    if batch is not None:
        _cancel_batch(batch, by=by, reason=reason, dry_run=dry_run, as_json=as_json)
        return
    assert job is not None
    state = _cancel(job, by=by, reason=reason, dry_run=dry_run)
    if as_json:
        tell_json({"job_id": job, "state": state.value, "dry_run": dry_run})
    else:
        would = "would be" if dry_run else "is"
        tell(f"{job} {would} {state}: {CANCELLED.get(state, 'it had ended before')}")
        if dry_run:
            tell("nothing was changed")
    if state not in ("cancelled", "sending"):
        raise SystemExit(FAILED)


def _cancel(given: str, *, by: str, reason: str | None, dry_run: bool) -> State:
    """The state that the job is in then."""
    from sendq import clock
    from sendq.ledger import cancel, events
    from sendq.ledger.reading import lookup
    from sendq.rules.states import FINAL

    job = lookup.parse_id(given, what="job")
    with open_ledger(writes=not dry_run) as connection:
        before = lookup.job_row(connection, job)
        if dry_run:
            return cancel.after_cancel(before)
        now = clock.now()
        state = cancel.cancel(connection, job, now=now)
        if before.state not in FINAL:
            events.append(
                connection, "cancel", at=now, by=by, reason=reason, job_id=job, batch_id=before.batch_id,
                application=before.application, grant_id=before.grant_id,
            )  # fmt: skip
        return state


def _cancel_batch(batch: str, *, by: str, reason: str | None, dry_run: bool, as_json: bool) -> None:
    with open_queue() as queue:
        seen = queue.batch(batch)
    ended = seen.finished_at is not None
    if not (dry_run or ended):
        seen = _withdraw(seen, by=by, reason=reason)
    if as_json:
        tell_json({**seen.as_json(), "dry_run": dry_run})
    else:
        for line in batch_lines(seen):
            tell(line)
        if dry_run and not ended:
            tell(f"{seen.waiting:,} would be withdrawn, but for what is on the wire; nothing was changed")
    if seen.cancelled_at is None and (ended or not dry_run):
        complain("it had ended before; its dead letters, if it has any: sendq jobs --state dead --batch " + seen.id)
        raise SystemExit(FAILED)


def _withdraw(seen: BatchView, *, by: str, reason: str | None) -> BatchView:
    """Give the word, and end what waits a few hundred at a time: what is interrupted, the workers go on with."""
    from uuid import UUID

    from sendq import clock
    from sendq.ledger import batches, events
    from sendq.ledger.db.engine import writing

    batch = UUID(seen.id)
    with ledger_engine() as engine:
        with writing(engine) as connection:
            now = clock.now()
            if batches.withdraw(connection, batch, now=now):
                events.append(
                    connection, "cancel", at=now, by=by, reason=reason, batch_id=batch,
                    application=seen.application, grant_id=seen.grant_id,
                )  # fmt: skip
        after: UUID | None = UUID(int=0)
        while after is not None:
            with writing(engine) as connection:
                after = batches.end_some(connection, batch, after=after, now=clock.now())
    with open_queue() as queue:
        return queue.batch(seen.id)
