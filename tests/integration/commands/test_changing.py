"""Changes of jobs that wait, from the command line."""

from __future__ import annotations

from uuid import UUID

import pytest

from sendq import State, Window, clock
from sendq.clock import SECOND, moment
from sendq.ledger.db import schema
from sendq.rules.budgets import Budget, Budgets
from sendq.rules.windows import DAYS
from tests.integration.commands.test_operators import as_json
from tests.support.commands import Cli
from tests.support.ledger import Ledger

WHY = ("--reason", "wrong price", "--by", "anna")


@pytest.fixture
def job(ledger: Ledger) -> str:
    ledger.clock.at = clock.now()
    made = ledger.send(key="invoice-42", provider="google")
    ledger.absorb()
    return str(made)


class TestReschedule:
    def test_by_key_and_in_a_while(self, cli: Cli, ledger: Ledger, job: str) -> None:
        status, out, _ = cli("reschedule", "--key", "invoice-42", "--in", "2h", *WHY)
        assert (status, out.startswith(f"{job} is due 20")) == (0, True)
        (row,) = ledger.rows(schema.job)
        assert abs(row.due_at - clock.now() - 7_200 * SECOND) < 60 * SECOND
        (event,) = as_json(cli("events", "--job", job, "--json"))["items"]
        assert (event["kind"], event["by"], event["reason"].endswith("Z: wrong price")) == ("reschedule", "anna", True)

    def test_a_dry_run_changes_nothing(self, cli: Cli, ledger: Ledger, job: str) -> None:
        before = ledger.rows(schema.job)
        status, out, _ = cli("reschedule", job, "--in", "2h", "--dry-run")
        assert status == 0
        assert f"{job} would be due" in out
        assert "nothing was changed" in out
        assert ledger.rows(schema.job) == before

    def test_to_a_time_that_cannot_be_names_the_option_that_was_given(self, cli: Cli, job: str) -> None:
        for given in (["--in", "30d"], ["--at", "2199-01-01T00:00:00Z"]):
            status, _, err = cli("reschedule", job, *given)
            assert (status, f"{given[0]} is not before it expires" in err, "a later expiry" in err) == (2, True, True)
        status, _, err = cli("reschedule", job, "--at", "9999-01-01T00:00:00Z")
        assert (status, "give a time like" in err, "datetime" in err) == (2, True, False)
        assert cli("reschedule", job, "--in", "30d", "--never-expires")[0] == 0

    def test_to_a_time_that_is_past_says_at_once(self, cli: Cli, job: str) -> None:
        out = cli("reschedule", job, "--at", "2001-01-01T00:00:00Z")[1]
        assert out == f"{job} is due at once: the time given is past\n"

    @pytest.mark.parametrize(
        "given", [[], ["--now", "--in", "2h"], ["--now", "--expires", "2030-01-01T00:00:00Z", "--never-expires"]]
    )
    def test_refuses_what_cannot_be_meant(self, cli: Cli, job: str, given: list[str]) -> None:
        assert cli("reschedule", job, *given)[0] == 2
        assert cli("reschedule", "--now")[0] == 2
        assert cli("reschedule", job, "--key", "invoice-42", "--now")[0] == 2

    def test_fails_with_its_state_once_it_no_longer_waits(self, cli: Cli, ledger: Ledger, job: str) -> None:
        ledger.serve()
        status, out, err = cli("reschedule", job, "--now")
        assert (status, out) == (1, "")
        assert f"the job {job} is sending: its call is being made; nothing was changed" in err


class TestPriority:
    def test_of_a_batch(self, cli: Cli, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", ["m1", "m2"], unread=False)
        out = as_json(cli("priority", "--batch", batch.id, "--to", "low", "--json"))
        assert out == {"batch_id": batch.id, "priority": "low", "changed": 2, "left": 0, "dry_run": False}
        assert (
            f"0 waiting jobs of batch {batch.id} are set to low priority"
            in cli("priority", "--batch", batch.id, "--to", "low")[1]
        )


class TestHold:
    def test_of_one_job_until_it_is_released(self, cli: Cli, ledger: Ledger, job: str) -> None:
        assert cli("hold", "--key", "invoice-42", *WHY)[1] == f"{job} is held until released\n"
        assert cli("hold", "--job", job, *WHY)[1] == f"{job} is already held\n"
        out = cli("why", job)[1]
        assert "the job is held until it is released" in out
        assert "(by anna: wrong price)" in out
        assert as_json(cli("jobs", "--json"))["items"][0]["next_at"] is None
        assert cli("release", "--job", job, *WHY)[1] == f"{job} is released\n"
        assert ledger.state(UUID(job)) is State.QUEUED
        assert cli("release", "--job", job, *WHY)[1] == f"{job} is not held\n"

    def test_of_a_batch_is_not_that_of_its_grant(self, cli: Cli, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", ["m1", "m2"], unread=False)
        ledger.absorb()
        assert cli("hold", "--batch", batch.id, *WHY)[1] == (
            f"2 waiting jobs of batch {batch.id} are held until released\n"
        )
        assert ledger.lane().held_until is None
        assert "2 jobs of grant g1" in cli("events", "--kind", "hold")[1]
        assert f"sendq release --batch {batch.id}" in cli("batch", batch.id)[1]
        assert cli("release", "--batch", batch.id, *WHY)[1] == f"2 waiting jobs of batch {batch.id} are released\n"

    def test_of_what_a_batch_belongs_to_is_shown_with_it(self, cli: Cli, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", ["m1"], unread=False, tags={"campaign": "may"})
        ledger.absorb()
        for scope in (["--tag", "campaign=may"], ["--grant", "g1"], ["--whole-application"]):
            assert cli("hold", *scope, "--for", "2h", *WHY)[0] == 0
        out = cli("batch", batch.id)[1]
        for said in ("tag campaign=may", "grant g1", "application default"):
            assert f"jobs wait: {said} is held until " in out
        assert len(as_json(cli("batch", batch.id, "--json"))["holds"]) == 3
        ledger.set_lane(closed_at=ledger.clock(), closed_rule="invalid_grant")
        assert (
            "jobs wait: grant g1 is closed until its owner signs in again (invalid_grant)" in cli("batch", batch.id)[1]
        )

    @pytest.mark.parametrize("command", ["hold", "release"])
    @pytest.mark.parametrize("also", [["--grant", "g1"], ["--batch", "b"], ["--rule", "r"], ["--since", "2h"]])
    def test_names_jobs_or_grants(self, cli: Cli, job: str, command: str, also: list[str]) -> None:
        assert cli(command, "--job", job, *also, *WHY)[0] == 2


class TestWindow:
    OFFICE = "09:00-17:30 mon-fri Europe/Berlin 2026-12-25"

    def test_is_set_shown_and_removed(self, cli: Cli, ledger: Ledger, job: str) -> None:
        status, out, _ = cli("window", "--grant", "g1", "--set", self.OFFICE, *WHY)
        assert (status, out) == (0, f"grant g1 has the window {self.OFFICE}; before: none\n")
        assert f"window of its jobs that have none of their own: {self.OFFICE}" in cli("grants", "--grant", "g1")[1]
        done = as_json(cli("window", "--grant", "g1", "--remove", *WHY, "--dry-run", "--json"))
        assert (done["before"], done["window"], done["changed"], done["dry_run"]) == (self.OFFICE, None, True, True)
        out = cli("window", "--grant", "g1", "--remove", *WHY)[1]
        assert out == f"grant g1 has no window; before: {self.OFFICE}\n"
        assert cli("window", "--grant", "g1", "--remove", *WHY)[1] == "grant g1 has no window, as before\n"
        kinds = [event["kind"] for event in as_json(cli("events", "--grant", "g1", "--json"))["items"]]
        assert kinds == ["window", "window"]

    def test_that_is_over_a_budget_is_named_by_status(self, cli: Cli, ledger: Ledger) -> None:
        ledger.clock.at = clock.now()
        ledger.budgets = Budgets([Budget("default", "a=b", 1, 86_400 * SECOND)])
        for _ in range(2):
            ledger.send(tags={"a": "b"})
        ledger.finish(ledger.serve(jobs_each=1))
        ledger.set_lane(ready_at=0)
        ledger.claim(ledger.offer())
        assert "budget of application default, tag a=b: 1 of 1 per day used; more sends wait" in cli("status")[1]

    def test_that_is_closed_is_named_by_status_and_why(self, cli: Cli, ledger: Ledger) -> None:
        ledger.clock.at = clock.now()
        today = f"{moment(ledger.clock()):%a}".lower()
        others = ",".join(day for day in DAYS if day != today)
        made = ledger.send(window=Window("12:00-12:30", days=others, tz="UTC"))
        assert "jobs that wait for their windows: 1, the first until" in cli("status")[1]
        assert "it is outside its window (12:00-12:30" in cli("why", str(made))[1]

    @pytest.mark.parametrize("given", [(), ("--set", OFFICE, "--remove"), ("--set", "nonsense")])
    def test_needs_one_of_two(self, cli: Cli, given: tuple[str, ...]) -> None:
        assert cli("window", "--grant", "g1", *given, *WHY)[0] == 2


class TestWarmUp:
    def test_is_begun_shown_and_ended(self, cli: Cli, ledger: Ledger) -> None:
        status, out, _ = cli("warmup", "--grant", "g1", *WHY)
        says = "20 a day, 1.2 times as many each day, up to 700"
        assert (status, out) == (0, f"grant g1 is warmed up: {says}; before: no warm-up\n")
        assert "it is being warmed up: at most 20 messages within 24 hours today" in cli("grants", "--grant", "g1")[1]
        done = as_json(cli("warmup", "--grant", "g1", "--end", *WHY, "--dry-run", "--json"))
        assert (done["before"]["first"], done["warm_up"]) == (20, None)
        out = cli("warmup", "--grant", "g1", "--end", *WHY)[1]
        assert out == f"grant g1 is not warmed up any more; before: {says}\n"

    def test_that_does_not_grow_is_refused(self, cli: Cli) -> None:
        status, _, err = cli("warmup", "--grant", "g1", "--growth", "1", *WHY)
        assert (status, "--growth is not a number from 1.01 to 2.0" in err) == (2, True)
