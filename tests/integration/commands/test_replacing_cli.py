"""Another message for a send that waits, from the command line."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sendq import SendQueue, clock
from sendq.ledger.db import schema
from tests.integration.commands.test_operators import as_json
from tests.support.commands import Cli
from tests.support.ledger import MESSAGE, Ledger

OTHER = {"to": ["bea@example.com"], "subject": "Invoice 43", "body": "<p>43</p>"}
WHY = ("--reason", "a typo", "--by", "anna")


@pytest.fixture
def job(ledger: Ledger) -> str:
    ledger.clock.at = clock.now()
    made = ledger.queue.send("g1", MESSAGE, key="invoice-42")
    ledger.absorb()
    return made.id


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "new.json"
    path.write_text(json.dumps(OTHER), encoding="utf-8")
    return path


def body_of(ledger: Ledger) -> bytes:
    (row,) = ledger.rows(schema.payload)
    return bytes(row.body)


def versions(ledger: Ledger) -> list[int]:
    return [row.content_version for row in ledger.rows(schema.job)]


class TestReplace:
    def test_stores_the_new_message_and_records_who_and_why(
        self, cli: Cli, ledger: Ledger, job: str, file: Path
    ) -> None:
        status, out, _ = cli("replace", job, "--message", str(file), *WHY)
        assert (status, out) == (0, f"the message of {job} is replaced: content version 1\n")
        assert b"Invoice 43" in body_of(ledger)
        (event,) = as_json(cli("events", "--job", job, "--json"))["items"]
        assert (event["kind"], event["by"]) == ("replace", "anna")
        assert event["reason"].startswith("request ")
        assert " to " in event["reason"]
        assert event["reason"].endswith(", content version 1: a typo")
        again = cli("replace", job, "--message", str(file), *WHY)
        assert again[:2] == (0, f"{job} has this message already: content version 1\n")

    def test_reads_stdin_and_files_in_base64(
        self, cli: Cli, ledger: Ledger, job: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = base64.b64encode(b"terms").decode()
        fields = OTHER | {"from": ["me@example.com"], "attachments": [{"filename": "a.txt", "content": content}]}
        given = b"\xef\xbb\xbf" + json.dumps(fields).encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        made = as_json(cli("replace", job, "--message", "-", "--json"))
        assert made == {"job_id": job, "content_version": 1, "replaced": True, "dropped": [], "dry_run": False}
        assert b'"filename":"a.txt"' in body_of(ledger)
        assert [bytes(row.data) for row in ledger.rows(schema.chunk)] == [b"terms"]

    def test_a_dry_run_checks_everything_and_changes_nothing(
        self, cli: Cli, ledger: Ledger, job: str, file: Path
    ) -> None:
        before = ledger.rows(schema.job), ledger.rows(schema.payload), ledger.rows(schema.key)
        status, out, _ = cli("replace", job, "--message", str(file), "--dry-run")
        assert (status, out.endswith("content version 0, would be replaced; nothing was changed\n")) == (0, True)
        tried = as_json(cli("replace", job, "--message", str(file), "--dry-run", "--json"))
        assert (tried["replaced"], tried["content_version"], tried["dry_run"]) == (True, 0, True)
        ledger.queue.suppress("bea@example.com", source="test")
        status, _, err = cli("replace", job, "--message", str(file), "--dry-run")
        assert (status, f"{file}: to[0] " in err, "--skip-suppressed" in err) == (1, True, True)
        assert (ledger.rows(schema.job), ledger.rows(schema.payload), ledger.rows(schema.key)) == before
        assert not [row for row in ledger.rows(schema.event) if row.kind == "replace"]

    def test_a_dry_run_says_if_the_job_has_the_message_already(
        self, cli: Cli, ledger: Ledger, job: str, file: Path
    ) -> None:
        assert cli("replace", job, "--message", str(file), *WHY)[0] == 0
        status, out, _ = cli("replace", job, "--message", str(file), "--dry-run")
        assert (status, out) == (0, f"{job} has this message already: content version 1; nothing was changed\n")
        for more in (["--dry-run"], []):
            made = as_json(cli("replace", job, "--message", str(file), "--json", *more))
            assert (made["replaced"], made["content_version"]) == (False, 1)

    def test_finds_the_job_by_its_key(self, cli: Cli, ledger: Ledger, job: str, file: Path) -> None:
        made = as_json(cli("replace", "--key", "invoice-42", "--message", str(file), "--json"))
        assert (made["job_id"], made["replaced"]) == (job, True)
        for named in (["--key", "invoice-43"], ["--key", "invoice-42", "--application", "crm"]):
            assert cli("replace", *named, "--message", str(file))[0] == 1
        for named in ([], [job, "--key", "invoice-42"]):
            status, _, err = cli("replace", *named, "--message", str(file))
            assert (status, "give either JOB or --key" in err) == (2, True)

    def test_replaces_whatever_the_content_is_now_unless_it_is_named(
        self, cli: Cli, ledger: Ledger, job: str, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace = SendQueue.replace

        def late(queue: SendQueue, *given: Any, **options: Any) -> Any:
            replace(queue, job, MESSAGE.model_copy(update={"subject": "another"}))
            return replace(queue, *given, **options)

        monkeypatch.setattr(SendQueue, "replace", late)
        status, out, _ = cli("replace", job, "--message", str(file))
        assert (status, out) == (0, f"the message of {job} is replaced: content version 2\n")

    def test_only_the_content_that_was_read(self, cli: Cli, ledger: Ledger, job: str, file: Path) -> None:
        ledger.queue.replace(job, MESSAGE.model_copy(update={"subject": "another"}))
        status, out, err = cli("replace", job, "--message", str(file), "--content", "0")
        assert (status, out) == (1, "")
        assert "its content is another one: version 1, not 0; nothing was changed" in err
        assert cli("replace", job, "--message", str(file), "--content", "1")[0] == 0

    def test_fails_with_its_state_once_it_is_on_the_wire(self, cli: Cli, ledger: Ledger, job: str, file: Path) -> None:
        ledger.serve()
        status, out, err = cli("replace", job, "--message", str(file))
        assert (status, out) == (1, "")
        assert f"the job {job} is sending: its call is being made; nothing was changed" in err
        assert versions(ledger) == [0]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (b"", "is empty; write the fields of the message"),
            (b'{"to": [,]}', "is not JSON from line 1, column 9 on; correct it"),
            (b'{"to": ["ann@example"], "subjct": "x"}', "subjct is not a known field; "),
            (b'{"to": ["ann@example"], "subjct": "x"}', "to[0].email is not an email address; "),
        ],
    )
    @pytest.mark.parametrize("command", ["replace", "merge"])
    def test_of_what_is_no_message_names_file_field_reason_and_remedy(
        self, run: Cli, tmp_path: Path, text: bytes, says: str, command: str
    ) -> None:
        path = tmp_path / "bad.json"
        path.write_bytes(text)
        given = ["JOB"] if command == "replace" else ["--grant", "g1", "--csv", str(path)]
        status, out, err = run(command, *given, "--message", str(path))
        assert (status, out) == (1, "")
        assert f"sendq: {path}: {says}" in err
        assert err.endswith(f"sendq: nothing was {'changed' if command == 'replace' else 'enqueued'}\n")

    def test_of_what_is_no_send_or_not_there(self, cli: Cli, ledger: Ledger, file: Path) -> None:
        ledger.queue.modify("g1", ["m1"], unread=False)
        (change,) = ledger.rows(schema.job)
        status, _, err = cli("replace", str(change.id), "--message", str(file))
        assert (status, err) == (2, "sendq: JOB is not a send; cancel it, and enqueue another change instead\n")
        assert cli("replace", str(UUID(int=1)), "--message", str(file))[0] == 1
        assert cli("replace", str(change.id), "--message", str(file) + "x")[0] == 2
