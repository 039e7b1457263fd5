"""Every pinned package has a wheel for each platform and Python that the documentation names: nothing is compiled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.installing import uv
from tests.support.pages import ROOT

PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@pytest.mark.long
@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
class TestAPlatform:
    def test_has_a_wheel_for_every_pin(self, platform: str, version: str, tmp_path: Path) -> None:
        """Those for development include those that run sendq."""
        done = subprocess.run(
            [uv(), "pip", "install", "--no-config", "--native-tls", "--dry-run", "--quiet", "--target", str(tmp_path),
             "--python-platform", platform, "--python-version", version, "--only-binary", ":all:", "--require-hashes",
             "-r", str(ROOT / "requirements" / "dev.txt")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
