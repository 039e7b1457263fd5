"""Whether a Redis can be the broker: reachable, new enough, a single writable server that evicts nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from settings import Settings
from worker.doctor.finding import PATIENCE_S, CheckItem, clock_item
from worker.redis.embedded import LEAST_VERSION, EmbeddedError, find_redis_server, redis_client

NEARLY_FULL = 0.9  # of maxmemory: a broker that refuses messages stops dispatch until somebody makes room


def redis_items(settings: Settings) -> Iterator[CheckItem]:
    """The items about the broker."""
    if settings.redis_url is None:
        yield _embedded_item()
        return
    client = redis_client(
        settings.redis_url.get_secret_value(),
        socket_timeout=PATIENCE_S,
        socket_connect_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),  # the first answer is the one to tell
    )
    with client:
        try:
            client.ping()
            yield from _items(client)
        except redis.RedisError as error:
            reason, remedy = _meaning(error)
            yield CheckItem("redis", "fail", reason, remedy)


def _embedded_item() -> CheckItem:
    try:
        return CheckItem("redis", "ok", f"will be embedded: {find_redis_server()}")
    except EmbeddedError as error:
        says, _, remedy = str(error).partition(": ")
        return CheckItem("redis", "fail", says, remedy)


def _meaning(error: redis.RedisError) -> tuple[str, str]:
    """What is wrong and what to do, without the library's words: they may quote what was sent."""
    if isinstance(error, redis.AuthenticationError) or "WRONGPASS" in str(error) or "NOAUTH" in str(error):
        return "refuses the password", "correct the user and password in REDIS_URL"
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return "is still loading its data", "wait a moment and check again"
    if isinstance(error, redis.TimeoutError):
        return f"does not answer within {PATIENCE_S:.0f} s", "check the address, and any firewall between"
    if "certificate" in str(error).lower() or "SSL" in str(error):
        return "has no certificate that this machine trusts", "add ?ssl_ca_certs=/path/ca.pem, or use its right name"
    if isinstance(error, redis.ConnectionError):
        return "cannot be reached", "check REDIS_URL and that the server runs"
    return "refuses simple commands", "give the user of REDIS_URL the right to them (+@all on its own database)"


def _items(client: redis.Redis) -> Iterator[CheckItem]:
    info: Mapping[str, Any] | None = _asked(lambda: client.info())
    if info is None:
        yield CheckItem(
            "redis", "unknown", "answers, and refuses INFO", "allow INFO, or see to version and role yourself"
        )
        info = {}
    else:
        yield _server_item(info)
    yield _eviction_item(client, info)
    yield _persistence_item(client, info)
    before = time.time()
    moment = _asked(lambda: client.time())
    if moment is None:
        yield CheckItem("redis clock", "unknown", "refuses TIME", "see to a time service (NTP) on its machine")
    else:
        yield clock_item("redis clock", moment[0] + moment[1] / 1e6, before, time.time())


def _asked(question: Callable[[], Any]) -> Any:
    """The answer; None if this user may not ask, or a proxy does not know the question."""
    try:
        return question()
    except redis.ResponseError:
        return None


def _server_item(info: Mapping[str, Any]) -> CheckItem:
    version = str(info.get("redis_version", "0.0"))
    says = f"version {version}"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < LEAST_VERSION:
        return CheckItem("redis", "fail", f"{says} is too old", "use Redis 6.2 or later, or Valkey")
    if info.get("cluster_enabled"):
        return CheckItem("redis", "fail", f"{says} runs as a cluster", "Celery needs a server without cluster mode")
    if info.get("role") != "master":
        return CheckItem("redis", "fail", f"{says} is a replica and takes no writes", "give the address of its primary")
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if most and used > most * NEARLY_FULL:
        return CheckItem(
            "redis", "warn", f"{says}, memory {used / most:.0%} full", "raise maxmemory, or use one for sendq"
        )
    return CheckItem("redis", "ok", says)


def _eviction_item(client: redis.Redis, info: Mapping[str, Any]) -> CheckItem:
    """``allkeys-*`` deletes whole queues without a word to anybody; ``volatile-*`` only keys with an expiry, and ours
    have none, but a neighbour's may."""
    name, remedy = "redis eviction", "CONFIG SET maxmemory-policy noeviction (managed: in its parameters)"
    answer = _asked(lambda: client.config_get("maxmemory-policy")) or {}
    policy = answer.get("maxmemory-policy") or info.get("maxmemory_policy")
    if policy is None:
        return CheckItem(name, "unknown", "the server does not tell its policy", f"make sure of it: {remedy}")
    if policy.startswith("allkeys"):
        return CheckItem(name, "fail", f"policy {policy} deletes whole queues when memory is short", remedy)
    if policy != "noeviction":
        return CheckItem(name, "warn", f"policy {policy} deletes keys that have an expiry", remedy)
    if evicted := int(info.get("evicted_keys", 0)):
        return CheckItem(name, "warn", f"policy {policy}, but {evicted} keys were deleted earlier", "raise maxmemory")
    return CheckItem(name, "ok", f"policy {policy}")


def _persistence_item(client: redis.Redis, info: Mapping[str, Any]) -> CheckItem:
    """What a restart of Redis forgets, the ledger hands out again after ``unclaimed_after_s``: slower, never lost."""
    name, remedy = "redis persistence", "CONFIG SET appendonly yes, and the same in its configuration file"
    if "aof_enabled" not in info:
        return CheckItem(
            name, "unknown", "the server does not tell whether it keeps a file", f"make sure of it: {remedy}"
        )
    if info["aof_enabled"]:
        if info.get("aof_last_write_status") != "ok":
            return CheckItem(name, "fail", "its last write to the append-only file failed", "make room on its disk")
        return CheckItem(name, "ok", "append-only file")
    if info.get("rdb_last_bgsave_status") != "ok":
        return CheckItem(name, "fail", "its last snapshot failed, so it may refuse writes", "make room on its disk")
    answer = _asked(lambda: client.config_get("save"))
    if answer is None:
        return CheckItem(name, "unknown", "no append-only file, and it does not tell about snapshots", remedy)
    kept = (
        "snapshots alone: a restart forgets what came after the last" if answer.get("save") else "a restart forgets all"
    )
    return CheckItem(name, "warn", f"{kept} (the ledger hands it out again, late)", remedy)
