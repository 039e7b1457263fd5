"""The wheel: what a web application installs, and that it works alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is written into the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    for name in ("sendq", "tasks", "worker", "settings", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    made = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)], cwd=source, check=True)
    (found,) = made.glob("*.whl")
    return found


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
