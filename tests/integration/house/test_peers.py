"""``./dev bench peers`` from end to end, with few jobs and the queues that can be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.stage import CORES, on_core

ROOT = Path(__file__).parents[3]
CHOSEN = ("sendq", "bare client", "Celery + pool", "BullMQ")
PERHAPS_MISSING = {"BullMQ"}  # without .bench: the project's own environment has no part of it


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "peers", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


class TestAQuickRun:
    @pytest.mark.long
    def test_measures_every_queue_that_can_be_had_and_says_why_the_others_are_not(self, tmp_path: Path) -> None:
        done = bench("--quick", "--only", ",".join(CHOSEN), "--report", tmp_path)
        assert done.returncode == 0, done.stderr
        results = json.loads((tmp_path / "peers.json").read_text())
        assert results["queues"].keys() | results["not_run"].keys() == set(CHOSEN)
        assert results["not_run"].keys() <= PERHAPS_MISSING
        assert all("no " in why.lower() for why in results["not_run"].values())
        for name, one in results["queues"].items():
            (run,) = one["runs"]
            # Pollers of the marks are some calls late; the client alone is not fed one by one.
            assert 300 <= run["jobs"] <= 500
            assert 0 < run["worker_cpu_ms"] < 50
            assert run["jobs_per_s"] > 0
            assert run["peak_memory_mb"] > 10
            assert ("p99_ms" in run) == (name != "bare client")
        assert (tmp_path / "peers.md").read_text() == done.stdout.removesuffix("\n")


class TestWhatIsAskedFor:
    def test_is_refused_if_there_is_no_such_queue(self, tmp_path: Path) -> None:
        done = bench("--only", "sendq,carrier pigeon", "--report", tmp_path)
        assert done.returncode == 2
        assert "no queue 'carrier pigeon'; there are: sendq, " in done.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("option", ["--rounds", "--jobs", "--lanes", "--in-flight"])
    def test_is_refused_if_it_is_not_a_number_of_things(self, option: str) -> None:
        done = bench(option, "0")
        assert done.returncode == 2
        assert f"{option}: '0' is not a whole number from 1 on" in done.stderr


class TestACore:
    @pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
    def test_is_another_one_within_another_ones_block(self) -> None:
        with on_core(1):
            with on_core(0):
                inner = os.sched_getaffinity(0)
            outer = os.sched_getaffinity(0)
        assert (inner, outer, sorted(os.sched_getaffinity(0))) == ({CORES[0]}, {CORES[1]}, CORES)
