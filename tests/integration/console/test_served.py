"""`sendq console` on a socket, and `sendq password`."""

from __future__ import annotations

import io
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import pytest

from sendq.console import PasswordFile, Role
from settings import Settings, SettingsError
from tests.support.commands import Cli
from tests.support.processes import running
from worker.cli.params import CONSOLE_PORT
from worker.processes.console import who_of


def fetch(url: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str, list[str]]:
    """Status, text and cookies of one request."""
    data = None if form is None else urlencode(form).encode()
    request = urllib.request.Request(url, data, {name.replace("_", "-"): value for name, value in headers.items()})
    opener = urllib.request.build_opener(_Stay)
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode(), answer.headers.get_all("set-cookie") or []
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read().decode(), answer.headers.get_all("set-cookie") or []


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class TestServed:
    def test_reads_on_this_machine_streams_and_ends_when_asked(self, sqlite_ledger_url: str, tmp_path: Path) -> None:
        with running(["console", "--port", "0"], tmp_path, DATABASE_URL=sqlite_ledger_url) as console:
            line = console.line_with("console: ")
            assert "read-only: no login is set" in line
            url = line.split()[1]
            status, text, _ = fetch(url)
            assert (status, "anonymous" in text, "No worker is registered." in text) == (200, True, True)
            assert fetch(url, host="console.example")[0] == 403
            request = urllib.request.Request(url, headers={"accept": "text/event-stream"})
            with urllib.request.urlopen(request, timeout=60) as stream:
                assert stream.readline().startswith(b"retry: ")
                assert console.interrupt(signal.SIGTERM) == 0
            assert '"level": "error"' not in console.stderr
            assert "Traceback" not in console.stderr

    def test_of_a_ledger_that_is_away_ends_with_one_sentence(self, run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://sendq:hush@127.0.0.1:1/x")
        status, _, err = run("console", "--port", "0")
        assert (status, err.count("\n")) == (2, 1)
        assert "cannot be reached" in err

    def test_on_a_port_in_use_says_why_and_what_to_do(
        self, run: Cli, sqlite_ledger_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", sqlite_ledger_url)
        with socket.create_server(("127.0.0.1", 0)) as other:
            status, _, err = run("console", "--port", str(other.getsockname()[1]))
        assert status == 2
        assert "cannot be listened on (Address already in use); choose others (sendq up: --console-port)" in err

    @pytest.mark.parametrize(
        ("given", "port"), [((), None), (("--console",), CONSOLE_PORT), (("--console", "--console-port", "0"), 0)]
    )
    def test_with_everything_else_has_the_port_that_is_chosen(
        self, run: Cli, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], port: int | None
    ) -> None:
        ports: list[int | None] = []

        def up(*_: object, console_port: int | None, **__: object) -> int:
            ports.append(console_port)
            return 0

        monkeypatch.setattr("worker.processes.up.up", up)
        assert (run("up", *given)[0], ports) == (0, [port])

    def test_has_a_port_of_its_own_beside_the_simulator_of_the_guides(self) -> None:
        guides = [Path(__file__).parents[3] / name for name in ("README.md", "docs/integration.md")]
        assert not any(f"simulator --port {CONSOLE_PORT}" in guide.read_text() for guide in guides)

    def test_for_other_machines_needs_a_login(self) -> None:
        with pytest.raises(SettingsError, match="without a login; set SENDQ_CONSOLE_PASSWORDS_FILE"):
            who_of(Settings(), "0.0.0.0")

    def test_with_a_password_file_that_is_wrong_names_the_line(self, tmp_path: Path) -> None:
        path = tmp_path / "passwords"
        path.write_text("anna\n")
        with pytest.raises(SettingsError, match="SENDQ_CONSOLE_PASSWORDS_FILE: line 1"):
            who_of(Settings(console_passwords_file=path), "127.0.0.1")


class TestPassword:
    def line(self, run: Cli, monkeypatch: pytest.MonkeyPatch, given: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        return run("password", *arguments)

    def test_prints_a_line_that_signs_the_person_in(
        self, run: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tmp_path / "passwords"
        status, out, err = self.line(run, monkeypatch, "correct horse\n", "anna", "--operator")
        assert (status, err, "correct" in out) == (0, "", False)
        path.write_text(out + self.line(run, monkeypatch, "correct horse", "vera")[1])
        people = PasswordFile(path)
        anna, vera = people.check("anna", "correct horse"), people.check("vera", "correct horse")
        assert anna is not None
        assert vera is not None
        assert (anna.person.role, vera.person.role) == (Role.OPERATOR, Role.VIEWER)
        assert people.check("anna", "correct horse\n") is None

    @pytest.mark.parametrize(("name", "given"), [("anna", "short"), ("a:b", "correct horse"), ("anna", "")])
    def test_refuses_what_cannot_be_used(
        self, run: Cli, monkeypatch: pytest.MonkeyPatch, name: str, given: str
    ) -> None:
        status, out, err = self.line(run, monkeypatch, given, name)
        assert (status, out) == (2, "")
        assert "must" in err
