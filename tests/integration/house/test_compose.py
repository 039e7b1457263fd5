"""docker-compose.yml, without an engine: its commands, health checks and environment, run by hand on real servers.

What this cannot show is that the image builds (`tests/image` does), and that containers reach each other by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendq import Message, SendQueue, State
from sendq.simulator import Simulator
from settings import Settings
from tests.support.composed import (
    ROOT,
    SECRETS,
    Flower,
    Machine,
    compose,
    composed,
    dotenv,
    files,
    free_port,
    image,
    served,
    wait_until,
)
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S


@pytest.fixture
def machine(tmp_path: Path, pg_server: PgServer) -> Iterator[Machine]:
    """PostgreSQL is there; nothing else runs yet."""
    image(tmp_path)
    with served(pg_server, tmp_path) as ports:
        yield Machine(compose(SECRETS), tmp_path, ports)


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

    def test_publishes_nothing_but_what_people_and_applications_use_and_that_to_this_host(self) -> None:
        published = {name: service["ports"] for name, service in compose(SECRETS).items() if "ports" in service}
        assert published == {
            "flower": ["127.0.0.1:5555:5555"],
            "console": ["127.0.0.1:8790:8790"],
            "api": ["127.0.0.1:8791:8791"],
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

    def test_starts_the_api_only_where_it_is_wanted_with_tokens_and_no_api_key(self) -> None:
        api = compose(SECRETS)["api"]
        assert api["profiles"] == ["api"]
        directory, _, name = api["environment"]["SENDQ_API_TOKENS_FILE"].rpartition("/")
        assert (api["volumes"], name) == ([f"./api-tokens:{directory}:ro"], "tokens")
        given = compose({**SECRETS, "SENDQ_API_TRUSTED_PROXIES": "10.0.0.7"})["api"]["environment"]
        assert given["SENDQ_API_TRUSTED_PROXIES"] == "10.0.0.7"
        assert not {"NYLAS_API_KEY", "REDIS_URL"} & api["environment"].keys()

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

    def test_pins_images_that_it_does_not_build_by_digest(self) -> None:
        images = {name: service["image"] for name, service in compose(SECRETS).items() if "build" not in service}
        assert set(images) == {"postgres", "redis"}
        for name, pinned in images.items():
            assert re.fullmatch(rf"{name}:[\w.-]+@sha256:[0-9a-f]{{64}}", pinned), pinned

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
        assert asked - {"FLOWER_PORT", "WEBHOOKS_PORT", "CONSOLE_PORT", "API_PORT"} <= listed | settings
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
