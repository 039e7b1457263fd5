"""``sendq suppressions``: who gets no more mail, adding, removing, files, and the journal."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from sendq.ledger.db import schema
from sendq.rules.suppression import Reason
from tests.integration.ledger.test_suppression import LEYAH, NOOR, listed
from tests.support.commands import Cli
from tests.support.ledger import Ledger
from worker.cli.suppressions import REASONS

WHY = ("--reason", "they asked", "--by", "ann")


def entries(cli: Cli, *arguments: str) -> Any:
    status, out, err = cli("suppressions", "list", "--json", *arguments)
    assert (status, err) == (0, "")
    return json.loads(out)["items"]


class TestTheList:
    def test_is_changed_by_people_with_author_and_reason(self, cli: Cli, ledger: Ledger) -> None:
        assert cli("suppressions", "add", LEYAH, f"Noor <{NOOR}>", "--dry-run", *WHY)[:2] == (
            0, "2 entries would be added, of 2 recipients\n",
        )  # fmt: skip
        assert listed(ledger) == []
        assert cli("suppressions", "add", LEYAH, NOOR, *WHY)[0] == 0
        assert cli("suppressions", "add", LEYAH, "--category", "news", *WHY)[1] == "1 entry added, of 1 recipient\n"
        assert cli("suppressions", "add", LEYAH, *WHY)[1] == "0 entries added, of 1 recipient\n"
        assert [one[:3] for one in listed(ledger)] == [
            ("default", LEYAH, ""), ("default", LEYAH, "news"), ("default", NOOR, ""),
        ]  # fmt: skip
        (one,) = entries(cli, "--recipient", LEYAH.upper(), "--category", "news")
        assert (one["category"], one["reason"], one["source"]) == ("news", "added", "ann")
        digest = one["digest"]
        assert cli("suppressions", "remove", digest, *WHY)[0] == 0
        assert [one["category"] for one in entries(cli, "--recipient", LEYAH)] == ["news"]
        assert cli("suppressions", "remove", LEYAH, "--every-category", *WHY)[0] == 0
        assert cli("suppressions", "remove", LEYAH, *WHY)[0] == 1
        assert cli("suppressions", "list", "--recipient", LEYAH)[:2] == (1, "this recipient is not suppressed\n")
        told = [(row.kind, row.by, row.reason, row.number) for row in ledger.rows(schema.event)]
        assert sorted(told) == [
            ("suppressed", "ann", "they asked", 1), ("suppressed", "ann", "they asked", 2),
            ("unsuppressed", "ann", "they asked", 1), ("unsuppressed", "ann", "they asked", 1),
        ]  # fmt: skip

    def test_is_listed_page_by_page(self, cli: Cli, ledger: Ledger) -> None:
        cli("suppressions", "add", *(f"a{number}@example.com" for number in range(7)), *WHY)
        cli("suppressions", "add", LEYAH, "--application", "other", "--category", "news", *WHY)
        status, out, _ = cli("suppressions", "list", "--json", "--limit", "5")
        page = json.loads(out)
        rest = json.loads(cli("suppressions", "list", "--json", "--after", page["next"])[1])
        assert (status, len(page["items"]), len(rest["items"]), rest["next"]) == (0, 5, 3, None)
        assert len({(one["application"], one["digest"]) for one in page["items"] + rest["items"]}) == 8
        assert len(entries(cli, "--application", "other")) == 1
        assert len(entries(cli, "--all-mail")) == 7
        assert entries(cli, "--reason", "bounced") == []
        assert LEYAH not in cli("suppressions", "list")[1]

    def test_of_a_person_has_the_entries_of_all_applications(self, cli: Cli, ledger: Ledger) -> None:
        cli("suppressions", "add", LEYAH, *WHY)
        cli("suppressions", "add", LEYAH, "--application", "eu", "--category", "news", *WHY)
        cli("suppressions", "add", NOOR, "--application", "eu", *WHY)
        found = entries(cli, "--recipient", LEYAH)
        assert {(one["application"], one["category"]) for one in found} == {("default", None), ("eu", "news")}
        assert [one["application"] for one in entries(cli, "--recipient", NOOR)] == ["eu"]
        digest = entries(cli, "--recipient", NOOR)[0]["digest"]
        assert [one["application"] for one in entries(cli, "--recipient", digest)] == ["eu"]
        assert len(entries(cli, "--recipient", LEYAH, "--application", "eu")) == 1

    def test_of_a_person_has_the_entry_that_applies_to_a_category(self, cli: Cli, ledger: Ledger) -> None:
        cli("suppressions", "add", LEYAH, *WHY)
        cli("suppressions", "add", LEYAH, "--category", "news", *WHY)
        status, out, _ = cli("suppressions", "list", "--recipient", LEYAH, "--category", "zzz")
        assert (status, "all mail" in out, "not suppressed" in out) == (0, True, False)
        assert [one["category"] for one in entries(cli, "--recipient", LEYAH, "--category", "zzz")] == [None]
        assert [one["category"] for one in entries(cli, "--recipient", LEYAH, "--category", "news")] == ["news"]

    @pytest.mark.parametrize(
        ("filters", "status"),
        [
            (["--category", "zzz"], 0), (["--application", "eu"], 0), (["--reason", "bounced"], 0),
            (["--recipient", LEYAH, "--reason", "bounced"], 1), (["--recipient", LEYAH, "--application", "eu"], 1),
            (["--recipient", LEYAH, "--category", "zzz"], 1), (["--recipient", LEYAH, "--all-mail"], 1),
        ],
    )  # fmt: skip
    def test_does_not_say_that_nobody_is_suppressed_because_of_a_filter(
        self, cli: Cli, ledger: Ledger, filters: list[str], status: int
    ) -> None:
        cli("suppressions", "add", LEYAH, "--category", "news", *WHY)
        assert cli("suppressions", "list", *filters)[:2] == (status, "no entry matches\n")

    def test_of_a_person_is_listed_page_by_page(self, cli: Cli, ledger: Ledger) -> None:
        for category in ("a", "b", "c", "d"):
            cli("suppressions", "add", LEYAH, "--category", category, *WHY)
        listing = ("suppressions", "list", "--recipient", LEYAH, "--limit", "2")
        assert "more follow" in cli(*listing)[1]
        seen: list[str] = []
        after: tuple[str, ...] = ()
        for _ in range(2):
            page = json.loads(cli(*listing, "--json", *after)[1])
            seen += [one["category"] for one in page["items"]]
            after = ("--after", page["next"])
        assert (sorted(seen), page["next"]) == (["a", "b", "c", "d"], None)

    def test_keeps_a_journal_of_recipients_by_category(self, cli: Cli, ledger: Ledger, tmp_path: Path) -> None:
        given = tmp_path / "list.csv"
        given.write_text(f"address,category\n{LEYAH},news\n{NOOR},news\n{NOOR},\n")
        cli("suppressions", "import", str(given), *WHY)
        cli("suppressions", "remove", NOOR, "--every-category", *WHY)
        rows = [line.split("  ") for line in cli("events")[1].splitlines()[1:]]
        told = sorted(" ".join(part.strip() for part in row[1:] if part.strip()) for row in rows)
        assert [line.split(" ann")[0] for line in told] == [
            "suppressed 1 recipient of application default, all mail",
            "suppressed 2 recipients of application default, category news",
            "unsuppressed 1 recipient of application default, all mail",
            "unsuppressed 1 recipient of application default, category news",
        ]
        categories = [one["category"] for one in json.loads(cli("events", "--json")[1])["items"]]
        assert sorted(map(str, categories)) == ["None", "None", "news", "news"]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["add", "nobody", *WHY], "RECIPIENT[0] is not an email address"),
            (["add", LEYAH, "--category", " ", *WHY], "--category is not 1 to 100 characters"),
            (["list", "--recipient", "leyah@"], "RECIPIENT[0] is not an email address"),
            (
                ["remove", LEYAH, "--category", "a", "--every-category", *WHY],
                "--category is given with --every-category",
            ),
        ],
    )
    def test_of_bad_input_says_what_is_wrong(self, cli: Cli, ledger: Ledger, arguments: list[str], says: str) -> None:
        status, out, err = cli("suppressions", *arguments)
        assert (status, out) == (2, "")
        assert says in err
        assert "leyah@" not in err

    def test_knows_the_reasons_of_the_program(self) -> None:
        assert tuple(Reason) == REASONS


class TestAFile:
    def test_of_addresses_is_imported_and_exported_as_digests(self, cli: Cli, ledger: Ledger, tmp_path: Path) -> None:
        given = tmp_path / "list.csv"
        given.write_text(
            "\ufeffAddress,category,reason,at\r\n"
            f'"Leyah M <{LEYAH.upper()}>",news,unsubscribed,2026-01-02T03:04:05+02:00\r\n'
            f"{NOOR},,,\r\n{NOOR},,,\r\n"
        )
        assert cli("suppressions", "import", str(given), "--dry-run", *WHY)[:2] == (
            0, "2 entries would be added, of 3 recipients\n",
        )  # fmt: skip
        assert cli("suppressions", "import", str(given), *WHY)[0] == 0
        assert listed(ledger) == [("default", LEYAH, "news", "unsubscribed"), ("default", NOOR, "", "imported")]
        status, out, _ = cli("suppressions", "export")
        rows = list(csv.DictReader(io.StringIO(out)))
        assert (status, len(rows), "@" in out) == (0, 2, False)
        assert {row["at"] for row in rows if row["category"]} == {"2026-01-02T01:04:05Z"}
        exported = tmp_path / "exported.csv"
        exported.write_text(out)
        cli("suppressions", "remove", LEYAH, NOOR, "--every-category", *WHY)
        assert cli("suppressions", "import", str(exported), *WHY)[0] == 0
        assert cli("suppressions", "export")[1] == out.replace(",test,", ",ann,")
        status, out, err = cli("suppressions", "import", str(exported), "--application", "other", *WHY)
        assert (status, out) == (2, "")
        assert "line 2 has a digest of another ledger or application" in err

    def test_may_have_another_delimiter(self, cli: Cli, ledger: Ledger, tmp_path: Path) -> None:
        given = tmp_path / "list.csv"
        given.write_text(f"address;category\n{LEYAH};news\n")
        assert cli("suppressions", "import", str(given), "--delimiter", ";", *WHY)[0] == 0
        assert listed(ledger) == [("default", LEYAH, "news", "imported")]
        for wrong in ("", ";;", '"', "\n", " "):
            status, _, err = cli("suppressions", "import", str(given), "--delimiter", wrong, *WHY)
            assert (status, "--delimiter is not one character" in err) == (2, True)

    def test_with_many_wrong_lines_says_how_many_it_does_not_list(
        self, cli: Cli, ledger: Ledger, tmp_path: Path
    ) -> None:
        given = tmp_path / "list.csv"
        for wrong, says in ((20, None), (21, "FILE has 1 more problem;"), (1_500, "FILE has 1,480 more problems;")):
            given.write_text("address\n" + "leyah@\n" * wrong)
            status, _, err = cli("suppressions", "import", str(given), *WHY)
            lines = err.splitlines()
            assert (status, len(lines)) == (2, 20 if says is None else 21)
            assert says is None or says in lines[-1]
        err = cli("suppressions", "add", *["leyah@"] * 25, *WHY)[2]
        assert "RECIPIENT has 5 more problems;" in err.splitlines()[-1]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "line 1 names not exactly one of the columns address and digest"),
            ("email\nleyah@example.com\n", "line 1 names not exactly one of"),
            ("address,colour\nleyah@example.com,red\n", "line 1 names a column that is not known"),
            ("address,colour,size\nleyah@example.com,red,5\n", "line 1 names 2 columns that are not known"),
            ("address,at\nleyah@example.com,soon\n", "line 2 has a time that is not in ISO 8601"),
            ("address\n", "FILE has no entries"),
            ("address;category\nleyah@example.com;news\n", "line 1 names not exactly one of"),
            ("address\nnoor@example.com\nleyah@\n", "line 3 is not an email address"),
            ("address,category\nleyah@example.com\n", "line 2 has more or fewer fields"),
            ("address,category\nleyah@example.com,a,b\n", "line 2 has more or fewer fields"),
            ("address,reason\nleyah@example.com,whim\n", "line 2 has a reason that is not one of"),
            ("address,at\nleyah@example.com,2026-01-02T03:04:05\n", "line 2 has a time without a time zone"),
            ("digest\nleyah@example.com\n", "line 2 has no digest of 32 hexadecimal digits"),
            ('address\n"leyah@example.com\n', "is not CSV"),
        ],
    )
    def test_with_a_wrong_line_adds_nothing(
        self, cli: Cli, ledger: Ledger, tmp_path: Path, text: str, says: str
    ) -> None:
        given = tmp_path / "list.csv"
        given.write_text(text)
        status, out, err = cli("suppressions", "import", str(given), *WHY)
        assert (status, out) == (2, "")
        assert says in err
        assert "leyah" not in err
        assert ledger.rows(schema.suppression) == []
