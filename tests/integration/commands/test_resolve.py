"""What a person says about what nobody knows: resolve and recover, on the command line."""

from __future__ import annotations

import json

import pytest

from sendq import State
from sendq.clock import SECOND, moment
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.dispatching import lineage
from sendq.rules.by_hand import Answer, ResendRefusal
from tests.integration.ledger.test_doubt import in_doubt
from tests.support.commands import Cli
from tests.support.ledger import Ledger
from worker.cli import resolve

WHY = ("--reason", "looked into the sent mail", "--by", "anna")


class TestResolve:
    @pytest.mark.parametrize(
        ("answer", "state"), [("sent", State.SENT), ("resend", State.QUEUED), ("dead", State.DEAD)]
    )
    def test_resolves_a_job_and_keeps_who_and_why(self, cli: Cli, ledger: Ledger, answer: str, state: State) -> None:
        job = in_doubt(ledger)
        status, out, _ = cli("resolve", str(job), answer, *WHY)
        assert (status, ledger.state(job)) == (0, state)
        assert "1 job in doubt" in out
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.by, event.reason, event.job_id) == (
            "resolved", "anna", "looked into the sent mail", job,
        )  # fmt: skip

    def test_keeps_which_message_it_was(self, cli: Cli, ledger: Ledger) -> None:
        job = in_doubt(ledger)
        cli("resolve", str(job), "sent", "--message-id", "m7", *WHY)
        assert ledger.job(job).message_id == "m7"

    def test_warns_of_what_sending_again_may_do_and_only_of_that(self, cli: Cli, ledger: Ledger) -> None:
        for answer, warned in (("resend", True), ("dead", False), ("sent", False)):
            _, _, err = cli("resolve", str(in_doubt(ledger)), answer, *WHY)
            assert ("twice" in err) == warned

    def test_counts_first_if_it_is_told_so(self, cli: Cli, ledger: Ledger) -> None:
        jobs = [in_doubt(ledger, grant) for grant in ("a", "a", "b")]
        status, out, _ = cli("resolve", "resend", "--grant", "a", "--dry-run", "--json", *WHY)
        assert (status, json.loads(out)["resolved"]) == (0, 2)
        assert {ledger.state(job) for job in jobs} == {State.IN_DOUBT}

    @pytest.mark.parametrize(
        ("filters", "resolved"),
        [(["--grant", "a"], 2), (["--rule", "no_answer"], 3), (["--rule", "poison"], 0), (["--all-in-doubt"], 3)],
    )
    def test_resolves_all_that_fit(self, cli: Cli, ledger: Ledger, filters: list[str], resolved: int) -> None:
        for grant in ("a", "a", "b"):
            in_doubt(ledger, grant)
        status, out, _ = cli("resolve", "dead", *filters, "--json", *WHY)
        assert (status, json.loads(out)["resolved"]) == (0, resolved)

    def test_says_what_it_did_not_resolve(self, cli: Cli, ledger: Ledger) -> None:
        nobody, cancelled = new_id(), in_doubt(ledger)
        waits = ledger.send()
        ledger.queue.cancel(str(cancelled))
        status, out, err = cli("resolve", str(waits), str(nobody), str(cancelled), "resend", *WHY)
        assert status == 1
        assert f"{waits} is queued, not in doubt" in err
        assert f"{nobody} is not in this ledger" in err
        assert "were cancelled" in out

    @pytest.mark.parametrize(
        "arguments",
        [
            ("dead",),
            (str(new_id()), "dead", "--all-in-doubt"),
            ("dead", "--all-in-doubt", "--message-id", "m"),
            (str(new_id()), "lost"),
        ],
    )
    def test_refuses_what_is_not_clear(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        status, _, err = cli("resolve", *arguments, *WHY)
        assert status == 2
        assert err

    def test_needs_a_reason(self, cli: Cli, ledger: Ledger) -> None:
        assert cli("resolve", str(in_doubt(ledger)), "dead")[0] == 2

    def test_knows_every_answer_and_every_refusal(self) -> None:
        assert resolve.ANSWERS == tuple(resolve.DONE) == tuple(answer.value for answer in Answer)
        assert resolve.REFUSED.keys() == {reason.value for reason in ResendRefusal}


class TestRecover:
    def shut(self, ledger: Ledger) -> str:
        """Shut the ledger now; that time, as it is given to the command."""
        with ledger.writing() as connection:
            lineage.shut(connection, because=lineage.Incomplete.LOST, lost_since=ledger.clock(), now=ledger.clock())
        return moment(ledger.clock()).isoformat()

    def test_counts_first_and_then_puts_right_and_opens(self, cli: Cli, ledger: Ledger) -> None:
        job = ledger.send()
        since = self.shut(ledger)
        status, out, _ = cli("recover", "--since", since, "--dry-run", "--json", *WHY)
        assert (status, json.loads(out)) == (0, {"dry_run": True, "in_doubt": 1, "requeued": 0})
        assert ledger.state(job) is State.QUEUED
        status, out, _ = cli("recover", "--since", since, "--json", *WHY)
        assert (status, json.loads(out)) == (0, {"dry_run": False, "in_doubt": 1, "requeued": 0})
        assert ledger.state(job) is State.IN_DOUBT
        with ledger.writing() as connection:
            assert lineage.read(connection).shut_at is None

    def test_refuses_a_time_after_which_the_ledger_knows_something(self, cli: Cli, ledger: Ledger) -> None:
        ledger.send()
        self.shut(ledger)
        early = moment(ledger.clock() - 60 * SECOND).isoformat()
        status, _, err = cli("recover", "--since", early, *WHY)
        assert status == 2
        assert "give that time, or a later one" in err

    def test_is_what_status_says_to_do(self, cli: Cli, ledger: Ledger) -> None:
        self.shut(ledger)
        _, out, _ = cli("status")
        assert "sendq recover --since 2026-" in out
        assert json.loads(cli("status", "--json")[1])["shut"]["says"]

    def test_takes_an_operators_word_that_nothing_was_lost(self, cli: Cli, ledger: Ledger) -> None:
        job = ledger.send()
        self.shut(ledger)
        assert cli("recover", "--nothing-lost", "--dry-run", *WHY)[0] == 0
        with ledger.writing() as connection:
            assert lineage.read(connection).shut_at is not None
        status, out, _ = cli("recover", "--nothing-lost", *WHY)
        assert (status, ledger.job(job).doubt_at) == (0, None)
        assert "dispatching resumes" in out
        with ledger.writing() as connection:
            assert lineage.read(connection).shut_at is None

    @pytest.mark.parametrize("arguments", [(), ("--nothing-lost", "--since", "1h")])
    def test_wants_either_a_time_or_that_word(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        status, _, err = cli("recover", *arguments, *WHY)
        assert status == 2
        assert "either --since TIME or --nothing-lost" in err

    def test_works_on_a_ledger_that_nobody_shut(self, cli: Cli, ledger: Ledger) -> None:
        job = ledger.send()
        assert cli("recover", "--since", moment(ledger.clock()).isoformat(), *WHY)[0] == 0
        assert ledger.state(job) is State.IN_DOUBT
