"""The demo's progress: a live table for a terminal, or plain lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from sendq import SendQueue, State, clock
from sendq.ledger.db.engine import reading
from sendq.ledger.reading.status import LaneJobs, jobs_by_lane
from sendq.views import BatchView
from worker.demo.story import JOBS

if TYPE_CHECKING:
    from rich.console import RenderableType

GOING_ON = (State.QUEUED, State.SENDING)


@dataclass(frozen=True, slots=True)
class Scene:
    """A snapshot: lanes with their jobs, the batch, and the seconds since the first job was enqueued."""

    at: clock.Micros
    lanes: Sequence[LaneJobs]
    batch: BatchView
    elapsed_s: float

    def count(self, state: State) -> int:
        """Jobs in a state."""
        return sum(lane.jobs.get(state, 0) for lane in self.lanes)

    @property
    def reauth(self) -> int:
        """Jobs in closed lanes, waiting for the owner to sign in."""
        return sum(lane.jobs.get(State.QUEUED, 0) for lane in self.lanes if lane.closed)

    @property
    def ended(self) -> int:
        """Jobs that have ended or are in doubt: nothing more happens to them in the demo."""
        return sum(self.count(state) for state in State if state not in GOING_ON)

    @property
    def waiting(self) -> int:
        """Jobs that will be sent without intervention, including those whose lane does not exist yet."""
        return JOBS - self.ended - self.reauth - self.count(State.SENDING)

    @property
    def over(self) -> bool:
        """Whether every job has ended or waits for a sign-in."""
        return self.ended + self.reauth == JOBS

    @property
    def rate(self) -> float:
        """Jobs that ended, per second so far."""
        return self.ended / self.elapsed_s if self.elapsed_s > 0 else 0.0


def look(ledger: Engine, queue: SendQueue, batch_id: str, elapsed_s: float) -> Scene:
    """Take a snapshot from the ledger."""
    now = clock.now()
    with reading(ledger) as connection:
        lanes = jobs_by_lane(connection, now=now)
    return Scene(now, lanes, queue.batch(batch_id), elapsed_s)


def plain_line(scene: Scene) -> str:
    """The snapshot as one line."""
    return (
        f"{scene.elapsed_s:5.1f} s  sent {scene.count(State.SENT):3d}  in flight {scene.count(State.SENDING):2d}  "
        f"waiting {scene.waiting:3d}  reauth {scene.reauth:2d}  dead {scene.count(State.DEAD)}  "
        f"batch {scene.batch.progress:4.0%}  {scene.rate:3.0f}/s"
    )


def live_view(scene: Scene) -> RenderableType:
    """The snapshot as a table of lanes with a progress bar for the batch."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(title="lanes", box=None, pad_edge=False, title_justify="left")
    for column in ("grant", "provider"):
        table.add_column(column)
    for column in ("sent", "in flight", "waiting", "dead"):
        table.add_column(column, justify="right")
    table.add_column("lane", min_width=26)
    for lane in scene.lanes:
        counts = (lane.jobs.get(state, 0) for state in (State.SENT, State.SENDING, State.QUEUED, State.DEAD))
        cells = [Text(str(number), style="" if number else "dim") for number in counts]
        table.add_row(lane.grant_id, lane.provider, *cells, _lane_state(lane, scene.at))
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        "batch", ProgressBar(total=1.0, completed=scene.batch.progress, width=40), f"{scene.batch.progress:.0%}"
    )
    return Group(table, Text(), bar, Text(plain_line(scene).strip(), style="bold"))


def _lane_state(lane: LaneJobs, now: clock.Micros) -> RenderableType:
    from rich.text import Text

    if lane.closed:
        return Text("closed: sign in again", style="red")
    if lane.held_until is not None:
        left = (clock.micros(lane.held_until) - now) / clock.SECOND
        return Text(f"held for {left:.1f} s more", style="yellow")
    if lane.jobs.get(State.SENDING):
        return Text("served", style="green")
    return Text("waiting" if lane.jobs.get(State.QUEUED) else "done", style="dim")
