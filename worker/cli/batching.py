"""How far a batch is: batch, once or until it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from sendq.rules.states import State
from worker.cli.door import open_queue
from worker.cli.output import FAILED, clean, json_option, tell, tell_json, when
from worker.cli.params import one_of

if TYPE_CHECKING:
    from sendq.views import BatchView, WalkView

# Between two looks: as often as the leader adds up.
LOOK_EVERY_S = 0.5

WALKS = {
    "listing": "lists messages",
    "making": "has listed all messages, and their jobs are being made",
    "done": "is done",
    "stopped": "stopped (sendq retry --batch goes on with it)",
}


@click.command()
@click.argument("batch", required=False)
@click.option("--key", help="The key that it was enqueued with, in place of its id.")
@click.option("--application", default="default", show_default=True, help="The application that the key belongs to.")
@click.option("--watch", is_flag=True, help="Look again until it has ended. Exit status 1 if not all of it was done.")
@json_option
def batch(batch: str | None, key: str | None, application: str, watch: bool, as_json: bool) -> None:
    """How far BATCH is: states, rate, when it may be done, the first errors."""
    one_of(batch, key, "BATCH")
    with open_queue() as queue:

        def look() -> BatchView:
            return queue.batch(batch, key=key, application=application)

        seen = _watch(look, as_json=as_json) if watch else look()
    if as_json:
        tell_json(seen.as_json())
    else:
        for line in batch_lines(seen):
            tell(line)
    if watch and (seen.total is None or seen.counts.get(State.SENT, 0) < seen.total):
        raise SystemExit(FAILED)


def batch_lines(seen: BatchView) -> Iterator[str]:
    """A batch for people."""
    of = f"{seen.total:,} jobs" if seen.total is not None else "as many jobs as its walk finds"
    grant = seen.grant_id or "(not seen by the dispatcher yet)"
    yield f"batch {seen.id}: {of} ({seen.operation}) through grant {clean(grant)}"
    if seen.walk is not None:
        yield _walk_line(seen.walk)
    ended = ", ".join(f"{number:,} {state}" for state, number in seen.counts.items())
    yield f"{seen.progress:.1%} done: {ended or 'none ended'}; {seen.waiting:,} waiting"
    if seen.cancelled_at is not None:
        rest = "; what is on the wire is waited for" if seen.waiting else ""
        yield f"cancelled: {when(seen.cancelled_at)}{rest}"
    if seen.finished_at is not None:
        yield f"finished: {when(seen.finished_at)}"
    elif seen.cancelled_at is None:
        yield f"rate: {seen.rate:,.1f} jobs/s; expected end: {when(seen.eta) if seen.eta else 'cannot be told'}"
    for error in seen.errors:
        what = error.object_id if error.operation != "list" else "a page of its walk"
        yield f"dead: {error.job_id} ({clean(what)}): {error.rule}: {clean(error.error)}"


def _walk_line(walk: WalkView) -> str:
    of = f", {walk.listed:,} of {walk.listings:,} threads" if walk.listings > 1 else ""
    return f"walk {WALKS[walk.state]}: {walk.found:,} messages on {walk.pages:,} pages{of}"


def _watch(look: Callable[[], BatchView], *, as_json: bool) -> BatchView:
    """Look until the batch has ended; meanwhile a bar on a terminal, and elsewhere a line for every change."""
    if sys.stdout.isatty() and not as_json:
        return _with_bar(look)
    said = None
    while True:
        seen = look()
        line = f"{seen.progress:.1%} done, {seen.waiting:,} waiting"
        if seen.finished_at is not None:
            return seen
        if line != said and not as_json:
            tell(line)
            said = line
        time.sleep(LOOK_EVERY_S)


def _with_bar(look: Callable[[], BatchView]) -> BatchView:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("batch", total=None, said="")
        while True:
            seen = look()
            if seen.finished_at is not None:
                return seen
            description = "batch" if seen.total is not None or seen.walk is None else "walk"
            bar.update(
                task,
                total=seen.total,
                completed=sum(seen.counts.values()),
                description=description,
                said=_beside_the_bar(seen),
            )
            time.sleep(LOOK_EVERY_S)


def _beside_the_bar(seen: BatchView) -> str:
    if seen.total is None and seen.walk is not None:
        return f"{seen.walk.found:,} messages on {seen.walk.pages:,} pages"
    left = "" if seen.eta is None else f", {_span((seen.eta - datetime.now(UTC)).total_seconds())} to go"
    dead = seen.counts.get(State.DEAD, 0)
    return f"{seen.waiting:,} waiting, {seen.rate:,.1f}/s{left}" + (f", {dead:,} dead" if dead else "")


def _span(seconds: float) -> str:
    """A duration for people, in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


COMMANDS = (batch,)
