"""The state of a message as far as a modification can change it, and whether a change of it may be undone. Pure.

A state is a mapping of the names in `sendq.rules.changed_fields.BITS`, only of those that are known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sendq.messages.forms import encoded
from sendq.rules.changed_fields import BITS

# What is asked of the API about a message whose state is kept.
SELECTED = ",".join(("id", *BITS))

State = Mapping[str, Any]


class Verdict(StrEnum):
    """What becomes of a message whose change is to be undone."""

    RESTORE = "restore"
    RESTORED = "restored"  # it is as it was before
    CHANGED = "changed"  #   it is not as our change left it
    UNKNOWN = "unknown"  #   what it was before is not known


def state_of(document: Mapping[str, Any], fields: int) -> dict[str, Any]:
    """The state of those of ``fields`` (bits) that a message in an answer of the API shows."""
    found: dict[str, Any] = {}
    for name, bit in BITS.items():
        value = document.get(name)
        if fields & bit and (valid := _valid(name, value)) is not None:
            found[name] = valid
    return found


def _valid(name: str, value: Any) -> Any:
    match name:
        case "folders":
            return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else None
        case "metadata":
            given = {} if value is None else value
            return given if isinstance(given, dict) and all(isinstance(one, str) for one in given.values()) else None
    return value if isinstance(value, bool) else None


def written(state: State) -> bytes:
    """A state as it is stored."""
    return encoded(dict(sorted(state.items())))


def read(stored: bytes) -> dict[str, Any]:
    """A state that was `written`."""
    found: dict[str, Any] = json.loads(stored)
    return found


def verdict(now: State, *, before: State, left: State, mark: str) -> Verdict:
    """What becomes of a message in the state ``now`` whose change found it ``before``, and ``left`` it.

    ``mark``: the metadata key of the pair that sendq keeps, which a change of the metadata does not state.
    """
    if not before or left.keys() - before.keys():
        return Verdict.UNKNOWN
    if all(_alike(name, now, before) for name in before):
        return Verdict.RESTORED
    if all(_alike(name, now, left) or (name == "metadata" and _alike_beside(mark, now, left)) for name in left):
        return Verdict.RESTORE
    return Verdict.CHANGED


def before_next(now: State, *, kept: State, asked: State, mark: str, repeated: bool) -> dict[str, Any]:
    """What a message is before the next request of its change, which finds it in the state ``now``.

    ``kept``: what it was found to be before. ``repeated``: an earlier request may have made the change, so what shows
    the change says nothing about what was there before it; anything else was set by somebody else.
    """
    if not repeated:
        return dict(now)
    return {name: kept[name] if name in kept and _shows(name, now, asked, mark) else now[name] for name in now}


def alike(one: State, other: State) -> bool:
    """Whether two states are the same."""
    return one.keys() == other.keys() and all(_alike(name, one, other) for name in one)


def _shows(name: str, now: State, asked: State, mark: str) -> bool:
    """Whether a field may be as it is because of the change; a provider may add folders of its own (``IMPORTANT``)."""
    if name not in asked:
        return False
    if name == "folders":
        return set(asked[name]) <= set(now[name])
    return _alike_beside(mark, now, asked) if name == "metadata" else bool(now[name] == asked[name])


def _alike(name: str, one: State, other: State) -> bool:
    if name not in one or name not in other:
        return False
    return bool(set(one[name]) == set(other[name]) if name == "folders" else one[name] == other[name])


def _alike_beside(mark: str, one: State, other: State) -> bool:
    return _without(mark, one) == _without(mark, other)


def _without(mark: str, state: State) -> dict[str, str]:
    return {key: value for key, value in (state.get("metadata") or {}).items() if key != mark}
