"""``sendq batch``: the progress of a batch, once or until it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from sendq.rules.states import State
from worker.cli.batch_text import batch_lines
from worker.cli.connection import open_operators
from worker.cli.output import FAILED, json_option, tell, tell_json
from worker.cli.params import one_of

if TYPE_CHECKING:
    from sendq.views import BatchView


# Between two looks: as often as the leader adds up.
LOOK_EVERY_S = 0.5


@click.command()
@click.argument("batch", required=False)
@click.option("--key", help="The key that the batch was enqueued with, instead of its id.")
@click.option("--application", default="default", show_default=True, help="The application that the key belongs to.")
@click.option(
    "--watch", is_flag=True, help="Refresh until the batch has ended. Exit status 1 if not all jobs were done."
)
@json_option
def batch(batch: str | None, key: str | None, application: str, watch: bool, as_json: bool) -> None:
    """Show the progress of BATCH: jobs by state, rate, expected end, holds, first errors.

    With --watch and --json, only the result is printed, once the batch has ended.
    """
    one_of(batch, key, "BATCH")
    with open_operators() as operators:

        def look() -> BatchView:
            return operators.batch(batch, key=key, application=application)

        seen = _watch(look, as_json=as_json) if watch else look()
    if as_json:
        tell_json(seen.as_json())
    else:
        for line in batch_lines(seen):
            tell(line)
    if watch and (seen.total is None or seen.counts.get(State.SENT, 0) < seen.total):
        raise SystemExit(FAILED)


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
