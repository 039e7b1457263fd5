"""``sendq merge`` and ``--tag``: a newsletter by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sendq import Operators
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

    def test_shows_line_by_line_what_it_would_refuse(self, run: Cli, files: Any) -> None:
        table = '\ufeffemail,first_name\nann@example.com,"Ann, the first"\nnobody,Bob\n\n'
        table += "di@example.com\nann@example.com,A\n"
        status, out, err = run(*files(table), "--dry-run")
        assert (status, out) == (1, "4 rows, 3 would be refused; nothing was changed\n")
        assert [line.partition(";")[0] for line in err.splitlines()] == [
            "sendq: line 3: to[0].email is not an email address",
            "sendq: line 5: row has 1 value for 2 columns",
            "sendq: line 6: email is the same address as that of line 2",
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
        [("name\nAnn\n", "no column email"), ("email,email\n", "two columns of one name"), ("", "no column email")],
    )
    def test_refuses_a_table_without_addresses(self, run: Cli, files: Any, table: str, says: str) -> None:
        status, _, err = run(*files(table), "--dry-run")
        assert status == 2
        assert says in err

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
