"""``sendq top``: a live page of what flows, what waits, what is held and who works."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_operators
from worker.cli.held_text import group_cells
from worker.cli.output import clean, when

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from sendq.views import Status

# Lines of the page that are not groups or workers: headings, counts, blank lines.
OTHER_LINES = 16
WIDE = 100  # characters; narrower pages leave one time out
HELD = ("rule", "provider", "state", "grants", "waiting", "first back", "last back")


@click.command()
@click.option(
    "--every", type=click.FloatRange(min=0.5), default=2.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
def top(every: float) -> None:
    """Show a live page until Ctrl-C: calls, jobs by state, longest waits, what is held by rule and provider, workers.

    For programs, or without a terminal: sendq status --watch --json
    """
    if not sys.stdout.isatty():
        raise click.UsageError("needs a terminal; without one: sendq status --watch")
    from rich.console import Console
    from rich.live import Live

    from sendq.errors import SendqError

    console = Console()
    with open_operators() as operators, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                shown = page(operators.status(), width=console.width, height=console.height)
            except SendqError as error:
                shown = clean(str(error))  # the next look may find it again
            live.update(shown, refresh=True)
            time.sleep(every)


def page(seen: Status, *, width: int, height: int) -> RenderableType:
    """The page, with as many groups and workers as fit into ``height`` lines; it says how many do not."""
    from rich.console import Group
    from rich.text import Text

    room = max(2, height - OTHER_LINES)
    groups = seen.held[: max(1, room * 2 // 3)]
    workers = seen.workers[: max(1, room - len(groups))]
    parts: list[RenderableType] = [Text(line) for line in _flow(seen)]
    parts += [Text(""), _table(tuple(state.value for state in seen.jobs), [[f"{n:,}" for n in seen.jobs.values()]])]
    shown = [at for at, name in enumerate(HELD) if width >= WIDE or name != "first back"]
    held = [[clean(group_cells(group)[at]) for at in shown] for group in groups]
    parts += [Text(""), _table(tuple(HELD[at] for at in shown), held)]
    parts += _more(len(seen.held) - len(groups), "groups; see: sendq status")
    parts.append(Text(""))
    rows = [[clean(one.name), str(one.capacity), "leader" if one.leads else "silent" if one.is_silent else ""]
            for one in workers]  # fmt: skip
    parts += [_table(("worker", "calls at once", ""), rows), *_more(len(seen.workers) - len(workers), "workers")]
    return Group(*parts)


def _flow(seen: Status) -> Iterator[str]:
    from sendq.views.status import CALLS_S

    yield f"sendq at {when(seen.at)}"
    if seen.shut is not None:
        yield f"dispatching stopped at {when(seen.shut.since)}: see sendq status"
    calls = sum(seen.calls.values())
    done = seen.calls.get("done", 0)
    yield f"calls: {calls / CALLS_S:.1f}/s, of these {done / CALLS_S:.1f}/s accepted"
    waits = ", ".join(f"{age:,.0f} s ({name})" for name, age in seen.oldest_s.items())
    yield f"oldest job that nothing holds: {waits}"
    lanes = seen.lanes
    yield f"lanes: {lanes.served:,} served, {lanes.waiting:,} waiting, {lanes.held:,} held, {lanes.closed:,} closed"
    if seen.deliveries.waiting:
        yield f"outcomes to deliver: {seen.deliveries.waiting:,}, the oldest for {seen.deliveries.oldest_s:,.0f} s"


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _more(number: int, what: str) -> list[RenderableType]:
    from rich.text import Text

    return [Text(f"and {number:,} more {what}")] if number > 0 else []
