"""``sendq jobs`` and ``sendq dead``: what is listed, page by page, and what the person on call is told to do."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from sendq import clock
from sendq.clock import SECOND, moment
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.db.engine import reading
from sendq.ledger.reading import dead_letters
from sendq.ledger.reading.filters import JobFilter, LaneFilter
from tests.support.commands import Cli, Result
from tests.support.ledger import Ledger

NOBODY = "0192f0c1-2f3e-7c4d-9a5b-0123456789ab"


def as_json(result: Result) -> Any:
    status, out, err = result
    assert (status, err) == (0, "")
    return json.loads(out)


def ids(result: Result) -> list[str]:
    return [job["id"] for job in as_json(result)["items"]]


def next_page(out: str) -> str:
    """The cursor of the next page, as the list names it for people."""
    (line,) = [line for line in out.splitlines() if "--after" in line]
    return line.split("--after ")[1]


def bury(ledger: Ledger, rule: str, *, grant: str = "g1", ago_s: int = 0, error: str | None = None) -> str:
    """A dead letter that was given up so long ago."""
    job = ledger.send(grant)
    ledger.absorb()
    at = clock.now() - ago_s * SECOND
    ledger.set_job(job, state="dead", rule=rule, finished_at=at)
    attempt = {
        "id": new_id(), "job_id": job, "generation": 0, "begun_at": 1, "ended_at": 2, "rule": rule, "sent": "no",
        "replayed": False, "status": 400, "error": error,
    }  # fmt: skip
    with ledger.writing() as connection:
        insert_rows(connection, schema.attempt, [attempt])
    return str(job)


class TestJobs:
    @pytest.fixture
    def kept(self, ledger: Ledger) -> list[str]:
        """A send that died, one that waits with a high priority, one of another application, and a batch of two."""
        sends = [ledger.send("a"), ledger.send("a", priority="high"), ledger.send("a", application="other")]
        ledger.set_job(sends[0], state="dead", rule="bad_request", finished_at=1)
        return [str(one) for one in (*sends, *ledger.modify("b", ["m1", "m2"]))]

    @pytest.mark.parametrize(
        ("filters", "which"),
        [
            ([], [4, 3, 2, 1, 0]),
            (["--state", "dead"], [0]),
            (["--state", "dead", "--state", "queued", "--grant", "a"], [1, 0]),
            (["--grant", "a", "--application", "other"], [2]),
            (["--rule", "bad_request"], [0]),
            (["--operation", "modify"], [4, 3]),
            (["--priority", "high"], [1]),
            (["--since", "1h"], [4, 3, 2, 1, 0]),
            (["--until", "1h"], []),
            (["--operation", "modify", "--grant", "a"], []),
        ],
    )
    def test_are_those_that_fit_every_filter(
        self, cli: Cli, kept: Sequence[str], filters: list[str], which: list[int]
    ) -> None:
        assert ids(cli("jobs", *filters, "--json")) == [kept[place] for place in which]

    def test_of_a_batch(self, cli: Cli, ledger: Ledger, kept: Sequence[str]) -> None:
        batch = str(ledger.job(UUID(kept[3])).batch_id)
        assert ids(cli("jobs", "--batch", batch, "--json")) == [kept[4], kept[3]]

    def test_between_two_times_are_those_enqueued_then(self, cli: Cli, kept: Sequence[str]) -> None:
        def enqueued(job: str) -> str:
            return moment((UUID(job).int >> 80) * 1_000).isoformat()

        found = ids(cli("jobs", "--since", enqueued(kept[0]), "--json"))
        assert found == list(reversed(kept))
        assert kept[4] not in ids(cli("jobs", "--until", enqueued(kept[4]), "--json"))

    def test_come_page_by_page(self, cli: Cli, kept: Sequence[str]) -> None:
        cursor = next_page(cli("jobs", "--limit", "2")[1])
        assert as_json(cli("jobs", "--limit", "2", "--json"))["next"] == cursor
        assert ids(cli("jobs", "--limit", "2", "--after", cursor, "--json")) == [kept[2], kept[1]]
        assert "--after" not in cli("jobs", "--limit", "5")[1]
        assert as_json(cli("jobs", "--limit", "5", "--json"))["next"] is None

    def test_that_are_not_there_are_said_to_be_none(self, cli: Cli) -> None:
        assert cli("jobs", "--grant", "nobody") == (0, "no jobs match\n", "")
        assert as_json(cli("jobs", "--grant", "nobody", "--json")) == {"items": [], "next": None}


class TestDeadLetters:
    def test_are_counted_by_rule_with_their_times_and_what_to_do(self, cli: Cli, ledger: Ledger) -> None:
        for ago_s in (7200, 60, 3600):
            bury(ledger, "bad_request", ago_s=ago_s)
        bury(ledger, "recipients_partly_refused", grant="g2")
        first, second = as_json(cli("dead", "--json"))
        assert (first["rule"], first["number"], second["rule"]) == ("bad_request", 3, "recipients_partly_refused")
        lasted = datetime.fromisoformat(first["newest"]) - datetime.fromisoformat(first["oldest"])
        assert 7139 < lasted.total_seconds() < 7141
        assert first["remedy"].startswith("Fix the payload")
        assert (first["sent"], second["sent"]) == ("no", "partly")
        out = cli("dead")[1]
        assert "3 " in out
        assert "remedy: Fix the payload" in out
        assert "--even-partly" in out

    def test_are_sent_round_again_by_the_command_that_it_names(self, cli: Cli, ledger: Ledger) -> None:
        bury(ledger, "bad_request")
        bury(ledger, "bad_request", ago_s=7200)
        bury(ledger, "bad_request", grant="g2")
        filters = ["--grant", "g1", "--since", "1h"]
        (of_rule,) = as_json(cli("dead", *filters, "--json"))
        assert of_rule["number"] == 1
        words = shlex.split(of_rule["retry"])
        assert words[:4] == ["sendq", "retry", "--rule", "bad_request"]
        assert as_json(cli(*words[1:], "--json"))["retried"] == 1

    def test_of_one_rule_are_listed_with_what_the_api_said_the_last_first(self, cli: Cli, ledger: Ledger) -> None:
        older = bury(ledger, "bad_request", ago_s=60, error="no such field")
        oldest = bury(ledger, "bad_request", ago_s=90)
        newest = bury(ledger, "bad_request", grant="g2", ago_s=30)
        bury(ledger, "not_found")
        assert ids(cli("dead", "--rule", "bad_request", "--json")) == [newest, older, oldest]
        first = as_json(cli("dead", "--rule", "bad_request", "--limit", "1", "--json"))
        assert [one["id"] for one in first["items"]] == [newest]
        assert ids(cli("dead", "--rule", "bad_request", "--after", first["next"], "--limit", "1", "--json")) == [older]
        assert ids(cli("dead", "--rule", "bad_request", "--grant", "g2", "--json")) == [newest]
        out = cli("dead", "--rule", "bad_request", "--limit", "2")[1]
        assert "no such field" in out
        assert ids(cli("dead", "--rule", "bad_request", "--after", next_page(out), "--json")) == [oldest]
        assert "sendq retry --rule bad_request --dry-run" in out

    def test_of_a_rule_of_ones_own_are_told_in_its_words(
        self, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        bury(ledger, "teapot")
        assert as_json(cli("dead", "--json"))[0]["remedy"] is None
        assert "teapot" in cli("dead")[1]
        (tmp_path / "policy.toml").write_text(
            '[[row]]\nid = "teapot"\ntitle = "Teapot"\nstatus = [418]\nroute = "dead_letter"\nscope = "job"\n'
            'sent = "no"\nwhy = "It is a teapot."\nremedy = "Ask a coffee pot."\n'
        )
        monkeypatch.setenv("SENDQ_POLICY_FILE", str(tmp_path / "policy.toml"))
        assert "remedy: Ask a coffee pot." in cli("dead")[1]
        monkeypatch.setenv("SENDQ_POLICY_FILE", str(tmp_path / "none.toml"))
        status, out, err = cli("dead")
        assert (status, "teapot" in out, "sendq policy" in err) == (0, True, True)

    def test_that_are_not_there_are_said_to_be_none(self, cli: Cli) -> None:
        assert cli("dead") == (0, "no dead letters\n", "")
        assert cli("dead", "--since", "1h") == (0, "no dead letters match\n", "")
        assert cli("dead", "--rule", "bad_request") == (0, "no dead letters of rule bad_request\n", "")
        assert as_json(cli("dead", "--json")) == []

    def test_name_no_command_that_would_retry_more_than_is_shown(self, cli: Cli, ledger: Ledger) -> None:
        bury(ledger, "bad_request", ago_s=60)
        for filters in (["--until", "1s"], ["--application", "default"]):
            assert as_json(cli("dead", *filters, "--json"))[0]["retry"] is None
            assert "sendq retry" not in cli("dead", *filters)[1]

    def test_are_found_through_their_own_index(self, ledger: Ledger) -> None:
        if ledger.engine.dialect.name != "sqlite":
            return  # PostgreSQL plans by statistics: an empty table proves nothing there
        statements: list[str] = []
        with reading(ledger.engine) as connection:
            connection.connection.driver_connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
            dead_letters.counts_by_rule(connection, JobFilter(LaneFilter("default", None, "g1")))
            (counted,) = [statement for statement in statements if "sendq_job" in statement]
            plan = str(connection.execute(text(f"EXPLAIN QUERY PLAN {counted}")).all())
        assert "INDEX sendq_job_dead_idx" in plan


class TestWhatCannotBeMeant:
    @pytest.mark.parametrize(
        ("words", "status", "says"),
        [
            (["jobs", "--state", "ded"], 2, "in_doubt"),
            (["jobs", "--operation", "sned"], 2, "modify"),
            (["jobs", "--priority", "urgent"], 2, "high"),
            (["jobs", "--since", "yesterday"], 2, "30m or 2h"),
            (["jobs", "--until", "2026-07-01"], 2, "time zone"),
            (["jobs", "--limit", "0"], 2, "--limit"),
            (["jobs", "--grant", "leyah@example.com"], 2, "grant's id"),
            (["jobs", "--batch", "tidy"], 1, "no batch"),
            (["jobs", "--after", "that one"], 2, "--after is not a cursor"),
            (["jobs", "--rule", "bad_requst"], 1, "did you mean bad_request? sendq policy"),
            (["dead", "--rule", "bad_requst"], 1, "did you mean bad_request? sendq policy"),
            (["dead", "--after", NOBODY], 2, "--rule"),
            (["dead", "--grant", "leyah@example.com"], 2, "grant's id"),
            (["dead", "--since", "2 hours"], 2, "30m or 2h"),
            (["retry", "--rule", "bad_requst", "--dry-run"], 1, "did you mean bad_request? sendq policy"),
            (["resolve", "dead", "--rule", "no_anser", "--reason", "r"], 1, "did you mean no_answer? sendq policy"),
            (["events", "--grant", "leyah@example.com"], 2, "grant's id"),
            (["events", "--since", "yesterday"], 2, "30m or 2h"),
            (["batch", "tidy"], 1, "no batch"),
            (["why", "that one"], 1, "no job"),
            (["deliveries", "--grant", "leyah@example.com"], 2, "grant's id"),
            (["grants", "--grant", "leyah@example.com"], 2, "--grant "),
            (["grants", "--state", "shut"], 2, "closed"),
            (["grants", "--rule", "expird"], 1, "there is no rule"),
            (["events", "--kind", "hodl"], 2, "hold"),
            (["dead", "--provider", "gmial"], 2, "google"),
        ],
    )
    def test_is_refused_with_what_would_be_right(
        self, cli: Cli, ledger: Ledger, words: list[str], status: int, says: str
    ) -> None:
        for form in ([], ["--json"]):
            found, out, err = cli(*words, *form)
            assert (found, out) == (status, "")
            assert says in err
            assert "leyah" not in err
