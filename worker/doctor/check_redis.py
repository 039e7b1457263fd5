"""Can this Redis be the broker? Reachable, new enough, a single writable server that never evicts keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from settings import Settings
from settings.celery import QUEUE
from settings.values import IN_MEMORY
from worker.doctor.finding import PATIENCE_S, CheckItem, clock_item
from worker.redis.embedded import LEAST_VERSION, EmbeddedError, find_redis_server, redis_client

NEARLY_FULL = 0.9  # of maxmemory: a full broker rejects messages, which stops dispatching


def redis_items(settings: Settings) -> Iterator[CheckItem]:
    """Check the broker."""
    if settings.redis_url is None:
        yield _embedded_item()
        return
    if settings.redis_url.get_secret_value() == IN_MEMORY:
        yield CheckItem("redis", "ok", "none: one worker keeps its turns in memory")
        return
    client = redis_client(
        settings.redis_url.get_secret_value(),
        socket_timeout=PATIENCE_S,
        socket_connect_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),  # report the first error
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
    """What is wrong and what to do, without the library's message, which may quote what was sent."""
    if isinstance(error, redis.AuthenticationError) or "WRONGPASS" in str(error) or "NOAUTH" in str(error):
        return "rejects the password", "correct the user and password in REDIS_URL"
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return "is still loading its data", "wait, then check again"
    if isinstance(error, redis.TimeoutError):
        return f"does not answer within {PATIENCE_S:.0f} s", "check the address, and any firewall in between"
    if "certificate" in str(error).lower() or "SSL" in str(error):
        return (
            "has no certificate that this machine trusts",
            "add ?ssl_ca_certs=/path/ca.pem, or use the host name in its certificate",
        )
    if isinstance(error, redis.ConnectionError):
        return "cannot be reached", "check REDIS_URL and that the server is running"
    return "rejects basic commands", "grant them to the user in REDIS_URL (+@all on its own database)"


def _items(client: redis.Redis) -> Iterator[CheckItem]:
    info: Mapping[str, Any] | None = _asked(lambda: client.info())
    if info is None:
        yield CheckItem(
            "redis", "unknown", "answers, but rejects INFO", "allow INFO, or check its version and role yourself"
        )
        info = {}
    else:
        yield _server_item(info)
    yield _rights_item(client)
    yield _eviction_item(client, info)
    yield _persistence_item(client, info)
    before = time.time()
    moment = _asked(lambda: client.time())
    if moment is None:
        yield CheckItem("redis clock", "unknown", "rejects TIME", "make sure its machine runs a time service (NTP)")
    else:
        yield clock_item("redis clock", moment[0] + moment[1] / 1e6, before, time.time())


def _asked(question: Callable[[], Any]) -> Any:
    """The answer; None if the user may not run the command, or a proxy does not know it."""
    try:
        return question()
    except redis.ResponseError:
        return None


# What a worker does in Redis: the keys or channels as an ACL names them, an example, and the commands on it.
_DATABASE = 0  # channels begin with the number of the database
_NEEDED: Sequence[tuple[str, Sequence[tuple[str, ...]]]] = (
    (
        f"~{QUEUE}*",
        (
            ("LPUSH", QUEUE, "x"), ("BRPOP", QUEUE, "1"), ("LLEN", QUEUE), ("LREM", QUEUE, "0", "x"),
            ("GET", f"{QUEUE}:witness:x"), ("SET", f"{QUEUE}:witness:x", "1"), ("TTL", f"{QUEUE}.unacked_mutex"),
            ("EXPIRE", f"{QUEUE}.unacked_mutex", "1"), ("DEL", f"{QUEUE}.unacked_mutex"),
            ("HSET", f"{QUEUE}.unacked", "x", "x"), ("HGET", f"{QUEUE}.unacked", "x"),
            ("HDEL", f"{QUEUE}.unacked", "x"), ("ZADD", f"{QUEUE}.unacked_index", "1", "x"),
            ("ZREM", f"{QUEUE}.unacked_index", "x"), ("ZRANGE", f"{QUEUE}.unacked_index", "0", "1"),
            ("EVALSHA", "0" * 40, "1", f"{QUEUE}.unacked_mutex"),
        ),
    ),
    (
        "~_kombu.*",
        (
            ("SADD", f"_kombu.binding.{QUEUE}", "x"), ("SREM", f"_kombu.binding.{QUEUE}", "x"),
            ("SMEMBERS", f"_kombu.binding.{QUEUE}"), ("ZADD", "_kombu.binding_deadlines", "1", "x"),
            ("ZRANGEBYSCORE", "_kombu.binding_deadlines", "-inf", "0"),
        ),
    ),
    (
        f"~*.{QUEUE}.pidbox*",
        (
            ("DEL", f"celery@host.{QUEUE}.pidbox"), ("LLEN", f"celery@host.{QUEUE}.pidbox"),
            ("LPUSH", f"x.reply.{QUEUE}.pidbox", "x"),
        ),
    ),
    (
        "&*",
        (
            ("PUBLISH", f"/{_DATABASE}.{QUEUE}.pidbox", "x"), ("PUBLISH", f"/{_DATABASE}.{QUEUE}ev/worker.online", "x"),
            ("PSUBSCRIBE", f"/{_DATABASE}.{QUEUE}.pidbox"),
        ),
    ),
    ("+client|setname +script +time", (("CLIENT", "SETNAME", "x"), ("SCRIPT", "LOAD", "return 1"), ("TIME",))),
)  # fmt: skip
RIGHTS = f"~{QUEUE}* ~_kombu.* ~*.{QUEUE}.pidbox* &* +@all -@admin -@dangerous +info +client|setname"


def _rights_item(client: redis.Redis) -> CheckItem:
    """Whether the user may do all that a worker does. Nothing is executed: the commands are queued, then discarded."""
    name, remedy = "redis rights", f"give the user of REDIS_URL these: {RIGHTS}"
    connection: Any = client.connection_pool.get_connection()
    try:
        if not _may(connection, "MULTI"):
            return CheckItem(name, "fail", "the user may not run MULTI", remedy)
        lacking = {
            what: [command[0] for command in commands if not _may(connection, *command)] for what, commands in _NEEDED
        }
        _may(connection, "DISCARD")
    finally:
        connection.disconnect()  # whatever became of the transaction
        client.connection_pool.release(connection)
    found = [f"{', '.join(dict.fromkeys(commands))} with {what}" for what, commands in lacking.items() if commands]
    if found:
        return CheckItem(name, "fail", f"the user may not run {'; '.join(found)}", remedy)
    return CheckItem(name, "ok", "the user may do what a worker does")


def _may(connection: Any, *command: str) -> bool:
    connection.send_command(*command)
    try:
        connection.read_response()
    except redis.ResponseError:  # no permission, or a command that a proxy in front of the server does not know
        return False
    return True


def _server_item(info: Mapping[str, Any]) -> CheckItem:
    version = str(info.get("redis_version", "0.0"))
    says = f"version {version}"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < LEAST_VERSION:
        return CheckItem("redis", "fail", f"{says} is too old", "use Redis 6.2 or later, or Valkey")
    if info.get("cluster_enabled"):
        return CheckItem(
            "redis",
            "fail",
            f"{says} runs as a cluster",
            "use a server without cluster mode, which Celery does not support",
        )
    if info.get("role") != "master":
        return CheckItem("redis", "fail", f"{says} is a read-only replica", "use the address of its primary")
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if most and used > most * NEARLY_FULL:
        return CheckItem(
            "redis",
            "warn",
            f"{says}, memory {used / most:.0%} full",
            "raise maxmemory, or use a separate Redis for sendq",
        )
    return CheckItem("redis", "ok", says)


def _eviction_item(client: redis.Redis, info: Mapping[str, Any]) -> CheckItem:
    """``allkeys-*`` silently deletes whole queues, ``volatile-*`` only keys with an expiry, which other users of
    the server may have."""
    name, remedy = "redis eviction", "CONFIG SET maxmemory-policy noeviction (managed servers: in their parameters)"
    answer = _asked(lambda: client.config_get("maxmemory-policy")) or {}
    policy = answer.get("maxmemory-policy") or info.get("maxmemory_policy")
    if policy is None:
        return CheckItem(
            name, "unknown", "the server does not show its policy", f"make sure it is noeviction: {remedy}"
        )
    if policy.startswith("allkeys"):
        return CheckItem(name, "fail", f"policy {policy} deletes whole queues when memory is short", remedy)
    if policy != "noeviction":
        return CheckItem(name, "warn", f"policy {policy} deletes keys that have an expiry", remedy)
    if evicted := int(info.get("evicted_keys", 0)):
        return CheckItem(name, "warn", f"policy {policy}, but {evicted} keys were deleted earlier", "raise maxmemory")
    return CheckItem(name, "ok", f"policy {policy}")


def _persistence_item(client: redis.Redis, info: Mapping[str, Any]) -> CheckItem:
    """Turns that a restart of Redis loses are dispatched again after ``unclaimed_after_s``: a delay, never a loss."""
    name, remedy = "redis persistence", "CONFIG SET appendonly yes, and the same in its configuration file"
    if "aof_enabled" not in info:
        return CheckItem(
            name, "unknown", "the server does not show its persistence", f"make sure it has some: {remedy}"
        )
    if info["aof_enabled"]:
        if info.get("aof_last_write_status") != "ok":
            return CheckItem(name, "fail", "the last write to its append-only file failed", "free space on its disk")
        return CheckItem(name, "ok", "append-only file")
    if info.get("rdb_last_bgsave_status") != "ok":
        return CheckItem(name, "fail", "its last snapshot failed, so it may reject writes", "free space on its disk")
    answer = _asked(lambda: client.config_get("save"))
    if answer is None:
        return CheckItem(
            name, "unknown", "no append-only file, and the server does not show its snapshot settings", remedy
        )
    kept = (
        "snapshots only: a restart loses what came after the last one"
        if answer.get("save")
        else "no persistence: a restart loses everything"
    )
    return CheckItem(name, "warn", f"{kept} (turns are then dispatched again, with a delay)", remedy)
