"""Change a job that waits, or a batch: reschedule, prioritise, hold and release it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from sendq.console.acts.act import Act, Choice, Given, Preview, count
from sendq.console.runs import Facts
from sendq.console.texts import absolute
from sendq.errors import InvalidArgument, NotFound, NotWaiting, Problem
from sendq.operators import ChangeProgress, Operators, Run

FIELDS = ("job", "batch")

SPANS = {
    "now": ("At once", timedelta()),
    "1h": ("In 1 hour", timedelta(hours=1)),
    "4h": ("In 4 hours", timedelta(hours=4)),
    "24h": ("In 1 day", timedelta(days=1)),
    "3d": ("In 3 days", timedelta(days=3)),
    "7d": ("In 7 days", timedelta(days=7)),
}

# The choice of the time in the other field.
AT = "at"


class Changing(Act):
    """What the acts on jobs that wait have in common. ``nothing``: what is said if nothing would change; None: the form
    decides that. ``possible``: choices that can be carried out with every job that waits, for the preview.
    """

    fields = FIELDS
    verb: str
    choices: Sequence[Choice] = ()
    possible: Mapping[str, str] = MappingProxyType({})
    nothing: str | None = None

    def run(self, operators: Operators, given: Given, *, dry_run: bool) -> Run[ChangeProgress]:
        """The act."""
        raise NotImplementedError

    def check(self, operators: Operators, given: Given) -> None:
        """Try it with what the form asks for."""
        # The progress of the act says if it no longer waits, as it does if that changes in between.
        with suppress(NotWaiting):
            self.run(operators, given, dry_run=True).finish()

    def preview(self, operators: Operators, given: Given) -> Preview:
        """Whether it still waits, and how many jobs there are."""
        named = named_of(given)
        job, batch = named["job_id"], named["batch_id"]
        warnings = []
        number = 0
        try:
            any_choice = replace(given, values={**given.values, **self.possible})
            number = self.run(operators, any_choice, dry_run=True).finish().number
            if not number and (batch or self.nothing):
                warnings.append("No job of it waits." if batch else f"{self.nothing}")
        except NotWaiting as error:
            warnings.append(f"{str(error).removesuffix('; nothing was changed')}.")
        jobs = f"{count(number, 'job')} of a batch"
        return Preview(
            what=f"{self.verb} a job" if job else f"{self.verb} {jobs}",
            button=f"{self.verb} the job" if job else f"{self.verb} {count(number, 'job')}",
            facts=[("Due", absolute(operators.job(job).due_at))] if job else [("Waiting jobs", f"{number:,}")],
            back=("jobs", job) if job else ("batches", batch),
            warnings=warnings,
            possible=not warnings,
            choices=self.choices,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A few hundred jobs in each step."""
        for part in self.run(operators, given, dry_run=False):
            left = (("Left as they are", f"{part.left:,}"),) if part.left else ()
            yield ("Changed", count(part.number, "job")), *left


class Reschedule(Changing):
    """Let it begin at another time."""

    name = "reschedule"
    verb = "Reschedule"
    choices = (
        Choice("in", "When", (*((value, label) for value, (label, _) in SPANS.items()), (AT, "At this time:")),
               required=True),
        Choice("at", "Time", hint="like 2026-07-01T09:00:00Z"),
    )  # fmt: skip
    possible = MappingProxyType({"in": "now", "at": ""})

    def run(self, operators: Operators, given: Given, *, dry_run: bool) -> Run[ChangeProgress]:
        """The act."""
        due_at = _due(given)
        return operators.reschedule(**named_of(given), due_at=due_at, **signature(given), dry_run=dry_run)


class Prioritise(Changing):
    """Let it go before or after others of its grant."""

    name = "priority"
    verb = "Change the priority of"
    choices = (Choice("to", "Priority", tuple((level, level) for level in ("high", "normal", "low")), required=True),)
    possible = MappingProxyType({"to": "high"})

    def run(self, operators: Operators, given: Given, *, dry_run: bool) -> Run[ChangeProgress]:
        """The act."""
        level = given.get("to")
        if level is None:
            raise InvalidArgument([Problem("priority", "is missing", "choose one")])
        return operators.set_priority(**named_of(given), priority=level, **signature(given), dry_run=dry_run)


class HoldJob(Changing):
    """Keep it from beginning until it is released."""

    name = "hold-job"
    verb = "Hold"
    nothing = "It is held already."

    def run(self, operators: Operators, given: Given, *, dry_run: bool) -> Run[ChangeProgress]:
        """The act."""
        return operators.hold_job(**named_of(given), **signature(given), dry_run=dry_run)


class ReleaseJob(Changing):
    """End its hold."""

    name = "release-job"
    verb = "Release"
    nothing = "It is not held."

    def run(self, operators: Operators, given: Given, *, dry_run: bool) -> Run[ChangeProgress]:
        """The act."""
        return operators.release_job(**named_of(given), **signature(given), dry_run=dry_run)


def named_of(given: Given) -> dict[str, Any]:
    """The job or batch of the address. Raises `NotFound` unless it names one of them."""
    job, batch = given.get("job"), given.get("batch")
    if (job is None) == (batch is None):
        raise NotFound("this address names neither a job nor a batch")
    return {"job_id": job, "batch_id": batch}


def signature(given: Given) -> dict[str, Any]:
    """The author and the reason."""
    return {"by": given.by, "reason": given.reason}


def _due(given: Given) -> datetime | None:
    """When it is to be due; None: now. Raises `InvalidArgument`."""
    at, span = given.time("at"), given.get("in") or (AT if given.get("at") else None)
    if span is None:
        raise InvalidArgument([Problem("when", "is missing", "choose when it is to be due")])
    if span == AT:
        if at is None:
            raise InvalidArgument([Problem("time", "is missing", "give one like 2026-07-01T09:00:00Z")])
        if at < datetime.now(UTC):
            raise InvalidArgument([Problem("time", "is in the past", "give a later one, or choose At once")])
        return at
    if at is not None:
        raise InvalidArgument([Problem("when", "is chosen, and a time is given", "choose one of the two")])
    if span not in SPANS:
        raise InvalidArgument([Problem("when", "is not one of the choices", "choose one")])
    return None if span == "now" else datetime.now(UTC) + SPANS[span][1]
