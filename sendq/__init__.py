"""sendq: a resilient send queue in front of the Nylas v3 email API.

What a web application imports. It accepts work durably, in the application's own transaction; worker processes, which
are not part of this package, carry it out.

    from sendq import Message, SendQueue

    queue = SendQueue("postgresql+psycopg://…")
    message = Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>…</p>")
    job = queue.send("grant-id", message, key="invoice-42")
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sendq.async_queue import AsyncSendQueue
    from sendq.enqueueing.batch_sends import NewBatch
    from sendq.enqueueing.expiry import NEVER
    from sendq.enqueueing.options import Options, Send
    from sendq.enqueueing.query import Query
    from sendq.errors import (
        InvalidArgument,
        InvalidJob,
        KeyConflict,
        LaneFull,
        LedgerUnavailable,
        NotFound,
        Problem,
        Pruned,
        Retryable,
        SchemaMismatch,
        SendqError,
        SuppressedRecipients,
        SuppressionListFailed,
        Unreadable,
    )
    from sendq.filters import DeadLetterFilter, DeliveryFilter, DoubtFilter, GrantFilter, UnfinishedFilter
    from sendq.messages.attachment import Attachment
    from sendq.messages.fields import CustomHeader, Recipient, Template, TrackingOptions
    from sendq.messages.message import Message
    from sendq.messages.mime import MimeMessage
    from sendq.messages.unsubscribe import Unsubscribe
    from sendq.operators import Operators
    from sendq.queue import SendQueue
    from sendq.rules.delivery import Delivery
    from sendq.rules.states import State
    from sendq.rules.warm_up import WarmUp
    from sendq.rules.windows import Window
    from sendq.scope import Scope
    from sendq.vault import Vault
    from sendq.views import (
        AttemptView,
        Batch,
        BatchError,
        BatchView,
        DeadLetter,
        DeadLetterCount,
        DeliveryStatus,
        DeliveryView,
        Doubt,
        Eta,
        EventView,
        GrantState,
        GrantView,
        HeldGroup,
        HoldView,
        Job,
        JobCounts,
        JobLine,
        JobView,
        LeftAlone,
        Page,
        Priority,
        RecipientStatus,
        Replacement,
        Status,
        WalkView,
        Why,
    )
    from sendq.views.suppressions import Suppression

__version__ = "0.1.0"

# Where each name lives. It is imported when it is first asked for: the simulator needs no SQLAlchemy, the policy no
# pydantic, and whoever does not use asyncio needs no greenlet (the extra sendq[asyncio]).
_HOMES = {
    "sendq.async_queue": ("AsyncSendQueue",),
    "sendq.errors": (
        "InvalidArgument", "InvalidJob", "KeyConflict", "LaneFull", "LedgerUnavailable", "NotFound",
        "NotWaiting", "Problem", "Pruned", "Retryable", "SchemaMismatch", "SendqError", "SuppressedRecipients",
        "SuppressionListFailed", "Unreadable",
    ),
    "sendq.filters": ("DeadLetterFilter", "DeliveryFilter", "DoubtFilter", "GrantFilter", "UnfinishedFilter"),
    "sendq.messages.attachment": ("Attachment",),
    "sendq.messages.fields": ("CustomHeader", "Recipient", "Template", "TrackingOptions"),
    "sendq.messages.message": ("Message",),
    "sendq.messages.mime": ("MimeMessage",),
    "sendq.messages.unsubscribe": ("Unsubscribe",),
    "sendq.enqueueing.batch_sends": ("NewBatch",),
    "sendq.enqueueing.expiry": ("NEVER",),
    "sendq.enqueueing.options": ("Options", "Send"),
    "sendq.enqueueing.query": ("Query",),
    "sendq.operators": ("Operators",),
    "sendq.queue": ("SendQueue",),
    "sendq.rules.delivery": ("Delivery",),
    "sendq.rules.states": ("State",),
    "sendq.rules.warm_up": ("WarmUp",),
    "sendq.rules.windows": ("Window",),
    "sendq.scope": ("Scope",),
    "sendq.vault": ("Vault",),
    "sendq.views.suppressions": ("Suppression",),
    "sendq.views": (
        "AttemptView", "Batch", "BatchError", "BatchView", "DeadLetter", "DeadLetterCount", "DeliveryStatus",
        "DeliveryView", "Doubt", "Eta", "EventView", "GrantState", "GrantView", "HeldGroup", "HoldView", "Job",
        "JobCounts", "JobLine", "JobView", "LeftAlone", "Page", "Priority", "RecipientStatus", "Replacement", "Status",
        "WalkView", "Why",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "NEVER",
    "AsyncSendQueue",
    "Attachment",
    "AttemptView",
    "Batch",
    "BatchError",
    "BatchView",
    "CustomHeader",
    "DeadLetter",
    "DeadLetterCount",
    "DeadLetterFilter",
    "Delivery",
    "DeliveryFilter",
    "DeliveryStatus",
    "DeliveryView",
    "Doubt",
    "DoubtFilter",
    "Eta",
    "EventView",
    "GrantFilter",
    "GrantState",
    "GrantView",
    "HeldGroup",
    "HoldView",
    "InvalidArgument",
    "InvalidJob",
    "Job",
    "JobCounts",
    "JobLine",
    "JobView",
    "KeyConflict",
    "LaneFull",
    "LedgerUnavailable",
    "LeftAlone",
    "Message",
    "MimeMessage",
    "NewBatch",
    "NotFound",
    "NotWaiting",
    "Operators",
    "Options",
    "Page",
    "Priority",
    "Problem",
    "Pruned",
    "Query",
    "Recipient",
    "RecipientStatus",
    "Replacement",
    "Retryable",
    "SchemaMismatch",
    "Scope",
    "Send",
    "SendQueue",
    "SendqError",
    "State",
    "Status",
    "SuppressedRecipients",
    "Suppression",
    "SuppressionListFailed",
    "Template",
    "TrackingOptions",
    "UnfinishedFilter",
    "Unreadable",
    "Unsubscribe",
    "Vault",
    "WalkView",
    "WarmUp",
    "Why",
    "Window",
]

_MISSING: dict[str, str] = {}
if find_spec("greenlet") is None:  # without the extra, "from sendq import *" and help() take all the others
    _MISSING["AsyncSendQueue"] = "; it needs the extra: pip install 'sendq[asyncio]'"
    _names = __all__
    _names.remove("AsyncSendQueue")


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None or name in _MISSING:  # so that help() and dir() pass over it
        raise AttributeError(f"module 'sendq' has no attribute {name!r}{_MISSING.get(name, '')}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *(name for name in _HOME_OF if name not in _MISSING)]
