"""``sendq forget``: erase a grant's mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import ledger_engine
from worker.cli.filters import check_grant_id
from worker.cli.output import FAILED, complain, json_option, tell, tell_json
from worker.cli.params import by_option, reason_option

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Engine

    from sendq.ledger.operators.erasure import Found, Tally


# A file may have 25 MB.
FILES_STEP = 20


@click.command()
@click.option("--grant", metavar="ID", required=True, help="The grant, by its id (not by an address).")
@click.option("--application", default="default", show_default=True, help="The application that the grant belongs to.")
@reason_option(required=True)
@by_option
@click.option("--dry-run", is_flag=True, help="Count what would be erased, and change nothing.")
@json_option
def forget(grant: str, application: str, reason: str, by: str, dry_run: bool, as_json: bool) -> None:
    """Erase what the ledger keeps of a grant's mail (bodies, addresses, texts of errors), and withdraw what waits.

    That there were jobs stays: ids, times, states, and keys as the application wrote them. Exit status 1 if the ledger
    has nothing of that grant, or if something is left (on the wire, or in doubt): forget again when that has ended.
    """
    from sendq.ids import lane_id

    check_grant_id(grant)
    with ledger_engine() as engine:
        found, tally, batches_left = _all(
            engine, lane_id(application, grant), application, grant, by=by, reason=reason, dry_run=dry_run
        )
    if as_json:
        tell_json(
            {"application": application, "grant_id": grant, "dry_run": dry_run, "withdrawn": tally.withdrawn}
            | {"erased": tally.erased, "keys": len(found.keys), "batches": len(found.batches) - batches_left}
            | {"left": {"on_the_wire": tally.on_the_wire, "in_doubt": tally.in_doubt, "batches": batches_left}}
            | {"by": by, "reason": reason}
        )
    else:
        _tell(found, tally, dry_run=dry_run)
    if not found.jobs:
        complain("the ledger has no job of this grant; check the id, and --application")
        raise SystemExit(FAILED)
    if tally.left:
        raise SystemExit(FAILED)


def _all(
    engine: Engine, lane: UUID, application: str, grant: str, *, by: str, reason: str, dry_run: bool
) -> tuple[Found, Tally, int]:
    """Step by step: what is interrupted goes on when it is run again."""
    from sendq import clock
    from sendq.ledger.batches import withdraw
    from sendq.ledger.contents import drop_unused_contents
    from sendq.ledger.db.bulk import chunks
    from sendq.ledger.db.engine import reading, writing
    from sendq.ledger.operators import erasure as ledger

    tally = ledger.Tally()
    with reading(engine) as connection:
        found = ledger.find(connection, lane)
        for jobs in chunks(found.jobs if dry_run else (), ledger.STEP):
            ledger.count(connection, jobs, tally)
    if dry_run or not found.jobs:
        return found, tally, 0
    with writing(engine) as connection:
        ledger.note(connection, application, grant, by=by, reason=reason, now=clock.now())
    for batch in found.batches:  # first, or they would find and make more in the meantime
        with writing(engine) as connection:
            withdraw(connection, batch, now=clock.now())
    for jobs in chunks(found.jobs, ledger.STEP):
        with writing(engine) as connection:
            ledger.erase_jobs(connection, jobs, tally, now=clock.now())
    for batch in found.batches:
        _end_rest(engine, batch)
    for keys in chunks(found.keys, ledger.STEP):
        with writing(engine) as connection:
            ledger.erase_keys(connection, keys)
    with writing(engine) as connection:
        batches_left = ledger.erase_batches(connection, found.batches)
    files = True
    while files:
        with writing(engine) as connection:
            files = drop_unused_contents(connection, FILES_STEP) > 0
    return found, tally, batches_left


def _end_rest(engine: Engine, batch: UUID) -> None:
    """What a withdrawn batch has made since we looked ends too, and what it has found without making jobs of it."""
    from uuid import UUID

    from sendq import clock
    from sendq.ledger.batches import end_some
    from sendq.ledger.db.engine import writing

    after: UUID | None = UUID(int=0)
    while after is not None:
        with writing(engine) as connection:
            after = end_some(connection, batch, after=after, now=clock.now())


def _tell(found: Found, tally: Tally, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    tell(f"{tally.withdrawn:,} waiting jobs {would}withdrawn; {tally.erased:,} jobs {would}erased")
    if found.keys:
        tell(f"{len(found.keys):,} keys stay as they were written, so that a repeat makes no second mail")
    if tally.on_the_wire:
        tell(f"left: {tally.on_the_wire:,} on the wire; forget again in a few minutes")
    if tally.in_doubt:
        tell(f"left: {tally.in_doubt:,} in doubt, which may have gone out; settle them first, then forget again")
