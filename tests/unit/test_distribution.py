"""Whether the packages that Python finds are sendq-worker's own, and of one version with `sendq`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sendq_worker
from sendq_worker import PACKAGES, fault, found, mismatch, shadowed
from tests.support.commands import bare_environment

ROOT = Path(__file__).parents[2]
HOME = Path("/environment/site-packages")


def files(**other: str | None) -> dict[str, str | None]:
    return {name: str(HOME / name / "__init__.py") for name in PACKAGES} | other


class TestOurPackages:
    def test_are_found_here(self) -> None:
        assert found() == {name: str(ROOT / name / "__init__.py") for name in PACKAGES}
        assert fault() is None

    @pytest.mark.parametrize("name", PACKAGES)
    @pytest.mark.parametrize("file", ["/app/{}.py", "/app/{}/__init__.py"])
    def test_hidden_by_an_applications_are_named_with_the_file(self, name: str, file: str) -> None:
        says = shadowed(files(**{name: file.format(name)}), HOME)
        assert says is not None
        assert says.startswith(f"{file.format(name)} hides sendq-worker's own package {name!r}: ")
        assert f"a directory that has no {name}.py" in says

    def test_that_are_missing_are_named(self) -> None:
        assert shadowed(files(tasks=None), HOME) == (
            f"the package 'tasks' of sendq-worker is missing in {HOME}: install sendq-worker again"
        )

    def test_may_be_reached_over_a_link(self, tmp_path: Path) -> None:
        real = tmp_path / "real"
        for name in PACKAGES:
            (real / name).mkdir(parents=True)
            (real / name / "__init__.py").touch()
        (tmp_path / "link").symlink_to(real)
        there: dict[str, str | None] = {name: str(real / name / "__init__.py") for name in PACKAGES}
        assert shadowed(there, tmp_path / "link") is None


class TestTwoVersions:
    def test_that_are_the_same_run(self) -> None:
        assert mismatch("0.1.0", "0.1.0") is None

    @pytest.mark.parametrize("package", ["0.1.1", "0.2.0", "0.0.9"])
    def test_that_differ_are_refused_with_the_remedy(self, package: str) -> None:
        says = mismatch("0.1.0", package)
        assert says is not None
        assert f"sendq-worker 0.1.0 cannot run with sendq {package}" in says
        assert f"pip install sendq-worker=={package} sendq=={package}" in says


class TestAProcess:
    @pytest.mark.parametrize(
        ("command", "name"),
        [(["-m", "worker"], "settings.py"), (["-m", "worker.cli", "status"], "tasks.py"),
         (["-m", "celery", "-A", "worker", "worker"], "settings.py"),
         (["-c", "import sys, sendq_worker; sys.argv[1:] = ['status']; sys.exit(sendq_worker.main())"], "worker.py")],
        ids=["worker", "command", "celery", "script"],
    )  # fmt: skip
    def test_beside_an_applications_module_ends_with_one_sentence(
        self, command: list[str], name: str, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_text("raise AssertionError('an application is imported')\n")
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=bare_environment(PYTHONPATH=str(ROOT)),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"sendq: {tmp_path / name} hides sendq-worker's own package")
        assert done.stderr.count("\n") == 1

    def test_with_another_version_of_the_package_ends_with_one_sentence(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sendq_worker, "__version__", "9.9.9")
        assert sendq_worker.main() == 2
        assert capsys.readouterr().err.startswith("sendq: sendq-worker 9.9.9 cannot run with sendq ")
