"""The embedded Redis: real, private, and gone with whoever started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from kombu.connection import Connection

from tests.support.waiting import LIMIT_S
from worker.redis import embedded
from worker.redis.embedded import EmbeddedError, EmbeddedRedis, find_redis_server, redis_client

ROOT = Path(__file__).parents[3]


def wait_until(true: Callable[[], bool], within_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pid_of(redis: EmbeddedRedis) -> int:
    with redis_client(redis.url) as client:
        return int(client.info("server")["process_id"])


class TestStarting:
    def test_answers_to_both_forms_of_address(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path / "a b") as redis:
            plain_url = f"unix://{quote(str(redis.socket_path))}?db=0"
            with redis_client(redis.url) as kombu_form, redis_client(plain_url) as redis_form:
                kombu_form.set("said", "once")
                assert redis_form.get("said") == b"once"
            connection = Connection(redis.url)  # type: ignore[no-untyped-call]
            with connection, connection.SimpleQueue("q") as queue:  # type: ignore[no-untyped-call]
                queue.put({"id": 1})
                message = queue.get(timeout=LIMIT_S)
                assert message.payload == {"id": 1}
                message.ack()

    def test_keeps_everything_and_evicts_nothing(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as redis, redis_client(redis.url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}

    def test_listens_on_no_port_and_lets_nobody_else_in(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path / "redis") as redis, redis_client(redis.url) as client:
            assert client.config_get("port") == {"port": "0"}
            assert stat.S_IMODE(redis.directory.stat().st_mode) == 0o700
            assert stat.S_IMODE(redis.socket_path.stat().st_mode) == 0o600

    def test_finds_short_room_for_the_socket_of_a_deep_directory(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path / ("deep" * 20) / ("deeper" * 10)) as redis:
            with redis_client(redis.url) as client:
                assert client.ping()
            room = redis.socket_path.parent
            assert room != redis.directory
        assert not room.exists()

    def test_says_in_a_sentence_where_to_get_a_server_when_there_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(embedded, "_server_of_wheel", lambda: None)
        with pytest.raises(EmbeddedError, match=r"no redis-server found: install .* or set REDIS_URL"):
            EmbeddedRedis(tmp_path / "redis").start()

    def test_says_where_the_server_wrote_why_it_ended(self, tmp_path: Path) -> None:
        (tmp_path / "appendonly.aof").write_bytes(b"not what Redis wrote\r\n")
        (tmp_path / "appendonlydir").write_text("not a directory, for Redis 7 and later")
        with pytest.raises(EmbeddedError, match=r"ended immediately.*redis\.log"):
            EmbeddedRedis(tmp_path).start()


class TestTheServerOnPath:
    def server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> Path:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return program

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=1"),
            ("valkey-server", "Valkey server v=8.1.0 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1"),
        ],
    )
    def test_is_taken_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
        assert find_redis_server() != self.server(tmp_path, monkeypatch, name, says)
        assert find_redis_server() == tmp_path / name

    def test_is_passed_over_when_it_is_too_old(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        old = self.server(tmp_path, monkeypatch, "redis-server", "Redis server v=6.0.16 sha=00000000:0")
        assert find_redis_server() != old


class TestEnding:
    def test_leaves_no_process_and_no_socket(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as redis:
            pid = pid_of(redis)
            assert runs(pid)
        assert not runs(pid)
        assert not redis.socket_path.exists()

    def test_keeps_what_was_written(self, tmp_path: Path) -> None:
        for expected in (None, b"yes"):
            with EmbeddedRedis(tmp_path) as redis, redis_client(redis.url) as client:
                assert client.get("kept") == expected
                client.set("kept", "yes")

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_happens_although_a_process_that_was_forked_lives_on(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as redis:
            pid = pid_of(redis)
            child = multiprocessing.get_context("fork").Process(target=signal.pause)
            child.start()
        assert not runs(pid)
        child.kill()
        child.join()

    def test_does_not_happen_when_the_thread_that_started_it_ends(self, tmp_path: Path) -> None:
        redis = EmbeddedRedis(tmp_path)
        thread = threading.Thread(target=redis.start)
        thread.start()
        thread.join()
        try:
            with redis_client(redis.url) as client:
                assert client.ping()
        finally:
            redis.stop()

    @pytest.mark.parametrize("leaves_a_fork", [False, True])
    def test_follows_a_kill_9_of_its_owner(self, tmp_path: Path, leaves_a_fork: bool) -> None:
        """Also if a fork of the owner lives on and holds the guard's pipe open."""
        program = (
            "import os, signal, sys\nfrom worker.redis.embedded import EmbeddedRedis, redis_client\n"
            f"redis = EmbeddedRedis({str(tmp_path / 'redis')!r}).start()\n"
            "pid = redis_client(redis.url).info('server')['process_id']\n"
            f"fork = os.fork() if {leaves_a_fork} else 0\n"
            "if fork == 0: print(pid, os.getpid(), flush=True)\n"
            "signal.pause()\n"
        )
        owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        pid, last = map(int, owner.stdout.readline().split())
        owner.stdout.close()
        assert runs(pid)
        owner.kill()
        owner.wait()
        try:
            wait_until(lambda: not runs(pid))
        finally:
            if last != owner.pid:
                os.kill(last, signal.SIGKILL)

    def test_follows_a_kill_9_of_the_guard(self, tmp_path: Path) -> None:
        redis = EmbeddedRedis(tmp_path).start()
        pid = pid_of(redis)
        guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: not runs(pid))
        redis.stop()


class TestASecondOneInTheSameDirectory:
    def test_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "LOCK_LIMIT_S", 0.1)
        with EmbeddedRedis(tmp_path) as first, redis_client(first.url) as client:
            with pytest.raises(EmbeddedError, match="another embedded Redis uses"):
                EmbeddedRedis(tmp_path).start()
            assert client.ping()

    def test_waits_for_one_that_is_ending(self, tmp_path: Path) -> None:
        first = EmbeddedRedis(tmp_path).start()
        threading.Timer(0.2, first.stop).start()
        with EmbeddedRedis(tmp_path) as second, redis_client(second.url) as client:
            assert client.ping()


class TestReadingAnAddress:
    @pytest.mark.parametrize(
        ("url", "database"),
        [("redis+socket:///tmp/a%20b.sock?virtual_host=3", 3), ("redis+socket:///tmp/a%20b.sock?virtual_host=/3", 3),
         ("redis+socket:///tmp/a%20b.sock", 0), ("unix:///tmp/a%20b.sock?db=3", 3)],
    )  # fmt: skip
    def test_finds_path_and_database_in_either_form(self, url: str, database: int) -> None:
        with redis_client(url) as client:
            options = client.connection_pool.connection_kwargs
            assert (options["path"], options["db"]) == ("/tmp/a b.sock", database)

    def test_finds_name_and_password(self) -> None:
        with redis_client("redis+socket://me:p%40ss@/tmp/r.sock") as client:
            options = client.connection_pool.connection_kwargs
            assert (options["username"], options["password"]) == ("me", "p@ss")
