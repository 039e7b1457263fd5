"""``./dev soak MINUTES``: ordinary load for a long time, with every documented fault, kills and webhooks.

    ./dev soak 40 --seed 7 --report soak.md

20 sends per second over 200 grants of two applications. Each family of documented faults ends one call in a hundred
(`tests.soak.faults`); 40 grants meet none. Every five minutes one of three workers is killed. The receiver of the
outcomes, the API's mailbox and the ledger must agree at the end. The report is Markdown, with JSON beside it. The exit
status is 1 if something was lost, sent twice or untrue, too slow for untouched jobs, or grew.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.chaos.crew import Crew
from tests.soak import report
from tests.soak.faults import Faults, shortened
from tests.soak.load import Load, Outcomes
from tests.soak.operator import Operator
from tests.soak.samples import Samples
from tests.soak.verdict import judge
from tests.support.receivers import SECRET, receiving
from tests.support.servers import running_cluster
from tests.support.system import API_KEY, System, running

REPORT = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.md"

RATE = 20.0  # sends per second
WIDE = 20  # grants of the application that faults above a grant hit
QUIET = 40  # grants that no fault hits
GRANTS = 200
CREW = 3
KILL_EVERY_S = 300.0
LATENCY_S = 0.1
DRAIN_S = 600.0  # for what is held, retried or in doubt at the end

# Three minutes: rows are deleted soon enough for tables to stop growing within ten minutes.
KEPT_DAYS = "0.002"
KEEP = ("BODIES", "SENT", "CANCELLED", "EXPIRED", "DEAD", "KEYS", "EVENTS", "DELIVERIES")


def main(arguments: list[str]) -> int:
    """See the module."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # otherwise the workers would keep running
    with tempfile.TemporaryDirectory(prefix="soak-") as home, running_cluster() as cluster:
        directory = Path(home)
        with (
            cluster.pg.database() as name,
            running(cluster.pg.url(name), directory, latency=LATENCY_S) as system,
            receiving(Outcomes()) as receiver,
        ):
            assert isinstance(receiver, Outcomes)
            soaked = _soak(system, receiver, directory, minutes=given.minutes, seed=given.seed)
    report.write(soaked, given.report)
    print(f"report: {given.report}")
    return 0 if soaked.holds else 1


def _soak(system: System, receiver: Outcomes, directory: Path, *, minutes: float, seed: int) -> report.Soaked:
    names = [f"grant-{number}" for number in range(GRANTS)]
    wide = frozenset(names[:WIDE])
    quiet = frozenset(names[-QUIET:])
    system.policy.write_text(shortened())
    faults = Faults(seed=seed, quiet=quiet, wide=wide)
    system.api.behaviour.gate = faults.gate
    crew = Crew(directory, _environ(system, receiver), CREW, program=["worker"], ready=partial(_registered, system))
    load = Load(system.queue, {name: "wide" if name in wide else "default" for name in names}, seed=seed, rate=RATE)
    samples = Samples(system, crew, lambda: len(load.jobs))
    operator = Operator(system)
    began = time.time()
    try:
        crew.start()
        samples.spared = crew.workers[0].pid
        samples.start()
        load.start()
        operator.start()
        kills = _kill(crew, samples.spared, until=time.monotonic() + minutes * 60, chance=random.Random(seed))
        load.stop()
        operator.stop()
        faults.active = False
        samples.stop()
        drained = _drained(system, load, receiver)
        verdict = judge(system, load, receiver, quiet=quiet, directory=directory)
    finally:
        crew.stop()
    return report.Soaked(minutes, seed, began, kills, crew.restarts, operator.resolved, load, receiver.received,
                         faults.counts, samples, drained, verdict)  # fmt: skip


def _environ(system: System, receiver: Outcomes) -> dict[str, str]:
    return system.environ(
        SENDQ_APPLICATIONS=json.dumps({"wide": {"api_key": API_KEY, "api_uri": system.api.url}}),
        SENDQ_OUTCOME_ENDPOINTS=json.dumps({"soak": {"url": receiver.url, "secret": SECRET}}),
        SENDQ_INDEX_LAG_S="5",
        **{f"SENDQ_KEEP_{name}_DAYS": KEPT_DAYS for name in KEEP},
    )


def _kill(crew: Crew, spared: int, *, until: float, chance: random.Random) -> int:
    """Kill a worker every five minutes, never the one whose memory is measured; returns how many."""
    kills, next_at = 0, time.monotonic() + KILL_EVERY_S
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, max(0.0, next_at - time.monotonic())))
        if time.monotonic() >= next_at:
            crew.kill(chance.choice([worker for worker in crew.workers if worker.pid != spared]))
            kills += 1
            next_at += KILL_EVERY_S
    return kills


def _registered(system: System, worker: object) -> bool:
    return system.scalar(f"SELECT count(*) FROM sendq_worker WHERE pid = {worker.pid}") > 0  # type: ignore[attr-defined]


def _drained(system: System, load: Load, receiver: Outcomes) -> bool:
    """Wait until nothing waits and every outcome has arrived; False if that takes too long."""
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        waiting = system.scalar("SELECT count(*) FROM sendq_job WHERE state IN ('queued', 'sending')")
        if not waiting and len(load.jobs.keys() - receiver.latest.keys()) == 0:
            return True
        time.sleep(1.0)
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("minutes", type=float, help="how long to enqueue; two hours show more than forty minutes")
    parser.add_argument("--seed", type=int, default=1, help="decides the work, the faults and the kills (default: 1)")
    parser.add_argument("--report", type=Path, default=REPORT, help="where to write it (default: benchmarks/results)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
