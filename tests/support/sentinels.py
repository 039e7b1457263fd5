"""A real primary and replica of Valkey or Redis, with three sentinels that watch them."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.waiting import eventually
from worker.processes.guard import Guarded
from worker.redis.embedded import find_redis_server

NAME, PASSWORD = "mymaster", "hush:broker"
SENTINELS = 3

# How long the primary may be silent before a sentinel counts it as dead, and how soon another attempt may follow.
DOWN_AFTER_MS, FAILOVER_TIMEOUT_MS = 1000, 5000


@dataclass
class Watched:
    """The servers by port; the first of them starts as the primary."""

    home: Path
    servers: dict[int, Guarded]
    sentinels: dict[int, Guarded]

    @property
    def url(self) -> str:
        """REDIS_URL, with sentinels in place of a server."""
        login = f":{PASSWORD.replace(':', '%3A')}@"
        return ";".join(f"sentinel://{login}127.0.0.1:{port}" for port in self.sentinels) + f"/1?master_name={NAME}"

    def primary(self) -> int | None:
        """The port of the server that a majority of the sentinels names, if it takes writes."""
        named = [self._ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME) for port in self.sentinels]
        ports = [int(one[1]) for one in named if isinstance(one, list)]
        port = max(set(ports), key=ports.count, default=None)
        if port is None or ports.count(port) <= SENTINELS // 2:
            return None
        role = self._ask(port, "ROLE")
        return port if isinstance(role, list) and role[0] == b"master" else None

    def kill(self, port: int) -> None:
        """``kill -9`` a server, so that it cannot say goodbye."""
        pid = redis.Redis(port=port, password=PASSWORD).info("server")["process_id"]
        os.kill(int(pid), signal.SIGKILL)

    def switch(self) -> None:
        """A planned failover: the primary becomes a replica, and lives on. Refused until the replica is known."""
        first = next(iter(self.sentinels))
        eventually(lambda: self._ask(first, "SENTINEL", "FAILOVER", NAME) is not None, "a failover that is not refused")

    def start(self, port: int) -> None:
        """Start a server again, as it was configured first; the sentinels tell it whom to follow."""
        self.servers[port].stop()
        self.servers[port] = _server(self.home, port, None)

    def _ask(self, port: int, *command: str) -> object:
        password = None if port in self.sentinels else PASSWORD
        try:
            with redis.Redis(
                port=port, password=password, socket_timeout=2, protocol=2, retry=Retry(NoBackoff(), 0)
            ) as client:
                connection = client.connection_pool.get_connection()
                try:
                    connection.send_command(*command)
                    return connection.read_response()
                finally:
                    connection.disconnect()
                    client.connection_pool.release(connection)
        except redis.RedisError:
            return None


@contextmanager
def watched(home: Path) -> Iterator[Watched]:
    """Start all of them below ``home``; returns when every sentinel knows the replica and the other sentinels."""
    ports = _free_ports(2 + SENTINELS)
    first, second = ports[:2]
    found = Watched(home, {}, {})
    try:
        found.servers[first] = _server(home, first, None)
        found.servers[second] = _server(home, second, first)
        for port in ports[2:]:
            found.sentinels[port] = _sentinel(home, port, first)
        eventually(lambda: all(_knows_all(found, port) for port in found.sentinels), "sentinels that know each other")
        yield found
    finally:
        for one in (*found.sentinels.values(), *found.servers.values()):
            one.stop()


def _knows_all(found: Watched, sentinel: int) -> bool:
    said = found._ask(sentinel, "SENTINEL", "MASTER", NAME)
    if not isinstance(said, list):
        return False
    facts = dict(zip(said[::2], said[1::2], strict=True))
    return facts.get(b"num-slaves") == b"1" and facts.get(b"num-other-sentinels") == b"2"


def _server(home: Path, port: int, follows: int | None) -> Guarded:
    directory = home / f"server-{port}"
    directory.mkdir(exist_ok=True)
    options = {
        "port": str(port), "bind": "127.0.0.1", "dir": str(directory), "appendonly": "yes", "save": "",
        "requirepass": PASSWORD, "masterauth": PASSWORD, "repl-diskless-sync-delay": "0",
    }  # fmt: skip
    argv = [str(find_redis_server()), *(part for name, value in options.items() for part in (f"--{name}", value))]
    if follows is not None:
        argv += ["--replicaof", "127.0.0.1", str(follows)]
    return Guarded(argv, log=directory / "log")


def _sentinel(home: Path, port: int, primary: int) -> Guarded:
    directory = home / f"sentinel-{port}"
    directory.mkdir()
    settings = directory / "sentinel.conf"  # it rewrites this file itself
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor {NAME} 127.0.0.1 {primary} {SENTINELS // 2 + 1}\n"
        f"sentinel auth-pass {NAME} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}\n"
    )
    return Guarded([str(find_redis_server()), str(settings), "--sentinel"], log=directory / "log")


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
