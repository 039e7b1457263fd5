"""The policy, tested as a table: every row is reached, none hides another, every documented error meets its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sendq.clock import SECOND, seconds
from sendq.facts.outcomes import Scope, Sent
from sendq.rules.states import MOVES, State
from tasks.policy.decide import Decision, JobFacts, decide, wait_range
from tasks.policy.failure import Answer, Failure, parse
from tasks.policy.policy_file import covers
from tasks.policy.row import Route, Row, Wait, contains
from tasks.policy.table import POLICY

NOW = 1_767_863_513 * SECOND  # 2026-01-08T09:11:53Z: a quarter of an hour before the moment that the Gmail case states
DATA = json.loads((Path(__file__).parents[1] / "data" / "golden_errors.json").read_text())
CASES: list[dict[str, Any]] = DATA["cases"]
SIBLINGS: list[dict[str, Any]] = DATA["siblings"]

# The headings of the vendor's page of errors 400 to 499, in its order.
PAGE = (
    "Authentication failed", "Bad request", "Redirect URI is not HTTPS or localhost",
    "This proposal does not allow direct password entry", "Unauthorized", "Sending to at least one recipient failed",
    "Gmail API has not been used in project", "Different email address returned", "Mail provider error",
    "Sending Error", "Account throttled", "Quota exceeded", "Nylas API rate limit", "Too many requests",
    "Resource exhausted", "Exchange account throttled",
)  # fmt: skip


def failure_of(case: dict[str, Any]) -> Failure:
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    headers = {name.lower(): value for name, value in case.get("headers", {}).items()}
    answer = Answer(case["status"], headers, body.encode(), case.get("fault"))
    outcome = parse(answer, provider=case["provider"], operation=case["operation"], now=NOW)
    assert isinstance(outcome, Failure)
    return outcome


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


class TestTheTable:
    def test_has_a_golden_case_for_every_row(self) -> None:
        assert {row.id for row in POLICY.rows} == {case["rule"] for case in CASES}

    def test_names_every_row_once(self) -> None:
        assert len({row.id for row in POLICY.rows}) == len(POLICY.rows)

    def test_has_a_row_for_every_heading_of_the_page(self) -> None:
        assert set(PAGE) <= {row.title for row in POLICY.rows}

    def test_has_no_row_behind_a_wider_one(self) -> None:
        hidden = [
            (earlier.id, row.id)
            for index, row in enumerate(POLICY.rows)
            for earlier in POLICY.rows[:index]
            if covers(earlier, row)
        ]
        assert hidden == []

    def test_ends_with_a_row_that_fits_everything(self) -> None:
        last = POLICY.rows[-1]
        conditions = (last.status, last.type, last.text, last.provider, last.operation, last.origin, last.fault)
        assert not any(conditions)
        assert not last.documented

    @pytest.mark.parametrize("row", POLICY.rows, ids=lambda row: row.id)
    def test_states_what_its_route_needs(self, row: Row) -> None:
        assert (row.route is Route.RETRY) == (row.backoff is not None)
        assert row.route is not Route.REQUEUE or row.wait is not None
        assert row.costs == (row.route is Route.RETRY and row.scope is Scope.JOB and row.id != "key_in_progress")
        assert row.sent in (Sent.NO, Sent.MAYBE) or row.route is Route.DEAD_LETTER
        assert row.sent is not Sent.MAYBE or row.route is not Route.REAUTH
        assert row.why.endswith(".")
        assert row.remedy.endswith(".")
        assert row.source.startswith("https://developer.nylas.com/docs/")

    @pytest.mark.parametrize("row", POLICY.rows, ids=lambda row: row.id)
    def test_is_matched_in_lower_case(self, row: Row) -> None:
        pieces = [piece for text in row.text for piece in ([text] if isinstance(text, str) else text)]
        assert [*pieces, *row.type] == [word.lower() for word in (*pieces, *row.type)]


class TestADocumentedError:
    @pytest.mark.parametrize("case", named(CASES))
    def test_meets_its_row(self, case: dict[str, Any]) -> None:
        failure = failure_of(case)
        row = POLICY.rule(failure)
        assert (row.id, row.route, row.scope, row.sent) == (case["rule"], case["route"], case["scope"], case["sent"])
        if case["delay_s"]:
            assert wait_range(row, failure, JobFacts("send"), now=NOW) == tuple(seconds(end) for end in case["delay_s"])

    @pytest.mark.parametrize("case", named(SIBLINGS))
    def test_is_not_taken_for_its_sibling(self, case: dict[str, Any]) -> None:
        assert POLICY.rule(failure_of(case)).id not in case["not_rules"]

    @pytest.mark.parametrize("case", named(CASES))
    def test_becomes_a_move_that_a_sending_job_can_make(self, case: dict[str, Any]) -> None:
        failure = failure_of(case)
        for job in every_job(case["operation"]):
            decision = decide(failure, job, now=NOW, chance=lambda: 0.5)
            assert decision.event in MOVES[State.SENDING]
            assert_sound(decision, job)


def every_job(operation: str) -> list[JobFacts]:
    return [
        JobFacts(operation, attempts=attempts, key_age=age * SECOND, expires_at=expires, unknown_before=unknown)
        for attempts in (0, 11, 100)
        for age in (0, 2_699, 5_000)
        for expires in (None, NOW - SECOND, NOW + SECOND, NOW + 10**6 * SECOND)
        for unknown in (False, True)
    ]


def assert_sound(decision: Decision, job: JobFacts) -> None:
    """What holds for every decision, whatever the failure."""
    assert (decision.due_at is not None) == (decision.event == "return")
    assert decision.due_at is None or decision.due_at >= NOW
    assert decision.event != "doubt" or job.operation == "send"
    assert decision.event != "doubt" or decision.sent == "maybe"
    assert not decision.new_generation or (decision.sent == "no" and job.operation == "send")
    assert decision.event != "expire" or decision.sent == "no" or job.operation == "modify"
    held = decision.hold is not None
    assert not held or decision.row.scope != "job"
    if decision.event == "return" and not held and job.expires_at is not None:
        assert decision.due_at is not None
        assert decision.due_at < job.expires_at or decision.sent == "maybe"


class TestACode:
    @pytest.mark.parametrize(
        "said", ["550 5.1.8 access denied", "550-5.1.8 x", "(#5.1.8)", "status 5.1.8.", "smtp;5.1.8"]
    )
    def test_is_found_where_it_stands_alone(self, said: str) -> None:
        assert contains(said, ("5.1.8",))
        assert contains(said, (("5.1.8", "8"),))

    @pytest.mark.parametrize("said", ["5.1.87", "95.1.8", "host 5.1.8.3", "10.5.1.8", "v5.1.8", "proxy/5.1.8"])
    def test_is_not_found_in_an_address_or_a_version(self, said: str) -> None:
        assert not contains(said, ("5.1.8",))


class TestAWait:
    def test_is_what_was_stated(self) -> None:
        assert Wait(1200).lasts(30 * SECOND, now=NOW) == 30 * SECOND

    def test_is_the_default_where_nothing_was_stated(self) -> None:
        assert Wait(1200).lasts(None, now=NOW) == 1200 * SECOND

    def test_is_never_under_the_floor_and_never_over_the_cap(self) -> None:
        assert Wait(60, floor=60).lasts(2 * SECOND, now=NOW) == 60 * SECOND
        assert Wait(60, cap=100).lasts(5000 * SECOND, now=NOW) == 100 * SECOND

    def test_grows_with_repeated_incidents_but_not_what_was_stated(self) -> None:
        wait = Wait(10, grows=True)
        assert [wait.lasts(None, now=NOW, streak=n) / SECOND for n in (0, 1, 2, 50)] == [10, 20, 40, 320]
        assert wait.lasts(7 * SECOND, now=NOW, streak=9) == 7 * SECOND
