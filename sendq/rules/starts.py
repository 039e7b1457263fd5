"""Which jobs of a turn begin, and when: in their order, at their lane's pace, one at a time for each object. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from sendq.clock import SECOND, Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.rules.pace import Pacer, call_of

# A turn does not wait longer than this for its lane's pace: it ends and frees its slots, and another one follows.
LONGEST_PAUSE: Micros = 1 * SECOND

# About as long as a turn lasts: it needs slots only for what the pace lets start in that time.
TURN_TIME: Micros = 2 * SECOND


def slots_of(lane: Lane, jobs: Sequence[ClaimedJob], pacer: Pacer, *, now: Micros) -> int:
    """Calls at once that a turn may make: no more than it was offered, has jobs, or its pace lets start."""
    most = min(lane.ramp, lane.turn_slots, len(jobs))
    while most > 1 and pacer.start_of(most, call_of(jobs[0].operation, jobs[0].form), now) > now + TURN_TIME:
        most -= 1
    return max(1, most)


def first_to_begin(jobs: Sequence[ClaimedJob], width: int) -> list[ClaimedJob]:
    """The first ``width`` jobs, leaving out those behind another one of the same object."""
    chosen: list[ClaimedJob] = []
    objects: set[str] = set()
    for job in jobs:
        if len(chosen) == width:
            break
        if job.object_id is not None:
            if job.object_id in objects:
                continue
            objects.add(job.object_id)
        chosen.append(job)
    return chosen


def start_soon(jobs: Iterable[ClaimedJob], pacer: Pacer, *, now: Micros) -> dict[UUID, Micros]:
    """When these jobs start, in their order and at their lane's pace; only those that start soon. They are charged.

    The first that would have to wait stops those behind it, or it could be overtaken forever.
    """
    starts: dict[UUID, Micros] = {}
    for job in jobs:
        call = call_of(job.operation, job.form)
        at = pacer.start(call, now)
        if at > now + LONGEST_PAUSE:
            break
        pacer.take(call, at)
        starts[job.id] = at
    return starts
