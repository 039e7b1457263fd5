"""The alert rules, tried by Prometheus's own tool on series of held and expiring mail."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from settings.environ import ROOT
from tests.support.waiting import LIMIT_S

PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: it is in Debian's package prometheus")
class TestTheAlertRules:
    def test_fire_when_they_should_and_not_before(self, tmp_path: Path) -> None:
        assert PROMTOOL is not None
        rules = (ROOT / "deploy" / "alerts.yml").read_text()
        # What each says to a person is not compared: only which alert fires, when, and with which labels.
        lines = [line for line in rules.splitlines() if "summary:" not in line]
        kept, skipping = [], False
        for line in lines:
            if line.strip() == "annotations:":
                skipping = True
            elif line.strip().startswith("- alert:"):
                skipping = False
            if not skipping:
                kept.append(line)
        (tmp_path / "alerts.yml").write_text("\n".join(kept) + "\n")
        shutil.copy(ROOT / "tests" / "data" / "alerts_test.yml", tmp_path)
        for command in (["check", "rules", str(ROOT / "deploy" / "alerts.yml")], ["test", "rules", "alerts_test.yml"]):
            done = subprocess.run(
                [PROMTOOL, *command], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
