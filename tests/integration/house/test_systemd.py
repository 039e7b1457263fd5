"""The units in deploy/systemd: they start what is there, are shut off from the system, and wait for workers."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from settings import Settings
from tests.support.pages import ROOT, read
from worker.cli.main import sendq
from worker.options import argument_fault

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
HIGHEST_EXPOSURE = 3.0  # of 10, as `systemd-analyze security` counts


def service(unit: Path) -> dict[str, str]:
    """Its section about the process; of a name that is given twice, the last value."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(unit.read_text())
    return dict(found["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
class TestAUnit:
    def test_starts_a_command_that_is_there(self, unit: Path) -> None:
        program, *arguments = service(unit)["ExecStart"].split()
        if unit.stem == "sendq-migrate":
            assert (program, arguments) == ("/opt/sendq/bin/python", ["-m", "sendq", "migrate"])
            return
        assert program == "/opt/sendq/bin/sendq"
        assert arguments[0] in sendq.commands
        assert arguments[0] != "worker" or argument_fault(arguments[1:]) is None

    def test_reads_its_own_file_of_settings_and_sets_only_what_exists(self, unit: Path) -> None:
        name = re.sub(r"sendq-|@", "", unit.stem)
        assert service(unit)["EnvironmentFile"] == f"/etc/sendq/{name}.env"
        assert f"{name}.env" in read("docs/operations.md")
        known = {variable for row in Settings.describe() for variable in row.env}
        assert set(re.findall(r"(\w+)=", service(unit).get("Environment", ""))) <= known

    def test_runs_as_a_user_without_rights(self, unit: Path) -> None:
        found = service(unit)
        assert (found["User"], found["CapabilityBoundingSet"], found["NoNewPrivileges"]) == ("sendq", "", "yes")

    def test_may_still_set_the_limits_that_workers_set(self, unit: Path) -> None:
        """Python asks for limits by the same call; the last line adds to what the ones before leave."""
        assert service(unit)["SystemCallFilter"] == "setrlimit prlimit64"

    def test_is_shut_off_from_the_system(self, unit: Path) -> None:
        analyse = shutil.which("systemd-analyze")
        if analyse is None:
            pytest.skip("systemd-analyze is not on this machine")
        command = [analyse, "security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE * 10:.0f}", "--no-pager"]
        done = subprocess.run([*command, str(unit)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout.splitlines()[-1:] + done.stderr.splitlines()


class TestTheUnitOfWorkers:
    def test_waits_for_longer_than_a_worker(self) -> None:
        found = service(ROOT / "deploy" / "systemd" / "sendq-worker@.service")
        assert float(found["TimeoutStopSec"]) > Settings().grace_s + 5
        assert found["KillMode"] == "mixed"
