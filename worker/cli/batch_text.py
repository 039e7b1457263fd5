"""A batch as lines of text, for every command that shows one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from worker.cli.output import clean, when

if TYPE_CHECKING:
    from sendq.views import BatchView, HoldView, WalkView


WALKS = {
    "listing": "listing messages",
    "making": "all messages are listed, and jobs are being made for them",
    "done": "done",
    "stopped": "stopped (to continue: sendq retry --batch)",
}


WHY_LEFT = {
    "changed_since": "changed since",
    "gone_since": "gone since",
    "not_kept": "their earlier state is not kept",
}


def batch_lines(seen: BatchView) -> Iterator[str]:
    """A batch for people."""
    of = f"{seen.total:,} jobs" if seen.total is not None else "a number of jobs that is not known yet"
    grant = seen.grant_id or "(shown once the leader has picked up the batch)"
    if seen.operation == "send" and seen.grant_id is None:
        yield f"batch {seen.id}: {of} (send)"
    else:
        yield f"batch {seen.id}: {of} ({seen.operation}) for grant {clean(grant)}"
    if seen.open:
        yield "open: more may be added, until it is closed"
    if seen.walk is not None:
        yield _walk_line(seen.walk)
    ended = ", ".join(f"{number:,} {state}" for state, number in seen.counts.items())
    yield f"{seen.progress:.1%} done: {ended or 'no job has ended'}; {seen.waiting:,} waiting"
    if seen.cancelled_at is not None:
        rest = "; calls in flight are finished first" if seen.waiting else ""
        yield f"cancelled: {when(seen.cancelled_at)}{rest}"
    if seen.held_at is not None:
        yield f"held since {when(seen.held_at)}; to release it: sendq release --batch {seen.id} --reason …"
    if seen.unapproved:
        yield f"{seen.unapproved:,} of its jobs wait for approval: sendq approve --batch {seen.id}"
    for hold in seen.holds:
        yield _hold_line(hold)
    if seen.opens_at is not None and seen.cancelled_at is None:
        yield f"jobs wait: the window {seen.window} is closed until {when(seen.opens_at)}"
    if seen.spread_until is not None and seen.finished_at is None:
        yield f"due times are spread until {when(seen.spread_until)}"
    if seen.finished_at is not None:
        yield f"finished: {when(seen.finished_at)}"
    elif seen.cancelled_at is None:
        yield f"rate: {seen.rate:,.1f} jobs/s; expected end: {when(seen.eta) if seen.eta else 'unknown'}"
    if seen.undoable:
        yield f"it can be undone: sendq undo --batch {seen.id} --reason …"
    if seen.undoes is not None:
        yield f"it undoes batch {seen.undoes}"
    for left in seen.left:
        first = ", ".join(clean(one) for one in left.object_ids)
        more = f" and {left.number - len(left.object_ids):,} more" if left.number > len(left.object_ids) else ""
        yield f"left alone: {left.number:,} ({WHY_LEFT.get(left.rule, left.rule)}): {first}{more}"
    if seen.left:
        yield f"all of them: sendq jobs --batch {seen.id} --state cancelled"
    for error in seen.errors:
        what = "a page of its walk" if error.operation == "list" else error.object_id
        about = "" if what is None else f" ({clean(what)})"
        yield f"dead: {error.job_id}{about}: {error.rule}: {clean(error.error)}"


def _hold_line(hold: HoldView) -> str:
    from sendq import Scope

    scope = Scope(hold.application, hold.grant_id, hold.provider, hold.tag)
    if hold.until is None:
        return f"jobs wait: {clean(scope)} is closed until its owner signs in again ({hold.rule})"
    return f"jobs wait: {clean(scope)} is held until {when(hold.until)} by {clean(hold.by)} ({hold.rule})"


def _walk_line(walk: WalkView) -> str:
    of = f", {walk.listed:,} of {walk.listings:,} threads" if walk.listings > 1 else ""
    return f"walk: {WALKS[walk.state]}; {walk.found:,} messages on {walk.pages:,} pages{of}"
