"""Checks of a call's arguments other than the message: grant, key, times, priority, ids of messages.

Each check returns all problems that it finds. No problem shows the value, because errors are logged, and a key or a
mistaken grant id may contain an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from sendq.errors import Problem
from sendq.messages.characters import text_fault

MAX_GRANT_ID = 255
MAX_KEY = 255
MAX_MESSAGE_ID = 512

# The values in the ledger, by name.
PRIORITIES = {"high": 0, "normal": 1, "low": 2}

# A time outside of these years is a mistake (milliseconds taken for seconds, the largest date in place of "never"), and
# near the ends of the calendar even adding 72 hours or changing the time zone fails.
_YEARS = range(1970, 2201)

# Characters that end a path segment or have a special meaning in one. Ids of grants are UUIDs and contain none.
_NOT_IN_A_PATH = re.compile(r"[/\\?#%]")

# For a list of ids, so many problems are listed one by one; the rest are counted.
_MOST_LISTED = 10


def check_grant(grant_id: object) -> list[Problem]:
    """What is wrong with the form of ``grant_id``. Whether the grant exists is known to the API only."""
    field, remedy = "grant_id", "pass the grant's id, as Nylas shows it"
    if not isinstance(grant_id, str):
        return [Problem(field, "is not a string", remedy)]
    if not grant_id:
        return [Problem(field, "is empty", remedy)]
    reasons = []
    if grant_id.lower() == "me":
        reasons.append("is 'me', which works only with a user's own access token")
    if "@" in grant_id:
        reasons.append("is an email address; Nylas accepts it, but the queue would treat it as another account")
    if _NOT_IN_A_PATH.search(grant_id) or grant_id in (".", ".."):
        reasons.append("contains a character (/ \\ ? # %) or dots that would change the request's path")
    if not (grant_id.isascii() and grant_id.isprintable()) or " " in grant_id:
        reasons.append("contains a space, a control character or one outside ASCII")
    if len(grant_id) > MAX_GRANT_ID:
        reasons.append(f"has more than {MAX_GRANT_ID} characters")
    return [Problem(field, reason, remedy) for reason in reasons]


def check_key(key: object) -> list[Problem]:
    """What is wrong with ``key``; None means no key."""
    if key is None:
        return []
    if not isinstance(key, str):
        return [Problem("key", "is not a string", "pass a string, or None for no key")]
    if not key:
        return [Problem("key", "is empty", "pass one that identifies the content, or None for no key")]
    problems = []
    if len(key) > MAX_KEY:
        problems.append(
            Problem("key", f"has more than {MAX_KEY} characters", "shorten it, for example to a hash of it")
        )
    if (fault := text_fault(key)) is not None:
        problems.append(Problem("key", fault, "remove it"))
    return problems


def check_priority(priority: object) -> list[Problem]:
    """What is wrong with ``priority``: it must be a name or number of `PRIORITIES`."""
    number = isinstance(priority, int) and not isinstance(priority, bool) and priority in PRIORITIES.values()
    if number or (isinstance(priority, str) and priority in PRIORITIES):
        return []
    return [Problem("priority", "is not one of high (0), normal (1) and low (2)", "pass one of them")]


def priority_number(priority: str | int) -> int:
    """A checked priority as the ledger keeps it."""
    return PRIORITIES[priority] if isinstance(priority, str) else int(priority)


def check_flag(field: str, value: object) -> list[Problem]:
    """What is wrong with an option that is on or off."""
    return [] if isinstance(value, bool) else [Problem(field, "is not True or False", "pass a bool")]


def check_times(due_at: object, expires_at: object, now: datetime) -> list[Problem]:
    """What is wrong with the times of a job; None means not set. A ``due_at`` in the past means at once.

    ``now`` is aware. Numbers are refused: they do not say whether they are seconds or milliseconds.
    """
    problems = []
    for field, value in (("due_at", due_at), ("expires_at", expires_at)):
        if value is not None and (fault := _time_fault(value)) is not None:
            problems.append(Problem(field, fault, "pass a datetime with a time zone"))
    if not isinstance(expires_at, datetime) or _time_fault(expires_at):
        return problems
    if expires_at <= now:
        problems.append(Problem("expires_at", "is in the past", "pass a later time, or leave it out"))
    if isinstance(due_at, datetime) and not _time_fault(due_at) and expires_at <= due_at:
        problems.append(Problem("expires_at", "is not later than due_at", "pass a time after due_at"))
    return problems


def check_ids(ids: object, *, field: str = "message_ids") -> tuple[list[str], list[Problem]]:
    """The ids as a list, and what is wrong with them; if anything is, the list is empty.

    ``ids`` is any iterable of strings; an exception that it raises is passed on. At most ten problems are listed, then
    the number of the others. ``field`` is the name of the argument.
    """
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        return [], [Problem(field, "is not a list of ids", "pass a list, even for a single id")]
    listed = list(ids)
    if not listed:
        return [], [Problem(field, "is empty", "pass at least one id")]
    if _sound(listed):
        return listed, []
    problems: list[Problem] = []
    count = 0
    for problem in _id_problems(listed, field):
        count += 1
        if count <= _MOST_LISTED:
            problems.append(problem)
    if count > _MOST_LISTED:
        problems.append(Problem(field, f"has {count - _MOST_LISTED:,} more problems", "fix these first"))
    return [], problems


def _time_fault(value: object) -> str | None:
    if not isinstance(value, datetime):
        return "is not a datetime"
    if value.year not in _YEARS:
        return f"is not between {_YEARS[0]} and {_YEARS[-1]}"
    return "has no time zone" if value.utcoffset() is None else None


def _sound(ids: list[str]) -> bool:
    """Whether `_id_problems` would find nothing, but fast: a bulk call may have 100,000 ids."""
    if not all(issubclass(kind, str) for kind in set(map(type, ids))):
        return False
    distinct = set(ids)
    return (
        len(distinct) == len(ids)
        and distinct.isdisjoint(("", ".", ".."))
        and max(map(len, ids)) <= MAX_MESSAGE_ID
        # In parts: joining all ids at once would need as much memory again as the ids themselves.
        and all(text_fault("".join(ids[first : first + 1_000])) is None for first in range(0, len(ids), 1_000))
    )


def _id_problems(ids: list[object], name: str) -> Iterator[Problem]:
    first: dict[str, int] = {}
    remedy = f"pass a {name.removesuffix('_ids')} id"
    for index, value in enumerate(ids):
        field = f"{name}[{index}]"
        if not isinstance(value, str):
            yield Problem(field, "is not a string", remedy)
        elif not value:
            yield Problem(field, "is empty", remedy)
        elif value in first:
            yield Problem(field, f"is the same as {name}[{first[value]}]", "pass each id only once")
        else:
            first[value] = index
            # "." and ".." would change the request's path, however they are quoted.
            if value in (".", ".."):
                yield Problem(field, f"is not a {name.removesuffix('_ids')} id", remedy)
            if len(value) > MAX_MESSAGE_ID:
                yield Problem(field, f"has more than {MAX_MESSAGE_ID} characters", remedy)
            if (fault := text_fault(value)) is not None:
                yield Problem(field, fault, "remove it")
