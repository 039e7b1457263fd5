"""Pages of lists, and views as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list, and the cursor of those that follow.

    ``next`` goes into the same call, with the same filters, as its ``cursor``; None is the end of the list. Items that
    are added or removed meanwhile make no other item appear twice or be left out. A page looks at a limited number of
    rows, so where few of them fit the filters it may have fewer items than asked for, even none, and still a ``next``.
    """

    items: tuple[T, ...]
    next: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        items: list[Any] = [plain(asdict(item)) for item in self.items]  # type: ignore[call-overload]
        return {"items": items, "next": self.next}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with datetimes as ISO 8601 and enums as their values."""

    def one(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, IntEnum):
            return value.name.lower()
        if isinstance(value, Mapping):
            return {str(key): one(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [one(item) for item in value]
        return value

    return {key: one(value) for key, value in values.items()}
