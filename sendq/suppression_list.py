"""Entries of a suppression list as people and programs give them: an address or a digest, category, reason, time.

    address,category,reason,at                                      what `read_csv` takes: address or digest; the others
    leyah@example.com,newsletter,unsubscribed,2026-07-01T09:00Z     may be missing
    digest,category,reason,at,source,list                           what `written` makes, and takes again

``list`` shows that digests are of another ledger or application, where they would match no recipient.
"""

from __future__ import annotations

import csv
import hmac
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sendq.errors import InvalidArgument, Problem
from sendq.messages.addresses import fault, parse, trimmed, wire_form
from sendq.messages.digests import is_digest
from sendq.messages.unsubscribe import category_fault
from sendq.rules.suppression import ALL_MAIL, Reason
from sendq.views.suppressions import Suppression

COLUMNS = ("digest", "category", "reason", "at", "source", "list")
_READ = frozenset({*COLUMNS, "address"})

# Problems that one error lists.
PROBLEMS_MOST = 20


class Given(NamedTuple):
    """An entry that was given. ``recipient``: an address, or the digest of one in hexadecimal digits."""

    recipient: str
    category: str = ALL_MAIL
    reason: Reason = Reason.ADDED
    at: datetime | None = None


def list_name(key: bytes, application: str) -> str:
    """Names the list of an application in this ledger, without showing the key of its digests."""
    return hmac.digest(key, f"list\0{application}".encode(), "sha256").hex()[:8]


def _first(problems: list[Problem], field: str) -> list[Problem]:
    """Those that one error lists; the last one says how many more ``field`` has."""
    more = len(problems) - PROBLEMS_MOST
    if more <= 0:
        return problems
    reason = f"has {more:,} more problem{'' if more == 1 else 's'}"
    return [*problems[:PROBLEMS_MOST], Problem(field, reason, "correct those that are listed")]


def recipient_problem(field: str, recipient: object) -> Problem | None:
    """Why this is neither an address nor a digest, without showing it; None: it is one of them."""
    remedy = "give an address, or a digest of 32 hexadecimal digits"
    if not isinstance(recipient, str):
        return Problem(field, "is not a string", remedy)
    address = trimmed(parse(recipient)[0])
    if is_digest(recipient) or wire_form(address) is not None:
        return None
    return Problem(field, fault(address), remedy)


def checked(recipients: Sequence[str], category: str | None, reason: Reason = Reason.ADDED) -> list[Given]:
    """Recipients and a category (None: all mail) as they are given to an act. Raises `InvalidArgument`."""
    if isinstance(recipients, str):
        raise TypeError("recipients: give a list, even for a single one")
    problems = [Problem("recipients", "is empty", "give at least one")] if not recipients else []
    for index, recipient in enumerate(recipients):
        if (wrong := recipient_problem(f"recipients[{index}]", recipient)) is not None:
            problems.append(wrong)
    if category is not None and (fault_ := category_fault(category)) is not None:
        problems.append(Problem("category", fault_, "give a short name, like newsletter, or none for all mail"))
    if problems:
        raise InvalidArgument(_first(problems, "recipients"))
    return [Given(recipient, category or ALL_MAIL, reason) for recipient in recipients]


def read_csv(lines: Iterable[str], *, delimiter: str = ",", name: str | None = None) -> list[Given]:
    """The entries of a file with a line of column names. ``name``: of the list that its digests must be of.

    Raises `InvalidArgument` with the numbers of the lines that are wrong, or if the file has no entries.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n ':
        raise InvalidArgument(
            [Problem("delimiter", "is not one character that can separate columns", "use one like ;")]
        )
    rows = csv.DictReader(lines, restkey="", strict=True, delimiter=delimiter)
    problems: list[Problem] = []
    found: list[Given] = []
    try:
        columns = [column.strip().lower().removeprefix("\ufeff") for column in rows.fieldnames or ()]
        rows.fieldnames = columns
        problems += _column_problems(columns)
        for row in rows if not problems else ():
            given = _entry(rows.line_num, row, name)
            if isinstance(given, Given):
                found.append(given)
            else:
                problems += given
    except csv.Error:
        problems.append(Problem(f"line {rows.line_num}", "is not CSV", "quote fields that have commas or quotes"))
    if not problems and not found:
        problems.append(Problem("file", "has no entries", "write one on each line below the column names"))
    if problems:
        raise InvalidArgument(_first(problems, "file"))
    return found


def _column_problems(columns: Sequence[str]) -> list[Problem]:
    remedy = f"begin with a line of column names: address or digest, and any of {', '.join(COLUMNS[1:])}"
    if ("address" in columns) == ("digest" in columns):
        return [Problem("line 1", "names not exactly one of the columns address and digest", remedy)]
    if unknown := sorted(set(columns) - _READ):
        which = "a column that is" if len(unknown) == 1 else f"{len(unknown)} columns that are"
        return [Problem("line 1", f"names {which} not known", remedy)]
    return [Problem("line 1", "names a column twice", remedy)] if len(set(columns)) < len(columns) else []


def _entry(line: int, row: dict[str, str | None], name: str | None) -> Given | list[Problem]:
    field = f"line {line}"
    if "" in row or None in row.values():
        return [Problem(field, "has more or fewer fields than there are columns", "correct it")]
    values = {column: (value or "").strip() for column, value in row.items()}
    problems = []
    recipient = values.get("address") or values.get("digest", "").lower()
    if (wrong := recipient_problem(field, recipient)) is not None:
        problems.append(wrong)
    if "digest" in values and not is_digest(recipient):
        problems.append(
            Problem(field, "has no digest of 32 hexadecimal digits", "correct it, or use the column address")
        )
    if values.get("list", name) not in ("", name):
        reason = "has a digest of another ledger or application, which matches no recipient of this list"
        problems.append(Problem(field, reason, "import addresses"))
    category = values.get("category", "")
    if category and category_fault(category) is not None:
        problems.append(Problem(field, "has no valid category", "use a short name, or leave it empty for all mail"))
    reason = values.get("reason") or Reason.IMPORTED.value
    if reason not in tuple(Reason):
        problems.append(Problem(field, f"has a reason that is not one of {', '.join(Reason)}", "use one of them"))
    at = _time(values.get("at", ""))
    if isinstance(at, str):
        problems.append(Problem(field, at, "write it like 2026-07-01T09:00:00Z"))
    if problems or isinstance(at, str):
        return problems
    return Given(recipient, category, Reason(reason), at)


def _time(text: str) -> datetime | str | None:
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        return "has a time that is not in ISO 8601"
    if at is not None and (at.tzinfo is None or not 2000 <= at.astimezone(UTC).year < 2200):
        return "has a time without a time zone, or of another century"
    return at


def written(entries: Iterable[Suppression], name: str) -> Iterator[list[str]]:
    """The rows of a CSV file with these entries, which `read_csv` takes again."""
    yield list(COLUMNS)
    for one in entries:
        at = one.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        yield [one.digest, one.category or "", one.reason, at, one.source, name]
