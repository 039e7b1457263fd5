"""What the reports in ``benchmarks/results`` have in common: their head, tables, bars and profiles."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psutil import Process

from benchmarks.stage import machine

RESULTS = Path(__file__).parent / "results"
FUNCTIONS_SHOWN = 25


@dataclass(frozen=True, slots=True)
class Bar:
    """A number that must be at most ``most``."""

    what: str
    measured: float
    most: float

    @property
    def met(self) -> bool:
        """Whether it is met."""
        return self.measured <= self.most


def head(title: str, command: str) -> list[str]:
    """The first lines of a report."""
    return [f"# {title}", "", f"`{command}`", "", *(f"- {name}: {value}" for name, value in machine().items())]


def bars(held: Iterable[Bar]) -> list[str]:
    """Each bar, and whether it is met."""
    rows = [{"bar": bar.what, "measured": bar.measured, "at most": bar.most, "met": bar.met} for bar in held]
    return section("Bars", "", table(rows)) if rows else []


def section(title: str, words: str, lines: Iterable[str]) -> list[str]:
    """A heading, a paragraph below it, and its lines."""
    return ["", f"## {title}", "", *([words.strip(), ""] if words else []), *lines]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows with equal columns."""
    if not rows:
        return ["(nothing)"]
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return lines + [f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in rows]


def _cell(value: object) -> str:
    return verdict(value) if isinstance(value, bool) else str(value).replace("|", "/")


def verdict(met: bool) -> str:
    """Whether something is as it should be."""
    return "yes" if met else "**no**"


def facts(values: Mapping[str, Any]) -> list[str]:
    """One row for each value."""
    return table([{"what": what, "value": value} for what, value in values.items()])


def write(path: Path, lines: Iterable[str]) -> None:
    """Write the report, and print where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written: {path}", file=sys.stderr)


# --- profiles ---------------------------------------------------------------------------------------------------------

Started = Callable[[str, Mapping[str, str]], AbstractContextManager[Process]]


def profile(started: Started, *, after_s: float, for_s: float, meanwhile: Callable[[], object] = lambda: None) -> Any:
    """Profile the CPU of a worker: ``started(app, variables)`` starts it; ``after_s`` seconds later, ``meanwhile``
    gives it work.
    """
    with tempfile.TemporaryDirectory(prefix="sendq-bench-") as home:
        written, begin = Path(home) / "profile.json", Path(home) / "begin"
        variables = {"PROFILE_TO": str(written), "PROFILE_FROM": str(begin), "PROFILE_FOR_S": str(for_s)}
        with started("benchmarks.profiled", variables):
            time.sleep(after_s)
            begin.touch()
            meanwhile()
            limit = time.monotonic() + for_s + 60.0
            while not written.exists():
                if time.monotonic() > limit:
                    raise RuntimeError("the worker has not written its profile")
                time.sleep(0.1)
            return json.loads(written.read_text())


def profile_lines(title: str, found: Mapping[str, Any]) -> list[str]:
    """A profile as tables."""
    words = f"CPU over {found['seconds']:g} s by thread and, without what it calls, by function (the profiler's too)."
    shown = [row for row in found["functions"][:FUNCTIONS_SHOWN] if row["ms"] > 0]
    return section(title, words, [*table(found["threads"]), "", *table(shown)])
