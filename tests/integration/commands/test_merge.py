"""``sendq merge`` and ``--tag``: a newsletter by the command line."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sendq import Operators
from sendq.ledger.db import schema
from sendq.testing import enqueued
from tests.support.commands import Cli
from tests.support.ledger import Ledger

GOOD = "email,first_name\nann@example.com,Ann\n\nbob@example.com,Bob\n"


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def write(table: str, message: Any = None) -> list[str]:
        (tmp_path / "readers.csv").write_text(table, encoding="utf-8")
        fields = message or {"subject": "Hello {{first_name}}", "body": "<p>News</p>"}
        (tmp_path / "may.json").write_text(json.dumps(fields), encoding="utf-8")
        options = {"--grant": "g1", "--csv": "readers.csv", "--message": "may.json"}
        return ["merge", *(str(tmp_path / v) if "." in v else v for pair in options.items() for v in pair)]

    return write


class TestMerge:
    def test_enqueues_a_batch_once(self, ledger: Ledger, cli: Cli, files: Any) -> None:
        command = [*files(GOOD), "--key", "may", "--tag", "campaign=may", "--json"]
        status, out, _ = cli(*command)
        made = json.loads(out)
        assert (status, made["total"], made["existed"]) == (0, 2, False)
        assert json.loads(cli(*command)[1])["existed"] is True
        assert Operators(ledger.engine).batch(made["batch_id"]).tags == {"campaign": "may"}

    def test_waits_for_approval_if_asked_to(self, ledger: Ledger, cli: Cli, files: Any) -> None:
        status, out, _ = cli(*files(GOOD), "--needs-approval")
        assert (status, "it waits for approval: sendq approve --batch " in out) == (0, True)
        assert Operators(ledger.engine).count_jobs(rule="needs_approval").number == 2

    def test_shows_line_by_line_what_it_would_refuse(
        self, run: Cli, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/ledger.db")
        table = '\ufeffemail,first_name\nann@example.com,"Ann, the first"\nnobody,Bob\n\n'
        table += "di@example.com\nann@example.com,A\n"
        status, out, err = run(*files(table), "--dry-run")
        assert (status, out) == (1, "4 rows, 3 would be refused; nothing was changed\n")
        assert [line.partition(";")[0] for line in err.splitlines()] == [
            "sendq: line 3: to[0].email is not an email address",
            "sendq: line 5: row has 1 value for 2 columns",
            "sendq: line 6: email is the same address as that of line 2",
            "sendq: whether recipients are suppressed was not checked: the ledger's SQLite file "
            f"{tmp_path}/ledger.db does not exist",
        ]
        assert run(*files(GOOD), "--dry-run")[:2] == (0, "2 rows, 0 would be refused; nothing was changed\n")

    def test_enqueues_nothing_if_one_row_is_refused(self, ledger: Ledger, cli: Cli, files: Any) -> None:
        status, out, err = cli(*files(GOOD + "nobody,Bob\n"))
        assert (status, out) == (1, "")
        assert "line 5: to[0].email is not an email address" in err
        assert "nothing was enqueued" in err
        assert Operators(ledger.engine).count_jobs().number == 0

    @pytest.mark.parametrize(
        ("table", "says"),
        [
            ("name\nAnn\n", "no column email"),
            ("email,email\n", "two columns of one name"),
            ("Email,email\n", "two columns of one name"),
            ("", "no column email"),
            ("email;name\na@example.com;A\n", "--delimiter ';'"),
            ("email\tname\n", "--delimiter $'\\t'"),
            ('email,name\na@example.com,A\n\nb@example.com,"B\nc@example.com,C\n', "line 4: the row that begins here"),
        ],
    )
    def test_refuses_a_table_without_addresses(self, run: Cli, files: Any, table: str, says: str) -> None:
        status, _, err = run(*files(table), "--dry-run")
        assert status == 2
        assert says in err

    def test_leaves_suppressed_recipients_out_if_asked_to(self, ledger: Ledger, cli: Cli, files: Any) -> None:
        ledger.queue.suppress("bob@example.com", source="test")
        for also in (["--dry-run"], []):
            status, _, err = cli(*files(GOOD), *also)
            assert status == 1
            assert "line 4: to[0] is on the suppression list" in err
            assert "leave it out, or add --skip-suppressed" in err
        assert cli(*files(GOOD), "--dry-run", "--skip-suppressed")[:2] == (
            0, "2 rows, 1 would be left out, 0 would be refused; nothing was changed\n"
        )  # fmt: skip
        assert Operators(ledger.engine).count_jobs().number == 0
        status, out, _ = cli(*files(GOOD), "--skip-suppressed")
        assert (status, "1 message\n1 suppressed recipient left out" in out) == (0, True)
        made = json.loads(cli(*files(GOOD), "--skip-suppressed", "--json")[1])
        assert (made["total"], made["left_out"]) == (1, 1)
        assert "messages left out: 1 added" in cli("events", "--batch", made["batch_id"])[1]

    def test_makes_unsubscribe_links_with_the_address_in_the_settings(
        self, ledger: Ledger, cli: Cli, files: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = files(GOOD, {"subject": "May", "body": "News", "unsubscribe": "news"})
        for also in (["--dry-run"], []):
            status, _, err = cli(*command, *also)
            assert (status, "line 2: unsubscribe.url is missing; set SENDQ_UNSUBSCRIBE_URL" in err) == (1, True)
        monkeypatch.setenv("SENDQ_UNSUBSCRIBE_URL", "http://mail.example.com/u")
        assert "SENDQ_UNSUBSCRIBE_URL: is not an https URL" in cli(*command)[2]
        monkeypatch.setenv("SENDQ_UNSUBSCRIBE_URL", "https://mail.example.com/u")
        assert cli(*command, "--dry-run")[0] == cli(*command)[0] == 0
        headers = [one for job in enqueued(ledger.queue) for one in (job.body or {})["custom_headers"]]
        assert sum("<https://mail.example.com/u/" in header["value"] for header in headers) == 2

    def test_finds_its_columns_however_they_are_capitalised(self, ledger: Ledger, cli: Cli, files: Any) -> None:
        table = "Email,NAME,First_Name\nann@example.com,Ann A.,Ann\n"
        assert cli(*files(table, {"subject": "{{Email}} {{email}} {{First_Name}}", "body": "b"}))[0] == 0
        (job,) = enqueued(ledger.queue)
        assert job.body is not None
        assert job.body["to"] == [{"email": "ann@example.com", "name": "Ann A."}]
        assert job.body["subject"] == "ann@example.com ann@example.com Ann"

    def test_refuses_another_table_with_the_key_of_a_batch_and_one_without_rows(
        self, ledger: Ledger, cli: Cli, files: Any
    ) -> None:
        assert cli(*files(GOOD), "--key", "may")[0] == 0
        status, _, err = cli(*files("email,first_name\ncy@example.com,Cy\n"), "--key", "may")
        assert (status, "use a new key for new content; nothing was enqueued" in err, "job(" in err) == (1, True, False)
        for also in (["--dry-run"], []):
            status, _, err = cli(*files("email\n"), *also)
            assert (status, "the table has no rows" in err, "NewBatch" in err) == (1, True, False)

    def test_spreads_messages_within_a_window(self, ledger: Ledger, cli: Cli, files: Any) -> None:
        made = cli(*files(GOOD), "--window", "00:00-24:00 mon-sun UTC", "--spread", "4h", "--json")[1]
        batch = ledger.queue.batch(json.loads(made)["batch_id"])
        assert batch.window == "00:00-24:00 mon-sun UTC"
        assert batch.spread_until is not None
        assert batch.spread_until - batch.created_at == timedelta(hours=4)
        assert "due times are spread until" in cli("batch", batch.id)[1]
        assert len({row.due_at for row in ledger.rows(schema.job)}) == 2
        assert cli(*files(GOOD), "--window", "00:00-24:00 UTC", "--spread", "4h", "--dry-run")[0] == 0

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (("--window", "09:00-17:30"), "use a form like '09:00-17:30 mon-fri Europe/Berlin'"),
            (("--window", "09:00-09:00 mon-fri UTC"), "window.hours is empty: it never opens"),
            (("--window", "09:00-17:30 mon-fri Europe/Atlantis"), "window.tz is not a known time zone"),
            (("--spread", "0h"), "use a duration from 1s"),
        ],
    )
    def test_refuses_a_window_or_spread_that_is_none(
        self, run: Cli, files: Any, given: tuple[str, ...], says: str
    ) -> None:
        status, _, err = run(*files(GOOD), *given)
        assert (status, says in " ".join(err.split())) == (2, True)

    def test_refuses_an_address_as_a_tag(self, run: Cli, files: Any) -> None:
        status, _, err = run(*files(GOOD), "--tag", "to=ann@example.com", "--dry-run")
        assert status == 1
        assert "batch.tags.to looks like an email address" in err


class TestTag:
    def test_lists_counts_holds_releases_and_cancels(self, ledger: Ledger, cli: Cli, files: Any) -> None:
        cli(*files(GOOD), "--tag", "campaign=may")
        ledger.send("g1")
        ledger.absorb()
        assert len(json.loads(cli("jobs", "--tag", "campaign=may", "--json")[1])["items"]) == 2
        assert json.loads(cli("jobs", "--tag", "campaign=may", "--count", "--json")[1])["states"] == {"queued": 2}
        who = ("--reason", "wrong price", "--by", "anna")
        status, out, _ = cli("hold", "--tag", "campaign=may", "--for", "2h", *who)
        assert status == 0
        assert "tag campaign=may is held until" in out
        assert "tag campaign=may" in cli("status")[1]
        assert "sendq release --tag campaign=may" in cli("hold", "--tag", "campaign=may", "--for", "1h", *who)[2]
        assert "tag campaign=may is released; 2 jobs wait" in cli("release", "--tag", "campaign=may", *who)[1]
        assert "2 jobs cancelled" in cli("cancel", "--tag", "campaign=may", *who)[1]
        assert "tag campaign=may" in cli("events")[1]
        assert cli("jobs", "--state", "queued", "--tag", "campaign=may")[1] == "no jobs match\n"

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            (("jobs", "--tag", "campaign"), "--tag has no ="),
            (("jobs", "--tag", "a=1", "--tag", "b=2"), "is given more than once"),
            (("hold", "--tag", "a=1", "--grant", "g1", "--reason", "x"), "give one of"),
            (("hold", "--tag", "a=1", "--rule", "throttled", "--reason", "x"), "--tag goes with --application alone"),
        ],
    )
    def test_is_refused_where_it_says_too_much(self, cli: Cli, command: tuple[str, ...], says: str) -> None:
        status, _, err = cli(*command)
        assert status == 2
        assert says in err
