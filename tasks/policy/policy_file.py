"""Rows of one's own: a TOML file that comes before the table, and what is wrong with it, line by line. Pure.

[[row]]                            # a new row: it stands before the whole table, in the file's order
id = "partner_maintenance"
title = "Partner maintenance"
status = [503]                     # numbers, "4xx", "5xx", or "none" (no answer)
text = ["maintenance window"]      # any of these in the answer; a list inside means all of them
route = "requeue"                  # retry, requeue, reauth, dead_letter
scope = "grant"                    # job, grant, provider, application
sent = "no"                        # no, maybe, partly, yes
wait = { default = 600, cap = 7200 }
why = "The partner's servers are down on Sundays."
remedy = "Nothing to do."

[[change]]                         # an existing row, changed where it stands: conditions and order stay
id = "exchange_throttled"
wait = { default = 1800 }
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from sendq.facts.outcomes import Scope, Sent
from tasks.policy.failure import FAULTS_MAYBE_SENT, FAULTS_NOT_SENT, OPERATIONS, PROVIDERS
from tasks.policy.row import Backoff, Policy, Route, Row, Text, Wait, fits_smtp
from tasks.policy.table import POLICY

# fmt: off
CONDITIONS = (
    "status", "type", "text", "unless", "provider", "operation", "origin", "fault", "smtp", "refused", "by_code",
)
# fmt: on
REQUIRED = ("id", "title", "route", "scope", "sent", "why", "remedy")
FIELDS = tuple(field.name for field in fields(Row))
CHANGEABLE = tuple(name for name in FIELDS if name not in CONDITIONS)
WORDS: dict[str, tuple[str, ...]] = {
    "route": tuple(Route),
    "scope": tuple(Scope),
    "sent": tuple(Sent),
    "provider": PROVIDERS,
    "operation": OPERATIONS,
    "origin": ("nylas", "provider", "edge", "unknown"),
    "fault": FAULTS_NOT_SENT + FAULTS_MAYBE_SENT,
}
_ENUMS: dict[str, type[StrEnum]] = {"route": Route, "scope": Scope, "sent": Sent}
_WORD_CONDITIONS = ("provider", "operation", "origin", "fault")
_FLAGS = ("refused", "costs", "documented", "alert", "check_grant")
_PARTS: dict[str, type[Wait] | type[Backoff]] = {"wait": Wait, "backoff": Backoff, "escalates": Wait}
_STATUS = re.compile(r"[1-5]xx|none")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about one line of the file. An ``error`` keeps the file from being used, a ``warning`` does not."""

    line: int
    level: str
    says: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.level}: {self.says}"


class PolicyFileError(ValueError):
    """The file cannot be used; ``findings`` says where and why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("policy file: " + "; ".join(str(finding) for finding in findings))

    def __reduce__(self) -> tuple[type[PolicyFileError], tuple[Sequence[Finding]]]:
        return type(self), (self.findings,)


def policy_with(text: str, base: Policy = POLICY) -> Policy:
    """The policy with a file's rows in front and its changes made. Raises `PolicyFileError`."""
    rows, changed, findings = _read(text, base)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise PolicyFileError(errors)
    return Policy((*(row for row, _ in rows), *(changed.get(row.id, row) for row in base.rows)))


def check_policy(text: str, base: Policy = POLICY) -> list[Finding]:
    """Everything worth knowing about a file, in the order of its lines; empty if there is nothing."""
    rows, _, findings = _read(text, base)
    for index, (row, line) in enumerate(rows):
        for earlier, earlier_line in rows[:index]:
            if covers(earlier, row):
                says = f"{row.id!r} is unreachable: {earlier.id!r} (line {earlier_line}) fits all that it fits"
                findings.append(Finding(line, "error", says))
                break
            if overlaps(earlier, row) and not covers(row, earlier) and outcome(earlier) != outcome(row):
                says = f"{row.id!r} overlaps {earlier.id!r} (line {earlier_line}), which wins where both fit"
                findings.append(Finding(line, "warning", says))
        hidden = [built_in.id for built_in in base.rows if covers(row, built_in)]
        if hidden:
            findings.append(Finding(line, "warning", f"{row.id!r} overrides {', '.join(hidden)}"))
    return sorted(findings, key=lambda finding: (finding.line, finding.level))


# --- Which rows hide which ------------------------------------------------------------------------------------------


def covers(wide: Row, narrow: Row) -> bool:
    """Whether ``wide`` fits every failure that ``narrow`` fits (as far as the conditions alone can tell)."""
    return (
        (not wide.status or (bool(narrow.status) and all(_status_in(s, wide.status) for s in narrow.status)))
        and all(_within(getattr(narrow, name), getattr(wide, name)) for name in _WORD_CONDITIONS)
        and (not wide.smtp or (bool(narrow.smtp) and all(fits_smtp(wide.smtp, code) for code in narrow.smtp)))
        and set(wide.unless) <= set(narrow.unless)
        and (not wide.refused or narrow.refused)
        and set(wide.by_code) <= set(narrow.by_code)
        and _signals_within(narrow, wide)
    )


def overlaps(one: Row, other: Row) -> bool:
    """Whether some failure could fit both. Texts may always meet in one answer, so they do not keep rows apart."""
    if one.status and other.status and not _statuses_meet(one, other):
        return False
    pairs = ((getattr(one, name), getattr(other, name)) for name in _WORD_CONDITIONS)
    if any(mine and theirs and not set(mine) & set(theirs) for mine, theirs in pairs):
        return False
    return not (one.smtp and other.smtp) or _codes_meet(one.smtp, other.smtp)


def _codes_meet(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return any(code in other or fits_smtp(other, code) for code in one) or any(fits_smtp(one, code) for code in other)


def _statuses_meet(one: Row, other: Row) -> bool:
    return any(_status_in(s, other.status) for s in one.status) or any(_status_in(s, one.status) for s in other.status)


def _status_in(status: int | str, patterns: tuple[int | str, ...]) -> bool:
    return status in patterns or (isinstance(status, int) and f"{status // 100}xx" in patterns)


def _within(narrow: tuple[str, ...], wide: tuple[str, ...]) -> bool:
    return not wide or (bool(narrow) and set(narrow) <= set(wide))


def _signals_within(narrow: Row, wide: Row) -> bool:
    """Whether each signal of the narrow row is a signal for the wide one too."""
    if not (wide.type or wide.text):
        return True
    if not (narrow.type or narrow.text):
        return False
    types = all(kind in wide.type or implies(kind, wide.text) for kind in narrow.type)
    return types and all(implies(text, wide.text) for text in narrow.text)


def implies(narrow: Text, wide: tuple[Text, ...]) -> bool:
    """Whether whatever contains the narrow text contains one of the wide ones."""
    pieces = (narrow,) if isinstance(narrow, str) else narrow
    wanted = ((text,) if isinstance(text, str) else text for text in wide)
    return any(all(any(part in piece for piece in pieces) for part in parts) for parts in wanted)


def outcome(row: Row) -> tuple[object, ...]:
    """What a row decides: rows that agree in this may overlap as they like."""
    return row.route, row.scope, row.sent, row.wait, row.backoff


# --- Reading --------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A value that a row cannot have; the text says why."""


def _read(text: str, base: Policy) -> tuple[list[tuple[Row, int]], dict[str, Row], list[Finding]]:
    findings: list[Finding] = []
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        return [], {}, [Finding(line, "error", f"not TOML: {error}")]
    except RecursionError:
        return [], {}, [Finding(1, "error", "lists or tables are nested too deeply; a rule needs three levels")]
    lines = _Lines(text)
    for name in document.keys() - {"row", "change"}:
        says = f"unknown word {name!r}; tables are [[row]] and [[change]]"
        findings.append(Finding(lines.of_key(name), "error", says))
    rows: list[tuple[Row, int]] = []
    seen: set[str] = set()
    for index, table in enumerate(_tables(document, "row", lines, findings)):
        line = lines.of_table("row", index)
        row = _row(table, "row", index, lines, findings)
        if row is None:
            continue
        if row.id in seen:
            findings.append(Finding(line, "error", f"id {row.id!r} is used twice"))
        seen.add(row.id)
        rows.append((row, line))
    changed: dict[str, Row] = {}
    known = {row.id: row for row in base.rows}
    for index, table in enumerate(_tables(document, "change", lines, findings)):
        model = known.get(table["id"]) if isinstance(table.get("id"), str) else None
        if model is None:
            says = f"no row {table.get('id')!r} to change; ids are listed by the command policy"
            findings.append(Finding(lines.of_table("change", index), "error", says))
            continue
        row = _row(table, "change", index, lines, findings, model=model)
        if row is not None:
            changed[row.id] = row
    return rows, changed, findings


def _tables(document: dict[str, Any], kind: str, lines: _Lines, findings: list[Finding]) -> list[dict[str, Any]]:
    tables = document.get(kind, [])
    if isinstance(tables, list) and all(isinstance(table, dict) for table in tables):
        return tables
    findings.append(Finding(lines.of_key(kind), "error", f"{kind} must be a list of tables: write [[{kind}]]"))
    return []


def _row(
    table: dict[str, Any], kind: str, index: int, lines: _Lines, findings: list[Finding], model: Row | None = None
) -> Row | None:
    """One table as a row; None (and findings) if it is none."""
    start = lines.of_table(kind, index)
    allowed = FIELDS if model is None else CHANGEABLE
    values: dict[str, Any] = {}
    found: list[Finding] = []
    for name, value in table.items():
        line = lines.of_key(name, start)
        if name not in allowed:
            known = "cannot be changed: write a [[row]] instead"
            says = f"{name!r} {known}" if name in FIELDS else f"unknown word {name!r}"
            found.append(Finding(line, "error", says))
            continue
        try:
            values[name] = _value(name, value, model)
        except _Refused as refusal:
            found.append(Finding(line, "error", f"{name}: {refusal}"))
    if model is None:
        missing = [name for name in REQUIRED if name not in table]
        if missing:
            found.append(Finding(start, "error", f"missing: {', '.join(missing)}"))
        if not any(name in table for name in CONDITIONS):
            found.append(Finding(start, "error", f"no condition: name at least one of {', '.join(CONDITIONS)}"))
    if not found:
        row = replace(model, **values) if model else Row(**{"status": (), "source": "policy file", **values})
        if says := _incomplete(row):
            found.append(Finding(start, "error", says))
    findings += found
    return None if found else row


def _incomplete(row: Row) -> str:
    if row.route is Route.RETRY and row.backoff is None:
        return "a row with route retry needs backoff = { base, cap, number }"
    if row.route is Route.REQUEUE and row.wait is None:
        return "a row with route requeue needs wait = { default }"
    if row.sent in (Sent.PARTLY, Sent.YES) and row.route is not Route.DEAD_LETTER:
        return f"what was sent ({row.sent.value}) is never sent again: the route can only be dead_letter"
    if row.sent is Sent.MAYBE and row.route is Route.REAUTH:
        return "an unknown outcome must be resolved first, so the route cannot be reauth"
    return ""


def _value(name: str, value: Any, model: Row | None) -> Any:
    """A field's value as `Row` has it. Raises `_Refused`."""
    if name in _PARTS:
        return _part(_PARTS[name], value, getattr(model, name) if model else None)
    if name in _ENUMS:
        return _ENUMS[name](_word(name, value))
    if name in _FLAGS:
        return _typed(value, bool, "true or false")
    if name == "width":
        return _width(value)
    if name == "smtp":
        return tuple(_smtp(item) for item in _list(value))
    if name == "spacing":
        return _number(value)
    if name in ("status", "by_code"):
        return tuple(_one_status(item) for item in _list(value))
    if name in ("text", "unless"):
        return tuple(_text(item) for item in _list(value))
    if name in CONDITIONS:
        words = [_typed(item, str, "text") for item in _list(value)]
        return tuple(_word(name, word) if name in WORDS else word.lower().removeprefix("api.") for word in words)
    return _typed(value, str, "text")


def _part(kind: type[Wait] | type[Backoff], value: Any, model: Wait | Backoff | None) -> Wait | Backoff:
    table = _typed(value, dict, "a table { … }")
    names = tuple(field.name for field in fields(kind))
    for name in table:
        if name not in names:
            raise _Refused(f"unknown word {name!r}; known are {', '.join(names)}")
    given: dict[str, Any] = {
        name: _typed(item, bool, "true or false") if name == "grows" else _number(item) for name, item in table.items()
    }
    if "number" in given:
        given["number"] = int(given["number"])
    try:
        return replace(model, **given) if model else kind(**given)
    except TypeError:
        raise _Refused(f"needs {', '.join(names)}") from None


def _one_status(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return value
    if isinstance(value, str) and _STATUS.fullmatch(value):
        return value
    raise _Refused('a status is a number from 100 to 599, "4xx" or the like, or "none"')


def _text(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_piece(item) for item in value)
    return _piece(value)


def _piece(value: Any) -> str:
    text: str = _typed(value, str, "text").lower()
    if not text.strip():
        raise _Refused("an empty text would fit everything; leave the field out instead")
    return text


def _word(name: str, value: Any) -> str:
    if isinstance(value, str) and value in WORDS[name]:
        return value
    raise _Refused(f"unknown word {value!r}; known are {', '.join(WORDS[name])}")


def _width(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise _Refused("must be a whole number from 1")


def _smtp(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and (value in (4, 5) or 400 <= value <= 599):
        return value
    raise _Refused("must be 4 or 5 (a class of SMTP codes) or a code from 400 to 599")


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    raise _Refused("must be a number of seconds (or of attempts) from 0")


def _list(value: Any) -> list[Any]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise _Refused("an empty list fits nothing in particular; leave the field out instead")
    return items


def _typed(value: Any, kind: type, name: str) -> Any:
    if isinstance(value, kind):
        return value
    raise _Refused(f"must be {name}")


class _Lines:
    """Where things stand in the file; the TOML reader of the standard library does not say."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()

    def of_table(self, kind: str, index: int) -> int:
        header = re.compile(rf"\s*\[\[\s*{kind}\s*\]\]")
        found = [number for number, line in enumerate(self._lines, 1) if header.match(line)]
        return found[index] if index < len(found) else 1

    def of_key(self, name: str, start: int = 0) -> int:
        """The line of a key at or after a table's header; the header's own if the key is written in another way."""
        key = re.compile(rf"\s*(\[+\s*)?[\"']?{re.escape(name)}[\"']?\s*[=.\]]")
        for number, line in enumerate(self._lines[start:], start + 1):
            if key.match(line):
                return number
            if start and line.lstrip().startswith("[["):
                break
        return max(start, 1)
