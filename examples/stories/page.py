"""What a story writes down: sentences, commands with what they printed, and a little code.

Ids, times and process numbers differ from run to run. They are replaced by ones that do not, each by the same one
wherever it stands, so that a page changes only when what happens does. Spaces of time between events stay as they were.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime

WIDTH = 120

# Replaced times count from here; any day would do.
BEGIN = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DIGEST = re.compile(r"\b[0-9a-f]{32}\b")
_WORKER = re.compile(r"[\w.-]+:(\d+) +\1(?= )")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.\d+)?(Z|\+00:00| UTC)")


class Page:
    """One story on paper. ``run`` gives what a command of `sendq` prints, on a terminal if its width is given."""

    def __init__(self, title: str, run: Callable[[str, int | None], str]) -> None:
        self._run = run
        self._parts = [f"# {title}\n"]

    def tell(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(textwrap.fill(" ".join(text.split()), WIDTH, break_on_hyphens=False) + "\n")

    def show(self, code: str) -> None:
        """Code that the story ran."""
        self._parts.append(f"```python\n{code.strip()}\n```\n")

    def print(self, printed: str) -> None:
        """What the code before it printed."""
        self._parts.append(f"```text\n{printed}\n```\n")

    def run(self, command: str, *, shows: str, columns: int | None = None) -> None:
        """Run a command of `sendq`, and show it with what it printed (on a terminal of so many ``columns``).

        Raises RuntimeError if that is not what the story tells of: the machine was too slow for it, or it is not so.
        """
        printed = self._run(command, columns)
        if shows not in printed:
            raise RuntimeError(f"`sendq {command}` does not show {shows!r}: {printed}")
        self._parts.append(f"```console\n$ sendq {command}\n{printed.rstrip()}\n```\n")

    def text(self) -> str:
        """The page, with ids and times that are the same in every run."""
        return with_own_times(_WORKER.sub(_own_worker, with_own_digests(with_own_ids("\n".join(self._parts)))))


def with_own_digests(text: str) -> str:
    """Each digest of an address, which differs from ledger to ledger, by a number of its own."""
    found: dict[str, str] = {}
    return _DIGEST.sub(lambda match: found.setdefault(match[0], f"{len(found) + 1:032x}"), text)


def with_own_ids(text: str) -> str:
    """Each id by a number of its own, in the order in which they come."""
    found: dict[str, str] = {}

    def own(match: re.Match[str]) -> str:
        return found.setdefault(match[0], f"00000000-0000-7000-8000-{len(found) + 1:012d}")

    return _ID.sub(own, text)


def with_own_times(text: str) -> str:
    """Each time as far from `BEGIN` as it is from the earliest one in the text, to the second."""
    times = [_read(match) for match in _TIME.finditer(text)]
    if not times:
        return text
    shift = BEGIN - min(times)

    def own(match: re.Match[str]) -> str:
        return f"{_read(match) + shift:%Y-%m-%d %H:%M:%S}{' UTC' if match[3] == ' UTC' else 'Z'}"

    return _TIME.sub(own, text)


def _own_worker(match: re.Match[str]) -> str:
    """A worker's host and process, as wide as they were."""
    name = len(match[0]) - len(match[1])
    return f"{'vm:4711':<{name}}{'4711':<{len(match[1])}}"


def _read(match: re.Match[str]) -> datetime:
    return datetime.fromisoformat(f"{match[1]} {match[2]}").replace(tzinfo=UTC)
