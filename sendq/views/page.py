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
    """Some items of a list, and the cursor of the next page.

    Pass ``next`` to the same call, with the same filters, as its ``cursor``; None is the end of the list. Items that
    are added or removed meanwhile do not make others appear twice or go missing. A page scans a limited number of rows,
    so if few of them match the filters, it may have fewer items than requested, even none, and still a ``next``.
    """

    items: tuple[T, ...]
    next: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        items: list[Any] = [plain(asdict(item)) for item in self.items]  # type: ignore[call-overload]
        return {"items": items, "next": self.next}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, with datetimes as ISO 8601 and enums as their values."""

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
