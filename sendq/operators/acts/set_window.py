"""Set the window of a grant: when those of its jobs may begin that have no window of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from sendq.ledger.operators import windows
from sendq.operators.base import Ledger

_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class WindowProgress:
    """The progress of a change of a grant's window, or (``dry_run``) what it would do.

    ``before`` and ``window``: as `Window` is written, None for no window. ``changed``: False if they are the same.
    ``number``: waiting jobs so far that may begin at another time now; a dry run does not count them.
    """

    dry_run: bool
    before: str | None
    window: str | None
    changed: bool
    number: int = 0


def set_window(
    ledger: Ledger, application: str, grant_id: str, window: str | None, *, by: str, reason: str, dry_run: bool
) -> Iterator[WindowProgress]:
    """Set or remove it, and bring back the jobs that the old one put off; each part is one transaction."""
    if dry_run:
        with ledger.reading() as connection:
            before = windows.window_of(connection, application, grant_id)
        yield WindowProgress(dry_run, before, window, before != window)
        return
    with ledger.writing() as connection:
        before = windows.window_of(connection, application, grant_id)
        changed = windows.set_window(connection, application, grant_id, window, by=by, reason=reason, now=ledger.now())
    number = 0
    after: UUID | None = _FIRST  # even if nothing was changed: an earlier call may have been interrupted
    while after is not None:
        with ledger.writing() as connection:
            part, after = windows.bring_back(connection, application, grant_id, after=after, now=ledger.now())
        number += part
        yield WindowProgress(dry_run, before, window, changed, number)
