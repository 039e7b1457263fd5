"""`sendq up`: everything on one machine. Migrated ledger, broker, workers, optionally Flower, console and HTTP API.

Ctrl-C stops all.

Every process is a guarded child (`worker.processes.guard`), which ends with this one even if it is killed. The
children's logs go to this process's stderr.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from sendq.errors import Problem
from sendq.ledger.db import migrate
from settings import Settings, SettingsError
from settings.values import IN_MEMORY, nth_address
from worker.doctor.check_redis import redis_items
from worker.processes.children import api_argv, console_argv, flower_argv, start_child, worker_argv
from worker.processes.guard import Guarded
from worker.processes.stopping import Stop, Stopping, stoppable
from worker.redis.embedded import NO_BROKER, EmbeddedRedis, NoServerError

FLOWER_PORT = 5555

# A worker that ends sooner than this cannot run at all (its error is on stderr), so it is not restarted. One that ends
# later is.
LEAST_LIFE_S = 10.0

# All that Flower gets of the environment: it is reachable over the network, and any other variable may be a secret.
# What Python and the system need, its own options, the broker, and settings without secrets.
FOR_FLOWER = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|TZ|LANG|LANGUAGE|LC_\w+|TMPDIR|TEMP|TMP|SYSTEMROOT|VIRTUAL_ENV|PYTHON\w+"
    r"|LD_LIBRARY_PATH|SSL_CERT_(FILE|DIR)|FLOWER_\w+|REDIS_URL|SENDQ_(HOME|LOG_\w+|CONCURRENCY|ENQUEUE_TASK)"
).fullmatch

# What the console is not given: it calls neither the API nor the broker, and opens no body.
NOT_FOR_CONSOLE = re.compile(
    r"NYLAS_(API_KEY|API_KEY_FILE|WEBHOOK_SECRET)|SENDQ_ENCRYPTION_\w+|SENDQ_OUTCOME_\w+|REDIS_URL"
).fullmatch

# What the HTTP API is not given: like the console, but it stores bodies, and needs the keys for that.
NOT_FOR_API = re.compile(
    r"NYLAS_(API_KEY|API_KEY_FILE|WEBHOOK_SECRET)|SENDQ_CONSOLE_\w+|SENDQ_OUTCOME_\w+|REDIS_URL"
).fullmatch

LOOK_S = 0.5  # how often the children are checked

FAILED = 1


def up(
    settings: Settings,
    *,
    workers: int,
    flower: bool,
    console_port: int | None,
    api_port: int | None,
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> int:
    """Run until asked to stop; return the exit status. ``console_port``, ``api_port``: None for no console, no
    HTTP API; ``say`` prints a line.

    Raises `SettingsError` (no API key, or a broker that cannot be used), the exceptions of `migrate.run`, and
    `EmbeddedError` (no Redis available).
    """
    settings.require_keys()
    if api_port is not None:
        # Before anything starts: without tokens it cannot serve. Imported here, since it brings a web server.
        from worker.processes.api import tokens_of

        tokens_of(settings)
    with stoppable() as stop, ExitStack() as running:
        try:
            broker_url = _servers(settings, running, say, alone=workers == 1 and not flower)
            stop.check()
            given = _environ(settings, environ, broker_url)
            children = running.enter_context(_Children(settings.grace_s, stop))
            events = ["-E"] if flower else []
            for number in range(1, workers + 1):
                argv = worker_argv("-l", settings.log_level, "-n", f"sendq{number}@%h", *events)
                children.start(f"worker {number}", argv, given | _metrics_of(settings, number))
            if flower:
                where = ["--address=127.0.0.1", f"--port={FLOWER_PORT}"]
                children.start("flower", flower_argv(*where), for_flower(given))
                say(f"flower: http://127.0.0.1:{FLOWER_PORT}")
            if console_port is not None:
                children.start("console", console_argv(f"--port={console_port}"), for_console(given))
            if api_port is not None:
                children.start("api", api_argv(f"--port={api_port}"), for_api(given))
            say(f"up: {workers} worker{'s' * (workers > 1)}; Ctrl-C stops")
            failed = children.watch(say)
        except Stopping:
            say("stopping: waiting for calls in flight; stop again to end without them")
            failed = False
    say("stopped")
    if failed:
        return FAILED
    return 0 if stop.signum == signal.SIGTERM else stop.exit_status  # a supervisor's stop is not a failure


def for_flower(environ: Mapping[str, str]) -> dict[str, str]:
    """What Flower's process gets of the environment."""
    return {name: value for name, value in environ.items() if FOR_FLOWER(name)}


def for_console(environ: Mapping[str, str]) -> dict[str, str]:
    """What the console's process gets of the environment."""
    return {name: value for name, value in environ.items() if not NOT_FOR_CONSOLE(name)}


def for_api(environ: Mapping[str, str]) -> dict[str, str]:
    """What the process of the HTTP API gets of the environment."""
    return {name: value for name, value in environ.items() if not NOT_FOR_API(name)}


def _servers(settings: Settings, running: ExitStack, say: Callable[[str], None], *, alone: bool) -> str:
    """Migrate the ledger and start a broker if needed; return its address. A configured one is checked first.

    ``alone``: nothing but one worker uses the broker, so that its own memory will do if there is no server.
    """
    if settings.redis_url is not None:
        _try_broker(settings, say)
    settings.make_home()
    done = migrate.run(settings.ledger_url.get_secret_value())
    say(f"ledger: {settings.ledger_url} (schema {done.after})")
    if settings.redis_url is not None:
        say(f"broker: {settings.redis_url}")
        return settings.redis_url.get_secret_value()
    try:
        redis = running.enter_context(EmbeddedRedis(settings.redis_home))
    except NoServerError:
        if not (alone and settings.has_sqlite_ledger):
            raise
        say(NO_BROKER)
        return IN_MEMORY
    say(f"broker: embedded, in {settings.redis_home}")
    return redis.url


def _try_broker(settings: Settings, say: Callable[[str], None]) -> None:
    """Raise `SettingsError` if workers cannot use the configured Redis; print lesser problems."""
    for item in redis_items(settings):
        if item.state != "fail":
            continue
        if item.name == "redis":
            raise SettingsError([Problem("REDIS_URL", item.says, f"{item.remedy}; see: sendq check")])
        say(f"{item.name}: {item.says}; {item.remedy}")


def _environ(settings: Settings, environ: Mapping[str, str], broker_url: str) -> dict[str, str]:
    # The children write to a pipe, so they cannot tell whether stderr is a terminal.
    log_format = "console" if sys.stderr.isatty() else settings.log_format
    return {"SENDQ_LOG_FORMAT": log_format, **environ, "REDIS_URL": broker_url, "SENDQ_HOME": str(settings.home)}


def _metrics_of(settings: Settings, number: int) -> dict[str, str]:
    """Each worker on a machine needs its own port: the configured one, and the following ones."""
    if settings.metrics_address is None:
        return {}
    return {"SENDQ_METRICS_ADDRESS": nth_address(settings.metrics_address, number)}


class _Child(NamedTuple):
    process: Guarded
    argv: list[str]
    environ: Mapping[str, str]
    since: float  # monotonic


class _Children:
    """The started processes by name."""

    def __init__(self, grace_s: float, stop: Stop) -> None:
        self._grace_s, self._stop = grace_s, stop
        self._running: dict[str, _Child] = {}
        self._outputs = ExitStack()

    def __enter__(self) -> _Children:
        self._log = self._outputs.enter_context(_to_stderr())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all at once and wait for them; further stop requests in the meantime are passed on."""
        children = [child.process for child in self._running.values()]
        asked = self._stop.times
        with self._outputs, ThreadPoolExecutor(max(1, len(children))) as stopping:
            unfinished = {stopping.submit(child.stop) for child in children}
            while unfinished:
                unfinished = wait(unfinished, timeout=LOOK_S).not_done
                if self._stop.times > asked:
                    asked = self._stop.times
                    for child in children:
                        child.hurry()

    def start(self, name: str, argv: list[str], environ: Mapping[str, str]) -> None:
        child = start_child(argv, log=self._log, environ=environ, grace_s=self._grace_s)
        self._running[name] = _Child(child, argv, environ, time.monotonic())

    def watch(self, say: Callable[[str], None]) -> bool:
        """Restart children that end; return True when one cannot run at all. Raises `Stopping`."""
        while True:
            self._stop.wait(LOOK_S)
            for name, child in list(self._running.items()):
                if not child.process.ended():
                    continue
                if time.monotonic() - child.since < LEAST_LIFE_S:
                    say(f"{name} ended immediately; the reason is above")
                    return True
                say(f"{name} ended, restarting it")
                child.process.stop()
                self.start(name, child.argv, child.environ)


@contextmanager
def _to_stderr() -> Iterator[Path]:
    """A path whose data is copied to stderr.

    Not /dev/stderr itself: under a supervisor that is often a socket, or another user's terminal, which cannot be
    opened a second time.
    """
    reader, writer = os.pipe()

    def pump() -> None:
        with open(reader, "rb", buffering=0) as source:
            while chunk := source.read(65536):
                with contextlib.suppress(OSError, ValueError):  # stderr is closed: the children go on
                    sys.stderr.buffer.write(chunk)
                    sys.stderr.buffer.flush()

    thread = threading.Thread(target=pump, name="sendq-output", daemon=True)
    thread.start()
    try:
        yield Path(f"/dev/fd/{writer}")
    finally:
        os.close(writer)
        thread.join(1.0)  # all writers have ended, so the rest is in the pipe
