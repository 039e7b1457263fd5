"""The report of a soak: Markdown for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.report import machine
from tests.soak.load import Load
from tests.soak.samples import GROWTH_MOST, Samples
from tests.soak.verdict import UNTOUCHED_MOST_S, Verdict, percentile

EXPLAINED = """\
Sends at a steady rate over 200 grants of two applications, three workers, PostgreSQL, Redis, the simulated API, and
webhooks of every outcome. Each family of documented faults (by status; server errors together; no answer) ends one call
in a hundred, with the cases of `tests/data/golden_errors.json`; where a message may have gone out, it does in half of
them. Faults of a provider or an application hit the second application (20 grants). 40 grants meet no fault: their jobs
are *untouched*, though a kill may hit them too. Waits and holds of the policy are cut to 15 s, retention to three
minutes. An operator looks into the API's mailbox every minute, and ends the doubts that are older than two.
*Lost*: accepted from the caller, and no outcome arrived. *Untrue*: "sent" without a copy in the API's mailbox, or "not
sent" with one. *Growth*: the median of the last ten minutes against that of minutes 10 to 20.
"""


@dataclass(frozen=True, slots=True)
class Soaked:
    """The result of a run."""

    minutes: float
    seed: int
    began: float
    kills: int
    restarts: int
    resolved: int  # doubts that the operator ended
    load: Load
    outcomes: int
    faults: Mapping[str, int]
    samples: Samples
    drained: bool
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """Whether everything that a soak checks was right."""
        return self.drained and self.verdict.holds and all(one.holds for one in self.samples.growth())


def write(soaked: Soaked, path: Path) -> None:
    """Write the Markdown to ``path`` and the JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_markdown(soaked)) + "\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(_json(soaked), indent=1) + "\n", encoding="utf-8")


def _markdown(soaked: Soaked) -> Iterator[str]:
    verdict = soaked.verdict
    yield f"# Soak: {soaked.minutes:g} minutes, seed {soaked.seed}\n"
    yield ("It holds." if soaked.holds else "**It does not hold: see below.**") + "\n"
    began = datetime.fromtimestamp(soaked.began, UTC)
    yield f"`./dev soak {soaked.minutes:g} --seed {soaked.seed}`, {began:%Y-%m-%d}, on {machine()}.\n"
    yield EXPLAINED
    yield "| what | bar | found |\n|---|---:|---:|"
    rows = [
        ("jobs accepted", "", f"{len(soaked.load.jobs):,}"),
        ("outcomes received (with repeats)", "", f"{soaked.outcomes:,}"),
        ("faults", "", f"{sum(soaked.faults.values()):,} of {len(soaked.faults)} rules"),
        ("workers killed", "", soaked.kills),
        ("doubts that were left to the operator", "", soaked.resolved),
        ("drained by itself", "yes", "yes" if soaked.drained else "**no**"),
        ("lost", 0, len(verdict.lost)),
        ("twice", 0, len(verdict.twice)),
        ("untrue", 0, len(verdict.untrue)),
        ("log lines that should never occur", 0, len(verdict.said)),
        ("untouched jobs", "", f"{len(verdict.late_s):,}"),
        ("untouched: p50", "", f"{percentile(verdict.late_s, 50):.3f} s"),
        ("untouched: p99", f"< {UNTOUCHED_MOST_S:g} s", f"{verdict.p99_s:.3f} s"),
        ("untouched: worst", "", f"{verdict.late_s[-1] if verdict.late_s else 0:.1f} s"),
    ]
    rows += [
        (
            f"growth: {one.name}",
            f"≤ {GROWTH_MOST}×",
            f"{one.before:g} → {one.after:g}" + ("" if one.holds else " **!**"),
        )
        for one in soaked.samples.growth()
    ]
    for name, bar, found in rows:
        yield f"| {name} | {bar} | {found} |"
    if not soaked.samples.growth():
        yield "\nToo short to compare growth: that takes 20 minutes."
    if relations := soaked.samples.relations():
        yield "\n| grew most since minute 10 | MB then | MB at the end |\n|---|---:|---:|"
        yield from (f"| `{one.name}` | {one.before:g} | {one.after:g} |" for one in relations)
    yield "\n## How jobs ended\n\n| state | jobs |\n|---|---:|"
    yield from (f"| {state} | {count:,} |" for state, count in sorted(verdict.states.items()))
    yield "\n| dead letters by rule | jobs |\n|---|---:|"
    yield from (f"| `{rule}` | {count:,} |" for rule, count in sorted(verdict.rules.items()))
    yield "\n## Over time\n\n| minute | jobs | waiting | worker MB | connections | tables MB | indexes MB | Redis MB |"
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|"
    taken = soaked.samples.taken
    for one in taken[:: max(1, len(taken) // 20)]:
        yield (
            f"| {one.at / 60:.0f} | {one.jobs:,} | {one.waiting} | {one.worker_mb:g} | {one.connections} "
            f"| {one.tables_mb:g} | {one.indexes_mb:g} | {one.redis_mb:g} |"
        )
    for word, found in (
        ("lost", verdict.lost),
        ("twice", verdict.twice),
        ("untrue", verdict.untrue),
        ("said", verdict.said),
    ):
        for sentence in found[:10]:
            yield f"\n- {word}: {sentence}"


def _json(soaked: Soaked) -> dict[str, Any]:
    verdict = soaked.verdict
    return {
        "minutes": soaked.minutes, "seed": soaked.seed, "holds": soaked.holds, "machine": machine(),
        "jobs": len(soaked.load.jobs), "outcomes": soaked.outcomes, "kills": soaked.kills, "restarts": soaked.restarts,
        "drained": soaked.drained, "lost": len(verdict.lost), "twice": len(verdict.twice),
        "untrue": list(verdict.untrue), "said": list(verdict.said), "states": verdict.states, "dead": verdict.rules,
        "faults": dict(sorted(soaked.faults.items())),
        "untouched": {
            "jobs": len(verdict.late_s), "p50_s": round(percentile(verdict.late_s, 50), 3),
            "p99_s": round(verdict.p99_s, 3), "worst_s": round(verdict.late_s[-1], 2) if verdict.late_s else None,
        },
        "growth": [{**asdict(one), "holds": one.holds} for one in soaked.samples.growth()],
        "samples": [asdict(one) for one in soaked.samples.taken[::6]],
    }  # fmt: skip
