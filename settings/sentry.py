"""Sentry: error reports and traces without any content of messages.

By default Sentry's SDK collects the local variables of each frame and the text of each exception, which would include
recipients and bodies. So local variables and task arguments are left out, an exception's text is left out unless the
exception is ours (`settings.trace`), and every text of an event passes ``redact`` before it leaves the process.
Failures of the API are not reported as errors: they are outcomes, and are recorded in the ledger.

The SDK is imported only where SENTRY_DSN is set: it takes a tenth of a worker's memory.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sendq.redaction import redact_all
from settings.model import Settings
from settings.trace import NOT_SHOWN, is_ours

if TYPE_CHECKING:
    from sentry_sdk._types import Breadcrumb, Event

# Names of fields with message content, wherever they occur.
MAIL = ["to", "cc", "bcc", "from", "from_", "reply_to", "recipients", "email", "address", "name", "subject", "body",
        "snippet", "attachments", "metadata", "headers", "args", "kwargs", "celery-job"]  # fmt: skip


def start_sentry(settings: Settings, **options: Any) -> bool:
    """Report errors to SENTRY_DSN; without one, do nothing and return False.

    ``options`` are passed to ``sentry_sdk.init`` in addition (a transport for tests). A process must call
    `flush_sentry` before it ends: the SDK does so only in Celery's prefork pool.
    """
    if settings.sentry_dsn is None:
        return False

    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.scrubber import DEFAULT_DENYLIST, DEFAULT_PII_DENYLIST, EventScrubber

    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        # send_default_pii is off by default; setting it is deprecated, and setting its successor (data_collection)
        # would switch the scrubber off.
        include_local_variables=False,
        max_request_body_size="never",
        event_scrubber=EventScrubber(
            denylist=[*DEFAULT_DENYLIST, *MAIL], pii_denylist=DEFAULT_PII_DENYLIST, recursive=True
        ),
        before_send=_redacted_event,
        before_send_transaction=_redacted_event,
        before_breadcrumb=_redacted_breadcrumb,
        # No trace headers in broker messages or in requests to the API.
        trace_propagation_targets=[],
        # The integrations for aiohttp, SQLAlchemy and Redis would instrument every call and every statement, also in
        # processes without traces.
        auto_enabling_integrations=False,
        integrations=[CeleryIntegration(propagate_traces=False)],
        # Only `worker.telemetry.traces` makes traces, with its own sampling; Celery's integration makes none.
        traces_sampler=(lambda _context: 0.0) if settings.sentry_traces_sample_rate else None,
        **options,
    )
    return True


def active_sentry() -> Any:
    """The module ``sentry_sdk`` if this process reports to Sentry, else None."""
    sdk = sys.modules.get("sentry_sdk")
    return sdk if sdk is not None and sdk.is_initialized() else None


def flush_sentry(limit_s: float) -> None:
    """Send what is still in memory, for at most ``limit_s``."""
    if sdk := active_sentry():
        sdk.flush(limit_s)


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
