"""Fairness and pace: how busy and hanging lanes affect quiet ones, and whether providers' limits are kept.

    ./dev bench fairness [--seconds 60] [--only backlog,hang,equal,limits,spacing] [--report DIRECTORY]

One worker process, real PostgreSQL and Redis, the simulator in this process: a wait is measured from the return of the
enqueue to the arrival of the request, by one clock. *Alone* and *beside* are measured in one run, one after the other.

    backlog   50 quiet lanes get a job now and then; meanwhile one lane has 50,000
    hang      900 quiet lanes get one now and then; meanwhile the API never answers 100 lanes
    equal     100 equal lanes, all with more work than time: Jain's index (Σx)² / (n Σx²) over the calls of each
    limits    Google, Microsoft and Exchange lanes against the providers' limits, over windows of a tenth: how many of
              1,000 calls are refused, and how much of the permitted rate is used
    spacing   modifications of one Gmail account after "resource exhausted": the least time between two
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from benchmarks import reporting
from benchmarks.stage import API_KEY, worker
from sendq import Message, Options, Send, SendQueue, clock
from sendq.clock import SECOND
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.db.engine import open_engine, writing
from sendq.rules.pace import PACES
from sendq.simulator import Fault, Simulator
from sendq.simulator.limits import GMAIL_EXHAUSTED, ProviderLimits
from tests.support.servers import running_postgres
from worker.redis.embedded import EmbeddedRedis

LATENCY_S = 0.05
SLOWER = 0.5
SCALE = 0.1  # factor for the providers' windows: Google's minute lasts 6 s
PROVIDERS = ("google", "microsoft", "ews")


def main(arguments: list[str]) -> int:
    """Exit status 1 if a bar was missed."""
    parser = argparse.ArgumentParser(prog="./dev bench fairness", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each load lasts")
    parser.add_argument("--only", default=",".join(PARTS), help="some of: " + ", ".join(PARTS))
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    given = parser.parse_args(arguments)
    parts: dict[str, dict[str, Any]] = {}
    for name in given.only.split(","):
        with staged(PARTS[name][1]) as stage:
            parts[name] = PARTS[name][0](stage, given.seconds)
        print(json.dumps({name: {k: v for k, v in parts[name].items() if k != "waits"}}, indent=2), flush=True)
    report(given.report, parts, given.seconds)
    return 0 if all(part["met"] for part in parts.values()) else 1


# --- the stage --------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """What runs during a measurement."""

    ledger: Engine
    queue: SendQueue
    api: Simulator


def shrunk(provider: str, scale: float) -> dict[str, dict[str, float]]:
    """A provider's limits, over windows shortened by the same factor as the simulator's."""
    return {
        limit.name: {"units": limit.units, "window_s": limit.window / SECOND * scale}
        for limit in PACES[provider].limits
        if not limit.name.startswith("nylas")
    }


def shrunk_paces() -> str:
    """`SENDQ_PACES` for shrunk windows."""
    rules = [{"provider": provider, "limits": shrunk(provider, SCALE)} for provider in PROVIDERS]
    return json.dumps([*rules, {"grant": "google-modify", "limits": shrunk("google", SLOWER)}])


@contextlib.contextmanager
def staged(settings: dict[str, str]) -> Iterator[Stage]:
    """Servers, simulator and one worker with the default settings except ``settings``."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sendq-bench-")))
        pg = stack.enter_context(running_postgres())
        url = pg.url(stack.enter_context(pg.database()))
        redis = stack.enter_context(EmbeddedRedis(home / "redis"))
        ledger = open_engine(url)
        stack.callback(ledger.dispose)
        migrate.upgrade(ledger)
        # Known to work: the slow start of unproven pairs is not measured here.
        known = {"application": "default", "ramp": None, "proven_at": clock.now()}
        with writing(ledger) as connection:
            for provider in (*PROVIDERS, "imap"):
                insert_new(connection, schema.pair, [known | {"provider": provider}], returning="provider")
        api = stack.enter_context(Simulator(API_KEY, latency=LATENCY_S, log_bodies=False))
        environment = {"DATABASE_URL": url, "REDIS_URL": redis.url, "NYLAS_API_KEY": API_KEY, "NYLAS_API_URI": api.url}
        stack.enter_context(worker(home, ledger, {**environment, "SENDQ_HOME": str(home), **settings}))
        yield Stage(ledger, SendQueue(ledger), api)


# --- quiet lanes ------------------------------------------------------------------------------------------------------


@dataclass
class Quiet:
    """Lanes that get jobs at random times, ``rate`` per second in total."""

    stage: Stage
    name: str
    lanes: int
    rate: float
    enqueued: dict[str, float] = field(default_factory=dict)

    def get_jobs(self, seconds: float) -> None:
        """Enqueue for ``seconds``, at the times of a Poisson process, however slow the system is."""
        chance = random.Random(self.name)
        began = due = time.monotonic()
        while (due := due + chance.expovariate(self.rate)) < began + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            grant = f"{self.name}-{chance.randrange(self.lanes)}"
            job = self.stage.queue.send(grant, MESSAGE, provider="imap")
            self.enqueued[job.id] = time.monotonic()

    def waits(self) -> list[float]:
        """Seconds from the return of the enqueue to the arrival of the request, sorted."""
        self.stage.api.wait_for(self._all_arrived, 300)
        arrived = {one.job: one.at for one in reversed(self.stage.api.requests) if one.operation == "send"}
        return sorted(max(0.0, arrived[job] - at) for job, at in self.enqueued.items())

    def _all_arrived(self, api: Simulator) -> bool:
        return {one.job for one in api.requests} >= self.enqueued.keys()


MESSAGE = Message(to=["leyah@example.com"], subject="Invoice 42", body="x" * 2_000)


def percentile(waits: list[float], share: float) -> float:
    return round(waits[min(len(waits) - 1, int(len(waits) * share))] * 1000, 1)


def alone_and_beside(
    stage: Stage, seconds: float, *, lanes: int, rate: float, load: Callable[[], None]
) -> dict[str, Any]:
    """The quiet lanes' waits without and with a load, and whether the bar is met."""
    warm = Quiet(stage, "warm", lanes, rate)
    warm.get_jobs(5.0)
    warm.waits()
    alone = Quiet(stage, "quiet", lanes, rate)
    alone.get_jobs(seconds)
    before = alone.waits()
    load()
    beside = Quiet(stage, "quiet", lanes, rate)
    beside.get_jobs(seconds)
    after = beside.waits()
    p99_alone, p99_beside = percentile(before, 0.99), percentile(after, 0.99)
    return {
        "jobs": len(after),
        "p50_alone_ms": percentile(before, 0.5),
        "p99_alone_ms": p99_alone,
        "p50_beside_ms": percentile(after, 0.5),
        "p99_beside_ms": p99_beside,
        "longest_beside_ms": percentile(after, 1.0),
        "p99_ratio": round(p99_beside / p99_alone, 2),
        "met": p99_beside <= 2 * p99_alone and p99_beside <= 2_000,
        "waits": {"alone": before, "beside": after},
    }


def backlog(stage: Stage, seconds: float) -> dict[str, Any]:
    """One lane with 50,000 jobs."""

    def load() -> None:
        stage.queue.modify("busy", (f"m{number}" for number in range(50_000)), unread=False, provider="imap")

    return alone_and_beside(stage, seconds, lanes=50, rate=10, load=load)


def hang(stage: Stage, seconds: float) -> dict[str, Any]:
    """100 lanes with ten jobs each that the API never answers."""

    def load() -> None:
        grants = [f"hanging-{number}" for number in range(100)]
        for grant in grants:
            stage.api.will(Fault.hang(), grant=grant, times=None)
        options = Options(provider="google")
        stage.queue.send_many([Send(grant, MESSAGE, options) for _ in range(10) for grant in grants])

    return alone_and_beside(stage, seconds, lanes=900, rate=20, load=load)


# --- equal lanes ------------------------------------------------------------------------------------------------------


def equal(stage: Stage, seconds: float) -> dict[str, Any]:
    """100 lanes, each with more jobs than can be done; their calls are counted while all of them have some left."""
    grants, each = [f"equal-{number}" for number in range(100)], 400
    stage.queue.send_many([Send(grant, MESSAGE, Options(provider="imap")) for _ in range(each) for grant in grants])
    stage.api.wait_for(lambda api: len(api.requests) >= 1_000, 120)
    first = time.monotonic()
    time.sleep(min(seconds, 20.0))
    calls = Counter(one.grant for one in stage.api.requests if one.at >= first)
    counts = [calls[grant] for grant in grants]
    index = sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))
    most = max(Counter(one.grant for one in stage.api.requests).values())
    return {
        "lanes": len(grants),
        "calls": sum(counts),
        "fewest": min(counts),
        "most": max(counts),
        "jain": round(index, 5),
        "met": index >= 0.99 and most < each,
    }


# --- providers' limits ------------------------------------------------------------------------------------------------


def limits(stage: Stage, seconds: float) -> dict[str, Any]:
    """One lane of each provider with more work than its limits let through."""
    referee = ProviderLimits(provider_of, scale=SCALE)
    # 200 modifications per second are more than four calls at once can do; with windows of a half, it is 40.
    slower = ProviderLimits(provider_of, scale=SLOWER)
    stage.api.behaviour.gate = lambda one: (slower if one.grant == "google-modify" else referee)(one)
    permitted = {"google-send": 60 / 6, "google-modify": 1_200 / 30, "microsoft-send": 30 / 6, "ews-modify": 400 / 60}
    for grant, rate in permitted.items():
        provider, _, operation = grant.partition("-")
        number = int(rate * (seconds + 30))
        if operation == "send":
            stage.queue.send_many([Send(grant, MESSAGE, Options(provider=provider)) for _ in range(number)])
        else:
            stage.queue.modify(grant, [f"m{n}" for n in range(number)], unread=False, provider=provider)
    stage.api.wait_for(lambda api: {one.grant for one in api.requests} >= permitted.keys(), 60)
    began = time.monotonic()
    time.sleep(seconds)
    # Over whole windows: the initial burst belongs to the first of them.
    calls = Counter(one.grant for one in stage.api.requests if one.at <= began + seconds and one.status != 429)
    refused = sum(referee.refused.values()) + sum(slower.refused.values())
    total = sum(referee.admitted.values()) + sum(slower.admitted.values()) + refused
    used = {grant: round(calls[grant] / (rate * seconds), 3) for grant, rate in permitted.items()}
    return {
        "permitted_per_s": {grant: round(rate, 2) for grant, rate in permitted.items()},
        "used_share": used,
        "calls": total,
        "refused": refused,
        "refused_per_1000": round(refused / total * 1_000, 2),
        "met": refused / total <= 0.002 and min(used.values()) >= 0.9,
    }


def provider_of(grant: str) -> str:
    """The provider of a grant of this part, from its name."""
    return grant.partition("-")[0]


def spacing(stage: Stage, seconds: float) -> dict[str, Any]:
    """A Gmail account whose quota is exhausted once."""
    del seconds
    stage.api.will(GMAIL_EXHAUSTED, grant="exhausted", operation="modify", times=1)
    stage.queue.modify("exhausted", [f"m{n}" for n in range(25)], unread=False, provider="google")
    stage.api.wait_for(lambda api: len(api.modified) >= 25, 120)
    calls = [one for one in stage.api.requests if one.grant == "exhausted" and one.operation == "modify"]
    first = next(place for place, one in enumerate(calls) if one.status == 429)
    between = [after.at - before.at for before, after in pairwise(calls[first:])]
    return {
        "modifications": len(calls),
        "least_s": round(min(between), 3),
        "median_s": round(statistics.median(between), 3),
        "met": min(between) >= 1.0,
    }


PACED = {"SENDQ_PACES": shrunk_paces()}
PARTS: dict[str, tuple[Callable[[Stage, float], dict[str, Any]], dict[str, str]]] = {
    "backlog": (backlog, {}),
    "hang": (hang, {}),
    "equal": (equal, {}),
    "limits": (limits, PACED),
    "spacing": (spacing, {}),
}


# --- the report -------------------------------------------------------------------------------------------------------


def report(directory: Path, parts: dict[str, dict[str, Any]], seconds: float) -> None:
    """``fairness.md`` with a table for each part, and ``fairness.svg`` with the quiet lanes' waits."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = reporting.head("Fair turns and kept paces", f"./dev bench fairness --seconds {seconds:g}")
    waits = {name: part["waits"] for name, part in parts.items() if "waits" in part}
    if waits:
        from benchmarks import plots  # its packages are installed for this alone

        plots.cumulative(directory / "fairness.svg", waits, "enqueue → wire, seconds")
        lines += ["", "![How long quiet lanes wait, alone and beside](fairness.svg)"]
    for name, part in parts.items():
        values = {what: value for what, value in part.items() if what != "waits"}
        lines += reporting.section(name, PARTS[name][0].__doc__ or "", reporting.facts(values))
    reporting.write(directory / "fairness.md", lines)
