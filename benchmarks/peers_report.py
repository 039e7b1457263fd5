"""The report of ``./dev bench peers`` from its results: as Markdown and as JSON."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import layers
from benchmarks.reporting import verdict

COLUMNS = {
    "jobs_per_s": "jobs/s",
    "worker_cpu_ms": "worker, ms CPU",
    "servers_cpu_ms": "servers, ms CPU",
    "producer_cpu_ms": "producer, ms CPU",
    "peak_memory_mb": "peak memory, MB",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
}
BESIDE = {"worker_busy": "worker's core busy", "others_busy": "other core busy", "api_cpu_ms": "API, ms CPU"}

# sendq is compared only with queues: it cannot be faster than no queue.
NO_QUEUE = "bare client"
OURS = "sendq"

# The bars in bulk: the share of the speed of a client without a queue, and CPU per job as a multiple of another's.
SPEED_SHARE = 0.95
RELATIVE = (
    ("the worker's CPU per job", "worker_cpu_ms", 1.0, NO_QUEUE),
    ("the servers' CPU per job, enqueue and all", "servers_cpu_ms", 2.2, "BullMQ"),
)
ABSOLUTE = (
    ("the producer's CPU per job, in bulk", "producer_cpu_ms", 0.06, "ms"),
    ("commit → wire, p50", "p50_ms", 10.0, "ms"),
    ("commit → wire, p99", "p99_ms", 50.0, "ms"),
    ("the worker's peak memory", "peak_memory_mb", 150.0, "MB"),
)


def write(directory: Path, results: dict[str, Any]) -> None:
    """Write ``peers.json`` and ``peers.md``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "peers.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (directory / "peers.md").write_text(markdown(results), encoding="utf-8")


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    load = results["load"]
    lines = [
        "# Beside other queues", "",
        f"`{results['command']}`: {results['rounds']} rounds in turns; medians, with the least and the most. "
        f"{load['jobs']:,} jobs over {load['lanes']:,} lanes, {load['in_flight']} in flight, bodies of 2 KB, over TLS "
        f"to an API that answers after {load['latency_s'] * 1000:.0f} ms. The worker has one core; PostgreSQL, Redis, "
        "API and producer have the other. CPU is per job. p50 and p99: from commit to wire, at "
        f"{load['per_second']:g} jobs a second ({load['gentle_jobs']:,} jobs).", "",
    ]  # fmt: skip
    if results["command"].endswith("--quick"):
        lines += ["A quick run shows that everything runs. **Its figures say nothing.**", ""]
    lines += [f"- {name}: {value}" for name, value in results["machine"].items()]
    lines += [f"- fsync: {results['fsync_ms']} ms"]
    lines += [*_ceiling(results), ""]
    lines += _table({**COLUMNS, **BESIDE}, results, spread=True)
    lines += _backlogs(results)
    lines += ["", "## How each is set up", ""]
    lines += [f"- **{name}** ({one['versions']}): {one['written']}" for name, one in results["queues"].items()]
    if results["not_run"]:
        lines += ["", "## Not run", ""]
        lines += [f"- **{name}**: {' '.join(why.split())}" for name, why in results["not_run"].items()]
    if OURS in results["queues"]:
        lines += ["", "## Bars", "", "| what | bar | measured | met |", "|---|---|---|---|"]
        lines += [f"| {bar['what']} | {bar['bar']} | {bar['is']} | {verdict(bar['met'])} |" for bar in bars(results)]
        lines += ["", "## Where the time of one send goes", "", *_where_time_goes(results)]
        lines += ["", "## Where the worker's memory goes", "", *_where_memory_goes(results)]
    return "\n".join(lines) + "\n"


def _backlogs(results: dict[str, Any]) -> list[str]:
    """The same jobs over more lanes, with fewer on each; nothing if that was not measured."""
    queues = results["queues"]
    each = sorted({int(number) for one in queues.values() for number in one.get("backlogs", {})})
    if not each:
        return []
    load = results["load"]
    usual = round(load["jobs"] / load["lanes"])
    shown = {"jobs_per_s": "jobs/s", "worker_cpu_ms": "worker", "servers_cpu_ms": "servers"}
    heads = [f"{number} each: {what}" for number in (*each, usual) for what in shown.values()]
    lines = [
        "", "## Backlogs by jobs on each lane", "",
        f"The same number of jobs over more lanes; the last columns are those of the table above ({usual} each). "
        "Worker and servers: ms CPU per job.", "",
        f"| queue | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads),
    ]  # fmt: skip
    for name, one in queues.items():
        of_each = [one.get("backlogs", {}).get(str(number), []) for number in each]
        cells = [_cell([run[key] for run in runs], spread=False) for runs in (*of_each, one["runs"]) for key in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def median(results: dict[str, Any], name: str, key: str, *, each: int | None = None) -> float | None:
    """The median of a queue's runs; None if it was not measured. ``each``: of the backlog with so many on a lane."""
    one = results["queues"].get(name, {"runs": []})
    runs = one["runs"] if each is None else one.get("backlogs", {}).get(str(each), [])
    values = [run[key] for run in runs if key in run]
    return statistics.median(values) if values else None


def bars(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars that sendq promises, with the results: those against another only if it took part."""
    load = results["load"]
    usual = round(load["jobs"] / load["lanes"])
    backlogs = {int(number) for number in results["queues"][OURS].get("backlogs", {})}
    found = [bar for each in sorted(backlogs) for bar in _bars_in_bulk(results, each, f"{each} a lane: ")]
    found += _bars_in_bulk(results, None, f"{usual} a lane: ")
    for what, key, most, unit in ABSOLUTE:
        value = median(results, OURS, key)
        if value is not None:
            found.append({"what": what, "bar": f"≤ {most:g} {unit}", "is": f"{value:g} {unit}", "met": value <= most})
    return found


def _bars_in_bulk(results: dict[str, Any], each: int | None, at: str) -> list[dict[str, Any]]:
    """A backlog: faster than every queue and nearly as fast as no queue, at the CPU of a client without one."""
    ours = median(results, OURS, "jobs_per_s", each=each)
    if ours is None:
        return []
    others = {name: median(results, name, "jobs_per_s", each=each) for name in results["queues"] if name != NO_QUEUE}
    speeds = {name: speed for name, speed in others.items() if speed is not None and not name.startswith(OURS)}
    quickest = max(speeds, key=lambda name: speeds[name], default=None)
    found = []
    if quickest is not None:
        least, bar = speeds[quickest], f"> {speeds[quickest]:,.0f} ({quickest})"
        met = ours > least
        found.append({"what": f"{at}more jobs/s than any other queue", "bar": bar, "is": f"{ours:,.0f}", "met": met})
    if (alone := median(results, NO_QUEUE, "jobs_per_s", each=each)) is not None:
        least, bar = SPEED_SHARE * alone, f"≥ {SPEED_SHARE * alone:,.0f} ({SPEED_SHARE:g} × {NO_QUEUE})"
        met = ours >= least
        found.append({"what": f"{at}jobs/s of a client alone", "bar": bar, "is": f"{ours:,.0f}", "met": met})
    for what, key, times, name in RELATIVE:
        ours_ms, theirs_ms = (median(results, one, key, each=each) for one in (OURS, name))
        if ours_ms is not None and theirs_ms is not None:
            most = times * theirs_ms
            bar = f"≤ {most:.3g} ms ({times:g} × {name})"
            found.append({"what": at + what, "bar": bar, "is": f"{ours_ms:g} ms", "met": ours_ms <= most})
    return found


def _ceiling(results: dict[str, Any]) -> list[str]:
    """The most that the API could do."""
    each = median(results, NO_QUEUE, "api_cpu_ms")
    return [f"- the API took {each:g} ms CPU a call: at most {1000 / each:,.0f} calls/s on its core"] if each else []


def _table(columns: dict[str, str], results: dict[str, Any], *, spread: bool) -> list[str]:
    lines = [f"| queue | {' | '.join(columns.values())} |", "|---|" + "---:|" * len(columns)]
    for name, one in results["queues"].items():
        cells = [_cell([run[key] for run in one["runs"] if key in run], spread=spread) for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(values: list[float], *, spread: bool) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):,}"
    return f"{middle} ({min(values):,} to {max(values):,})" if spread and len(values) > 1 else middle


def _where_time_goes(results: dict[str, Any]) -> list[str]:
    found: dict[str, Any] | str = results["profile"]
    if isinstance(found, str):
        return [f"Not looked at: {' '.join(found.split())}"]
    whole = median(results, OURS, "worker_cpu_ms") or 0.0
    return [
        f"Of the worker's {whole:g} ms, in one more run of sendq: {found['samples']:,} samples of what holds the "
        "interpreter's lock, each counted for the innermost layer that it passes, and the operating system's CPU of "
        "each thread, in which encryption and system calls are too.",
        *layers.lines(found, whole),
    ]


def _where_memory_goes(results: dict[str, Any]) -> list[str]:
    imports: dict[str, float] | str = results["memory"]
    if isinstance(imports, str):
        return [f"Not looked at: {' '.join(imports.split())}"]
    peak, bare = median(results, OURS, "peak_memory_mb"), median(results, NO_QUEUE, "peak_memory_mb")
    profile: dict[str, Any] | str = results["profile"]
    rows = {"with all that the worker imports, before it does anything": sum(imports.values())}
    if not isinstance(profile, str):
        rows["under full load, connections open (the run that was sampled)"] = profile["resident_mb"]
    rows["at the most"] = peak or 0.0
    if bare is not None:
        rows["the bare client at the most: an HTTP client, its connections and calls, and no queue"] = bare
    lines = ["| a process | MB |", "|---|---:|", *(f"| {what} | {mb:,.0f} |" for what, mb in rows.items())]
    lines += ["", "| imports: growth while the modules of a library are executed | MB |", "|---|---:|"]
    return [*lines, *(f"| {name} | {mb:.1f} |" for name, mb in imports.items())]
