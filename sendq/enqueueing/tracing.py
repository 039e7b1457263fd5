"""The trace that a job belongs to: the caller's active span of OpenTelemetry, if there is one."""

from __future__ import annotations

import re
import sys

from sendq.errors import Problem

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00. Ids of zeros are none.
_traceparent = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


def active_traceparent() -> str | None:
    """The active span as a ``traceparent``; None: there is none. OpenTelemetry is not imported for it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def check_traceparent(given: object) -> list[Problem]:
    """What is wrong with a given ``traceparent``; None means that none was given."""
    if given is None or (isinstance(given, str) and _traceparent(given)):
        return []
    reason = "is not a traceparent of W3C Trace Context, version 00"
    return [Problem("traceparent", reason, "pass the header's value, or leave it out")]
