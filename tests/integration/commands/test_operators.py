"""The operator's commands: hold, release, grants, retry, events; and what they do to a system at work."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sendq import State, clock
from sendq.clock import SECOND
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.states import MOVES, Event
from sendq.simulator import Fault
from tests.support.commands import Cli, Result
from tests.support.ledger import Ledger
from tests.support.system import System, mail, running
from tests.support.waiting import eventually
from worker.cli import retry

WHY = ("--reason", "their server moves", "--by", "anna")


def as_json(result: Result) -> Any:
    status, out, err = result
    assert (status, err) == (0, "")
    return json.loads(out)


def fails(result: Result, *words: str) -> None:
    """Status 1, with one sentence on stderr."""
    status, _, err = result
    assert (status, err.count("\n")) == (1, 1)
    assert all(word in err for word in words)


def lanes(ledger: Ledger, **providers: str) -> None:
    """A waiting job for each grant, taken in by the dispatcher. Commands go by the real clock, so the jobs do too."""
    ledger.clock.at = clock.now()
    for grant, provider in providers.items():
        ledger.send(grant, provider=provider)
    ledger.absorb()


def dead(ledger: Ledger, grant: str = "g1", *, sent: str = "no", rule: str = "bad_request") -> str:
    """A dead letter with one attempt."""
    job = ledger.send(grant)
    ledger.absorb()
    ledger.set_job(job, state="dead", rule=rule, finished_at=clock.now())
    attempt = {
        "id": new_id(), "job_id": job, "generation": 0, "begun_at": 1, "ended_at": 2, "rule": rule, "sent": sent,
        "replayed": False,
    }  # fmt: skip
    with ledger.writing() as connection:
        insert_rows(connection, schema.attempt, [attempt])
    return str(job)


class TestHold:
    def test_holds_for_a_day_unless_told_otherwise(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, g1="google")
        seen = as_json(cli("hold", "--grant", "g1", *WHY, "--json"))
        assert (seen["waiting"], seen["known"], seen["done"], seen["by"]) == (1, True, True, "anna")
        lasts = datetime.fromisoformat(seen["until"]) - datetime.now(UTC)
        assert timedelta(hours=23, minutes=59) < lasts <= timedelta(hours=24)
        assert ledger.lane().held_until == clock.micros(datetime.fromisoformat(seen["until"]))
        status, out, err = cli("hold", "--grant", "g1", *WHY, "--for", "2d")
        assert (status, err) == (0, "")
        assert "1 job waits" in out
        assert "sendq release --grant g1" in out

    def test_until_a_time_for_a_provider_or_all_of_an_application(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, g1="google", m1="microsoft")
        until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        google = as_json(cli("hold", "--provider", "google", "--until", until, *WHY, "--json"))
        assert (google["waiting"], google["until"]) == (1, until)
        whole = as_json(cli("hold", "--whole-application", "--for", "1h30m", *WHY, "--json"))
        assert (whole["waiting"], whole["grant_id"], whole["provider"]) == (2, None, None)
        assert {row.provider: row.held_by for row in ledger.rows(schema.pair)} == {
            "google": "anna", "microsoft": None, "*": "anna",
        }  # fmt: skip

    def test_a_dry_run_counts_and_changes_nothing(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, g1="google")
        assert as_json(cli("hold", "--grant", "g1", *WHY, "--dry-run", "--json"))["done"] is False
        assert "nothing was changed" in cli("hold", "--provider", "google", *WHY, "--dry-run")[1]
        assert "it has had no jobs so far" in cli("hold", "--grant", "g2", *WHY, "--dry-run")[1]
        assert (ledger.lane().held_until, ledger.rows(schema.event), len(ledger.rows(schema.lane))) == (None, [], 1)

    def test_a_longer_one_stays_and_the_next_command_is_named(self, cli: Cli, ledger: Ledger) -> None:
        cli("hold", "--grant", "g1", *WHY, "--for", "2h")
        for dry in ([], ["--dry-run"]):
            fails(cli("hold", "--grant", "g1", *WHY, "--for", "1h", *dry), "anna", "sendq release --grant g1")

    def test_the_author_is_who_runs_it(self, cli: Cli, ledger: Ledger) -> None:
        assert as_json(cli("hold", "--grant", "g1", "--reason", "r", "--json"))["by"] == getpass.getuser()

    @pytest.mark.parametrize(
        "given",
        [
            [],
            ["--grant", "g1", "--provider", "google"],
            ["--grant", "leyah@example.com"],
            ["--provider", "gmial"],
            ["--grant", "g1", "--for", "2 hours"],
            ["--grant", "g1", "--for", "0s"],
            ["--grant", "g1", "--for", "9999d"],
            ["--grant", "g1", "--until", "2099-01-01T00:00:00Z"],
            ["--grant", "g1", "--until", "2020-01-01T00:00:00Z"],
            ["--grant", "g1", "--until", "2026-07-01T09:00:00"],
            ["--grant", "g1", "--until", "tomorrow"],
            ["--grant", "g1", "--until", "2026-07-01T09:00:00Z", "--for", "1h"],
            ["--grant", "g1", "--by", "policy"],
            ["--grant", "g1", "--reason", " "],
            ["--grant", "g1", "--reason", "a\udcff"],
            ["--grant", "g1", "--application", "a\udcff"],
        ],
    )
    def test_what_cannot_be_meant_is_status_2(self, cli: Cli, ledger: Ledger, given: list[str]) -> None:
        for command in ("hold", "release"):
            status, out, err = cli(command, "--reason", "r", *given)
            assert (status, out) == (2, "")
            assert "Traceback" not in err
            assert "leyah" not in err
        assert cli("hold", "--grant", "g1")[0] == 2  # no reason
        assert ledger.rows(schema.event) == []


class TestRelease:
    def test_ends_a_hold(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, g1="google")
        cli("hold", "--grant", "g1", *WHY)
        assert as_json(cli("release", "--grant", "g1", *WHY, "--dry-run", "--json"))["done"] is None
        assert ledger.lane().held_until is not None
        assert as_json(cli("release", "--grant", "g1", *WHY, "--json"))["done"] == "released"
        assert ledger.lane().held_until is None

    def test_reopens_a_closed_lane_and_says_what_still_holds_it(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, g1="google")
        ledger.set_lane(closed_at=1, closed_rule="expired")
        cli("hold", "--provider", "google", *WHY)
        status, out, err = cli("release", "--grant", "g1", *WHY)
        assert (status, err) == (0, "")
        assert "grant g1 is reopened" in out
        assert "sendq release --provider google" in out
        fails(cli("release", "--grant", "g1", *WHY), "sendq release --provider google")
        assert "provider google is released" in cli("release", "--provider", "google", *WHY)[1]

    def test_where_nothing_is_held_is_status_1(self, cli: Cli, ledger: Ledger) -> None:
        for dry in ([], ["--dry-run"]):
            fails(cli("release", "--whole-application", *WHY, *dry), "sendq status")
        assert ledger.rows(schema.event) == []


class TestGrants:
    def test_shows_where_the_owner_signs_in_again(
        self, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lanes(ledger, shut="google", away="google", held="google", fine="google")
        for grant, gone in (("shut", False), ("away", True)):
            ledger.set_lane(grant, closed_at=clock.now(), closed_rule="expired", gone=gone, suspected=not gone)
        cli("hold", "--grant", "held", *WHY)
        monkeypatch.setenv("SENDQ_REAUTH_URL", "https://app.example.com/mail/{grant_id}")
        by_grant = {row["grant_id"]: row for row in as_json(cli("grants", "--json"))["items"]}
        assert set(by_grant) == {"shut", "away", "held"}
        shut, away, held = by_grant["shut"], by_grant["away"], by_grant["held"]
        assert (shut["reauth_url"], shut["suspected"]) == ("https://app.example.com/mail/shut", True)
        assert (away["reauth_url"], away["gone"]) == (None, True)
        assert (held["by"], held["reason"], held["reauth_url"]) == ("anna", "their server moves", None)
        assert {row["grant_id"] for row in as_json(cli("grants", "--state", "closed", "--json"))["items"]} == {
            "shut",
            "away",
        }
        assert {row["grant_id"] for row in as_json(cli("grants", "--state", "held", "--json"))["items"]} == {"held"}
        every = ("--state", "open", "--state", "held", "--state", "closed", "--json")
        assert len(as_json(cli("grants", *every))["items"]) == 4
        one = as_json(cli("grants", *every, "--limit", "1"))
        assert (len(one["items"]), one["next"] is None) == (1, False)
        out = cli("grants")[1]
        assert "https://app.example.com/mail/shut" in out
        assert "their server moves" in out

    def test_shows_what_a_call_of_one_grant_uses(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, stating="google")
        ledger.set_lane("stating", used='[[0,0,0,0],0,0,{},{"send":115}]')
        assert "its last send used 115 units of google's limits" in cli("grants", "--grant", "stating")[1]
        (row,) = as_json(cli("grants", "--grant", "stating", "--json"))["items"]
        assert row["costs"] == {"send": 115}

    def test_names_the_setting_that_is_missing(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, shut="google")
        ledger.set_lane("shut", closed_at=clock.now(), closed_rule="expired")
        assert "SENDQ_REAUTH_URL" in cli("grants")[1]

    def test_says_that_there_is_none(self, cli: Cli) -> None:
        assert cli("grants") == (0, "no grant is held or closed\n", "")
        assert cli("grants", "--state", "closed") == (0, "no grants match\n", "")

    def test_says_that_there_are_more(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, **{f"g{number}": "google" for number in range(3)})
        for number in range(3):
            ledger.set_lane(f"g{number}", closed_at=clock.now(), closed_rule="expired")
        out = cli("grants", "--limit", "2")[1]
        assert (out.count("closed"), "more follow" in out.splitlines()[-1]) == (2, True)
        cursor = out.split("--after ")[1].strip()
        rest = as_json(cli("grants", "--after", cursor, "--json"))
        assert ([row["grant_id"] for row in rest["items"]], rest["next"]) == (["g0"], None)

    def test_of_one_says_whether_it_is_connected_and_how_many_wait(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger, g1="google")
        cli("hold", "--provider", "google", *WHY, "--for", "1h")
        (grant,) = as_json(cli("grants", "--grant", "g1", "--json"))["items"]
        assert (grant["connected"], grant["state"], grant["waiting"]) == (True, "open", 1)
        assert grant["held_until"] == grant["holds"][0]["until"]
        assert "its provider is held" in cli("grants", "--grant", "g1")[1]


class TestRetry:
    def test_counts_first_and_then_retries_what_fits(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger)
        job, other, partly = dead(ledger), dead(ledger, rule="not_found"), dead(ledger, "g2", sent="partly")
        counted = as_json(cli("retry", "--rule", "bad_request", "--dry-run", "--json"))
        assert (counted["retried"], counted["refused"]) == (1, {"partly": 1})
        assert ledger.queue.job(job).state is State.DEAD
        status, out, err = cli("retry", "--rule", "bad_request", "--since", "1h", "--by", "anna")
        assert (status, err) == (0, "")
        assert "1 dead letter retried" in out
        assert "--even-partly" in out
        assert [ledger.queue.job(one).state.value for one in (job, other, partly)] == ["queued", "dead", "dead"]
        assert as_json(cli("retry", "--grant", "g2", "--even-partly", "--json"))["retried"] == 1

    def test_goes_on_over_several_parts_at_the_rate_up_to_the_limit(
        self, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.operators.retry.CHUNK", 2)
        lanes(ledger)
        jobs = [UUID(dead(ledger)) for _ in range(7)]
        assert as_json(cli("retry", "--grant", "g1", "--dry-run", "--json"))["retried"] == 7
        assert as_json(cli("retry", "--grant", "g1", "--rate", "1/m", "--limit", "5", "--json"))["retried"] == 5
        starts = [ledger.job(job).next_at for job in jobs[:5]]
        assert [(at - starts[0]) // SECOND for at in starts] == [0, 60, 120, 180, 240]
        assert ledger.state(jobs[5]) is State.DEAD
        assert as_json(cli("retry", "--grant", "g1", "--json"))["retried"] == 2

    def test_a_batch_by_its_id(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger)
        (job,) = ledger.modify("g1", ["m1"])
        ledger.absorb()
        ledger.set_job(job, state="dead", finished_at=1)
        assert as_json(cli("retry", "--batch", str(ledger.job(job).batch_id), "--json"))["retried"] == 1
        fails(cli("retry", "--batch", "none"), "no batch")

    def test_a_named_job_that_is_not_retried_is_status_1_and_says_why(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger)
        job, doubt = dead(ledger), ledger.send()
        ledger.set_job(doubt, state="in_doubt")
        status, out, err = cli("retry", job, str(doubt), str(new_id()))
        assert status == 1
        assert "1 dead letter retried" in out
        assert "is in_doubt" in err
        assert "not in this ledger" in err
        assert ledger.queue.job(job).state is State.QUEUED
        status, out, err = cli("retry", job, "--json")
        assert (status, json.loads(out)["not_dead"]) == (1, {job: "queued"})
        assert cli("retry", dead(ledger, sent="partly"))[0] == 1

    @pytest.mark.parametrize(
        "given", [[], ["x", "--rule", "r"], ["--rule", "r", "--rate", "0/s"], ["--rule", "r", "--rate", "fast"],
                  ["--since", "yesterday"], ["--grant", "leyah@example.com"]],
    )  # fmt: skip
    def test_what_cannot_be_meant_is_status_2(self, cli: Cli, given: list[str]) -> None:
        status, out, err = cli("retry", *given)
        assert (status, out) == (2, "")
        assert "leyah" not in err

    def test_has_a_sentence_for_every_case(self) -> None:
        assert set(retry.REFUSED) == {reason.value for reason in RetryRefusal}
        assert set(retry.INSTEAD) == {state.value for state in State if Event.RETRY not in MOVES[state]}


class TestEvents:
    def test_tells_what_operators_did_the_latest_first(self, cli: Cli, ledger: Ledger) -> None:
        lanes(ledger)
        job = dead(ledger)
        cli("hold", "--grant", "g1", *WHY)
        cli("hold", "--whole-application", *WHY)
        cli("retry", job, "--by", "anna")
        told = as_json(cli("events", "--json"))["items"]
        assert [(one["kind"], one["by"]) for one in told] == [("retry", "anna"), ("hold", "anna"), ("hold", "anna")]
        assert told[0]["job_id"] == job
        assert [one["kind"] for one in as_json(cli("events", "--grant", "g1", "--json"))["items"]] == ["retry", "hold"]
        out = cli("events")[1]
        assert "their server moves" in out
        assert "application default" in out

    def test_says_that_there_is_none(self, cli: Cli) -> None:
        assert cli("events")[0] == 0
        assert as_json(cli("events", "--json"))["items"] == []


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker."""
    directory = tmp_path_factory.mktemp("system")
    with running(f"sqlite:///{directory}/sendq.db", directory) as system:
        system.start_worker()
        yield system


class TestAtWork:
    @pytest.fixture
    def cli(self, run: Cli, system: System, monkeypatch: pytest.MonkeyPatch) -> Cli:
        """Commands over the ledger of the system."""
        monkeypatch.setenv("DATABASE_URL", system.ledger_url)
        return run

    @pytest.mark.parametrize("scope", [["--grant", "quiet"], ["--provider", "ews"]])
    def test_what_is_held_does_not_go_and_goes_when_it_is_released(
        self, system: System, cli: Cli, scope: list[str]
    ) -> None:
        grant = f"quiet{scope[0]}" if scope[0] != "--grant" else scope[1]
        as_json(cli("hold", *scope, *WHY, "--json"))
        job = system.queue.send(grant, mail(), provider="ews")
        other = system.queue.send(f"loud{scope[0]}", mail(), provider="google")
        eventually(lambda: system.state(other.id) is State.SENT, "the other job sent")
        eventually(lambda: system.queue.why(job.id).reason == "held", "the hold")
        assert [one for one in system.api.requests if one.grant == grant] == []
        as_json(cli("release", *scope, *WHY, "--json"))
        eventually(lambda: system.state(job.id) is State.SENT, "the job sent")

    def test_a_dead_letter_that_is_retried_is_sent(self, system: System, cli: Cli) -> None:
        system.api.will(Fault.status(400, type="invalid_request_error", message="bad"), grant="mended", times=1)
        job = system.queue.send("mended", mail())
        eventually(lambda: system.state(job.id) is State.DEAD, "the dead letter")
        assert as_json(cli("retry", job.id, "--json"))["retried"] == 1
        eventually(lambda: system.state(job.id) is State.SENT, "the job sent")
        keys = [one.key for one in system.api.requests if one.grant == "mended"]
        assert keys == [f"{job.id}:0", f"{job.id}:1"]
        assert system.accepted()[job.id] == 1
        assert [attempt.status for attempt in system.queue.job(job.id).trail] == [400, 200]
