"""The command line as far as it needs no server: help, explain, policy, settings, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from sendq.ledger import deliveries, events, outcomes
from sendq.ledger.db import migrate
from sendq.rules.delivery import Delivery
from sendq.rules.states import State
from sendq.views import GrantState, Priority
from tasks.policy.failure import OPERATIONS, PROVIDERS
from worker.cli import deliveries as deliveries_command
from worker.cli import events as events_command
from worker.cli import explain as explain_command
from worker.cli import grants as grants_command
from worker.cli import jobs, params
from worker.cli.main import BROKEN_PIPE, INTERRUPTED, OPTIONS, PACKAGE_COMMAND, main, sendq
from worker.cli.output import FAILED, UNUSABLE, clean, complain, tell, tell_table

ROOT = Path(__file__).parents[2]
KEYS = ["rule", "title", "documented", "route", "scope", "delay_s", "sent", "why", "remedy", "doc"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else -1
    said = capsys.readouterr()
    return status, said.out, said.err


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


class TestHelp:
    def test_it_lists_every_command_and_the_exit_statuses(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, err = run(capsys, "--help")
        assert (status, err) == (0, "")
        listed = {line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.split()}
        assert listed >= {
            "demo", "up", "worker", "status", "jobs", "why", "batch", "cancel", "migrate", "check", "simulator",
            "policy", "explain", "settings",
        }  # fmt: skip
        assert "Exit status" in out

    def test_every_exit_status_stands_in_one_table(self) -> None:
        page = (ROOT / "docs" / "operations.md").read_text().partition("## Exit status")[2].partition("\n## ")[0]
        told = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
        assert told == {0, FAILED, UNUSABLE, INTERRUPTED, BROKEN_PIPE}

    def test_every_act_of_an_operator_takes_a_reason_an_author_and_a_dry_run(self) -> None:
        acts = ("approve", "cancel", "forget", "hold", "recover", "reject", "rekey", "release", "resolve", "retry")
        deliveries = sendq.commands["deliveries"]
        assert isinstance(deliveries, click.Group)
        for command in [*(sendq.commands[name] for name in acts), deliveries.commands["retry"]]:
            given = {option for param in command.params for option in param.opts}
            assert {"--reason", "--by", "--dry-run", "--json"} <= given, command.name

    @pytest.mark.parametrize(
        "command", ["status", "jobs", "why", "batch", "cancel", "check", "policy", "settings", "deliveries"]
    )
    def test_every_reading_command_takes_json(self, capsys: pytest.CaptureFixture[str], command: str) -> None:
        assert "--json" in run(capsys, command, "--help")[1]

    def test_errors_name_fields_as_some_command_does(self) -> None:
        commands = [*sendq.commands.values()]
        commands += [one for group in commands if isinstance(group, click.Group) for one in group.commands.values()]
        params = [param for command in commands for param in command.params]
        arguments = {param.human_readable_name.strip("[].") for param in params if isinstance(param, click.Argument)}
        metavars = {param.metavar for param in params if param.metavar is not None}
        assert set(OPTIONS.values()) - {option for param in params for option in param.opts} <= arguments | metavars

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (["a b"], "NAME is not a name; use 1 to 64 of letters, digits, . _ and -"),
            (["a", "--grant", ""], "--grant is not a pattern of grants; "),
            (["a", "--application", ""], "--application is not a name; "),
        ],
    )
    def test_errors_of_a_token_name_what_was_given(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, given: list[str], says: str
    ) -> None:
        status, out, err = run(capsys, "token", "create", *given, "--file", str(tmp_path / "tokens"))
        assert (status, out, err.startswith(f"sendq: {says}")) == (2, "", True), err

    @pytest.mark.parametrize("command", ["undo", "replace", "cancel"])
    def test_acts_on_what_a_state_can_refuse_name_the_exit_status(
        self, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        assert "Exit status 1 if" in " ".join(run(capsys, command, "--help")[1].split())

    def test_says_which_commands_do_not_check_as_the_application_does(self, capsys: pytest.CaptureFixture[str]) -> None:
        remedy = "replace from your application, or mount the console with `queue=` set to your queue."
        assert remedy in " ".join(run(capsys, "replace", "--help")[1].split())
        assert "If you use those, call its `mail_merge`." in " ".join(run(capsys, "merge", "--help")[1].split())
        for page in ("integration.md", "operations.md"):
            assert remedy in " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())

    def test_an_unknown_command_is_one_sentence_and_status_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, err = run(capsys, "sttaus")
        assert (status, out) == (2, "")
        assert "sttaus" in err
        assert "Traceback" not in err

    def test_it_imports_neither_celery_nor_the_database(self) -> None:
        asked = """if True:
            import sys
            from worker.cli.main import main
            main(["explain", "--status", "429"])
            print([name for name in ("celery", "sqlalchemy", "aiohttp", "pydantic", "rich") if name in sys.modules])
        """
        done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    def test_it_knows_what_the_package_says_to_run(self) -> None:
        assert PACKAGE_COMMAND == migrate.COMMAND

    def test_the_choices_are_the_programs_own(self) -> None:
        assert set(jobs.STATES) == {state.value for state in State}
        assert set(jobs.DELIVERIES) == {one.value for one in Delivery if one is not Delivery.UNKNOWN}
        assert {name.upper() for name in jobs.PRIORITIES} == {priority.name for priority in Priority}
        assert tuple(PROVIDERS) == params.PROVIDERS
        assert tuple(OPERATIONS) == explain_command.OPERATIONS
        assert set(deliveries_command.KINDS) == set(outcomes.KINDS)
        assert deliveries_command.STATES == deliveries.STATES
        assert events_command.KINDS == events.KINDS
        assert set(grants_command.STATES) == {state.value for state in GrantState}


class TestPolicyLint:
    def test_lists_rows_that_compete_and_succeeds_if_none_is_hidden(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, _ = run(capsys, "policy", "lint", "--json")
        assert status == 0
        assert {remark["kind"] for remark in json.loads(out)} == {"both"}

    def test_fails_if_a_row_is_never_reached(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        cases = tmp_path / "cases.json"
        cases.write_text('{"cases": [{"name": "one", "status": 429, "body": "slow down"}]}')
        status, out, _ = run(capsys, "policy", "lint", str(cases))
        assert status == 1
        assert "no test case reaches it" in out

    def test_says_which_file_it_cannot_read(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        status, _, err = run(capsys, "policy", "lint", str(tmp_path / "none.json"))
        assert status == 2
        assert "name a file with cases" in err


class TestExplain:
    def explain(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
        status, out, err = run(capsys, "explain", "--json", *arguments)
        assert (status, err) == (0, "")
        found: dict[str, Any] = json.loads(out)
        return found

    def test_it_prints_one_object_with_exactly_these_keys(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        give_stdin(monkeypatch, b'{"error": {"type": "rate_limit_error", "message": "Exchange account throttled"}}')
        asked = ["--status", "429", "--provider", "microsoft", "--header", "Retry-After: 30", "--body", "-"]
        found = self.explain(capsys, *asked)
        assert list(found) == KEYS
        assert found["rule"] == "exchange_throttled"
        assert found["delay_s"][0] == 30

    @pytest.mark.parametrize("body", [b"\x00\xff\xfe", b'{"error": 7}', b"[" * 100_000, b"", b"<html>"])
    @pytest.mark.parametrize("status", ["200", "401", "no number", "-1", "99999999999999999999999"])
    def test_it_answers_whatever_it_is_given(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, status: str, body: bytes
    ) -> None:
        give_stdin(monkeypatch, body)
        assert list(self.explain(capsys, "--status", status, "--body", "-", "--header", "nonsense")) == KEYS

    def test_for_people_a_status_that_is_none_is_said_to_be_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, err = run(capsys, "explain", "--status", "4x9")
        assert (status, out.splitlines()[0]) == (0, "No answer: retry (scope: job)")
        assert (
            err
            == "sendq: '4x9' is not an HTTP status, so this explains a call with no answer; give a number, like 429\n"
        )

    def test_without_a_status_it_explains_that_no_answer_came(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.explain(capsys)["sent"] == "maybe"

    def test_a_batch_has_a_line_for_each_line_with_its_id(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        give_stdin(monkeypatch, b'{"id": "a", "status": 400}\nno json\n\n{"id": 2, "status": 503}\n')
        status, out, err = run(capsys, "explain", "--batch")
        answers = [json.loads(line) for line in out.splitlines()]
        assert (status, err) == (0, "")
        assert [answer["id"] for answer in answers] == ["a", None, 2]
        assert all(list(answer) == ["id", *KEYS] for answer in answers)

    def test_for_people_it_says_why_and_what_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = run(capsys, "explain", "--status", "400")[1]
        assert "dead letter" in out
        assert "remedy:" in out


class TestPolicy:
    def test_as_json_it_has_every_row_in_order(self, capsys: pytest.CaptureFixture[str]) -> None:
        from tasks.policy.table import POLICY

        out = run(capsys, "policy", "--json")[1]
        assert [row["id"] for row in json.loads(out)] == [row.id for row in POLICY.rows]

    def test_as_a_table_it_has_a_line_for_each_row(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = run(capsys, "policy")[1]
        assert "exchange_throttled" in out
        assert "\x1b" not in out

    def test_as_markdown_it_is_the_documentations_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        from tasks.policy.explain import policy_table_markdown

        assert run(capsys, "policy", "--markdown")[1] == policy_table_markdown()

    def test_rows_of_ones_own_come_first(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        file = tmp_path / "policy.toml"
        file.write_text(
            '[[row]]\nid = "teapot"\ntitle = "Teapot"\nstatus = [418]\nroute = "dead_letter"\nscope = "job"\n'
            'sent = "no"\nwhy = "It is a teapot."\nremedy = "Ask a coffee pot."\n'
        )
        out = run(capsys, "policy", "--json", "--file", str(file))[1]
        assert json.loads(out)[0]["id"] == "teapot"
        out = run(capsys, "explain", "--json", "--status", "418", "--file", str(file))[1]
        assert json.loads(out)["rule"] == "teapot"

    def test_a_file_that_cannot_be_used_is_status_2(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        file = tmp_path / "policy.toml"
        file.write_text("[[row]]\nid = 7\n")
        for arguments in (["policy"], ["explain", "--status", "400"]):
            status, out, err = run(capsys, *arguments, "--file", str(file))
            assert (status, out) == (2, "")
            assert "line 2" in err
        status, out, err = run(capsys, "policy", "--file", str(tmp_path / "none.toml"))
        assert (status, out) == (2, "")
        assert "cannot be read" in err

    def test_check_names_each_line_and_is_status_1_for_errors(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        file = tmp_path / "policy.toml"
        file.write_text("[[row]]\nid = 7\n")
        status, out, _ = run(capsys, "policy", "check", str(file))
        assert status == 1
        assert "line 2: error" in out


class TestSettings:
    def test_it_lists_every_setting(self, capsys: pytest.CaptureFixture[str]) -> None:
        from settings import Settings

        out = run(capsys, "settings", "--json")[1]
        assert [row["name"] for row in json.loads(out)] == list(Settings.model_fields)
        assert "NYLAS_API_KEY" in run(capsys, "settings")[1]


class TestOutput:
    def test_text_from_the_ledger_cannot_speak_to_the_terminal(self) -> None:
        assert clean("a\x1b[31mb\x07c") == "a?[31mb?c"

    def test_a_name_with_a_line_break_makes_no_second_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        forged = "g1\nhealthy: nothing waits\u2028\x85\v\f\r"
        tell(f"grant: {forged}")
        tell_table(("grant", "why"), [(forged, forged), ("g2", ["two", "lines"])])
        complain(f"{forged.splitlines()[0]} is held\x1b[2J")
        out, err = capsys.readouterr()
        assert "g1?healthy: nothing waits" in out
        assert len(out.splitlines()) == 5  # the line; the heading, one row, and one row of two lines
        assert err == "sendq: g1 is held?[2J\n"

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("command", ["policy", "policy --json", "--help"])
    def test_stdout_that_is_full_is_one_line_and_status_2(self, command: str, unbuffered: str) -> None:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "worker.cli", *command.split()], cwd=ROOT, stdout=full, stderr=subprocess.PIPE,
                text=True, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (
            2, "sendq: stdout: No space left on device; the output is not complete\n",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("closed", "says"),
        [(">&-", "sendq: stdout is closed; to throw the output away, redirect it to /dev/null\n"), (">&- 2>&-", "")],
    )
    def test_stdout_that_is_closed_is_one_line_and_status_2(self, closed: str, says: str) -> None:
        program = f'"{sys.executable}" -m worker.cli policy {closed}'
        done = subprocess.run(["sh", "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", says)

    def test_messages_for_a_stderr_that_is_closed_do_not_go_to_stdout(self) -> None:
        program = f'"{sys.executable}" -m worker.cli nonsense 2>&-'
        done = subprocess.run(["sh", "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")

    def test_a_reader_that_leaves_ends_it_without_a_traceback(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", "policy"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, "")
