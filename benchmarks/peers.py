"""Compares sendq with the queues that its users would otherwise choose: one run after the other on two cores.

    ./dev bench peers [--rounds 3] [--jobs 10000] [--each 1,6] [--only sendq,BullMQ] [--quick]

The worker has one core; PostgreSQL, Redis, the API and the producer share the other. The API uses TLS with keep-alive
and answers after 200 ms; 500 calls may be in flight, over 1,000 lanes, with bodies of 2 KB. Every queue is configured
as an expert would (`benchmarks/queues`); sendq has its defaults. PostgreSQL and Redis are durable (fsync on;
append-only file, synced once per second).

With ``--each``, every queue also drains the same number of jobs over so many lanes that each has this many: the fewer,
the more lanes are in turns at once.

Each round runs every queue once, so that other load on the machine affects all of them; the report has medians, minima
and maxima. One more run of sendq is sampled for where the time of one send and the worker's memory go.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import layers, memory, peers_report
from benchmarks.contest import Load, measure
from benchmarks.contestants import ROOT, Contestant, Missing, contestants
from benchmarks.stage import fsync_ms, machine

RESULTS = Path(__file__).parent / "results"
QUICK = {"rounds": 1, "jobs": 400, "lanes": 200, "in_flight": 50, "gentle_jobs": 50, "each": ()}
FAILURES = (Missing, RuntimeError, psutil.Error)  # a queue that fails with one of these is out; the others continue


def main(arguments: list[str]) -> int:
    """Exit status 1 if sendq could not be measured, or if a whole run missed a bar."""
    parser = _parser()
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    given = parser.parse_args(arguments)
    load = Load(given.jobs, given.lanes, given.in_flight, given.latency, given.gentle_jobs, given.per_second)
    results = contest(given.only, load, given.rounds, given.each)
    results["command"] = "./dev bench peers" + (" --quick" if given.quick else "")
    if "sendq" in results["queues"]:
        results["profile"] = profile(given.only["sendq"], load)
        results["memory"] = weight()
    peers_report.write(given.report, results)
    print((given.report / "peers.md").read_text(encoding="utf-8"))
    if "sendq" not in results["queues"]:
        return 1
    return 0 if given.quick or all(bar["met"] for bar in peers_report.bars(results)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--jobs", type=at_least_one, default=10_000, help="that are measured, of each queue and round")
    parser.add_argument("--lanes", type=at_least_one, default=1_000, help="grants among which the jobs go round")
    parser.add_argument("--in-flight", type=at_least_one, default=500, help="calls at once")
    parser.add_argument("--latency", type=float, default=0.2, metavar="SECONDS", help="how long the API takes")
    parser.add_argument("--gentle-jobs", type=at_least_one, default=1_000, help="that come one by one afterwards")
    parser.add_argument("--per-second", type=float, default=50.0, help="of those")
    parser.add_argument("--each", type=numbers, default="1,6", help="jobs a lane, of further backlogs; '' for none")
    everyone = ",".join(contestants())
    parser.add_argument("--only", type=chosen, default=everyone, metavar="NAMES", help=f"some of: {everyone}")
    parser.add_argument("--report", type=Path, default=RESULTS, metavar="DIRECTORY")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that all runs")
    return parser


def at_least_one(text: str) -> int:
    """The type of an option that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    """The type of an option with several numbers, separated by commas."""
    return tuple(at_least_one(one.strip()) for one in text.split(",")) if text else ()


def chosen(names: str) -> dict[str, Contestant]:
    """The type of an option that names queues, separated by commas."""
    everyone = contestants()
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in everyone:
            raise argparse.ArgumentTypeError(f"no queue {name!r}; there are: {', '.join(everyone)}")
    return {name: one for name, one in everyone.items() if name in wanted}


def contest(chosen: dict[str, Contestant], load: Load, rounds: int, backlogs: Sequence[int] = ()) -> dict[str, Any]:
    """Run all rounds. A queue that fails once is out, and the reason is recorded.

    ``backlogs``: the jobs on each lane, of further runs.
    """
    results: dict[str, Any] = {
        "machine": machine(),
        "fsync_ms": fsync_ms(Path(tempfile.gettempdir())),
        "load": vars(load),
        "rounds": rounds,
        "queues": {},
        "not_run": {},
    }
    for number in range(rounds):
        for name, one in chosen.items():
            if name in results["not_run"]:
                continue
            try:
                entry = results["queues"].setdefault(
                    name, {"written": one.written, "versions": one.versions, "runs": [], "backlogs": {}}
                )
                entry["runs"].append(measure(one, load))
                print(f"round {number + 1}, {name}: {json.dumps(entry['runs'][-1])}", file=sys.stderr, flush=True)
                for each in backlogs:
                    runs = entry["backlogs"].setdefault(str(each), [])
                    runs.append(measure(one, load.backlog(each)))
                    said = f"round {number + 1}, {name}, {each} a lane: {json.dumps(runs[-1])}"
                    print(said, file=sys.stderr, flush=True)
            except FAILURES as why:
                results["queues"].pop(name, None)
                results["not_run"][name] = str(why).replace(f"{ROOT}/", "")  # no paths of this machine
                print(f"round {number + 1}, {name}: not run: {why}", file=sys.stderr, flush=True)
    return results


def profile(one: Contestant, load: Load) -> dict[str, Any] | str:
    """The result of `layers.look` for one more run; a sentence if that is not possible."""
    seen: dict[str, Any] = {}

    def watch(pid: int) -> None:
        seen["resident_mb"] = round(memory.resident_mb(pid), 1)
        # A good machine does this many per second; a worker is slower while it is sampled, so that some are left.
        seen.update(layers.look(pid, max(1, load.jobs // 2_500)))

    try:
        measure(one, load, watch=watch)
    except FAILURES as why:
        return str(why)
    return seen


def weight() -> dict[str, float] | str:
    """The memory of the worker's imports (`memory.of_imports`); a sentence if that is not possible."""
    try:
        return memory.of_imports()
    except RuntimeError as why:
        return str(why)
