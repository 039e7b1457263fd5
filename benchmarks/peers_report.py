"""The report of ``./dev bench peers`` from its results: as Markdown, as JSON, and the README's table."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

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
        lines += [f"| {bar['what']} | {bar['bar']} | {bar['is']} | {_yes(bar['met'])} |" for bar in bars(results)]
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


def readme_table(results: dict[str, Any]) -> str:
    """The README's table: medians of the most important columns, and a link to the rest."""
    more = "[The report](benchmarks/results/peers.md) has machine, versions, spread, and where the time of a send goes."
    shown = ("jobs_per_s", "worker_cpu_ms", "servers_cpu_ms", "producer_cpu_ms", "p50_ms", "p99_ms")
    return "\n".join([*_table({key: COLUMNS[key] for key in shown}, results, spread=False), "", more]) + "\n"


def median(results: dict[str, Any], name: str, key: str) -> float | None:
    """The median of a queue's runs; None if it was not measured."""
    values = [run[key] for run in results["queues"].get(name, {"runs": []})["runs"] if key in run]
    return statistics.median(values) if values else None


def bars(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars that sendq promises, with the results."""

    def at_most(what: str, key: str, bar: float, unit: str) -> dict[str, Any]:
        value = median(results, OURS, key)
        return {"what": what, "bar": f"≤ {bar:g} {unit}", "is": f"{value:g} {unit}", "met": (value or 0.0) <= bar}

    others = {
        name: median(results, name, "jobs_per_s") or 0.0
        for name in results["queues"]
        if not name.startswith(OURS) and name != NO_QUEUE
    }
    ours, quickest = median(results, OURS, "jobs_per_s") or 0.0, max(others, key=lambda name: others[name], default="")
    return [
        at_most("the worker's CPU per send", "worker_cpu_ms", 0.6, "ms"),
        {
            "what": "more jobs a second than any other",
            "bar": f"> {others.get(quickest, 0):,.0f} ({quickest or 'nobody else ran'})",
            "is": f"{ours:,.0f}",
            "met": ours > others.get(quickest, 0.0),
        },
        at_most("the servers' CPU per send, enqueue and all", "servers_cpu_ms", 0.3, "ms"),
        at_most("the producer's CPU per job, in bulk", "producer_cpu_ms", 0.06, "ms"),
        at_most("commit → wire, p50", "p50_ms", 10, "ms"),
        at_most("commit → wire, p99", "p99_ms", 50, "ms"),
        at_most("the worker's peak memory", "peak_memory_mb", 150, "MB"),
    ]


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
    lines = [
        f"Of the worker's {whole:g} ms, in one more run of sendq: {found['samples']:,} samples of what holds the "
        "interpreter's lock, each counted for the innermost layer that it passes, and the operating system's CPU of "
        "each thread, in which encryption and system calls are too.",
    ]
    parts = {
        "layers": "layer (samples)",
        "threads": "thread (CPU)",
        "hottest": "function of ours, with all that it calls in libraries (samples)",
    }
    for part, what in parts.items():
        lines += ["", f"| {what} | share | ms |", "|---|---:|---:|"]
        lines += [f"| {name} | {share:.1%} | {share * whole:.3f} |" for name, share in found[part].items()]
    return lines


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


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"
