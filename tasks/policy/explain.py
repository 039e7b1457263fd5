"""What would happen to a job that met this answer: the command ``sendq explain``, and the README's table. Pure.

Whatever is asked, an object comes back: bytes that are no text, a status that is no number, headers of any form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sendq.clock import SECOND, Micros, seconds
from tasks.policy.decide import JobFacts, accepted, wait_range
from tasks.policy.failure import OPERATIONS, PROVIDERS, Answer, Failure, Success, parse
from tasks.policy.row import Policy, Row, Text
from tasks.policy.table import POLICY

Explanation = dict[str, Any]


def explain(
    *,
    status: object,
    provider: object = "unknown",
    operation: object = "send",
    headers: object = None,
    body: object = b"",
    now: float,
    policy: Policy = POLICY,
) -> Explanation:
    """The decision for the first attempt of a job, with exactly these keys: ``rule``, ``title``, ``documented``,
    ``route``, ``scope``, ``delay_s`` (``[min, max]`` or None), ``sent``, ``why``, ``remedy``, ``doc``. Never raises.

    ``status`` is a number (or its text), ``headers`` a mapping or a list of ``Name: value`` lines, ``body`` bytes,
    text or anything that JSON knows; ``now`` is unix seconds.
    """
    at = seconds(now)
    outcome = outcome_of(status=status, provider=provider, operation=operation, headers=headers, body=body, now=at)
    if isinstance(outcome, Success):
        return _object(accepted(outcome), None)
    row = policy.rule(outcome)
    delay = wait_range(row, outcome, JobFacts(outcome.operation), now=at)
    return _object(row, [round(end / SECOND, 3) for end in delay] if delay else None)


def outcome_of(
    *,
    status: object,
    provider: object = "unknown",
    operation: object = "send",
    headers: object = None,
    body: object = b"",
    fault: str | None = None,
    now: Micros,
) -> Success | Failure:
    """What came back, in one form, from arguments like those of `explain`. Never raises.

    ``fault``: how the call ended without an answer.
    """
    operation = operation if isinstance(operation, str) and operation in OPERATIONS else "send"
    provider = provider if isinstance(provider, str) and provider in PROVIDERS else "unknown"
    answer = Answer(_status(status), _headers(headers), _body(body), fault)
    return parse(answer, provider=provider, operation=operation, now=now)


def explain_lines(lines: Iterable[str | bytes], *, now: float, policy: Policy = POLICY) -> Iterator[str]:
    """For each JSON line (``id``, ``status``, ``provider``, ``operation``, ``headers``, ``body``) one JSON line,
    ``id`` first.

    A line that is no JSON object is explained as an answer without a status, with the id null. Empty lines are skipped.
    """
    for line in lines:
        if line.strip():
            yield json.dumps(_explain_line(line, now=now, policy=policy))


def _explain_line(line: str | bytes, *, now: float, policy: Policy) -> Explanation:
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        asked = {"body": line}
    answer = explain(
        status=asked.get("status"),
        provider=asked.get("provider"),
        operation=asked.get("operation"),
        headers=asked.get("headers"),
        body=asked.get("body"),
        now=now,
        policy=policy,
    )
    return {"id": asked.get("id"), **answer}


def _object(row: Row, delay: list[float] | None) -> Explanation:
    return {
        "rule": row.id,
        "title": row.title,
        "documented": row.documented,
        "route": row.route.value if row.route else None,
        "scope": row.scope.value,
        "delay_s": delay,
        "sent": row.sent.value,
        "why": row.why,
        "remedy": row.remedy,
        "doc": row.source,
    }


def _status(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def _headers(value: object) -> dict[str, str]:
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = [item.split(":", 1) for item in value if isinstance(item, str) and ":" in item]  # type: ignore[misc]
    else:
        pairs = []
    return {str(name).strip().lower(): str(text).strip() for name, text in pairs}


def _body(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


# --- The README's table ---------------------------------------------------------------------------------------------


def policy_table_markdown(policy: Policy = POLICY) -> str:
    """The whole policy in order, as a Markdown table."""
    lines = ["| status | error | recognised by | route · scope | wait | gone out? |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in _cells(row))} |" for row in policy.rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _statuses(row),
        f"**{row.title}** `{row.id}`" + ("" if row.documented else " (undocumented)"),
        _recognised_by(row),
        f"{str(row.route).replace('_', ' ')} · {row.scope.value}" + (" · alert" if row.alert else ""),
        _wait(row),
        row.sent.value,
    )


def _statuses(row: Row) -> str:
    first, last = (row.status[0], row.status[-1]) if row.status else (None, None)
    if isinstance(first, int) and isinstance(last, int) and len(row.status) > 2 and last - first == len(row.status) - 1:
        return f"{first} to {last}"
    return ", ".join(str(status) for status in row.status) or "any"


def _recognised_by(row: Row) -> str:
    signals = [f"`{kind}`" for kind in row.type]
    signals += [_quoted(text) for text in row.text]
    parts = [" or ".join(signals)] if signals else []
    for name, values in (("provider", row.provider), ("operation", row.operation), ("answer from", row.origin)):
        if values:
            parts.append(f"{name} {' / '.join(values)}")
    if row.fault:
        parts.append(f"fault {' / '.join(row.fault)}")
    if row.smtp:
        codes = " / ".join(f"{code}xx" if code < 10 else str(code) for code in row.smtp)
        parts.append(f"SMTP {codes} in the text")
    if row.by_code:
        statuses = ", ".join(str(status) for status in row.by_code)
        parts.append(f"under {statuses} with a code of the provider only")
    if row.refused:
        parts.append("recipients listed as failed")
    if row.unless:
        parts.append("unless " + " or ".join(_quoted(text) for text in row.unless))
    return "; ".join(parts) or "everything else"


def _quoted(text: Text) -> str:
    return f"“{text if isinstance(text, str) else ' … '.join(text)}”"


def _wait(row: Row) -> str:
    parts = []
    if row.wait and not row.backoff:
        default = "until midnight Pacific" if callable(row.wait.default) else _time(row.wait.default)
        parts.append(f"as stated, else {default}" + (", doubling" if row.wait.grows else ""))
    if row.backoff:
        number = f", {row.backoff.number} attempts" if row.backoff.number else ""
        parts.append(f"backoff {_time(row.backoff.floor)} to {_time(row.backoff.longest)}{number}")
    if row.escalates and not callable(row.escalates.default):
        parts.append(f"several grants in a row: the application, {_time(row.escalates.default)}, doubling")
    if row.width:
        parts.append(f"then {row.width} at a time")
    if row.spacing:
        parts.append(f"then {row.spacing:g} s between modifications")
    return "; ".join(parts) or "none"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
