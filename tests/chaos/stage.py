"""The stage of a scenario: a system with its servers, a crew of workers, work for it, and the final check."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psycopg
from sqlalchemy import func, make_url, select

from sendq import State, clock
from sendq.clock import SECOND
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from tests.chaos.board import Death
from tests.chaos.crew import Crew
from tests.chaos.equation import Sum, add_up
from tests.chaos.load import Load
from tests.chaos.watch import Watch
from tests.support.flower import free_port
from tests.support.pgbouncer import BINARY, PgBouncer
from tests.support.proxy import Proxy
from tests.support.sentinels import Watched, watched
from tests.support.servers import FAKETIME, Cluster, running_cluster
from tests.support.system import System, Worker, running
from tests.support.waiting import eventually

LATENCY_S = 0.1  # of the API: the time in which a call is on the wire
WARM = 60  # jobs that are done before anything breaks
AFTERWARDS_S = 2.0  # work continues for this long after the fault

# Dozens of attempts with pauses of a second: a fault of some seconds must not cause dead letters.
PATIENT = "".join(
    f"""
[[change]]
id = "{row}"
backoff = {{ base = 0.2, cap = 1.0, number = 100 }}
"""
    for row in ("server_error", "bad_gateway", "provider_unreachable", "service_unavailable", "provider_timeout",
                "no_answer")
)  # fmt: skip


# Where the kernel limits the memory of a group of processes (version 1 of control groups).
CGROUP = Path("/sys/fs/cgroup/memory")

# Connections of PgBouncer to PostgreSQL.
POOLED = 10

# The role of workers that are no superuser; limits of connections apply only to such.
ROLE = "chaos_worker"

WEBHOOK_SECRET = "s3cret"

# Every turn goes through the broker, also those that the leader could take itself.
BROKER_ONLY = {"SENDQ_LOCAL_TURNS": "false"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What breaks (``act``) and its name; ``proxied``: with a proxy before Redis, PostgreSQL and the API."""

    name: str
    title: str
    act: Callable[[Stage], None]
    sqlite: bool = False
    proxied: bool = False
    crew: int = 3
    lanes: int = 60
    rate: float = 40.0  # jobs per second
    backlog: int = 150  # jobs on each of the slow lanes, at 0.1 s a call: for a quarter of a minute
    sign: str = ""  # what the workers' logs must contain, otherwise nothing broke
    settings: Mapping[str, str] = field(default_factory=dict)
    small_disk: bool = False  # the tables are on a file system of a few megabytes
    replicated: bool = False  # on a PostgreSQL of its own, which a replica follows
    settable_clock: bool = False  # on a PostgreSQL of its own, whose clock can be set
    several_hosts: bool = False  # likewise, and the ledger's address names both; each commit is on both
    sentinels: bool = False  # the broker is a primary with a replica, which three sentinels watch
    ordinary_role: bool = False  # the workers are not the database's superuser
    pooled: bool = False  # through PgBouncer in transaction mode
    needs_cgroup: bool = False
    net: str = ""  # the safety net that may find something here
    receives: bool = False  # with a process that receives notifications
    wrong: Callable[[Stage], Iterable[str]] = lambda _: ()  # what else must hold in the end: a sentence for each breach

    def lacks(self) -> str | None:
        """What this machine lacks to play it, as a sentence; None: nothing."""
        if (self.small_disk or self.needs_cgroup) and os.geteuid() != 0:
            return "needs root"
        if self.needs_cgroup and not os.access(CGROUP, os.W_OK):
            return f"needs {CGROUP}"
        if self.settable_clock and FAKETIME is None:
            return "needs libfaketime (on Debian: apt-get install libfaketime)"
        if self.pooled and BINARY is None:
            return "needs pgbouncer (on Debian: apt-get install pgbouncer)"
        return None


@dataclass(slots=True)
class Stage:
    """What a scenario can use."""

    system: System
    crew: Crew
    load: Load
    watch: Watch
    chance: random.Random
    cluster: Cluster | None = None
    redis: Proxy | None = None
    ledger: Proxy | None = None
    api: Proxy | None = None
    disk: Path | None = None
    replica: Cluster | None = None
    bouncer: PgBouncer | None = None
    receivers: Crew | None = None
    receiver_port: int = 0
    watched: Watched | None = None
    mended_at: float | None = None  # wall clock; None if only processes broke

    def pause(self, least: float, most: float | None = None) -> None:
        """Let the system work for a while: ``least`` seconds, or a random time between ``least`` and ``most``."""
        time.sleep(least if most is None else self.chance.uniform(least, most))

    def leader(self) -> Worker:
        """The worker that dispatches."""

        def found() -> Worker | None:
            with reading(self.system.engine) as connection:
                joined = schema.leader.join(schema.worker, schema.leader.c.holder == schema.worker.c.id)
                pid = connection.execute(select(schema.worker.c.pid).select_from(joined)).scalar()
            return next((worker for worker in self.crew.workers if worker.pid == pid), None)

        leader = eventually(found, "a leader")
        assert leader is not None
        return leader

    def freeze(self, worker: Worker) -> None:
        """Send SIGSTOP while the worker has a turn; counts as its death."""
        its_ids = f"SELECT id FROM sendq_worker WHERE pid = {worker.pid}"
        mine = f"SELECT count(*) FROM sendq_lane WHERE turn_worker IN ({its_ids})"
        eventually(lambda: self.system.scalar(mine), "a turn of this worker")
        os.kill(worker.pid, signal.SIGSTOP)
        self.crew.board.died("frozen", worker.pid)

    def mended(self) -> None:
        """Note that the fault is over."""
        self.mended_at = time.time()


@dataclass(frozen=True, slots=True)
class Played:
    """The result of a scenario."""

    scenario: Scenario
    seed: int
    sum: Sum
    drained: bool
    deaths: Sequence[Death]
    restarts: int
    back_s: Sequence[float]  # until each held-up turn was taken back, or each lane with waiting jobs had a call
    took_s: float
    bit: bool  # whether the fault is visible in the workers' logs
    said: Sequence[str]  # log lines that should never occur

    @property
    def holds(self) -> bool:
        """Whether everything ended without intervention, and the equation holds."""
        sound = self.sum.holds and not self.sum.states.get(State.DEAD)
        return self.drained and self.bit and sound and not self.said


# What no scenario here may cause: an unexpected exception, a second mail, a safety net that found something.
NEVER_SAID = (
    '"bug"',
    "sent_twice",
    "idle_lanes_woken",
    "orphaned_jobs_returned",
    "unhandled_exception",
    "raised unexpected",
)


@contextlib.contextmanager
def staged(scenario: Scenario, cluster: Cluster, directory: Path, seed: int) -> Iterator[Stage]:
    """Servers, processes and files of a scenario; everything ends with the block."""
    with contextlib.ExitStack() as stack:
        chance = random.Random(f"{scenario.name} {seed}")
        disk = replica = None
        if scenario.settable_clock:
            cluster = stack.enter_context(running_cluster(settable_clock=True))
        if scenario.replicated or scenario.several_hosts:
            cluster = stack.enter_context(running_cluster())
            replica = stack.enter_context(cluster.replica())
        if scenario.several_hosts and replica is not None:
            cluster.pg.execute("CREATE DATABASE ledger")
            cluster.keep_commits_on_replica()
            url = f"postgresql://postgres@127.0.0.1:{cluster.pg.port},127.0.0.1:{replica.pg.port}/ledger"
        elif scenario.sqlite:
            url = f"sqlite:///{directory / 'ledger.db'}"
        elif scenario.small_disk:
            disk = stack.enter_context(cluster.small_disk())
            url = cluster.pg.url(stack.enter_context(cluster.pg.database(tablespace="small")))
        else:
            url = cluster.pg.url(stack.enter_context(cluster.pg.database()))
        system = stack.enter_context(running(url, directory, latency=LATENCY_S))
        system.policy.write_text(PATIENT)
        settings = dict(scenario.settings)
        redis = ledger = api = None
        if scenario.proxied:
            redis = stack.enter_context(Proxy(unix=system.redis.socket_path))
            api = stack.enter_context(Proxy("127.0.0.1", int(system.api.url.rpartition(":")[2])))
            settings["REDIS_URL"] = f"redis://127.0.0.1:{redis.port}/0"
            settings["NYLAS_API_URI"] = api.in_place_of(system.api.url)
            if not scenario.sqlite:
                ledger = stack.enter_context(Proxy(cluster.pg.host, cluster.pg.port))
                settings["DATABASE_URL"] = ledger.in_place_of(url)
        watched_servers = None
        if scenario.sentinels:
            watched_servers = stack.enter_context(watched(directory))
            settings["REDIS_URL"] = watched_servers.url
        if scenario.ordinary_role:
            settings["DATABASE_URL"] = _as_ordinary_role(cluster, url)
        bouncer = None
        if scenario.pooled:
            bouncer = PgBouncer(cluster.pg, size=POOLED)
            stack.callback(bouncer.remove)
            settings["DATABASE_URL"] = make_url(url).set(port=bouncer.port).render_as_string(hide_password=False)
        environ = system.environ(**settings)
        crew = Crew(
            directory, environ, scenario.crew, program=["tests.chaos.entry"], ready=partial(_registered, system)
        )
        stack.callback(crew.stop)
        load = Load(system.queue, seed=seed, lanes=scenario.lanes, rate=scenario.rate)
        stage = Stage(system, crew, load, Watch(system), chance, cluster, redis, ledger, api, disk, replica, bouncer)
        stage.watched = watched_servers
        if scenario.receives:
            stage.receiver_port = free_port()
            stage.receivers = _receivers(directory / "receivers", environ, stage.receiver_port)
            stack.callback(stage.receivers.stop)
        yield stage


def _receivers(directory: Path, environ: Mapping[str, str], port: int) -> Crew:
    """A supervised `sendq webhooks` on a port that stays its own."""
    directory.mkdir()
    return Crew(
        directory,
        {**environ, "NYLAS_WEBHOOK_SECRET": WEBHOOK_SECRET},
        1,
        *("webhooks", "--port", str(port)),
        program=["worker.cli"],
        ready=lambda _: _listens(port),
    )


def _listens(port: int) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _as_ordinary_role(cluster: Cluster, url: str) -> str:
    """The address of the ledger for a role that is no superuser and may use its tables."""
    address = make_url(url)
    cluster.pg.execute(f"DROP ROLE IF EXISTS {ROLE}")
    cluster.pg.execute(f"CREATE ROLE {ROLE} LOGIN")
    with psycopg.connect(host=cluster.pg.host, port=cluster.pg.port, user="postgres", dbname=address.database) as db:
        db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}".encode())
        db.execute(f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {ROLE}".encode())
    return address.set(username=ROLE).render_as_string(hide_password=False)


def play(scenario: Scenario, cluster: Cluster, directory: Path, seed: int) -> Played:
    """Warm up, break it, repair it, let everything drain without intervention, and check the equation."""
    began = time.monotonic()
    with staged(scenario, cluster, directory, seed) as stage:
        system = stage.system
        stage.crew.start()
        if stage.receivers is not None:
            stage.receivers.start()
        stage.load.start()
        eventually(lambda: system.states()[State.SENT] >= WARM, "a system that works")
        stage.watch.start()
        stage.load.enqueue_backlog(scenario.backlog)
        scenario.act(stage)
        stage.pause(AFTERWARDS_S)
        stage.load.stop()
        ended = drained(system)
        stage.watch.stop()
        deaths = stage.crew.board.deaths()
        stage.crew.board.disarm()
        found = add_up(system, stage.load)
        back = stage.watch.away(deaths) if stage.mended_at is None else _called_for(system, stage.mended_at)
        return Played(
            scenario,
            seed,
            replace(found, wrong=[*found.wrong, *scenario.wrong(stage)]),
            ended,
            deaths,
            stage.crew.restarts,
            sorted(back),
            time.monotonic() - began,
            any(scenario.sign in log.read_text(errors="replace") for log in directory.glob("worker-*.log")),
            [said for said in _said(directory) if not scenario.net or not said.startswith(scenario.net)],
        )


def _registered(system: System, worker: Worker) -> bool:
    return system.scalar(f"SELECT count(*) FROM sendq_worker WHERE pid = {worker.pid}") > 0


def drained(system: System) -> bool:
    """Wait until no job waits and no turn is open; False if that does not happen within the limit."""
    open_turns = "SELECT count(*) FROM sendq_lane WHERE turn IS NOT NULL"

    def quiet() -> bool:
        states = system.states()
        return not (states[State.QUEUED] or states[State.SENDING] or system.scalar(open_turns))

    try:
        eventually(quiet, "the end of all work")
    except AssertionError:
        return False
    return True


def _called_for(system: System, mended_at: float) -> list[float]:
    """For each lane with jobs waiting when the fault ended: seconds until the next call for one of them.

    Times later than now were written while the ledger's clock was ahead, so their jobs had ended by then.
    """
    at, now = round(mended_at * SECOND), clock.now()
    job, attempt = schema.job.c, schema.attempt.c
    waited = (
        (job.created_at < at) & (job.due_at <= at) & (job.finished_at.is_(None) | job.finished_at.between(at + 1, now))
    )
    calls = (
        select(job.lane_id, func.min(attempt.begun_at).label("begun_at"))
        .join_from(schema.job, schema.attempt, attempt.job_id == job.id)
        .where(waited, attempt.begun_at.between(at, now))
        .group_by(job.lane_id)
    )
    with reading(system.engine) as connection:
        return [(row.begun_at - at) / SECOND for row in connection.execute(calls)]


def _said(directory: Path) -> list[str]:
    found: Counter[str] = Counter()
    for log in directory.glob("worker-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            found.update(words for words in NEVER_SAID if words in line)
    return [f"{words.strip(chr(34))} ({count} times)" for words, count in found.items()]
