"""docker-compose.yml without an engine: its services, run on this machine with the variables that it gives them.

The files that the Dockerfile copies are laid out in a directory of their own, and everything runs from there.
`tests/image` runs the same services in the image's own file system.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S
from worker.processes.guard import Guarded
from worker.redis.embedded import find_redis_server

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))

PUBLISHED = {"flower": "5555", "webhooks": "8787", "console": "8790", "api": "8791"}

SECRETS = {
    "POSTGRES_PASSWORD": "p0stgres",
    "REDIS_PASSWORD": "r3dis",
    "FLOWER_PASSWORD": "fl0wer",
    "NYLAS_API_KEY": "nyk_compose",
}


def interpolated(value: Any, variables: dict[str, str]) -> Any:
    """What docker compose makes of ``${NAME}``, ``${NAME:-default}``, ``${NAME:+if set}``, ``${NAME:?why}``, ``$$``."""
    if isinstance(value, dict):
        return {key: interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def one(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        given = variables.get(found["name"], "")
        if not given and found["how"] == ":?":
            raise KeyError(f"{found['name']}: {found['rest']}")
        if found["how"] == ":+":
            return found["rest"] if given else ""
        return given or (found["rest"] if found["how"] == ":-" else "")

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?:(?P<how>:[-+?])(?P<rest>[^}]*))?\}", one, value)


def dotenv(given: dict[str, str]) -> dict[str, str]:
    """The variables of .env: the example, with some values filled in."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE):
        found[name] = given.get(name, interpolated(value, found))
    return {**found, **given}


def composed(given: dict[str, str]) -> dict[str, Any]:
    """The file, as docker compose would see it beside such an .env."""
    variables = dotenv(given)
    found: dict[str, Any] = interpolated(yaml.safe_load((ROOT / "docker-compose.yml").read_text()), variables)
    for service in found["services"].values():
        if service.get("env_file") == ".env":
            service["environment"] = {**variables, **service["environment"]}
    return found


def compose(given: dict[str, str]) -> dict[str, Any]:
    """The services of `composed`."""
    services: dict[str, Any] = composed(given)["services"]
    return services


def free_port() -> int:
    """A port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Machine:
    """The servers of docker-compose.yml on this machine, where its commands find them."""

    services: dict[str, Any]
    home: Path
    ports: dict[str, int]

    def environment(self, service: str) -> dict[str, str]:
        """The service's variables, with the addresses of this machine in place of the containers' names."""
        found = {name: str(value) for name, value in self.services[service].get("environment", {}).items()}
        for name in ("DATABASE_URL", "REDIS_URL"):
            if name in found:
                found[name] = re.sub(
                    r"@(\w+):\d+/", lambda host: f"@127.0.0.1:{self.ports[host[1]]}/", found[name], count=1
                )
        if "SENDQ_METRICS_ADDRESS" in found:
            found["SENDQ_METRICS_ADDRESS"] = "127.0.0.1:0"
        return {
            **found,
            "PATH": f"{self.home / 'bin'}:{SCRIPTS}:/usr/bin:/bin",
            "PYTHONPATH": str(self.home / "app"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.home / "tmp"),  # every container has its own
        }

    def directory(self, service: str) -> Path:
        """Where the service's image puts a command: Redis beside its data, ours beside the code."""
        return self.home / ("data" if service == "redis" else "app")

    def command(self, argv: list[str]) -> list[str]:
        """The command line, at the port that is free here."""
        here = {port: str(self.ports[name]) for name, port in PUBLISHED.items() if name in self.ports}
        parts = [re.sub("|".join(here), lambda port: here[port[0]], part) for part in argv]
        return [sys.executable if parts[0] == "python" else parts[0], *parts[1:]]

    def inside(self, service: str, argv: list[str]) -> list[str]:
        """The command line that runs a command in a service's surroundings."""
        return ["/usr/bin/env", "-C", str(self.directory(service)), *self.command(argv)]

    def run(self, service: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's surroundings, to its end."""
        return subprocess.run(
            self.inside(service, argv), env=self.environment(service),
            capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip

    def healthy(self, service: str) -> bool:
        """Whether the service's health check says so."""
        kind, *argv = self.services[service]["healthcheck"]["test"]
        return self.run(service, ["sh", "-c", *argv] if kind == "CMD-SHELL" else argv).returncode == 0

    @contextmanager
    def up(self, service: str) -> Iterator[Guarded]:
        """The service, running and healthy."""
        log = self.home / f"{service}.log"
        argv = self.inside(service, self.services[service]["command"])
        running = Guarded(argv, log=log, env=self.environment(service), grace_s=20.0)
        try:
            wait_until(lambda: running.ended() or self.healthy(service))
            assert not running.ended(), log.read_text()[-2000:]
            yield running
        finally:
            running.stop()


def wait_until(what: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, "not within the time limit"
        time.sleep(0.1)


def image(home: Path) -> None:
    """What the Dockerfile copies into the image, in ``home``/app."""
    app = home / "app"
    app.mkdir()
    for source, target in re.findall(r"^COPY (?!--)(\S+) (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        if target.startswith("/"):  # into the stage that builds
            continue
        (app / target).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, app / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, app / target)


def files(directory: Path) -> dict[Path, float]:
    """Every file and when it was written."""
    return {path: path.stat().st_mtime for path in directory.rglob("*")}


def servers_on_path(home: Path, redis_port: int) -> None:
    """redis-server and redis-cli as the image has them: on PATH, but at a port that is free here."""
    (home / "bin").mkdir()
    cli = f"{sys.executable} {ROOT / 'tests' / 'support' / 'redis_cli.py'}"
    for name, command in (
        ("redis-server", f'{find_redis_server()} "$@" --port {redis_port}'),
        ("redis-cli", f'{cli} -p {redis_port} "$@"'),
    ):
        path = home / "bin" / name
        path.write_text(f"#!/bin/sh\nexec {command}\n")
        path.chmod(0o755)


@contextmanager
def served(
    pg_server: PgServer, home: Path, port_names: tuple[str, ...] = ("redis", "flower", "webhooks")
) -> Iterator[dict[str, int]]:
    """A port for each server, and PostgreSQL with the role and the database that the image's own start makes."""
    servers_on_path(home, (ports := {name: free_port() for name in port_names})["redis"])
    (home / "data").mkdir()
    (home / "tmp").mkdir()
    pg_server.execute("CREATE ROLE sendq LOGIN PASSWORD 'p0stgres'")
    pg_server.execute("CREATE DATABASE sendq OWNER sendq")
    try:
        yield {"postgres": pg_server.port, **ports}
    finally:
        pg_server.execute("DROP DATABASE sendq WITH (FORCE)")
        pg_server.execute("DROP ROLE sendq")


@dataclass
class Flower:
    """Flower, as a browser sees it."""

    url: str

    def status(self, path: str, *, login: tuple[str, str] | None = None, post: Any = None) -> int:
        """The status of the answer."""
        request = urllib.request.Request(self.url + path, data=json.dumps(post).encode() if post else None)
        if login:
            request.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
                status: int = answer.status
                return status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
