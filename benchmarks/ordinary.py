"""Ordinary load: jobs that come one by one, at a few rates, over many grants. sendq beside other queues.

    ./dev bench ordinary [--rates 10,50,150,400] [--seconds 20] [--only "sendq,Celery + pool"] [--lanes 1000]

The stage is that of ``./dev bench peers``: the worker has one core; PostgreSQL, Redis, the API and the producer share
the other; everything is durable. Before the first rate every grant has had one job, so that nothing is measured that
happens once for each of them. The producer enqueues each job in its own call, at an even pace.

p50 and p99 are from the moment at which the queue has the job to the arrival of its request at the API. CPU is the
operating system's, per job, and includes whatever each part does beside the jobs. The first row is a client without
any queue, under full load: the ratios to its CPU per call are what reports of two machines can be compared by.

In the end sendq's worker is sampled for where the time of a lone job goes (`benchmarks.layers`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psutil import Process

from benchmarks import layers, reporting
from benchmarks.contest import (
    OTHERS_CORE,
    SETTLE_S,
    Load,
    Stage,
    await_calls,
    measure,
    play,
    sent_once,
    staged,
    working,
)
from benchmarks.contestants import Contestant, Missing, contestants
from benchmarks.peers import FAILURES, at_least_one, chosen
from benchmarks.peers_report import NO_QUEUE, OURS
from benchmarks.stage import fsync_ms, machine, ms, on_core, tree_cpu
from worker.processes.guard import Guarded

DEFAULT = ("sendq", "Celery + pool", "Taskiq", "procrastinate", "PgQueuer", "BullMQ", "graphile-worker")
IN_FLIGHT, LATENCY_S = 500, 0.2
CLIENT_CALLS = 3_000  # of the client without a queue
SAMPLED_RATES, SAMPLED_S = (10, 50), 30

# The bars, against the peer of that name in the same run.
QUICKEST, CHEAPEST = "graphile-worker", "Celery + pool"
P50_MS, P99_MS, SERVERS_TIMES, PRODUCER_TIMES = 10.0, 50.0, 1.3, 0.8
FULL_RATE, FULL_P99_MS = 400, 100.0  # a rate to be sustained


def main(arguments: list[str]) -> int:
    """Exit status 1 if sendq could not be measured, or if it missed a bar."""
    given = _parser().parse_args(arguments)
    results: dict[str, Any] = {
        "machine": machine(),
        "fsync_ms": fsync_ms(Path(tempfile.gettempdir())),
        "seconds": given.seconds,
        "lanes": given.lanes,
        "client_cpu_ms": client_cpu_ms(given.lanes),
        "queues": {},
        "not_run": {},
    }
    for name, one in given.only.items():
        try:
            results["queues"][name] = {
                "written": one.written,
                "versions": one.versions,
                "rows": run(one, given.rates, seconds=given.seconds, lanes=given.lanes),
            }
            if name == OURS:
                results["profiles"] = profiles(one, given.rates, lanes=given.lanes)
        except FAILURES as why:
            results["not_run"][name] = " ".join(str(why).split())
            print(f"{name}: not run: {why}", file=sys.stderr, flush=True)
    lines = markdown(results)
    reporting.write(given.report / "ordinary.md", lines)
    (given.report / "ordinary.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0 if OURS in results["queues"] and all(bar.met for bar in bars(results)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench ordinary", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rates", type=_rates, default="10,50,150,400", help="jobs per second, one after the other")
    parser.add_argument("--seconds", type=at_least_one, default=20, help="that each rate lasts")
    parser.add_argument("--lanes", type=at_least_one, default=1_000, help="grants among which the jobs go round")
    everyone = ",".join(name for name in contestants() if name != NO_QUEUE)
    parser.add_argument("--only", type=queues, default=",".join(DEFAULT), metavar="NAMES", help=f"of: {everyone}")
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    return parser


def queues(names: str) -> dict[str, Contestant]:
    """The type of ``--only``: queues to which jobs can come one by one."""
    if NO_QUEUE in (found := chosen(names)):
        raise argparse.ArgumentTypeError(f"{NO_QUEUE} always runs, under full load; name queues alone")
    return found


def _rates(text: str) -> list[int]:
    return [at_least_one(one.strip()) for one in text.split(",")]


# --- measuring --------------------------------------------------------------------------------------------------------


def client_cpu_ms(lanes: int) -> float | None:
    """CPU per call of the client without a queue; None if it cannot run."""
    load = Load(CLIENT_CALLS, lanes, IN_FLIGHT, LATENCY_S, gentle_jobs=0, per_second=1.0)
    try:
        return float(measure(contestants()[NO_QUEUE], load)["worker_cpu_ms"])
    except FAILURES as why:
        print(f"{NO_QUEUE}: not run: {why}", file=sys.stderr, flush=True)
        return None


def run(one: Contestant, rates: Sequence[int], *, seconds: int, lanes: int) -> list[dict[str, Any]]:
    """One row for each rate, by one worker that lives through all of them."""
    rows = []
    with warm(one, lanes) as (stage, running, worker):
        first = lanes
        for rate in rates:
            time.sleep(SETTLE_S)
            jobs, calls = rate * seconds, stage.marks.count
            before = tree_cpu(worker), stage.servers_cpu()
            fed = play(one, stage, "drip", first, jobs, rate)
            await_calls(stage, calls + jobs, running)
            time.sleep(SETTLE_S)
            after = tree_cpu(worker), stage.servers_cpu()
            arrived = sent_once(stage.marks, range(first, first + jobs), after=calls)
            waits = sorted(max(0.0, (arrived[int(job)] - at) / 1e6) for job, at in fed["taken"].items())
            rows.append(
                {
                    "rate": rate,
                    "p50_ms": round(statistics.median(waits), 1),
                    "p99_ms": round(waits[min(len(waits) - 1, int(len(waits) * 0.99))], 1),
                    "worker_cpu_ms": ms(after[0] - before[0], jobs),
                    "servers_cpu_ms": ms(after[1] - before[1], jobs),
                    "producer_cpu_ms": ms(fed["cpu_s"], jobs),
                }
            )
            print(f"{one.name}: {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
            first += jobs
    return rows


@contextmanager
def warm(one: Contestant, lanes: int) -> Iterator[tuple[Stage, Guarded, Process]]:
    """The stage and the queue's worker, which has had one job of every grant."""
    load = Load(lanes, lanes, IN_FLIGHT, LATENCY_S, gentle_jobs=0, per_second=1.0)
    with on_core(OTHERS_CORE), staged(one, load, one.in_flight(IN_FLIGHT)) as stage:
        play(one, stage, "prepare")
        play(one, stage, "fill", 0, lanes)
        with working(one, stage, one.in_flight(IN_FLIGHT)) as (running, worker):
            await_calls(stage, lanes, running)
            yield stage, running, worker


def profiles(one: Contestant, rates: Sequence[int], *, lanes: int) -> dict[str, Any]:
    """What the worker does at some of the rates, by rate (`layers.look`); a sentence if that is not possible."""
    found: dict[str, Any] = {}
    with warm(one, lanes) as (stage, _, worker), ThreadPoolExecutor(1) as pool:
        first = lanes
        for rate in SAMPLED_RATES:
            if rate in rates:
                jobs = rate * SAMPLED_S
                dripping = pool.submit(play, one, stage, "drip", first, jobs, rate)
                try:
                    found[str(rate)] = layers.look(worker.pid, SAMPLED_S)
                except Missing as why:
                    found[str(rate)] = str(why)
                dripping.result()
                first += jobs
    return found


# --- the report -------------------------------------------------------------------------------------------------------


def bars(results: dict[str, Any]) -> list[reporting.Bar]:
    """What sendq promises at each rate; those against a peer only if it took part."""
    found = {name: {row["rate"]: row for row in one["rows"]} for name, one in results["queues"].items()}
    held = []
    for rate, ours in found.get(OURS, {}).items():
        at = f"at {rate} jobs/s: "
        quickest, cheapest = found.get(QUICKEST, {}).get(rate), found.get(CHEAPEST, {}).get(rate)
        most_ms = P50_MS if quickest is None else min(P50_MS, quickest["p50_ms"])
        if rate >= FULL_RATE:
            held.append(reporting.Bar(f"{at}p99, ms", ours["p99_ms"], FULL_P99_MS))
            continue
        held += [
            reporting.Bar(f"{at}p50, ms", ours["p50_ms"], most_ms),
            reporting.Bar(f"{at}p99, ms", ours["p99_ms"], P99_MS),
        ]
        if cheapest is not None:
            held.append(reporting.Bar(f"{at}worker, ms CPU", ours["worker_cpu_ms"], cheapest["worker_cpu_ms"]))
        if quickest is not None:
            most_ms = round(SERVERS_TIMES * quickest["servers_cpu_ms"], 3)
            held.append(reporting.Bar(f"{at}servers, ms CPU", ours["servers_cpu_ms"], most_ms))
            most_ms = round(PRODUCER_TIMES * quickest["producer_cpu_ms"], 3)
            held.append(reporting.Bar(f"{at}producer, ms CPU", ours["producer_cpu_ms"], most_ms))
    return held


def markdown(results: dict[str, Any]) -> list[str]:
    """The report's lines."""
    client = results["client_cpu_ms"]
    lines = ["# Ordinary load, beside other queues", ""]
    lines += [
        f"`./dev bench ordinary`: jobs come one by one for {results['seconds']} s at each rate, over "
        f"{results['lanes']:,} grants; bodies of 2 KB, TLS, an API that answers after {LATENCY_S * 1000:.0f} ms. The "
        "worker has one core; PostgreSQL, Redis, API and producer have the other. CPU is per job.",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in results["machine"].items()]
    lines += [f"- fsync: {results['fsync_ms']} ms"]
    if client is not None:
        lines += [f"- a client without a queue, under full load: {client:g} ms CPU per call; × is the ratio to it"]
    rows = [
        {
            "jobs/s": row["rate"],
            "queue": name,
            "p50, ms": row["p50_ms"],
            "p99, ms": row["p99_ms"],
            "worker, ms CPU": row["worker_cpu_ms"],
            "worker, ×": "-" if not client else round(row["worker_cpu_ms"] / client, 1),
            "servers, ms CPU": row["servers_cpu_ms"],
            "producer, ms CPU": row["producer_cpu_ms"],
        }
        for name, one in results["queues"].items()
        for row in one["rows"]
    ]
    rows.sort(key=lambda row: row["jobs/s"])
    lines += ["", *reporting.table(rows), *reporting.bars(bars(results))]
    lines += _profiles(results)
    how = [f"- **{name}** ({one['versions']}): {one['written']}" for name, one in results["queues"].items()]
    lines += reporting.section("How each is set up", "", how)
    if results["not_run"]:
        lines += reporting.section("Not run", "", [f"- **{name}**: {why}" for name, why in results["not_run"].items()])
    return lines


def _profiles(results: dict[str, Any]) -> list[str]:
    """Where the worker's CPU per job goes, at each rate that was sampled."""
    costs = {str(row["rate"]): row["worker_cpu_ms"] for row in results["queues"].get(OURS, {"rows": []})["rows"]}
    made: list[str] = []
    for rate, found in results.get("profiles", {}).items():
        title = f"Where the worker's time goes, at {rate} jobs/s"
        if isinstance(found, str):
            made += reporting.section(title, f"Not looked at: {' '.join(found.split())}", [])
            continue
        words = (
            f"Of its {costs[rate]:g} ms a job, in one more run: {found['samples']:,} samples of what holds the "
            "interpreter's lock, each counted for the innermost layer that it passes, and the operating system's CPU "
            "of each thread, in which encryption, system calls, what an idle worker does and the sampling are too."
        )
        made += reporting.section(title, words, layers.lines(found, costs[rate])[1:])
    return made
