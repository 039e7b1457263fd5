"""What `sendq check` says of files, ports and pages that a worker would refuse at its start."""

from __future__ import annotations

import socket
import sys
import zoneinfo
from pathlib import Path

import pytest

from settings import Settings
from worker.doctor.check import file_items


def states(**environ: str) -> dict[str, str]:
    """The state of each item for these variables."""
    return {item.name: item.state for item in file_items(Settings.load({"NYLAS_API_KEY": "key", **environ}))}


class TestACheckOfTheSettings:
    def test_says_nothing_where_nothing_is_set(self) -> None:
        assert states() == {}

    def test_fails_for_a_policy_file_that_is_missing_or_wrong(self, tmp_path: Path) -> None:
        missing, wrong = tmp_path / "missing.toml", tmp_path / "wrong.toml"
        wrong.write_text("[[row")
        for path in (missing, wrong):
            assert states(SENDQ_POLICY_FILE=str(path)) == {"policy file": "fail"}

    def test_fails_for_a_page_that_does_not_name_the_grant(self) -> None:
        assert states(SENDQ_REAUTH_URL="https://app.example.com/reconnect") == {"reauth page": "fail"}
        assert states(SENDQ_REAUTH_URL="https://app.example.com/reconnect?grant={grant_id}") == {}

    def test_fails_on_a_machine_without_time_zones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tzdata", None)  # as if it were not installed
        zoneinfo.reset_tzpath(to=[])
        try:
            assert states() == {"time zones": "fail"}
        finally:
            zoneinfo.reset_tzpath()

    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # any address of this machine
    def test_fails_for_a_port_that_another_program_has(self, host: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            taken.settimeout(0)
            found = list(file_items(Settings.load({"NYLAS_API_KEY": "k", "SENDQ_METRICS_ADDRESS": f"{host}:{port}"})))
        assert [(item.name, item.state) for item in found] == [("metrics", "fail")]
        assert "free port" in (found[0].remedy or "")
        assert states(SENDQ_METRICS_ADDRESS=f"{host}:{port}") == {"metrics": "ok"}
