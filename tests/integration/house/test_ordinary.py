"""``./dev bench ordinary``: a short run of one rate, and what counts as a missed bar."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ordinary

ROOT = Path(__file__).parents[3]


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "ordinary", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def row(rate: int, **changed: float) -> dict[str, Any]:
    cpu_ms = {"worker_cpu_ms": 2.0, "servers_cpu_ms": 1.0, "producer_cpu_ms": 0.5}
    return {"rate": rate, "p50_ms": 5.0, "p99_ms": 9.0} | cpu_ms | changed


def missed(**queues: list[dict[str, Any]]) -> list[str]:
    results = {"queues": {name.replace("_", "-"): {"rows": rows} for name, rows in queues.items()}}
    return [bar.what for bar in ordinary.bars(results) if not bar.met]


class TestARun:
    @pytest.mark.long
    def test_measures_what_each_job_costs(self, tmp_path: Path) -> None:
        done = bench("--only", "sendq,Celery + pool", "--rates", "20", "--seconds", "5", "--report", tmp_path)
        results = json.loads((tmp_path / "ordinary.json").read_text())
        assert results["queues"].keys() == {"sendq", "Celery + pool"}, done.stderr
        assert results["client_cpu_ms"] > 0
        for one in results["queues"].values():
            (measured,) = one["rows"]
            assert measured["rate"] == 20
            assert 0 < measured["p50_ms"] <= measured["p99_ms"]
            assert all(measured[f"{part}_cpu_ms"] > 0 for part in ("worker", "servers", "producer"))
        assert (tmp_path / "ordinary.md").read_text() == done.stdout

    def test_is_refused_for_what_takes_no_single_jobs(self) -> None:
        done = bench("--only", "sendq,bare client")
        assert done.returncode == 2
        assert "bare client always runs, under full load; name queues alone" in done.stderr


class TestABar:
    def test_is_missed_by_what_is_dearer_than_the_peer_of_the_same_rate(self) -> None:
        dear = row(10, p50_ms=7.0, worker_cpu_ms=4.0, servers_cpu_ms=1.5, producer_cpu_ms=0.45)
        cheap = row(50, producer_cpu_ms=0.4)
        peers = {"Celery + pool": [row(10), row(50)], "graphile_worker": [row(10, p50_ms=6.0), row(50)]}
        assert missed(sendq=[dear, cheap], **peers) == [
            "at 10 jobs/s: p50, ms",
            "at 10 jobs/s: worker, ms CPU",
            "at 10 jobs/s: servers, ms CPU",
            "at 10 jobs/s: producer, ms CPU",
        ]

    def test_of_a_rate_to_be_sustained_is_about_its_slowest_jobs(self) -> None:
        assert missed(sendq=[row(400, p50_ms=60.0, p99_ms=99.0)]) == []
        assert missed(sendq=[row(400, p99_ms=101.0)]) == ["at 400 jobs/s: p99, ms"]
