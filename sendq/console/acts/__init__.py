"""The acts of the console: each is shown first, with what it would do, and then carried out with a reason."""

from __future__ import annotations

from sendq.console.acts.act import Act, Choice, Given, Preview
from sendq.console.acts.approving import Approve, Reject
from sendq.console.acts.deliveries import DeliverAgain
from sendq.console.acts.grants import Hold, HoldAll, Release, ReleaseAll
from sendq.console.acts.jobs import Cancel, CancelAll, CancelBatch, Resolve, Retry
from sendq.console.acts.replacing import Replace
from sendq.console.acts.suppressions import Suppress, Unsuppress
from sendq.console.acts.undoing import Undo
from sendq.console.acts.waiting import HoldJob, Prioritise, ReleaseJob, Reschedule

ACTS: dict[str, Act] = {
    act.name: act
    for act in (
        Hold(),
        HoldAll(),
        Release(),
        ReleaseAll(),
        Retry(),
        Resolve(),
        Reschedule(),
        Prioritise(),
        HoldJob(),
        ReleaseJob(),
        Replace(),
        Approve(),
        Reject(),
        Cancel(),
        CancelAll(),
        CancelBatch(),
        Undo(),
        DeliverAgain(),
        Suppress(),
        Unsuppress(),
    )
}

__all__ = ["ACTS", "Act", "Choice", "Given", "Preview"]
