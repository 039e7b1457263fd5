"""What an installation brings is enough: nothing is imported that only the developers' environment happens to have."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.commands import bare_environment

ROOT = Path(__file__).parents[3]

# What a worker refuses to be imported without; nobody is called there.
NAMED = {"DATABASE_URL": "sqlite:///ledger.db", "REDIS_URL": "redis://127.0.0.1:1/0", "NYLAS_API_KEY": "none"}

# Stands before a program: packages that are not named in its first argument cannot be found.
FENCE = """
import re, sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
installed, homes = set(sys.argv[1].split(",")), packages_distributions()
class Fence(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        brought = {re.sub(r"[-_.]+", "-", one).lower() for one in homes.get(name.partition(".")[0], ())}
        return None if brought and not brought & installed else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Fence
"""

FIRST_SEND = """
from sendq import InvalidJob, Message, SendQueue, outcomes, webhooks
from sendq.__main__ import main
assert main(["migrate", "--url", "sqlite:///ledger.db"]) == 0
queue = SendQueue("sqlite:///ledger.db")
job = queue.send("grant", Message(to=["leyah@example.com"], subject="Hello", body="Hello"), key="hello")
queue.modify("grant", ["m"], unread=False)
print(queue.job(job.id).state, queue.why(job.id).reason)
"""

WORKER = """
from importlib import import_module
from pkgutil import walk_packages
import sendq.ledger, settings, tasks, worker
from kombu.transport import get_transport_cls
for package in (sendq.ledger, settings, tasks, worker):
    for module in walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(("__main__", "migrations.env")):
            import_module(module.name)
get_transport_cls("redis")
import_module("flower.command")
import_module("flower.app")
print("enough")
"""


def asked_for(requirements: list[str]) -> set[str]:
    """What these requirements bring: their packages, and what those ask for in turn."""
    found: set[str] = set()
    left = [Requirement(one) for one in requirements]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        left += map(Requirement, metadata.requires(name) or ())
    return found


def run(program: str, installed: Iterable[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FENCE + program, ",".join(sorted(installed))],
        cwd=where, env=bare_environment(PYTHONPATH=str(ROOT), **NAMED), capture_output=True, text=True,
    )  # fmt: skip


class TestWhatIsInstalled:
    def test_with_the_wheel_is_enough_for_a_web_application(self, tmp_path: Path) -> None:
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        done = run(FIRST_SEND, asked_for(wanted), tmp_path)
        assert (done.stdout.splitlines()[-1:], done.stderr) == (["queued no_worker"], "")

    def test_in_the_image_is_enough_for_a_worker_and_for_flower(self, tmp_path: Path) -> None:
        pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "worker.txt").read_text(), re.MULTILINE)
        done = run(WORKER, {canonicalize_name(one) for one in pinned}, tmp_path)
        assert (done.stdout, done.stderr) == ("enough\n", "")

    @pytest.mark.parametrize(("missing", "program"), [("pydantic", FIRST_SEND), ("packaging", WORKER)])
    def test_is_what_this_looks_at_and_not_what_the_developers_have(
        self, missing: str, program: str, tmp_path: Path
    ) -> None:
        everything = {canonicalize_name(one.name) for one in metadata.distributions()}
        done = run(program, everything - {missing}, tmp_path)
        assert f"No module named '{missing}'" in done.stderr
