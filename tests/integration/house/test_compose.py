"""docker-compose.yml, without an engine: its commands, health checks and environment, run by hand on real servers.

What this cannot show is the image: that it builds, and that containers reach each other by name. The files that the
Dockerfile copies are laid out in a directory of their own, and everything runs from there, with the variables that
docker-compose.yml gives it and no others.
"""

from __future__ import annotations

import base64
import json
import os
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

import pytest
import yaml

from sendq import Message, SendQueue, State
from sendq.simulator import Simulator
from settings import Settings
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S
from worker.processes.guard import Guarded
from worker.redis.embedded import find_redis_server

ROOT = Path(__file__).parents[3]
SCRIPTS = Path(sysconfig.get_path("scripts"))

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
        here = {"5555": self.ports["flower"], "8787": self.ports["webhooks"]}
        parts = [re.sub("5555|8787", lambda port: str(here[port[0]]), part) for part in argv]
        return [sys.executable if parts[0] == "python" else parts[0], *parts[1:]]

    def run(self, service: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's surroundings, to its end."""
        return subprocess.run(
            self.command(argv), cwd=self.directory(service), env=self.environment(service),
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
        argv = ["/usr/bin/env", "-C", str(self.directory(service)), *self.command(self.services[service]["command"])]
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


@pytest.fixture
def machine(tmp_path: Path, pg_server: PgServer) -> Iterator[Machine]:
    """PostgreSQL with the role and the database that the image's own start makes; nothing else runs yet."""
    ports = {"postgres": pg_server.port, "redis": free_port(), "flower": free_port(), "webhooks": free_port()}
    image(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "tmp").mkdir()
    servers_on_path(tmp_path, ports["redis"])
    pg_server.execute("CREATE ROLE sendq LOGIN PASSWORD 'p0stgres'")
    pg_server.execute("CREATE DATABASE sendq OWNER sendq")
    try:
        yield Machine(compose(SECRETS), tmp_path, ports)
    finally:
        pg_server.execute("DROP DATABASE sendq WITH (FORCE)")
        pg_server.execute("DROP ROLE sendq")


class TestRedisAsComposed:
    def test_wants_its_password_keeps_what_it_is_given_and_never_evicts(self, machine: Machine) -> None:
        with machine.up("redis"):
            ask = 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli config get "*"'
            told = machine.run("redis", ["sh", "-c", ask]).stdout.split("\n")
            config = dict(zip(told[::2], told[1::2], strict=False))
            assert (config["appendonly"], config["maxmemory-policy"]) == ("yes", "noeviction")
            assert "NOAUTH" in machine.run("redis", ["redis-cli", "ping"]).stdout

    def test_refuses_to_start_without_a_password(self, machine: Machine) -> None:
        machine.services["redis"]["environment"]["REDIS_PASSWORD"] = ""
        done = machine.run("redis", machine.services["redis"]["command"])
        assert done.returncode != 0
        assert "REDIS_PASSWORD: set it in .env" in done.stderr

    def test_its_password_stands_in_no_list_of_processes(self, machine: Machine) -> None:
        assert SECRETS["REDIS_PASSWORD"] not in " ".join(machine.services["redis"]["command"])

    def test_is_unwell_with_another_password(self, machine: Machine) -> None:
        with machine.up("redis"):
            machine.services["redis"]["environment"]["REDIS_PASSWORD"] = "another"
            assert not machine.healthy("redis")


@pytest.mark.long
class TestTheWholeOfIt:
    def test_migrates_sends_says_how_it_is_and_stops(self, machine: Machine) -> None:
        with machine.up("redis"), Simulator(api_key=SECRETS["NYLAS_API_KEY"]) as nylas:
            machine.services["worker"]["environment"]["NYLAS_API_URI"] = nylas.url
            migrate = machine.services["migrate"]["command"]
            laid_out = files(machine.home / "app")
            assert machine.run("migrate", migrate).returncode == 0
            with machine.up("worker") as worker:
                queue = SendQueue(machine.environment("worker")["DATABASE_URL"])
                job = queue.send("grant-1", Message(to=["leyah@example.com"], subject="Invoice 42", body="42"))
                nylas.wait_for(lambda seen: seen.mailbox, timeout=LIMIT_S)
                wait_until(lambda: queue.job(job.id).state is State.SENT)
                queue.close()
            assert worker.ended()
            assert not machine.healthy("worker")
            assert files(machine.home / "app") == laid_out  # the containers' file systems are read-only

    def test_takes_in_what_nylas_notifies_of_and_says_that_it_is_well(self, machine: Machine) -> None:
        assert machine.run("migrate", machine.services["migrate"]["command"]).returncode == 0
        machine.services["webhooks"]["environment"]["NYLAS_WEBHOOK_SECRET"] = "hush"
        with machine.up("webhooks"):
            receiver = Flower(f"http://127.0.0.1:{machine.ports['webhooks']}")
            assert receiver.status("/", post={"type": "grant.expired"}) == 401  # nobody has signed that
            assert machine.healthy("webhooks")
        assert not machine.healthy("webhooks")

    def test_flower_shows_itself_to_who_has_the_login_and_does_nothing_for_anybody(self, machine: Machine) -> None:
        with machine.up("redis"), machine.up("flower"):
            flower = Flower(f"http://127.0.0.1:{machine.ports['flower']}")
            login = ("flower", SECRETS["FLOWER_PASSWORD"])
            assert flower.status("/workers") == 401
            assert flower.status("/workers", login=("flower", "guess")) == 401
            assert flower.status("/workers", login=login) == 200
            assert flower.status("/api/workers", login=login) == 200
            assert flower.status("/api/task/async-apply/sendq.bundle", login=login, post={"args": [[]]}) == 403


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


class TestAWorkersHealth:
    def test_needs_neither_ledger_nor_broker_and_no_time(self, machine: Machine) -> None:
        """Whoever restarted it for their sake would lose the outcomes that it keeps for the ledger's return."""
        machine.run("migrate", machine.services["migrate"]["command"])
        asked = machine.command(machine.services["worker"]["healthcheck"]["test"][1:])
        with machine.up("redis") as redis, machine.up("worker"):
            redis.stop()
            machine.ports["postgres"] = free_port()
            before = os.times()
            assert machine.healthy("worker")
            after = os.times()
            assert after.children_user + after.children_system - before.children_user - before.children_system < 0.3
            assert "celery" not in machine.run("worker", [*asked[:1], "-X", "importtime", *asked[1:]]).stderr

    def test_is_ill_where_none_runs(self, machine: Machine) -> None:
        assert not machine.healthy("worker")


class TestTheFile:
    @pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "FLOWER_PASSWORD"])
    def test_refuses_to_start_without_a_secret_and_says_which(self, name: str) -> None:
        with pytest.raises(KeyError, match=f"{name}: set it in .env"):
            compose({**SECRETS, name: ""})

    def test_publishes_nothing_but_flower_the_console_and_the_receiver_and_these_to_this_host(self) -> None:
        published = {name: service["ports"] for name, service in compose(SECRETS).items() if "ports" in service}
        assert published == {
            "flower": ["127.0.0.1:5555:5555"],
            "console": ["127.0.0.1:8790:8790"],
            "webhooks": ["127.0.0.1:8787:8787"],
        }

    def test_starts_the_console_only_where_it_is_wanted_with_a_login_and_no_api_key(self) -> None:
        console = compose(SECRETS)["console"]
        assert console["profiles"] == ["console"]
        directory, _, name = console["environment"]["SENDQ_CONSOLE_PASSWORDS_FILE"].rpartition("/")
        assert (console["volumes"], name) == ([f"./console-passwords:{directory}:ro"], "passwords")
        given = compose({**SECRETS, "SENDQ_CONSOLE_TRUSTED_PROXIES": "10.0.0.7"})["console"]["environment"]
        assert given["SENDQ_CONSOLE_TRUSTED_PROXIES"] == "10.0.0.7"
        assert not {"NYLAS_API_KEY", "SENDQ_ENCRYPTION_KEYS", "REDIS_URL"} & console["environment"].keys()

    def test_starts_the_receiver_only_where_it_is_wanted_and_tells_it_no_api_key(self) -> None:
        webhooks = compose(SECRETS)["webhooks"]
        assert webhooks["profiles"] == ["webhooks"]
        assert webhooks["environment"].keys() == {
            "DATABASE_URL", "NYLAS_WEBHOOK_SECRET", "SENDQ_OUTCOME_DELIVERED", "SENDQ_OUTCOME_ADDRESSES",
            "SENDQ_ENCRYPTION_KEYS",
            "SENDQ_LOG_FORMAT", "SENDQ_LOG_LEVEL",
        }  # fmt: skip

    def test_gives_workers_every_setting_of_env(self) -> None:
        worker = compose({**SECRETS, "SENDQ_KEEP_SENT_DAYS": "7"})["worker"]["environment"]
        settings = Settings.load(worker)
        assert settings.keep_sent_days == 7
        assert settings.application().api_key().get_secret_value() == SECRETS["NYLAS_API_KEY"]
        assert not worker["FLOWER_PASSWORD"]

    def test_takes_the_api_key_from_a_file_instead(self) -> None:
        found = composed({**SECRETS, "NYLAS_API_KEY": "", "NYLAS_API_KEY_SOURCE": "./key"})
        worker = found["services"]["worker"]
        (secret,) = worker["secrets"]
        assert found["secrets"][secret]["file"] == "./key"
        settings = Settings.load(worker["environment"])
        assert (settings.nylas_api_key, str(settings.nylas_api_key_file)) == (None, f"/run/secrets/{secret}")
        assert composed(SECRETS)["secrets"][secret]["file"] == "/dev/null"

    def test_leaves_ledger_and_broker_to_yours(self) -> None:
        own = {"DATABASE_URL": "postgresql://me@db.example.com/ledger", "REDIS_URL": "redis://cache.example.com/0"}
        services = compose({**SECRETS, **own, "COMPOSE_PROFILES": ""})
        assert own.items() <= services["worker"]["environment"].items()
        for name in ("postgres", "redis"):
            assert services[name]["profiles"] == [name]
            waits = [each["depends_on"][name] for each in services.values() if name in each.get("depends_on", ())]
            assert waits
            assert all(wait == {"condition": "service_healthy", "required": False} for wait in waits)
        assert dotenv({})["COMPOSE_PROFILES"] == "postgres,redis"

    def test_limits_memory_processes_logs_and_capabilities_of_every_service(self) -> None:
        for name, service in compose(SECRETS).items():
            assert service["mem_limit"], name
            assert service["pids_limit"] > 0, name
            assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name

    def test_lets_workers_be_many(self) -> None:
        assert not {"container_name", "hostname", "ports"} & compose(SECRETS)["worker"].keys()

    def test_checks_the_health_of_all_that_stays(self) -> None:
        services = compose(SECRETS)
        assert {name for name, service in services.items() if "healthcheck" not in service} == {"migrate"}

    def test_starts_workers_when_the_tables_are_made(self) -> None:
        depends = compose(SECRETS)["worker"]["depends_on"]
        assert depends["migrate"] == {"condition": "service_completed_successfully"}

    def test_gives_a_worker_more_time_to_stop_than_it_takes(self) -> None:
        worker = compose(SECRETS)["worker"]
        assert int(worker["stop_grace_period"].removesuffix("s")) > int(worker["environment"]["SENDQ_GRACE_S"])

    def test_tells_flower_neither_the_ledger_nor_the_key(self) -> None:
        assert compose(SECRETS)["flower"]["environment"].keys() == {"REDIS_URL", "FLOWER_BASIC_AUTH"}

    def test_asks_for_what_the_example_of_env_lists(self) -> None:
        asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
        listed = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
        settings = {name for row in Settings.describe() for name in row.env}
        assert asked - {"FLOWER_PORT", "WEBHOOKS_PORT", "CONSOLE_PORT"} <= listed | settings
        assert listed <= asked | settings | {"COMPOSE_PROFILES"}


class TestTheImage:
    def test_runs_as_an_ordinary_user(self) -> None:
        assert re.findall(r"^USER (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE) == ["10001"]

    def test_is_sent_no_file_that_it_does_not_need(self) -> None:
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        allowed = {line[1:] for line in lines if line.startswith("!")}
        copied = set(re.findall(r"^COPY (?!--)(\S+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
        assert "*" in lines
        assert copied == allowed

    def test_installs_by_hash(self) -> None:
        assert "--require-hashes" in (ROOT / "Dockerfile").read_text()
