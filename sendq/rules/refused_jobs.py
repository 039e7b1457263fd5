"""Which jobs of a lane were refused while the API called its grant valid: is a job at fault, or the grant?

After `BLAMED_AFTER`
refusals of one job, another job of the lane decides: if it succeeds, the refused job is at fault and becomes a dead
letter. Pure: the counts are the text that the lane's row keeps.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from uuid import UUID

# Refusals of one job after which another job of its lane is tried first.
BLAMED_AFTER = 2

# The jobs that a lane remembers, the latest ones; a suspicion ends after a few.
JOBS_MOST = 20


def counts(text: str | None) -> dict[UUID, int]:
    """How often each job was refused, the latest job last."""
    return {} if text is None else {UUID(job): count for job, count in json.loads(text)}


def one_more(text: str | None, job: UUID) -> str | None:
    """The text after one more refusal of a job."""
    found = counts(text)
    found[job] = found.pop(job, 0) + 1
    return _text(found)


def blamed(text: str | None) -> frozenset[UUID]:
    """The jobs that are dead letters as soon as another job of the lane succeeds."""
    return frozenset(job for job, count in counts(text).items() if count >= BLAMED_AFTER)


def without(text: str | None, jobs: Collection[UUID]) -> str | None:
    """The text without these jobs."""
    return _text({job: count for job, count in counts(text).items() if job not in jobs})


def one_chance_each(text: str | None) -> str | None:
    """The text when the grant itself is taken to be at fault: no job is dead before it has been refused once more."""
    return _text({job: min(count, BLAMED_AFTER - 1) for job, count in counts(text).items()})


def _text(found: dict[UUID, int]) -> str | None:
    latest = list(found.items())[-JOBS_MOST:]
    return json.dumps([[job.hex, count] for job, count in latest], separators=(",", ":")) if latest else None
