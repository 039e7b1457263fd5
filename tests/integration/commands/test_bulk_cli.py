"""Acts on many grants and jobs from the command line, by filter and by key."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sendq import SendQueue, State, clock
from sendq.clock import SECOND
from sendq.operators import Operators
from sendq.operators.acts.run import Run
from tests.integration.commands.test_operators import as_json
from tests.support.commands import Cli
from tests.support.ledger import MESSAGE, Ledger

WHY = ("--reason", "the provider has recovered", "--by", "anna")
HOUR = 3_600 * SECOND


@pytest.fixture
def throttled(ledger: Ledger) -> None:
    """Three grants of two providers, held by one rule, with a job each."""
    now = ledger.clock.at = clock.now()
    for grant, provider in (("a", "ews"), ("b", "ews"), ("c", "google")):
        ledger.send(grant, provider=provider, key=f"invoice-{grant}")
        ledger.absorb()
        ledger.set_lane(
            grant, held_until=now + HOUR, held_since=now, held_rule="exchange_throttled", held_by="policy",
            next_at=now + HOUR,
        )  # fmt: skip


def held(cli: Cli) -> list[str]:
    return sorted(one["grant_id"] for one in as_json(cli("grants", "--state", "held", "--json"))["items"])


@pytest.mark.usefixtures("throttled")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("release", "--rule", "exchange_throttled", *WHY), "3 of 3 grants would be released"),
        (("hold", "--rule", "exchange_throttled", "--for", "2d", *WHY), "3 grants would be held"),
        (("cancel", "--provider", "ews", *WHY), "2 jobs would be cancelled"),
        (("retry", "--rule", "bad_request", *WHY), "0 would be retried"),
        (("resolve", "dead", "--all-in-doubt", *WHY), "0 would be resolved"),
        (("deliveries", "retry", "--receiver", "nobody", *WHY), "0 would be retried"),
        (("forget", "--grant", "a", *WHY), "jobs would be erased"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_dry_run_never_claims_to_act_while_it_counts(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], says: str
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = cli(*command, "--dry-run")[2]
    assert says in shown


@pytest.mark.usefixtures("throttled")
class TestReleaseByRule:
    RULE = ("release", "--rule", "exchange_throttled", "--provider", "ews", *WHY)

    def test_counts_first_and_releases_then(self, cli: Cli) -> None:
        assert cli(*self.RULE, "--dry-run")[1] == "2 grants would be released; 2 jobs wait; nothing was changed\n"
        assert held(cli) == ["a", "b", "c"]
        assert cli(*self.RULE)[1] == "2 grants released; sending resumes with a single call of each\n"
        assert held(cli) == ["c"]
        status, _, err = cli(*self.RULE)
        assert (status, "no grant that is held or closed matches" in err) == (1, True)
        (event,) = as_json(cli("events", "--kind", "release", "--json"))["items"]
        assert (event["by"], event["number"], event["rule"]) == ("anna", 2, "exchange_throttled")
        assert "2 grants of provider ews" in cli("events")[1]

    def test_goes_at_a_rate(self, cli: Cli) -> None:
        out = cli(*self.RULE, "--rate", "6/m")[1]
        assert "one every 10 s, the last one in 10 s" in out
        assert held(cli) == ["b", "c"]

    def test_says_how_far_it_came_when_it_is_interrupted(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sendq.ledger.operators.many_grants.STEP", 1)
        following, parts = Run.__next__, iter([False, True])

        def interrupted(run: Run[Any]) -> Any:
            if next(parts):
                raise KeyboardInterrupt
            return following(run)

        monkeypatch.setattr(Run, "__next__", interrupted)
        status, _, err = cli(*self.RULE)
        assert status == 130
        assert err == "sendq: interrupted: 1 of 2 grants released; run the same command again to continue\n"

    @pytest.mark.parametrize("command", ["release", "hold"])
    def test_of_each_grant_needs_a_filter_and_names_options(self, cli: Cli, command: str) -> None:
        status, _, err = cli(command, "--each-grant", *WHY, "--dry-run")
        assert (status, "every grant; give --provider, --whole-application, or a filter" in err) == (2, True)

    def test_of_each_grant_is_not_that_of_the_provider(self, cli: Cli) -> None:
        assert cli("release", "--provider", "ews", *WHY)[0] == 1
        assert as_json(cli("release", "--provider", "ews", "--each-grant", *WHY, "--json"))["released"] == 2

    @pytest.mark.parametrize(
        "given",
        [["--rate", "1/s", "--grant", "a"], ["--since", "2h", "--provider", "ews"], ["--rule", "r", "--rate", "0"]],
    )
    def test_refuses_what_cannot_be_meant(self, cli: Cli, given: list[str]) -> None:
        assert cli("release", *given, *WHY)[0] == 2

    def test_knows_no_unknown_rule(self, cli: Cli) -> None:
        status, _, err = cli("release", "--rule", "exchange_throtled", *WHY)
        assert (status, "there is no rule" in err) == (1, True)


@pytest.mark.usefixtures("throttled")
class TestOtherActs:
    def test_hold_each_grant_of_a_provider(self, cli: Cli) -> None:
        out = cli("hold", "--each-grant", "--provider", "ews", "--for", "3h", *WHY)[1]
        assert out.startswith("2 grants held until ")
        found = as_json(cli("grants", "--provider", "ews", "--json"))["items"]
        assert {one["by"] for one in found} == {"anna"}

    def test_cancel_by_filter(self, cli: Cli) -> None:
        would = cli("cancel", "--provider", "ews", "--dry-run")[1]
        assert would == "2 jobs would be cancelled; nothing was changed\n"
        assert as_json(cli("cancel", "--provider", "ews", "--json"))["states"] == {"cancelled": 2}
        assert cli("cancel", "--provider", "ews")[0] == 1

    def test_by_key(self, cli: Cli, ledger: Ledger) -> None:
        assert as_json(cli("cancel", "--key", "invoice-a", "--json"))["key"] == "invoice-a"
        assert cli("cancel", "--key", "invoice-x")[0] == 1
        (job,) = as_json(cli("jobs", "--key", "invoice-a", "--json"))["items"]
        assert (job["state"], job["key"]) == ("cancelled", "invoice-a")
        assert "invoice-a" in cli("jobs")[1]
        for state in ("dead", "in_doubt"):
            one = ledger.send("a", key=state)
            ledger.set_job(one, state=state, rule="bad_request", finished_at=clock.now())
        assert as_json(cli("retry", "--key", "dead", "--json"))["retried"] == 1
        assert as_json(cli("resolve", "--key", "in_doubt", "dead", *WHY, "--json"))["resolved"] == 1

    def test_retry_what_expired(self, cli: Cli, ledger: Ledger) -> None:
        job = ledger.send("a")
        ledger.set_job(job, state="expired", rule="expired", finished_at=clock.now())
        assert cli("retry", "--grant", "a", "--dry-run")[1].startswith("0 dead letters")
        assert cli("retry", "--grant", "a", "--expired")[1] == "1 job that expired retried\n"
        assert ledger.state(job) is State.QUEUED


class TestJobsByTime:
    def test_are_found_by_due_time_and_expiry(self, cli: Cli, ledger: Ledger) -> None:
        now = datetime.now(UTC)
        queue = SendQueue(ledger.engine)
        times = {"soon": (0, 2), "later": (5, 9), "never": (30, 90)}
        for key, (due, expires) in times.items():
            queue.send(
                "g1", MESSAGE, key=key, due_at=now + timedelta(hours=due), expires_at=now + timedelta(hours=expires)
            )

        def keys(*given: str) -> list[str]:
            return [one["key"] for one in as_json(cli("jobs", *given, "--json"))["items"]]

        assert keys("--due-until", "+1h") == ["soon"]
        assert keys("--due-since", "+1h", "--due-until", "+6h") == ["later"]
        assert keys("--expires-until", "+10h") == ["soon", "later"]
        assert keys("--expires-since", "+3h", "--limit", "1") == ["later"]
        first = as_json(cli("jobs", "--expires-until", "+99h", "--limit", "2", "--json"))
        assert keys("--expires-until", "+99h", "--after", first["next"]) == ["never"]
        assert cli("jobs", "--expires-until", "soon")[0] == 2

    def test_of_a_batch_by_its_key(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m1", "m2"], unread=False, key="sweep")
        operators = Operators(ledger.engine)
        assert len(operators.jobs(key="sweep").items) == 2


def test_dead_letters_are_counted_for_each_provider(cli: Cli, ledger: Ledger) -> None:
    for grant, provider in (("a", "ews"), ("b", "google"), ("c", "ews")):
        job = ledger.send(grant, provider=provider)
        ledger.set_job(job, state="dead", rule="bad_request", finished_at=ledger.clock())
    ledger.absorb()
    found = as_json(cli("dead", "--each", "provider", "--json"))
    assert [(one["rule"], one["provider"], one["number"]) for one in found] == [
        ("bad_request", "ews", 2), ("bad_request", "google", 1)
    ]  # fmt: skip
    out = cli("dead", "--each", "provider")[1]
    assert out.count("remedy:") == 1
    assert "google" in out
    assert cli("dead", "--each", "provider", "--rule", "bad_request")[0] == 2
