"""A real PgBouncer in transaction mode, where the machine has one."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import tempfile
import time
from pathlib import Path

import psycopg

from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S
from worker.processes.guard import Guarded

# Debian installs it where an ordinary user's PATH does not lead.
BINARY = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

CONFIGURATION = """
[databases]
* = host={server.host} port={server.port} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
server_round_robin = 1
logfile = {home}/pgbouncer.log
"""


class PgBouncer:
    """In front of a server, with ``size`` connections to it. Can be stopped, and started again at the same port."""

    def __init__(self, server: PgServer, *, size: int) -> None:
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # like PostgreSQL, it refuses to run as root
        self._home = Path(tempfile.mkdtemp(prefix="sendq-pgbouncer-", dir="/tmp"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._settings = self._home / "pgbouncer.ini"
        self._settings.write_text(CONFIGURATION.format(server=server, port=self.port, size=size, home=self._home))
        if self._user:
            shutil.chown(self._home, self._user.pw_uid, self._user.pw_gid)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert BINARY is not None
        self._process = Guarded(
            [BINARY, self._settings],
            log=self._home / "output.log",
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
        )
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres").close()
                return
            except psycopg.OperationalError:
                if self._process.ended() or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it; its clients' connections end."""
        self._process.stop()

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)
