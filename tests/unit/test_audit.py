"""The look for known holes: findings fail, silence of the service does not, and is said."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements" / "audit.py"


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answering(*dependencies: dict[str, Any]) -> list[str]:
    """A command that answers like pip-audit."""
    return [sys.executable, "-c", f"print({json.dumps({'dependencies': dependencies})!r})"]


SOUND = {"name": "a", "version": "1", "vulns": []}
HOLED = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


class TestTheAudit:
    def test_fails_on_a_finding_and_names_it(self, audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        assert audit.main(answering(SOUND, HOLED, UNKNOWN)) == 1
        assert capsys.readouterr().out == "b 2: PYSEC-1, fixed in 3\n"

    def test_says_nothing_when_all_is_well(self, audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        assert audit.main(answering(SOUND, UNKNOWN)) == 0
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize(
        "command",
        [answering(UNKNOWN), [sys.executable, "-c", "raise OSError"], ["/no/such/program"]],
        ids=["knows none", "unreachable", "not installed"],
    )
    def test_says_in_one_line_when_nobody_can_be_asked(
        self, audit: ModuleType, capsys: pytest.CaptureFixture[str], command: list[str]
    ) -> None:
        assert audit.main(command) == 0
        assert capsys.readouterr().err == ("audit: no advisory service can be asked; known holes were not looked for\n")
