"""What a program asks of the ledger through `Operators`: typed pages with filters and cursors, on both databases."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import event, insert, text

from sendq import clock
from sendq.clock import SECOND, moment
from sendq.errors import InvalidArgument, NotFound
from sendq.ids import new_id
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.reading import paging
from sendq.operators import Operators
from sendq.rules.states import State
from sendq.views import GrantState, Page
from tests.support.ledger import Ledger

T = TypeVar("T")
HOUR = 3600 * SECOND


@pytest.fixture
def operators(ledger: Ledger) -> Operators:
    """The questions of a program over the ledger of this test."""
    ledger.clock.at = clock.now()
    return Operators(ledger.engine, now=ledger.clock)


def every(ask: Callable[..., Page[T]], **filters: Any) -> list[T]:
    """All items, page by page."""
    items: list[T] = []
    cursor = None
    while True:
        page = ask(**filters, cursor=cursor)
        items += page.items
        cursor = page.next
        if cursor is None:
            return items


def close(ledger: Ledger, grant: str, *, at: int | None = None, rule: str = "expired") -> None:
    ledger.set_lane(grant, closed_at=ledger.clock() if at is None else at, closed_rule=rule)


def hold(ledger: Ledger, grant: str, *, ago_s: int = 0) -> None:
    now = ledger.clock()
    since = now - ago_s * SECOND
    ledger.set_lane(grant, held_until=now + HOUR, held_since=since, held_rule="throttled", held_by="policy")


def hold_pair(ledger: Ledger, provider: str, *, until: int) -> None:
    pair = schema.pair
    with ledger.writing() as connection:
        connection.execute(pair.delete().where(pair.c.provider == provider))
        connection.execute(insert(pair).values(application="default", provider=provider, held_until=until,
                                               held_rule="outage", held_by="anna"))  # fmt: skip


class TestOneGrant:
    def test_that_nothing_keeps_is_connected(self, ledger: Ledger, operators: Operators) -> None:
        for _ in range(3):
            ledger.send("g1", provider="google")
        ledger.absorb()
        grant = operators.grant("g1")
        assert (grant.known, grant.connected, grant.state, grant.provider) == (True, True, GrantState.OPEN, "google")
        assert (grant.held_until, grant.rule, grant.waiting, grant.more_waiting) == (None, None, 3, False)

    def test_is_the_same_through_the_queue_of_an_application(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("g1")
        ledger.absorb()
        close(ledger, "g1")
        assert ledger.queue.grant("g1") == operators.grant("g1")
        assert not ledger.queue.grant("g1").connected

    def test_that_is_held_says_until_when_and_by_which_rule(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("g1")
        ledger.absorb()
        hold(ledger, "g1")
        grant = operators.grant("g1")
        assert (grant.connected, grant.state, grant.rule, grant.by) == (True, "held", "throttled", "policy")
        assert grant.until == grant.held_until == moment(ledger.clock() + HOUR)
        ledger.clock.advance(3600)
        assert operators.grant("g1").state is GrantState.OPEN

    def test_that_is_closed_waits_for_its_owner(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("g1")
        ledger.absorb()
        close(ledger, "g1")
        with ledger.writing() as connection:
            events.append(connection, "closed", at=ledger.clock(), by="webhook", application="default", grant_id="g1",
                          reason="grant.expired")  # fmt: skip
        grant = operators.grant("g1")
        assert (grant.connected, grant.state, grant.rule, grant.until) == (False, "closed", "expired", None)
        assert (grant.since, grant.by, grant.reason) == (moment(ledger.clock()), "webhook", "grant.expired")

    def test_is_held_with_its_provider_and_application(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("g1", provider="google")
        ledger.absorb()
        hold(ledger, "g1")
        hold_pair(ledger, "google", until=ledger.clock() + 2 * HOUR)
        hold_pair(ledger, "*", until=ledger.clock() + HOUR)
        hold_pair(ledger, "microsoft", until=ledger.clock() + 9 * HOUR)
        grant = operators.grant("g1")
        assert [(one.provider, one.grant_id, one.rule) for one in grant.holds] == [
            (None, None, "outage"), ("google", None, "outage"), ("google", "g1", "throttled"),
        ]  # fmt: skip
        assert grant.held_until == moment(ledger.clock() + 2 * HOUR)
        assert grant.until == moment(ledger.clock() + HOUR)

    def test_that_the_dispatcher_has_not_seen_has_waiting_jobs_all_the_same(
        self, ledger: Ledger, operators: Operators
    ) -> None:
        ledger.send("new")
        grant = operators.grant("new")
        assert (grant.known, grant.connected, grant.provider, grant.waiting) == (False, True, None, 1)
        assert operators.grant("nobody").waiting == 0

    def test_counts_waiting_jobs_up_to_a_limit(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.reading.grants.COUNT_MOST", 2)
        for _ in range(3):
            ledger.send("g1")
        ledger.absorb()
        grant = operators.grant("g1")
        assert (grant.waiting, grant.more_waiting) == (2, True)

    def test_becomes_plain_json(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("g1")
        ledger.absorb()
        hold(ledger, "g1")
        seen = operators.grant("g1").as_json()
        assert (seen["connected"], seen["state"], seen["held_until"]) == (True, "held", seen["until"])
        assert isinstance(seen["until"], str)


class TestGrants:
    @pytest.fixture
    def kept(self, ledger: Ledger, operators: Operators) -> None:
        """Two closed, one held, and two that nothing keeps, one of them of another application."""
        for grant in ("closed", "longer", "held"):
            ledger.send(grant, provider="google")
        ledger.send("open", provider="microsoft")
        ledger.send("theirs", application="other", provider="google")
        ledger.absorb()
        now = ledger.clock()
        close(ledger, "closed", at=now - 10 * SECOND)
        close(ledger, "longer", at=now - 30 * SECOND, rule="revoked")
        hold(ledger, "held", ago_s=20)

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"state": ["closed", "held"]}, ["closed", "held", "longer"]),
            ({"state": GrantState.CLOSED}, ["closed", "longer"]),
            ({"state": "held"}, ["held"]),
            ({"rule": "revoked"}, ["longer"]),
            ({"rule": "throttled", "state": "closed"}, []),
            ({"application": "other"}, ["theirs"]),
            ({"provider": "microsoft"}, ["open"]),
            ({"grant_id": "held"}, ["held"]),
            ({"grant_id": "theirs"}, []),
            ({"grant_id": "theirs", "application": "other"}, ["theirs"]),
        ],
    )
    def test_are_those_that_fit_every_filter(
        self, operators: Operators, kept: None, filters: dict[str, Any], found: list[str]
    ) -> None:
        assert [grant.grant_id for grant in operators.grants(**filters).items] == found

    def test_are_those_held_or_closed_in_a_period(self, ledger: Ledger, operators: Operators, kept: None) -> None:
        now = moment(ledger.clock())
        within = operators.grants(since=now - timedelta(seconds=25), until=now - timedelta(seconds=15))
        assert [grant.grant_id for grant in within.items] == ["held"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
    def test_come_page_by_page_those_that_are_kept_first(self, operators: Operators, kept: None, limit: int) -> None:
        names = [grant.grant_id for grant in every(operators.grants, limit=limit)]
        assert names[:3] == ["closed", "held", "longer"]
        assert sorted(names[3:]) == ["open", "theirs"]


class TestPages:
    @pytest.mark.parametrize("limit", [1, 2, 7])
    def test_have_each_job_once(self, ledger: Ledger, operators: Operators, limit: int) -> None:
        sent = [str(ledger.send("g1")) for _ in range(5)]
        assert [job.id for job in every(operators.jobs, limit=limit)] == sent[::-1]

    def test_survive_what_is_added_and_removed_meanwhile(self, ledger: Ledger, operators: Operators) -> None:
        sent = [str(ledger.send("g1")) for _ in range(4)]
        first = operators.jobs(limit=2)
        ledger.send("g1")
        with ledger.writing() as connection:
            connection.execute(schema.job.delete().where(schema.job.c.id == UUID(sent[2])))  # the last one of the page
        assert [job.id for job in operators.jobs(limit=2, cursor=first.next).items] == sent[1::-1]

    def test_end_with_the_last_item(self, ledger: Ledger, operators: Operators) -> None:
        for _ in range(2):
            ledger.send("g1")
        assert operators.jobs(limit=2).next is None
        assert operators.jobs(limit=1).next is not None

    @pytest.mark.parametrize("rows", [1, 2, 3, 4])
    def test_look_at_a_limited_number_of_rows_and_lose_none(
        self, ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch, rows: int
    ) -> None:
        monkeypatch.setattr(paging, "SCAN_MOST", rows)
        wanted = [str(ledger.send(grant)) for grant in ("a", "b", "b", "a", "b", "b", "b", "a", "b")]
        grants = ["a", "b", "b", "a", "b", "b", "b", "a", "b"]
        of_a = [job for job, grant in zip(wanted, grants, strict=True) if grant == "a"]
        ledger.absorb()
        first = operators.jobs(grant_id="a", limit=1)
        assert len(first.items) == (0 if rows == 1 else 1)
        assert [job.id for job in every(operators.jobs, grant_id="a", limit=2)] == of_a[::-1]
        assert [job.id for job in every(operators.jobs, application="default", limit=100)] == wanted[::-1]

    def test_become_plain_json(self, ledger: Ledger, operators: Operators) -> None:
        job = str(ledger.send("g1"))
        page = operators.jobs().as_json()
        assert ([one["id"] for one in page["items"]], page["next"]) == ([job], None)
        assert page["items"][0]["priority"] == "normal"


class TestDeadLetters:
    @pytest.fixture
    def buried(self, ledger: Ledger, operators: Operators) -> list[str]:
        """Three of one rule and one of another, each given up a second later than the one before."""
        jobs = [ledger.send(grant, provider="google") for grant in ("a", "a", "b", "b")]
        ledger.absorb()
        for place, job in enumerate(jobs):
            rule = "bad_request" if place < 3 else "not_found"
            at = ledger.clock() + place * SECOND
            ledger.set_job(job, state="dead", rule=rule, finished_at=at)
            attempts = [
                {"id": new_id(), "job_id": job, "generation": 0, "begun_at": begun, "ended_at": begun + 1, "rule": rule,
                 "sent": "no", "replayed": False, "status": 400 + begun, "error": f"answer {begun}"}
                for begun in (1, 2)
            ]  # fmt: skip
            with ledger.writing() as connection:
                insert_rows(connection, schema.attempt, attempts)
        return [str(job) for job in jobs]

    @pytest.mark.parametrize("limit", [1, 3, 100])
    def test_come_page_by_page_with_the_last_answer(self, operators: Operators, buried: list[str], limit: int) -> None:
        found = every(operators.dead_letters, limit=limit)
        assert [letter.id for letter in found] == buried[::-1]
        assert {(letter.status, letter.error, letter.grant_id) for letter in found} == {
            (402, "answer 2", "a"), (402, "answer 2", "b"),
        }  # fmt: skip

    def test_go_on_behind_one_that_was_retried_meanwhile(
        self, ledger: Ledger, operators: Operators, buried: list[str]
    ) -> None:
        first = operators.dead_letters(limit=2)
        ledger.set_job(UUID(buried[2]), state="queued", finished_at=None)
        assert [letter.id for letter in operators.dead_letters(cursor=first.next).items] == [buried[1], buried[0]]

    @pytest.mark.parametrize(
        ("filters", "which"),
        [
            ({"rule": "bad_request"}, [2, 1, 0]),
            ({"grant_id": "b"}, [3, 2]),
            ({"grant_id": "b", "rule": "bad_request"}, [2]),
            ({"provider": "microsoft"}, []),
            ({"application": "default"}, [3, 2, 1, 0]),
        ],
    )
    def test_are_those_that_fit_every_filter(
        self, operators: Operators, buried: list[str], filters: dict[str, Any], which: list[int]
    ) -> None:
        assert [letter.id for letter in operators.dead_letters(**filters).items] == [buried[place] for place in which]
        counted = operators.dead_letter_counts(**filters)
        assert sum(count.number for count in counted) == len(which)

    def test_are_counted_by_rule_the_most_first(self, ledger: Ledger, operators: Operators, buried: list[str]) -> None:
        first, second = operators.dead_letter_counts()
        assert (first.rule, first.number, second.rule, second.number) == ("bad_request", 3, "not_found", 1)
        assert (first.oldest, first.newest) == (moment(ledger.clock()), moment(ledger.clock() + 2 * SECOND))
        each = operators.dead_letter_counts(each="application")
        assert [(one.rule, one.application, one.number) for one in each] == [
            ("bad_request", "default", 3), ("not_found", "default", 1)
        ]  # fmt: skip
        with pytest.raises(InvalidArgument):
            operators.dead_letter_counts(each="grant")
        later = operators.dead_letter_counts(since=moment(ledger.clock() + 2 * SECOND))
        assert [count.number for count in later] == [1, 1]


class TestDoubts:
    def test_say_what_the_last_search_found_and_when_the_next_is(self, ledger: Ledger, operators: Operators) -> None:
        jobs = [ledger.send(grant) for grant in ("a", "b", "a")]
        ledger.absorb()
        at = ledger.clock()
        for job in jobs[:2]:
            ledger.set_job(job, state="in_doubt", rule="no_answer", doubt_at=at, look_at=at + HOUR, looks=1, misses=0,
                           seen="silent")  # fmt: skip
        found = every(operators.doubts, limit=1)
        assert [doubt.id for doubt in found] == [str(jobs[1]), str(jobs[0])]
        assert (found[0].doubt_at, found[0].look_at) == (moment(at), moment(at + HOUR))
        assert (found[0].seen, found[0].looks, found[0].misses, found[0].grant_id) == ("silent", 1, 0, "b")
        assert [doubt.id for doubt in operators.doubts(grant_id="a", rule="no_answer").items] == [str(jobs[0])]


class TestEvents:
    @pytest.mark.parametrize("limit", [1, 2, 100])
    def test_come_page_by_page_also_those_of_one_moment(self, ledger: Ledger, operators: Operators, limit: int) -> None:
        at = ledger.clock()
        with ledger.writing() as connection:
            for kind, grant in (("hold", "a"), ("closed", "b"), ("release", "a")):
                events.append(connection, kind, at=at, by="anna", application="default", grant_id=grant, rule="r")
            events.append(connection, "hold", at=at - SECOND, by="policy", application="other", provider="google")
        found = every(operators.events, limit=limit)
        assert [(one.kind, one.by) for one in found] == [
            ("release", "anna"), ("closed", "anna"), ("hold", "anna"), ("hold", "policy"),
        ]  # fmt: skip
        assert [one.kind for one in every(operators.events, grant_id="a", limit=limit)] == ["release", "hold"]
        assert [one.by for one in every(operators.events, kind="hold", limit=limit)] == ["anna", "policy"]
        assert [one.provider for one in operators.events(application="other").items] == ["google"]
        assert operators.events(since=moment(at), by="policy").items == ()
        assert len(operators.events(until=moment(at)).items) == 1


class TestOneJob:
    def test_is_found_by_id_and_key_and_says_why_it_waits(self, ledger: Ledger, operators: Operators) -> None:
        job = str(ledger.send("g1", key="invoice-42"))
        assert operators.job(job) == operators.job(key="invoice-42")
        assert operators.why(key="invoice-42").reason == "no_worker"
        with pytest.raises(NotFound):
            operators.why(str(new_id()))

    def test_of_a_batch_counts_there(self, ledger: Ledger, operators: Operators) -> None:
        ledger.modify("g1", ["m1", "m2"], key="tidy")
        batch = operators.batch(key="tidy")
        assert (batch.total, batch.waiting) == (2, 2)
        assert len(operators.jobs(batch_id=batch.id).items) == 2


class TestStatus:
    def test_has_every_state(self, ledger: Ledger, operators: Operators) -> None:
        ledger.send("g1")
        seen = operators.status()
        assert (seen.jobs[State.QUEUED], set(seen.jobs)) == (1, set(State))


class TestWhatCannotBeMeant:
    @pytest.mark.parametrize(
        ("question", "filters", "field"),
        [
            ("jobs", {"grant_id": "leyah@example.com"}, "grant_id"),
            ("jobs", {"state": "ded"}, "state"),
            ("jobs", {"state": ["dead", "ded"]}, "state"),
            ("jobs", {"state": []}, "state"),
            ("jobs", {"state": 7}, "state"),
            ("jobs", {"priority": "urgent"}, "priority"),
            ("jobs", {"operation": "sned"}, "operation"),
            ("jobs", {"batch_id": "tidy"}, "batch_id"),
            ("jobs", {"limit": 0}, "limit"),
            ("jobs", {"limit": 10_001}, "limit"),
            ("jobs", {"since": datetime(2026, 7, 1)}, "since"),  # noqa: DTZ001
            ("jobs", {"until": "yesterday"}, "until"),
            ("jobs", {"application": ""}, "application"),
            ("jobs", {"cursor": "that one"}, "cursor"),
            ("jobs", {"cursor": "bm8"}, "cursor"),
            ("jobs", {"cursor": "\u00e9"}, "cursor"),
            ("grants", {"state": "shut"}, "state"),
            ("dead_letters", {"rule": "a\nb"}, "rule"),
            ("doubts", {"provider": ""}, "provider"),
            ("events", {"kind": "hodl"}, "kind"),
            ("events", {"job_id": "that one"}, "job_id"),
            ("deliveries", {"state": "told"}, "state"),
            ("deliveries", {"job_id": str(new_id()), "batch_id": str(new_id())}, "batch_id"),
            ("status", {"holds": 0}, "limit"),
        ],
    )
    def test_is_refused_with_field_reason_and_remedy(
        self, operators: Operators, question: str, filters: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidArgument) as refused:
            getattr(operators, question)(**filters)
        assert [problem.field for problem in refused.value.problems] == [field]
        assert str(refused.value).startswith(f"{field}: ")
        assert "leyah" not in str(refused.value)

    def test_a_cursor_of_another_list(self, ledger: Ledger, operators: Operators) -> None:
        for _ in range(2):
            ledger.set_job(ledger.send("g1"), state="in_doubt")
        cursor = operators.jobs(limit=1).next
        with pytest.raises(InvalidArgument):
            operators.doubts(cursor=cursor)


# What each question reads of a table that grows with the jobs; by their index, and no more than is said there.
INDEXES = {
    "jobs": ("sendq_job", {}, "sqlite_autoindex_sendq_job"),
    "jobs of a batch": ("sendq_job", {"batch_id": str(new_id())}, "sendq_job_batch_idx"),
    "jobs in doubt": ("sendq_job", {"state": "in_doubt"}, "sendq_job_(doubt|look)_idx"),
    "jobs that are dead": ("sendq_job", {"state": "dead"}, "sendq_job_dead_idx"),
    "jobs of a grant": ("sendq_job", {"grant_id": "g1"}, "sqlite_autoindex_sendq_job"),
    "dead_letters": ("sendq_job", {}, "sendq_job_(dead|finished)_idx"),
    "dead_letters of a rule": ("sendq_job", {"rule": "bad_request"}, "sendq_job_dead_idx"),
    "doubts": ("sendq_job", {}, "sendq_job_(doubt|look)_idx"),
    "events": ("sendq_event", {}, "sendq_event_at_idx"),
    "events of a grant": ("sendq_event", {"grant_id": "g1"}, "sendq_event_grant_idx"),
    "events of a kind": ("sendq_event", {"kind": "hold"}, "sendq_event_at_idx"),
    "deliveries": ("sendq_delivery", {}, "sqlite_autoindex_sendq_delivery"),
    "deliveries about a job": ("sendq_delivery", {"job_id": str(new_id())}, "sendq_delivery_subject_idx"),
    "deliveries given up": ("sendq_delivery", {"state": "given_up"}, "sendq_delivery_given_up_idx"),
    "grants that are closed": ("sendq_lane", {"state": "closed"}, "sendq_lane_closed_idx"),
}


class TestPlans:
    @pytest.mark.parametrize("question", INDEXES)
    def test_use_an_index(self, ledger: Ledger, operators: Operators, question: str) -> None:
        if ledger.engine.dialect.name != "sqlite":
            return  # PostgreSQL plans by statistics: an empty table proves nothing there
        table, filters, index = INDEXES[question]
        statements: list[str] = []

        def traced(connection: Any, *_: Any) -> None:
            connection.set_trace_callback(statements.append)

        event.listen(ledger.engine, "checkout", traced)
        getattr(operators, question.split(" ", maxsplit=1)[0])(**filters)
        event.remove(ledger.engine, "checkout", traced)
        with ledger.engine.connect() as connection:
            connection.connection.driver_connection.set_trace_callback(None)  # type: ignore[union-attr]
            read = [statement.replace(":", r"\:") for statement in statements if f"FROM {table}" in statement]
            assert read
            for statement in read:
                plan = str(connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")).all())
                assert re.search(index, plan), (statement, plan)
                assert f"SCAN {table}'" not in plan


def test_times_are_in_utc(ledger: Ledger, operators: Operators) -> None:
    ledger.send("g1")
    assert operators.jobs().items[0].created_at.tzinfo is UTC
