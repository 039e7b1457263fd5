"""Sentry: reports of what went wrong in our code, without a word of anybody's mail.

By default Sentry's SDK collects the local variables of each frame and the text of each exception, and both would hold
recipients and bodies. So variables stay out, task arguments stay out, an exception's words stay out unless they are
ours (`settings.trace`), and every text of an event passes ``redact`` before it leaves the process. Failures of the API
are no events: they are outcomes, and have their place in the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.scrubber import DEFAULT_DENYLIST, DEFAULT_PII_DENYLIST, EventScrubber

from settings.model import Settings
from settings.redact import redact_all
from settings.trace import NOT_SHOWN, is_ours

if TYPE_CHECKING:
    from sentry_sdk._types import Breadcrumb, Event

# Names of fields that hold somebody's mail, wherever they turn up.
MAIL = ["to", "cc", "bcc", "from", "from_", "reply_to", "recipients", "email", "address", "name", "subject", "body",
        "snippet", "attachments", "metadata", "headers", "args", "kwargs", "celery-job"]  # fmt: skip


def start_sentry(settings: Settings, **options: Any) -> bool:
    """Report errors to SENTRY_DSN; without one it does nothing and returns False.

    ``options`` go to ``sentry_sdk.init`` on top of ours (a transport for tests). A process that ends calls
    ``sentry_sdk.flush``: the SDK does so by itself only in Celery's prefork pool.
    """
    if settings.sentry_dsn is None:
        return False
    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        # send_default_pii is off unless somebody turns it on; naming it is deprecated, and naming its successor
        # (data_collection) would switch the scrubber off.
        include_local_variables=False,
        max_request_body_size="never",
        event_scrubber=EventScrubber(
            denylist=[*DEFAULT_DENYLIST, *MAIL], pii_denylist=DEFAULT_PII_DENYLIST, recursive=True
        ),
        before_send=_redacted_event,
        before_send_transaction=_redacted_event,
        before_breadcrumb=_redacted_breadcrumb,
        # No trace headers, in messages or in requests to the API: both carry what they must and nothing else.
        trace_propagation_targets=[],
        # No other integration hangs itself into what it finds installed: those for aiohttp, SQLAlchemy and Redis would
        # look at every call and every statement, also of processes that trace nothing.
        auto_enabling_integrations=False,
        integrations=[CeleryIntegration(propagate_traces=False)],
        # Traces are those of `worker.telemetry.traces`, chosen there; what Celery's integration would make of bundles
        # is none.
        traces_sampler=(lambda _context: 0.0) if settings.sentry_traces_sample_rate else None,
        **options,
    )
    return True


def _redacted_event(event: Event, _hint: dict[str, Any]) -> Event:
    event.get("extra", {}).pop("celery-job", None)
    for error in event.get("exception", {}).get("values", ()):
        if not is_ours(error.get("module")):
            error["value"] = NOT_SHOWN
    redacted: Event = redact_all(event)
    return redacted


def _redacted_breadcrumb(crumb: Breadcrumb, _hint: dict[str, Any]) -> Breadcrumb:
    redacted: Breadcrumb = redact_all(crumb)
    return redacted
