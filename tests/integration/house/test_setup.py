"""`./dev` where something is missing or broken: one sentence that says what to do, and the next run works."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installing import uv
from tests.support.pages import ROOT
from tests.support.waiting import LIMIT_S, eventually

TOOLS = ("bash", "cat", "cut", "dirname", "env", "grep", "mkdir", "rm", "sha256sum")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing but what the set-up reads, and a pin that no index has to be asked for."""
    there = tmp_path / "checkout"
    (there / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "dev", there)
    for name in ("dev", "run", "uv"):
        (there / "requirements" / f"{name}.txt").write_text("")
    return there


def programs(tmp_path: Path, **others: str) -> Path:
    """A PATH with the tools that `./dev` asks for and these shell programs only."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in TOOLS:
        (path / name).symlink_to(shutil.which(name) or name)
    for name, text in others.items():
        program = path / name.replace("_", ".")
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    return path


def dev(checkout: Path, path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "dev", *(arguments or ("setup",))], cwd=checkout, env={"PATH": str(path), **environ},
        capture_output=True, text=True, check=False, timeout=LIMIT_S,
    )  # fmt: skip


def pyenv(tmp_path: Path, name: str) -> tuple[Path, Path]:
    """A pyenv that has a version which is not the chosen one; its root, and the path of that Python."""
    root = tmp_path / ".pyenv"
    here = root / "versions" / f"{name.removeprefix('python')}.1" / "bin" / name
    for program, text in (
        (here, THIS_PYTHON),
        (root / "shims" / name, f"echo 'pyenv: {name}: command not found' >&2; exit 127"),
        (root / "shims" / "python", "echo 'pyenv: python: command not found' >&2; exit 127"),
    ):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    return root, here


THIS_PYTHON = f'exec {sys.executable} "$@"'

# A uv that says this and fails: sentences like those of uv 0.13 and pip 25, written by hand.
FAILURES = {
    "error: Failed to install: matplotlib\n  Caused by: No space left on device (os error 28)": "the disk is full",
    "error: failed to create directory `/sendq/.venv`: Read-only file system (os error 30)": "cannot be written to",
    "error: Permission denied (os error 13)": "cannot be written to",
    "error: Failed to fetch: `pypi`\n  Caused by: error sending request\n  Caused by: dns error": "cannot be reached",
    "error: Failed to fetch: `x`\n  Caused by: tunnel error: unsuccessful": "PyPI cannot be reached: check the network",
    "error: Failed to download `x`\n  Caused by: error decoding response body\n  Caused by: connection reset":
        "PyPI cannot be reached",
    "  Caused by: invalid peer certificate: UnknownIssuer": "certificate is not trusted",
    "error: Hash mismatch for `celery==5.7.0`": "differs from its pinned hash",
    "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.": "differs from its pinned hash",
    "The virtual environment was not created successfully because ensurepip is not available.": "has no venv",
    "because there are no wheels with a matching Python ABI tag": "no wheel for this platform and Python",
}  # fmt: skip


class TestAPython:
    @pytest.mark.parametrize("version", ["3.10.13", "3.15.0", "2.7.18"])
    def test_that_cannot_be_used_is_named_with_its_version(self, version: str, checkout: Path, tmp_path: Path) -> None:
        asks = f'case "$2" in *join*) echo {version} ;; *) exit 1 ;; esac'
        done = dev(checkout, programs(tmp_path, python3=asks))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"needs CPython 3.11 to 3.14 (python3 is {version}): install one" in done.stderr

    def test_that_is_not_there_is_asked_for(self, checkout: Path, tmp_path: Path) -> None:
        done = dev(checkout, programs(tmp_path))
        assert "(there is none on PATH): install one, or name it in SENDQ_PYTHON" in done.stderr

    def test_that_a_launcher_offers_but_does_not_have_is_passed_over(self, checkout: Path, tmp_path: Path) -> None:
        missing = "echo 'pyenv: python3.12: command not found' >&2; exit 127"
        path = programs(tmp_path, python3_12=missing, python3=THIS_PYTHON, uv="exit 1")
        assert "set-up failed" in dev(checkout, path).stderr  # it came as far as uv

    def test_is_found_in_pyenv_if_none_on_path_can_be_used(self, checkout: Path, tmp_path: Path) -> None:
        root, here = pyenv(tmp_path, "python3.12")
        path = programs(tmp_path, uv=f'echo "$*" >> {tmp_path}/asked; exit 1')
        dev(checkout, Path(f"{root}/shims:{path}"))
        assert f"--python {here}" in (tmp_path / "asked").read_text()

    def test_that_is_named_and_cannot_be_used_is_not_replaced(self, checkout: Path, tmp_path: Path) -> None:
        path = programs(tmp_path, python3=THIS_PYTHON)
        done = dev(checkout, path, SENDQ_PYTHON="/nowhere/python")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "in SENDQ_PYTHON" in done.stderr


class TestASetUp:
    @pytest.mark.parametrize(("says", "remedy"), FAILURES.items(), ids=range(len(FAILURES)))
    def test_that_fails_names_the_cause_and_works_when_it_is_gone(
        self, says: str, remedy: str, checkout: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "says").write_text(says)
        path = programs(tmp_path, python3=THIS_PYTHON, uv=f"cat {tmp_path}/says >&2; exit 1")
        done = dev(checkout, path)
        assert done.returncode == 2
        (_, last) = done.stderr.splitlines()
        assert remedy in last
        assert last.endswith("then run the same command again")
        working = 'if [ "$1" = venv ]; then mkdir -p "${!#}"; fi'
        (path / "uv").write_text(f"#!/bin/bash\n{working}\n")
        assert dev(checkout, path).returncode == 0
        assert dev(checkout, path).stderr == ""  # nothing is left to do

    def test_on_a_disk_that_is_full_at_its_end_says_so(self, checkout: Path, tmp_path: Path) -> None:
        full = 'if [ "$1" = venv ]; then mkdir -p "${!#}" && ln -sf /dev/full "${!#}/stamp"; fi'
        path = programs(tmp_path, ln='exec /bin/ln "$@"', python3=THIS_PYTHON, uv=full)
        done = dev(checkout, path)
        assert done.returncode == 2
        assert "the disk is full: free" in done.stderr.splitlines()[-1]
        (path / "uv").write_text('#!/bin/bash\nif [ "$1" = venv ]; then rm -rf "${!#}"; mkdir -p "${!#}"; fi\n')
        assert dev(checkout, path).returncode == 0

    def test_that_fails_for_another_reason_shows_it(self, checkout: Path, tmp_path: Path) -> None:
        done = dev(checkout, programs(tmp_path, python3=THIS_PYTHON, uv="echo unheard of >&2; exit 1"))
        assert "unheard of\ndev: set-up failed, for the reason above" in done.stderr

    def test_really_without_a_network_says_so(self, checkout: Path, tmp_path: Path) -> None:
        path = programs(tmp_path, python3=THIS_PYTHON, uv=f'exec {uv()} "$@"')
        (checkout / "requirements" / "dev.txt").write_text("celery==5.7.0 --hash=sha256:" + "0" * 64 + "\n")
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1", "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_HTTP_RETRIES": "0"}
        done = dev(checkout, path, HOME=str(tmp_path / "no" / "home"), **nowhere)
        assert done.returncode == 2
        assert "PyPI cannot be reached" in done.stderr.splitlines()[-1]

    def test_in_a_checkout_that_cannot_be_written_to_says_so(self, checkout: Path, tmp_path: Path) -> None:
        (checkout / ".setup.lock").mkdir()  # opening it for writing fails, for root as well
        done = dev(checkout, programs(tmp_path, python3=THIS_PYTHON))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "checkout cannot be written to: make it writable, or copy it" in done.stderr

    def test_without_a_home_keeps_its_cache_in_the_checkout(self, checkout: Path, tmp_path: Path) -> None:
        working = f'echo "$UV_CACHE_DIR" > {tmp_path}/cache; if [ "$1" = venv ]; then mkdir -p "${{!#}}"; fi'
        path = programs(tmp_path, python3=THIS_PYTHON, uv=working)
        assert dev(checkout, path, HOME=str(tmp_path / "nowhere")).returncode == 0
        assert (tmp_path / "cache").read_text().strip() == str(checkout / ".uv" / "cache")

    def test_beside_another_one_waits_for_it_and_makes_nothing_twice(self, checkout: Path, tmp_path: Path) -> None:
        working = f'echo made >> {tmp_path}/made; if [ "$1" = venv ]; then mkdir -p "${{!#}}"; fi'
        path = programs(tmp_path, python3=THIS_PYTHON, uv=working)
        with (checkout / ".setup.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with (tmp_path / "said").open("w") as said:
                second = subprocess.Popen(["bash", "dev", "setup"], cwd=checkout, env={"PATH": str(path)}, stderr=said)
            eventually(lambda: "waiting for another ./dev" in (tmp_path / "said").read_text(), "the second waits")
            assert second.poll() is None
        assert second.wait(LIMIT_S) == 0
        assert dev(checkout, path).returncode == 0
        assert (tmp_path / "made").read_text().count("made") == 2  # the environment, and its packages


class TestTheImage:
    def test_is_built_by_the_first_program_that_can(self, checkout: Path, tmp_path: Path) -> None:
        client_alone = "exit 1"  # docker without its engine
        path = programs(tmp_path, docker=client_alone, buildah='if [ "$1" != info ]; then echo "$@"; fi')
        assert dev(checkout, path, "image").stdout == "build --tag sendq:local .\n"
        (path / "docker").write_text('#!/bin/bash\nif [ "$1" != info ]; then echo docker; fi\n')
        assert dev(checkout, path, "image").stdout == "docker\n"

    def test_is_built_over_the_base_that_is_named(self, checkout: Path, tmp_path: Path) -> None:
        path = programs(tmp_path, buildah='if [ "$1" != info ]; then echo "$@"; fi')
        done = dev(checkout, path, "image", "--base", "mine:1", "--tag", "shop/sendq:2", "--with", "buildah")
        assert done.stdout == "build --build-arg BASE=mine:1 --tag shop/sendq:2 .\n"

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ([], "needs docker (with its engine running), podman or buildah: install one"),
            (["--push"], "no option '--push'; there are --base IMAGE"),
            (["--base"], "--base needs a value"),
            (["--try"], "image --try needs buildah (on Debian: apt-get install"),
        ],
    )
    def test_that_cannot_be_built_says_why_in_one_sentence(
        self, arguments: list[str], says: str, checkout: Path, tmp_path: Path
    ) -> None:
        done = dev(checkout, programs(tmp_path), "image", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert says in done.stderr


class TestAnotherPython:
    ENVIRONMENT = f"""echo "$*" >> asked
    if [ "$1" = venv ]; then
      mkdir -p "${{!#}}/bin"
      printf '#!/bin/bash\nif [ "$1" = -c ]; then exec {sys.executable} "$@"; fi; echo "$0 $*"\n' > "${{!#}}/bin/python"
      chmod +x "${{!#}}/bin/python"
    fi"""
    NAME = "python3.11" if sys.version_info[:2] != (3, 11) else "python3.12"

    def test_runs_the_fast_tests_in_an_environment_of_its_own(self, checkout: Path, tmp_path: Path) -> None:
        named = {self.NAME.replace(".", "_"): THIS_PYTHON}
        path = programs(tmp_path, python3=THIS_PYTHON, uv=self.ENVIRONMENT, chmod='exec /bin/chmod "$@"', **named)
        done = dev(checkout, path, "unit-other", "-q")
        assert done.stdout.endswith("/.venv-other/bin/python -m pytest tests/unit -p no:logging -n 2 -q\n")

    def test_is_not_needed(self, checkout: Path, tmp_path: Path) -> None:
        path = programs(tmp_path, python3=THIS_PYTHON, uv=self.ENVIRONMENT, chmod='exec /bin/chmod "$@"')
        done = dev(checkout, path, "unit-other")
        assert (done.returncode, done.stdout) == (0, "")
        assert "there is no other CPython, on PATH or in pyenv" in done.stderr

    @pytest.mark.parametrize("found_by", ["HOME", "PYENV_ROOT", "its shims"])
    def test_is_found_in_pyenv_where_only_its_shims_are_on_path(
        self, found_by: str, checkout: Path, tmp_path: Path
    ) -> None:
        root, here = pyenv(tmp_path, self.NAME)
        path = programs(tmp_path, uv=self.ENVIRONMENT, chmod='exec /bin/chmod "$@"')
        (root / "shims" / "python").write_text(f"#!/bin/bash\n{THIS_PYTHON}\n")
        environ = {"HOME": {"HOME": str(tmp_path)}, "PYENV_ROOT": {"PYENV_ROOT": str(root)}}.get(found_by, {})
        done = dev(checkout, Path(f"{root}/shims:{path}"), "unit-other", **environ)
        assert done.stdout.endswith("/.venv-other/bin/python -m pytest tests/unit -p no:logging -n 2\n"), done.stderr
        assert f"--python {here}" in (checkout / "asked").read_text()
