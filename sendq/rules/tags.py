"""Tags of jobs, such as ``campaign=may``: their form, how they are stored, and how one is named in a filter. Pure.

Tags are stored and shown as they are, also in an encrypted ledger, and never erased: they name what a mail is about,
never who gets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sendq.errors import Problem

# A job's tags are copied with every change of its row, and each has a row of its own.
MOST_TAGS = 8
MAX_TAG_KEY = 32
MAX_TAG_VALUE = 64

_REMEDY = 'pass a dict like {"campaign": "may"}'
_KEYS = f"keys are 1 to {MAX_TAG_KEY} of a-z, 0-9, _ . -"
_VALUES = f"use 1 to {MAX_TAG_VALUE} of the letters A-Z and a-z, digits, and _ . : / + -"

_key = re.compile(rf"[a-z0-9_.-]{{1,{MAX_TAG_KEY}}}").fullmatch
_value = re.compile(rf"[A-Za-z0-9_.:/+-]{{1,{MAX_TAG_VALUE}}}").fullmatch
# Also as people write addresses to get them past a check: "ann-at-example.com", "ann%40example.com".
_address = re.compile(
    r"@|\uff20|%40|[(\[{<]\s*at\s*[)\]}>]|[^/:]+[._+ -]at[._+ -]+[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}$", re.I
).search


def check_tags(tags: object) -> list[Problem]:
    """What is wrong with the ``tags`` of a call; None means no tags. No problem shows a value."""
    if tags is None:
        return []
    if not isinstance(tags, Mapping):
        return [Problem("tags", "is not a dict", _REMEDY)]
    problems = []
    if len(tags) > MOST_TAGS:
        problems.append(Problem("tags", f"has more than {MOST_TAGS} tags", "leave some out"))
    for position, (key, value) in enumerate(tags.items()):
        if (fault := _key_fault(key)) is not None:
            problems.append(Problem("tags", f"has a key (number {position + 1}) that {fault}", _KEYS))
        elif (fault := _value_fault(value)) is not None:
            remedy = "use an id of yours: tags are stored and shown as they are" if "address" in fault else _VALUES
            problems.append(Problem(f"tags.{key}", fault, remedy))
    return problems


def check_tag(tag: object, field: str = "tag") -> list[Problem]:
    """What is wrong with one tag as filters name it: ``campaign=may``."""
    remedy = "write one like campaign=may"
    if not isinstance(tag, str):
        return [Problem(field, "is not a string", remedy)]
    key, equals, value = tag.partition("=")
    if not equals:
        return [Problem(field, "has no =", remedy)]
    if (fault := _key_fault(key)) is not None:
        return [Problem(field, f"has a key that {fault}", _KEYS)]
    return [] if (fault := _value_fault(value)) is None else [Problem(field, f"has a value that {fault}", _VALUES)]


def check_tag_key(key: object) -> str | None:
    """What is wrong with the key of a tag, or None."""
    return _key_fault(key)


def stored_tags(tags: Mapping[str, str] | None) -> str | None:
    """Checked tags as a job's row has them: ``campaign=may tenant=7``, in the order of their keys; None: no tags."""
    return " ".join(f"{key}={tags[key]}" for key in sorted(tags)) if tags else None


def each_tag(stored: str | None) -> list[str]:
    """The tags of a row one by one, as filters name them."""
    return stored.split(" ") if stored else []


def read_tags(stored: str | None) -> dict[str, str]:
    """The tags of a row as the caller passed them."""
    return dict(_split(each_tag(stored)))


def _split(tags: Iterable[str]) -> Iterable[tuple[str, str]]:
    for tag in tags:
        key, _, value = tag.partition("=")
        yield key, value


def _key_fault(key: object) -> str | None:
    if not isinstance(key, str):
        return "is not a string"
    if _address(key):
        return "looks like an email address"
    return None if _key(key) else "is empty" if not key else "is too long or has other characters"


def _value_fault(value: object) -> str | None:
    if not isinstance(value, str):
        return "is not a string"
    if not value:
        return "is empty"
    if _address(value):
        return "looks like an email address"
    if len(value) > MAX_TAG_VALUE:
        return f"has more than {MAX_TAG_VALUE} characters"
    return None if _value(value) else "has a space or another character that tags cannot have"
