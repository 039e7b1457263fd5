"""Scenarios that kill, freeze, starve and disconnect the broker and the ledger."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator

import psutil
import psycopg

from tests.chaos.stage import BROKER_ONLY, ROLE, Scenario, Stage
from tests.support.proxy import Loss
from tests.support.servers import Cluster
from tests.support.waiting import eventually
from worker.redis.embedded import redis_client

# --- Redis ------------------------------------------------------------------------------------------------------------


def _kill_redis(stage: Stage) -> None:
    _redis(stage).kill()
    stage.pause(5.0)
    stage.system.redis.stop()  # cleans up what is left of it
    stage.system.redis.start()
    stage.mended()


def _flush_redis(stage: Stage) -> None:
    for _ in range(3):
        stage.pause(0.5, 1.5)
        with redis_client(stage.system.redis.url) as client:
            client.flushall()
    stage.mended()


def _replace_redis(stage: Stage) -> None:
    _redis(stage).kill()
    stage.pause(2.0)
    redis = stage.system.redis
    redis.stop()
    for path in redis.directory.glob("appendonly*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    redis.start()
    stage.mended()


def _freeze_redis(stage: Stage) -> None:
    process = _redis(stage)
    process.suspend()
    stage.pause(12.0)
    process.resume()
    stage.mended()


def _slow_redis(stage: Stage) -> None:
    assert stage.redis is not None
    stage.redis.delay(0.3)
    stage.pause(10.0)
    stage.redis.forward()
    stage.mended()


def _fill_redis(stage: Stage) -> None:
    with redis_client(stage.system.redis.url) as client:
        client.config_set("maxmemory", 1)  # byte; it never evicts, so every write is refused
        stage.pause(10.0)
        client.config_set("maxmemory", 0)
    stage.mended()


def _spoil_redis(stage: Stage) -> None:
    """What is no message of ours, in every key that the broker reads."""
    for _ in range(5):
        with redis_client(stage.system.redis.url) as client:
            for entry in NO_MESSAGES:
                client.lpush("sendq", entry)
                client.rpush("sendq", entry)
                client.hset("sendq.unacked", f"tag-{stage.chance.random()}", entry)
            client.zadd("sendq.unacked_index", {"a tag of nobody": 1.0})
        stage.pause(0.5, 1.5)
    stage.mended()


def _fail_over_redis(stage: Stage) -> None:
    """Kill the primary; the sentinels promote the replica. The old primary comes back as a replica."""
    assert stage.watched is not None
    old = eventually(stage.watched.primary, "a primary")
    assert old is not None
    stage.watched.kill(old)
    eventually(lambda: stage.watched and stage.watched.primary() not in (None, old), "another primary")
    stage.mended()
    stage.pause(2.0)
    stage.watched.start(old)


def _switch_redis(stage: Stage) -> None:
    """A planned failover, twice: the old primary lives on, refuses writes, and then takes over again."""
    assert stage.watched is not None
    for _ in range(2):
        old = eventually(stage.watched.primary, "a primary")
        stage.watched.switch()
        eventually(lambda: stage.watched and stage.watched.primary() not in (None, old), "another primary")  # noqa: B023
        stage.pause(6.0)  # sentinels refuse another failover for a while
    stage.mended()


def _redis(stage: Stage) -> psutil.Process:
    with redis_client(stage.system.redis.url) as client:
        return psutil.Process(int(client.info("server")["process_id"]))


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def kill_postgres(stage: Stage) -> None:
    """Kill it, and start it again after 4 s."""
    _cluster(stage).kill()
    stage.pause(4.0)
    _cluster(stage).start()
    stage.mended()


def _freeze_postgres(stage: Stage) -> None:
    _cluster(stage).freeze()
    stage.pause(12.0)
    _cluster(stage).thaw()
    stage.mended()


def _no_connections(stage: Stage) -> None:
    """End all sessions, and take every connection before the workers reconnect."""
    pg = _cluster(stage).pg
    with contextlib.ExitStack() as taken:
        others = psycopg.connect(host=pg.host, port=pg.port, user="postgres", dbname="postgres", autocommit=True)
        taken.enter_context(others)

        for _ in range(40):
            others.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test_%'")
            with contextlib.suppress(psycopg.OperationalError):  # there is none left
                while True:
                    taken.enter_context(psycopg.connect(host=pg.host, port=pg.port, user="postgres", dbname="postgres"))
            stage.pause(0.2)
    stage.mended()


def _fill_disk(stage: Stage) -> None:
    assert stage.disk is not None
    ballast = stage.disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    stage.pause(10.0)
    ballast.unlink()
    stage.mended()


def _cut_postgres(stage: Stage) -> None:
    assert stage.ledger is not None
    for _ in range(8):
        stage.pause(0.2, 0.8)
        stage.ledger.break_off()
    stage.ledger.cut()
    stage.pause(3.0)
    stage.ledger.forward()
    stage.mended()


def _lose_commits(stage: Stage) -> None:
    """Lose the answer to a COMMIT: of outcomes, of claims, of offered turns, of beats."""
    assert stage.ledger is not None
    for about in (b"sendq_attempt", b"turn_worker", b"turn='offered'", b"sendq_worker") * 3:
        loss: Loss = stage.ledger.lose_answer_to(b"COMMIT", after=about)
        with contextlib.suppress(AssertionError):  # none may come in this time
            eventually(loss.happened.is_set, f"a lost COMMIT about {about!r}", limit_s=5)
        loss.left = 0
    stage.mended()


def _read_only(stage: Stage) -> None:
    """As after a failover to a reader whose connections are kept, or on a disk that a provider calls full."""
    pg = _cluster(stage).pg
    pg.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    pg.execute("SELECT pg_reload_conf()")
    stage.pause(10.0)
    writes = "-c default_transaction_read_only=off"
    with psycopg.connect(host=pg.host, port=pg.port, user="postgres", options=writes, autocommit=True) as db:
        db.execute("ALTER SYSTEM RESET default_transaction_read_only")
        db.execute("SELECT pg_reload_conf()")
    stage.mended()


def _fail_over(lag_s: float) -> Callable[[Stage], None]:
    """A replica that lacks the last ``lag_s`` seconds takes over; Redis is emptied meanwhile. Nothing is enqueued in
    the gap.
    """

    def act(stage: Stage) -> None:
        assert stage.replica is not None
        stage.load.stop()
        stage.pause(1.0)
        if lag_s:
            stage.replica.stop()
            stage.pause(lag_s)
            _cluster(stage).kill()
        else:  # it lacks what was on the way when the primary died
            _cluster(stage).kill()
            stage.replica.stop()
        with redis_client(stage.system.redis.url) as client:
            client.flushall()
        stage.replica.take_over(_cluster(stage).pg.port)
        stage.mended()

    return act


def _fail_over_to_other_host(stage: Stage) -> None:
    """The primary dies under load; two seconds later its replica takes over, where it is."""
    assert stage.replica is not None
    _cluster(stage).kill()
    stage.pause(2.0)
    stage.replica.promote()
    stage.mended()


def _limit_connections(stage: Stage) -> None:
    """The role of the workers may have one connection from now on, and all that it has are ended."""
    pg = _cluster(stage).pg
    pg.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
    pg.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")
    stage.pause(8.0)
    pg.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
    stage.mended()


def _set_postgres_clock(stage: Stage) -> None:
    """From right to an hour ahead, to right, to an hour behind, and to right again."""
    for seconds in (HOUR_S, 0, -HOUR_S, 0):
        _cluster(stage).set_clock(seconds)
        stage.pause(8.0)
    stage.mended()


def _restart_pgbouncer(stage: Stage) -> None:
    assert stage.bouncer is not None
    for _ in range(3):
        stage.bouncer.stop()
        stage.pause(0.5, 2.0)
        stage.bouncer.start()
        stage.pause(1.0, 3.0)
    stage.mended()


def _cluster(stage: Stage) -> Cluster:
    assert stage.cluster is not None
    return stage.cluster


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _lock_sqlite(stage: Stage) -> None:
    with _sqlite(stage) as caller:
        caller.execute("BEGIN IMMEDIATE")
        stage.pause(10.0)
        caller.execute("COMMIT")
    stage.mended()


@contextlib.contextmanager
def _sqlite(stage: Stage) -> Iterator[sqlite3.Connection]:
    database = stage.system.engine.url.database
    assert database is not None
    connection = sqlite3.connect(database, isolation_level=None, timeout=30)
    try:
        yield connection
    finally:
        connection.close()


HOUR_S = 3600

REFUSED, AWAY = "publish_failed", "ledger_unavailable"

NO_MESSAGES = (b"text", b"[]", b"1", b"null", b"\xff\x00", b"[" * 5000, b'{"body": 1}', b'{"body": "x", "headers": {}}')

SCENARIOS = (
    Scenario("redis-killed", "Redis killed, back 5 s later", _kill_redis, sign=REFUSED, settings=BROKER_ONLY),
    Scenario("redis-flushed", "FLUSHALL, three times", _flush_redis, settings=BROKER_ONLY),
    Scenario("redis-replaced", "Redis replaced by an empty one", _replace_redis, settings=BROKER_ONLY),
    Scenario("redis-frozen", "Redis frozen for 12 s (SIGSTOP)", _freeze_redis, sign=REFUSED, settings=BROKER_ONLY),
    Scenario("redis-slow", "Redis 0.3 s away, either way, for 10 s", _slow_redis, proxied=True, settings=BROKER_ONLY),
    Scenario("redis-full", "Redis out of memory for 10 s", _fill_redis, sign=REFUSED, settings=BROKER_ONLY),
    Scenario("redis-garbage", "unreadable entries in the broker's keys, 5 times", _spoil_redis, settings=BROKER_ONLY),
    Scenario(
        "redis-sentinel-failover",
        "Redis killed, sentinels promote its replica",
        _fail_over_redis,
        sentinels=True,
        sign=REFUSED,
        settings=BROKER_ONLY,
    ),
    Scenario(
        "redis-sentinel-switch",
        "planned failover by sentinels, and back",
        _switch_redis,
        sentinels=True,
        settings=BROKER_ONLY,
    ),
    Scenario("postgres-killed", "PostgreSQL killed (immediate), back 4 s later", kill_postgres, sign=AWAY),
    Scenario("postgres-frozen", "PostgreSQL frozen for 12 s (SIGSTOP)", _freeze_postgres),
    Scenario("postgres-no-connections", "no connection from PostgreSQL, 8 s", _no_connections, sign=AWAY),
    Scenario("postgres-disk-full", "PostgreSQL's disk full, 10 s", _fill_disk, small_disk=True, rate=150.0, sign=AWAY),
    Scenario("postgres-cut", "connections to PostgreSQL cut: 8 times, 3 s", _cut_postgres, proxied=True, sign=AWAY),
    Scenario("postgres-commit-lost", "12 answers to COMMIT lost", _lose_commits, proxied=True, sign=AWAY),
    Scenario("postgres-read-only", "PostgreSQL takes no writes, 10 s", _read_only, sign=AWAY),
    *(
        Scenario(
            f"postgres-failover-{name}",
            f"a replica {says} takes over, Redis emptied",
            _fail_over(lag_s),
            replicated=True,
            backlog=80,
            sign=sign,
            # A loss that is too short to be noticed: the numbers of turns are used again, and a late end of a lost turn
            # ends another one that the same worker claimed.
            net="orphaned_jobs_returned",
        )
        for name, says, lag_s, sign in (
            ("0s", "that follows at once", 0.0, AWAY),
            ("0.2s", "0.2 s behind", 0.2, AWAY),
            ("5s", "5 s behind", 5.0, "dispatch_resumed"),
        )
    ),
    Scenario(
        "postgres-other-host",
        "the second host of the address takes over under load",
        _fail_over_to_other_host,
        several_hosts=True,
        sign=AWAY,
    ),
    Scenario(
        "postgres-role-limit",
        "one connection for the workers' role, 8 s",
        _limit_connections,
        ordinary_role=True,
        backlog=80,
        sign=AWAY,
    ),
    Scenario(
        "postgres-clock",
        "PostgreSQL's clock an hour ahead, right, an hour behind, right",
        _set_postgres_clock,
        settable_clock=True,
        sign="clock_set_back",
    ),
    Scenario(
        "pgbouncer-restarts",
        "PgBouncer stopped and started, 3 times",
        _restart_pgbouncer,
        pooled=True,
        backlog=80,
        sign=AWAY,
    ),
    Scenario("sqlite-locked", "SQLite locked by its caller for 10 s", _lock_sqlite, sqlite=True, crew=2, rate=20.0),
)
