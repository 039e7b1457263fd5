"""A base image made with debootstrap, and sendq's image over it."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import pg_server

__all__ = ["pg_server"]

ROOT = Path(__file__).parents[2]
BASE = "localhost/sendq-base"
TAG = "localhost/sendq:try"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite", default="trixie", help="the release of Debian that the base is made of")
    parser.addoption("--keep", type=Path, help="a directory in which the base is kept for the next time (1.5 GB)")


@dataclass(frozen=True)
class Image:
    """A built image: its files, its configuration, and what it adds to its base."""

    root: Path
    environment: dict[str, str]
    user: str
    directory: str
    added_mb: float


@dataclass(frozen=True)
class Buildah:
    """buildah with a storage of its own below ``home``, which works without an engine and in a container."""

    home: Path

    def environment(self) -> dict[str, str]:
        """Variables that point buildah there."""
        storage = self.home / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.home / "store"}"\nrunroot = "{self.home / "run"}"\n'
        )
        return {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command of it; what it prints."""
        return output(["buildah", *map(str, arguments)], self.environment())


def output(command: list[str], environment: dict[str, str]) -> str:
    """What a command prints; an `AssertionError` with all that it printed if it fails."""
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def make_base(buildah: Buildah, suite: str) -> None:
    """A minimal Debian with its CPython, like the official image of Python in what it has and in what it leaves out."""
    files = buildah.home / "base"
    output(
        ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", suite, str(files)],
        dict(os.environ),
    )
    (files / "usr/bin/python").symlink_to("python3")
    for archive in (files / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    for compiled in (files / "usr/lib").glob("python3*/**/__pycache__"):
        shutil.rmtree(compiled)
    # The authority of a proxy between here and PyPI is this machine's: a company's own base would have it, too.
    authorities = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if authorities:
        shutil.copy(authorities, files / "etc/ssl/certs/ca-certificates.crt")
    container = buildah("from", "scratch")
    buildah("copy", "-q", container, files, "/")
    buildah("commit", "-q", container, BASE)
    buildah("rm", container)
    shutil.rmtree(files)


def stored_mb(buildah: Buildah, name: str) -> float:
    """What buildah says that an image takes, in units of 10^6 bytes."""
    (found,) = json.loads(buildah("images", "--json", name))
    number, unit = found["size"].split()
    return float(number) * {"MB": 1, "GB": 1000}[unit]


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Iterator[Image]:
    """The image that ``./dev image`` builds; all of it is removed afterwards. Needs 1.5 GB for a while."""
    kept: Path | None = request.config.getoption("--keep")
    home = (kept or Path(tempfile.mkdtemp(prefix="sendq-image-"))).absolute()
    home.mkdir(mode=0o755, exist_ok=True)
    home.chmod(0o755)  # an ordinary user has to pass
    buildah = Buildah(home)
    try:
        if BASE not in buildah("images", "--format", "{{.Name}}").splitlines():
            make_base(buildah, request.config.getoption("--suite"))
        output(["./dev", "image", "--with", "buildah", "--base", BASE, "--tag", TAG], buildah.environment())
        config = json.loads(buildah("inspect", "--type", "image", TAG))["OCIv1"]["config"]
        yield Image(
            root=Path(buildah("mount", buildah("from", TAG))),
            environment=dict(each.split("=", 1) for each in config["Env"]),
            user=config["User"],
            directory=config["WorkingDir"],
            added_mb=stored_mb(buildah, TAG) - stored_mb(buildah, BASE),
        )
    finally:
        buildah("rm", "--all")
        if kept:
            buildah("rmi", "--force", TAG)
        else:
            shutil.rmtree(home)
