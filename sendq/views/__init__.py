"""The views of the ledger for applications and operators: frozen snapshots, with datetimes in UTC."""

from sendq.views.batches import Batch, BatchError, BatchView, LeftAlone, MergeCheck, WalkView
from sendq.views.delivery import DeliveryStatus, RecipientStatus
from sendq.views.grants import EventView, GrantState, GrantView, HeldGroup, HoldView
from sendq.views.jobs import (
    AttemptView,
    DeadLetter,
    DeadLetterCount,
    Doubt,
    EnqueuedJob,
    Eta,
    Job,
    JobCounts,
    JobLine,
    JobView,
    Priority,
    Why,
)
from sendq.views.overview import BatchLine, Found, FoundGrant, Overview, PaceView
from sendq.views.page import Page, plain
from sendq.views.status import Approvals, Backlog, BrokerView, DeliveryView, LaneCounts, Shut, Status, WorkerView

__all__ = [
    "Approvals",
    "AttemptView",
    "Backlog",
    "Batch",
    "BatchError",
    "BatchLine",
    "BatchView",
    "BrokerView",
    "DeadLetter",
    "DeadLetterCount",
    "DeliveryStatus",
    "DeliveryView",
    "Doubt",
    "EnqueuedJob",
    "Eta",
    "EventView",
    "Found",
    "FoundGrant",
    "GrantState",
    "GrantView",
    "HeldGroup",
    "HoldView",
    "Job",
    "JobCounts",
    "JobLine",
    "JobView",
    "LaneCounts",
    "LeftAlone",
    "MergeCheck",
    "Overview",
    "PaceView",
    "Page",
    "Priority",
    "RecipientStatus",
    "Shut",
    "Status",
    "WalkView",
    "Why",
    "WorkerView",
    "plain",
]
