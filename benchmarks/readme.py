"""The README's table, from the results of ``./dev bench peers`` and ``./dev bench ordinary``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers_report import median

# Other settings of queues that have a row already.
VARIANTS = ("sendq -E", "sendq single", "Celery + pool -E")


def table(peers: dict[str, Any], ordinary: dict[str, Any]) -> str:
    """A row for each queue: a backlog, then jobs that come one by one at each rate."""
    rates = sorted({row["rate"] for one in ordinary["queues"].values() for row in one["rows"]})
    heads = ["backlog: jobs/s", "CPU", *(f"{rate}/s: {what}" for rate in rates for what in ("p50 · p99", "CPU"))]
    lines = [f"| queue | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name in peers["queues"] | ordinary["queues"]:
        if name not in VARIANTS:
            of_rate = {row["rate"]: row for row in ordinary["queues"].get(name, {"rows": []})["rows"]}
            cells = [*_of_backlog(peers, name), *(cell for rate in rates for cell in _of_rate(of_rate.get(rate)))]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _of_backlog(peers: dict[str, Any], name: str) -> tuple[str, str]:
    speed, worker, servers = (median(peers, name, key) for key in ("jobs_per_s", "worker_cpu_ms", "servers_cpu_ms"))
    if speed is None or worker is None or servers is None:
        return "-", "-"
    return f"{speed:,.0f}", f"{worker:.2f} + {servers:.2f}"


def _of_rate(row: Mapping[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "-", "-"
    return f"{row['p50_ms']:g} · {row['p99_ms']:g}", f"{row['worker_cpu_ms']:.1f} + {row['servers_cpu_ms']:.1f}"
