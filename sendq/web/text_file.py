"""A text file that is read again when it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class TextFile(Generic[T]):
    """What a file of text means, as of its latest content; threads may share it."""

    def __init__(
        self, path: str | Path, parse: Callable[[str], T], unreadable: Callable[[Exception], Exception]
    ) -> None:
        """``unreadable``: the error to raise instead of ``OSError`` and ``UnicodeDecodeError``."""
        self._path, self._parse, self._unreadable = Path(path), parse, unreadable
        self._lock = Lock()
        self._read: tuple[tuple[int, int, int], T] | None = None

    def content(self) -> T:
        """What ``parse`` returned. Raises what it raises, and ``unreadable``."""
        try:
            with self._lock:
                stat = self._path.stat()
                mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if self._read is None or self._read[0] != mark:
                    self._read = mark, self._parse(self._path.read_text(encoding="utf-8"))
                return self._read[1]
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None


def why_unreadable(error: Exception) -> str:
    """The reason, without the path."""
    return getattr(error, "strerror", None) or "it is not UTF-8 text"
