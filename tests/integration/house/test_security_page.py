"""Every command and every example of the page about security, as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from sendq.ledger.db import schema
from sendq.vault import new_key
from settings import Settings
from tests.support.commands import Cli
from tests.support.ledger import MESSAGE, Ledger
from tests.support.pages import run_program

PAGE = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip().removeprefix("sendq ")
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
GRANT = "3f8a5c1e-0000-4000-8000-000000000001"

# What each command says, and its exit status, on a ledger with one message of the grant.
SAYS = {
    "keys": (0, "2026-11:"),
    "rekey": (0, "no other key is needed"),
    "forget": (0, "1 waiting job would be cancelled; 1 job would be erased"),
    "check": (2, "NYLAS_API_KEY"),
}


class TestThePage:
    def test_has_every_command_tried_here(self) -> None:
        assert [shlex.split(command)[0] for command in COMMANDS] == list(SAYS)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_has_commands_that_do_what_it_says(
        self, cli: Cli, ledger: Ledger, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger.queue.send(GRANT, MESSAGE)
        monkeypatch.setenv("SENDQ_ENCRYPTION_KEYS", new_key("k"))
        monkeypatch.setenv("SENDQ_ACCEPT_UNENCRYPTED", "true")
        arguments = shlex.split(command)
        status, out, _ = cli(*arguments)
        assert (status, SAYS[arguments[0]][1] in out) == (SAYS[arguments[0]][0], True)

    def test_has_an_example_that_seals(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        monkeypatch.setenv("SENDQ_ENCRYPTION_KEYS", new_key("k"))
        run_program([sys.executable, "-m", "sendq", "migrate", "--url", "sqlite:///sendq.db"], tmp_path)
        use = "from sendq import Message; queue.send('g1', Message(to=['a@example.com'], body='hush'))"
        run_program([sys.executable, "-W", "error", "-c", f"{example}\n{use}"], tmp_path)
        files = b"".join(path.read_bytes() for path in tmp_path.glob("sendq.db*"))
        assert b"a@example.com" not in files
        assert b"sendq_payload" in files

    def test_names_tables_and_times_as_they_are(self) -> None:
        tables = {table.name for table in schema.metadata.sorted_tables}
        assert {name.partition(".")[0] for name in re.findall(r"`(sendq_[a-z_.]+)`", PAGE)} <= tables
        settings = Settings()
        days = [settings.keep_bodies_days, settings.keep_keys_days, settings.keep_events_days]
        assert days == [1.0, 365.0, 180.0]
        assert all(words in PAGE for words in ("a day after the message was sent", "keys a year", "180 days"))
