"""The acts of the console: what each shows first, what it does, and that it is done once, with a name and a reason."""

from __future__ import annotations

import asyncio
import html
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette

from sendq import NewBatch, Operators, Send, SendQueue, clock
from sendq.clock import SECOND, moment
from sendq.console import console, serving
from sendq.console.acts.jobs import EXAMINED, REFUSALS
from sendq.console.asked import Asked, View
from sendq.console.forms import fields_of
from sendq.console.runs import AT_ONCE, BatchId, Run
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.rules.budgets import Budget, Budgets
from sendq.rules.by_hand import RetryRefusal
from sendq.vault import Vault
from tests.integration.console.conftest import ANNA, Seat, act, submit
from tests.integration.ledger.test_undo import changed
from tests.support.asgi import Browser
from tests.support.ledger import MESSAGE, Ledger
from tests.support.waiting import eventually

HOUR = 3600 * SECOND

NEW = '{"to": ["bea@example.com"], "subject": "Invoice 43", "body": "<p>43</p>"}'


def absorbed(ledger: Ledger, grant: str = "g1", **options: Any) -> Any:
    job = ledger.send(grant, provider="google", **options)
    ledger.absorb()
    return job


def dead(ledger: Ledger, number: int = 1, rule: str = "bad_request", sent: str = "no") -> list[Any]:
    jobs = [ledger.send("g1", provider="google") for _ in range(number)]
    ledger.absorb()
    now = ledger.clock()
    with ledger.writing() as connection:
        table = schema.job
        connection.execute(
            table.update().where(table.c.id.in_(jobs)).values(state="dead", rule=rule, finished_at=now, attempts=1)
        )
        insert_rows(connection, schema.attempt, [{
            "id": new_id(), "job_id": job, "generation": 0, "begun_at": now, "ended_at": now, "status": 400,
            "rule": rule, "route": "dead_letter", "sent": sent, "replayed": False,
        } for job in jobs])  # fmt: skip
    return jobs


def events_of(ledger: Ledger) -> list[tuple[str, str, str | None]]:
    return [(row.kind, row.by, row.reason) for row in ledger.rows(schema.event)]


class TestHold:
    def test_shows_what_waits_and_holds_for_the_chosen_time(self, browser: Browser, kept: Ledger) -> None:
        absorbed(kept)
        page = browser.get("/acts/hold?grant=g1")
        assert "Hold grant g1" in page.words
        assert "Waiting 1 job Now not held" in page.words
        done = act(browser, "/acts/hold?grant=g1", **{"for": "4h"}, reason="their server moves")
        assert "Done. Result held until" in done.words
        lane = kept.lane()
        assert abs(lane.held_until - kept.clock() - 4 * HOUR) < 60 * SECOND
        assert (lane.held_by, events_of(kept)) == ("anna", [("hold", "anna", "their server moves")])

    @pytest.mark.parametrize(
        ("query", "pair"), [("provider=google", "google"), ("whole=yes", "*"), ("whole=yes&application=eu", "*")]
    )
    def test_of_a_provider_or_an_application(self, browser: Browser, kept: Ledger, query: str, pair: str) -> None:
        act(browser, f"/acts/hold?{query}", reason="an outage", whole="yes" if "whole" in query else "")
        (row,) = [row for row in kept.rows(schema.pair) if row.held_by == "anna"]
        assert (row.provider, row.application) == (pair, "eu" if "eu" in query else "default")

    @pytest.mark.parametrize("query", ["", "grant=leyah@example.com", "provider=gmial"])
    def test_of_nothing_is_refused(self, browser: Browser, query: str) -> None:
        assert browser.get(f"/acts/hold?{query}").status in (400, 404)


class TestRelease:
    def test_ends_a_hold(self, browser: Browser, kept: Ledger) -> None:
        absorbed(kept)
        now = kept.clock()
        kept.set_lane("g1", held_until=now + HOUR, held_since=now, held_rule="exchange_throttled", held_by="policy")
        assert "held until" in browser.get("/acts/release?grant=g1").words
        done = act(browser, "/acts/release?grant=g1", reason="the server is back")
        assert "released; sending resumes with a single call" in done.words
        assert kept.lane().held_until is None
        assert events_of(kept) == [("release", "anna", "the server is back")]

    def test_of_what_is_not_held_has_no_button(self, browser: Browser, kept: Ledger) -> None:
        absorbed(kept)
        page = browser.get("/acts/release?grant=g1")
        assert "there is nothing to release" in page.words
        assert 'name="reason"' not in page.text


class TestWhatThePreviewShowed:
    def test_is_all_that_is_changed(self, browser: Browser, kept: Ledger) -> None:
        shown = absorbed(kept)
        page = browser.get("/acts/cancel-all?provider=google&since=24h")
        assert "Cancel 1 job" in page.words
        assert datetime.fromisoformat(page.field("since")) < datetime.fromisoformat(page.field("until"))
        kept.clock.at = clock.now()
        late = absorbed(kept)
        names = ("csrf", "id", "provider", "since", "until")
        form = {name: page.field(name) for name in names} | {"reason": "sent in error"}
        assert browser.post("/acts/cancel-all", form).status == 303
        assert (kept.state(shown), kept.state(late)) == ("cancelled", "queued")

    @pytest.mark.parametrize("name", ["cancel-all", "retry", "release-all", "hold-all"])
    def test_is_never_everything(self, browser: Browser, kept: Ledger, name: str) -> None:
        absorbed(kept)
        answer = browser.get(f"/acts/{name}?until=2100-01-01T00:00:00Z")
        assert answer.status == 400
        assert "This address has no filter; give at least one of rule, provider, application, grant," in answer.words

    def test_names_fields_as_the_pages_do(self, browser: Browser) -> None:
        answer = browser.get("/acts/cancel-all?grant=a%20b")
        assert (answer.status, "Grant contains a space" in answer.words) == (400, True)
        assert "The page in this address is not a cursor" in browser.get("/jobs?after=nonsense").words


class TestEverythingThatMatches:
    @pytest.fixture
    def crowd(self, kept: Ledger) -> Ledger:
        """Three grants of Exchange that are held by a rule, one that is held by hand, one that is closed."""
        now = kept.clock()
        for grant in ("e1", "e2", "e3", "h1", "c1"):
            kept.send(grant, provider="ews")
        kept.absorb()
        for grant in ("e1", "e2", "e3"):
            kept.set_lane(
                grant, held_until=now + HOUR, held_since=now, held_rule="exchange_throttled", held_by="policy"
            )
        kept.set_lane("h1", held_until=now + 2 * HOUR, held_since=now, held_rule="by_hand", held_by="ben")
        kept.set_lane("c1", closed_at=now, closed_rule="grant_expired")
        return kept

    def test_is_grouped_by_rule_and_provider_on_the_first_page(self, browser: Browser, crowd: Ledger) -> None:
        page = browser.get("/").words
        assert "exchange_throttled ews held 3 3" in page
        assert "by_hand ews held 1 1" in page
        assert "grant_expired ews closed 1 1" in page
        assert page.count("Release all…") == 2
        assert page.count("Reopen all…") == 1

    def test_is_released_at_once(self, browser: Browser, crowd: Ledger) -> None:
        page = browser.get("/").text
        (url,) = [
            part.split('"')[0].replace("&amp;", "&")
            for part in page.split('href="')
            if part.startswith("/acts/release-all") and "exchange_throttled" in part
        ]
        assert "Release 3 grants" in browser.get(url).words
        done = act(browser, url, reason="the server is back")
        assert "Released 3 of 3" in done.words
        held = {grant: crowd.lane(grant).held_until is not None for grant in ("e1", "e2", "e3", "h1")}
        assert held == {"e1": False, "e2": False, "e3": False, "h1": True}
        (event,) = [row for row in crowd.rows(schema.event) if row.act is None]
        assert (event.kind, event.by, event.number, event.rule) == ("release", "anna", 3, "exchange_throttled")
        assert "release 3 anna" in browser.get("/journal").words

    def test_is_released_at_a_rate(self, browser: Browser, crowd: Ledger) -> None:
        act(browser, "/acts/release-all?rule=exchange_throttled&state=held", rate="1", reason="gently")
        ends = sorted(crowd.lane(grant).held_until or 0 for grant in ("e1", "e2", "e3"))
        assert [round((later - earlier) / SECOND) for earlier, later in pairwise(ends[1:])] == [60]

    def test_is_held_at_once(self, browser: Browser, crowd: Ledger) -> None:
        page = browser.get("/acts/hold-all?provider=ews&state=held")
        assert "Hold 3 grants" in page.words
        assert "1 grant more will stay held for longer." in page.words
        assert (
            "Held 3 Held for longer 1"
            in act(browser, "/acts/hold-all?provider=ews&state=held", reason="r", **{"for": "1h"}).words
        )

    def test_is_cancelled_at_once(self, browser: Browser, crowd: Ledger) -> None:
        listed = browser.get("/jobs?state=queued&grant=e1").text
        assert "/acts/cancel-all?grant=e1" in listed
        assert "/acts/cancel-all" not in browser.get("/jobs?state=queued&operation=send").text
        assert "Cancel 1 job" in browser.get("/acts/cancel-all?grant=e1").words
        assert "Cancelled 1" in act(browser, "/acts/cancel-all?grant=e1", reason="in error").words
        assert [row.state for row in crowd.rows(schema.job)].count("cancelled") == 1

    @pytest.mark.parametrize("name", ["release-all", "hold-all", "cancel-all", "retry"])
    def test_needs_a_filter(self, browser: Browser, crowd: Ledger, name: str) -> None:
        assert browser.get(f"/acts/{name}").status == 400
        assert browser.get(f"/acts/{name}?rule=none").status == 200

    def test_has_acts_on_its_list_that_concern_what_the_list_shows(self, browser: Browser, crowd: Ledger) -> None:
        page = browser.get("/accounts?rule=exchange_throttled&provider=ews").text
        assert "/acts/release-all?rule=exchange_throttled&amp;provider=ews" in page
        assert "/acts/release-all" not in browser.get("/accounts?text=e").text
        assert "/acts/release-all" not in browser.get("/accounts").text


class TestRetry:
    def test_of_one_dead_letter(self, browser: Browser, kept: Ledger) -> None:
        (job,) = dead(kept)
        done = act(browser, f"/acts/retry?job={job}", reason="mended")
        assert "Retried 1" in done.words
        assert f'href="/jobs/{job}"' in done.text
        assert kept.state(job) == "queued"

    def test_of_all_of_a_rule_is_counted_first_and_spread_by_the_rate(self, browser: Browser, kept: Ledger) -> None:
        dead(kept, 3)
        dead(kept, 1, "recipients_invalid")
        page = browser.get("/acts/retry?rule=bad_request")
        assert "Retry 3 dead letters" in page.words
        assert "Dead letters that match 3 Would be retried 3" in page.words
        act(browser, "/acts/retry?rule=bad_request", rate="60", reason="the template is fixed")
        waiting = sorted(row.next_at for row in kept.rows(schema.job) if row.state == "queued")
        assert [later - earlier for earlier, later in pairwise(waiting)] == [60 * SECOND // 60] * 2

    def test_leaves_what_some_recipients_have_unless_told(self, browser: Browser, kept: Ledger) -> None:
        (job,) = dead(kept, sent="partly")
        page = browser.get(f"/acts/retry?job={job}")
        assert f"Stay: {REFUSALS[RetryRefusal.PARTLY]} 1" in page.words
        act(browser, f"/acts/retry?job={job}", reason="again")
        assert kept.state(job) == "dead"
        act(browser, f"/acts/retry?job={job}", reason="again", even_partly="yes")
        assert kept.state(job) == "queued"

    def test_examines_a_part_of_very_many_and_counts_the_rest(
        self, browser: Browser, kept: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.console.acts.jobs.EXAMINED", 2)
        dead(kept, 5)
        page = browser.get("/acts/retry?rule=bad_request")
        assert "Dead letters that match 5 Would be retried 2 or more" in page.words
        assert "Retry 5 dead letters" in page.words
        assert EXAMINED >= 500

    def test_of_what_is_not_dead_or_not_there_says_so(self, browser: Browser, kept: Ledger) -> None:
        assert "The job is queued" in browser.get(f"/acts/retry?job={absorbed(kept)}").words
        assert "No dead letter matches." in browser.get("/acts/retry?rule=none").words
        assert browser.get("/acts/retry?job=x").status == 404
        assert browser.get("/acts/retry").status == 400

    @pytest.mark.parametrize("rate", ["x", "-1", "0", "nan", "1e-300"])
    def test_at_an_impossible_rate_fails_with_the_reason(self, browser: Browser, kept: Ledger, rate: str) -> None:
        dead(kept)
        done = act(browser, "/acts/retry?rule=bad_request", rate=rate, reason="r")
        assert "rate: is not a number from 0.01" in done.words


class TestResolve:
    def test_answers_what_became_of_a_job(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        kept.set_job(job, state="in_doubt", rule="no_answer", doubt_at=kept.clock(), look_at=kept.clock() + HOUR)
        assert f'href="/acts/resolve?job={job}"' in browser.get(f"/jobs/{job}").text
        act(browser, f"/acts/resolve?job={job}", answer="sent", message_id="message-7", reason="seen in the mailbox")
        assert (kept.state(job), kept.job(job).message_id) == ("sent", "message-7")

    def test_of_all_of_a_rule(self, browser: Browser, kept: Ledger) -> None:
        for _ in range(3):
            kept.set_job(absorbed(kept), state="in_doubt", rule="no_answer", doubt_at=kept.clock())
        assert "Resolve 3 jobs in doubt" in browser.get("/acts/resolve?rule=no_answer").words
        done = act(browser, "/acts/resolve?rule=no_answer", answer="dead", reason="too late")
        assert "Answer dead Resolved 3" in done.words
        assert browser.get("/acts/resolve").status == 404

    def test_without_an_answer_fails_with_the_reason(self, browser: Browser, kept: Ledger) -> None:
        kept.set_job(absorbed(kept), state="in_doubt", rule="no_answer", doubt_at=kept.clock())
        assert "answer: is not an answer" in act(browser, "/acts/resolve?rule=no_answer", reason="r").words


class TestCancel:
    def test_ends_a_job_that_waits(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        assert "Now queued After cancelled" in browser.get(f"/acts/cancel?job={job}").words
        assert "Before queued Now cancelled" in act(browser, f"/acts/cancel?job={job}", reason="in error").words
        assert "It has ended already: cancelled." in browser.get(f"/acts/cancel?job={job}").words

    def test_ends_a_batch(self, browser: Browser, kept: Ledger) -> None:
        batch = kept.queue.modify("g1", ["message-1", "message-2"], unread=False).id
        assert "Cancel 2 jobs" in browser.get(f"/acts/cancel-batch?batch={batch}").words
        assert "Waiting jobs 0 Cancelled 2" in act(browser, f"/acts/cancel-batch?batch={batch}", reason="r").words


class TestDeliverAgain:
    @pytest.fixture
    def failing(self, kept: Ledger) -> list[str]:
        rows = [{
            "id": new_id(), "target": "task:shop.mail", "receiver": "shop", "kind": "sent", "subject": new_id(),
            "lane_id": new_id(), "sequence": 1, "facts": "{}", "state": "given_up", "created_at": 1, "next_at": 1,
            "until": 2, "tries": 9, "refusals": 0, "done_at": 3, "error": "status 503",
        } for _ in range(2)]  # fmt: skip
        with kept.writing() as connection:
            insert_rows(connection, schema.delivery, rows)
        return [str(row["id"]) for row in rows]

    def test_of_one_and_of_all_of_a_receiver(self, browser: Browser, kept: Ledger, failing: list[str]) -> None:
        assert f"/acts/deliver?delivery={failing[0]}" in browser.get("/outcomes").text
        act(browser, f"/acts/deliver?delivery={failing[0]}", reason="it is back")
        assert [row.state for row in kept.rows(schema.delivery)].count("waiting") == 1
        assert "/acts/deliver?receiver=shop" in browser.get("/outcomes?receiver=shop").text
        assert "Due now 2 deliveries" in act(browser, "/acts/deliver?receiver=shop", reason="it is back").words
        assert browser.get("/acts/deliver").status == 404


class TestAnyAct:
    def test_is_done_once_if_its_form_is_sent_twice(self, browser: Browser, kept: Ledger) -> None:
        absorbed(kept)
        page = browser.get("/acts/hold?grant=g1")
        form = {"csrf": page.field("csrf"), "id": page.field("id"), "grant": "g1", "application": "default",
                "for": "1h", "reason": "r"}  # fmt: skip
        assert [browser.post("/acts/hold", form).status for _ in range(2)] == [303, 303]
        assert len(kept.rows(schema.event)) == 1

    def test_with_a_reason_that_cannot_be_recorded_says_so_and_keeps_the_form(
        self, browser: Browser, kept: Ledger
    ) -> None:
        (job,) = dead(kept)
        done = act(browser, f"/acts/retry?job={job}", reason="x" * 501)
        assert "reason: has more than 500 characters" in done.words
        assert kept.state(job) == "dead"

    @pytest.mark.parametrize("name", ["message", "reason", "suppressed", "csrf", "error"])
    def test_takes_only_what_it_concerns_from_an_address(self, browser: Browser, kept: Ledger, name: str) -> None:
        url = f"/acts/replace?job={absorbed(kept)}"
        entered = browser.get(f"{url}&{name}=a-mistake")
        assert (entered.status, "a-mistake" in entered.text, "selected" in entered.text) == (200, False, True)
        assert browser.get(url).text.count("selected") == entered.text.count("selected")

    def test_links_to_what_is_a_batch_whatever_it_is_called(self, application: Starlette) -> None:
        desk, asked = application.state.desk, Asked(ANNA, "", "/", {}, {}, datetime.now(UTC), "")
        facts = (("Undone by", BatchId("b1")), ("Batch", "many"))
        run = Run("an-act-1", "Undo", "anna", "r", "/", facts=facts)
        text = desk.render(View("run.html", {"run": run, "working": False, "live": False}), asked)
        assert ('href="/batches/b1"' in text, "/batches/many" in text) == (True, False)

    @pytest.mark.parametrize("identity", ["", "short", "../../x/../y", "a" * 65])
    def test_has_an_id_of_this_console(self, browser: Browser, kept: Ledger, identity: str) -> None:
        page = browser.get("/acts/hold?provider=google")
        form = {"csrf": page.field("csrf"), "id": identity, "provider": "google", "reason": "r"}
        assert browser.post("/acts/hold", form).status == 400
        assert kept.rows(schema.event) == []

    def test_goes_on_without_its_page_and_can_be_stopped(
        self, browser: Browser, application: Starlette, kept: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.console.runs.PATIENCE_S", 0.01)
        monkeypatch.setattr("sendq.ledger.operators.retry.CHUNK", 1)
        jobs = dead(kept, 3)
        gate = threading.Semaphore(1)
        operators = application.state.desk.operators
        retry = operators.retry

        def slowly(*given: Any, dry_run: bool = False, **options: Any) -> Any:
            run = retry(*given, dry_run=dry_run, **options)
            return run if dry_run else _gated(run, gate)

        operators.retry = slowly
        page = act(browser, "/acts/retry?rule=bad_request", reason="mended")
        assert "It is being carried out" in page.words
        (url,) = {part.split('"')[0] for part in page.text.split('action="')[1:] if part.startswith("/runs/")}
        stopping = threading.Timer(0.05, gate.release, args=(10,))
        stopping.start()
        assert browser.post(url, {"csrf": page.field("csrf")}).status == 303
        stopping.join()
        stopped = browser.get(url.removesuffix("/stop"))
        assert "It was stopped" in stopped.words
        done = [kept.state(job) for job in jobs].count("queued")  # type: ignore[arg-type]
        assert 1 <= done < 3
        operators.retry = retry
        act(browser, "/acts/retry?rule=bad_request", reason="mended")
        assert {kept.state(job) for job in jobs} == {"queued"}

    def test_waits_while_many_are_being_carried_out(
        self, browser: Browser, application: Starlette, kept: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.console.runs.PATIENCE_S", 0.0)
        gate = threading.Event()
        operators = application.state.desk.operators
        hold = operators.hold

        def slowly(*given: Any, dry_run: bool = False, **options: Any) -> Any:
            assert dry_run or gate.wait(60)
            return hold(*given, dry_run=dry_run, **options)

        operators.hold = slowly
        for _ in range(AT_ONCE):
            act(browser, "/acts/hold?provider=google", reason="r")
        page = browser.get("/acts/hold?provider=google")
        form = {"csrf": page.field("csrf"), "id": page.field("id"), "provider": "google", "reason": "r"}
        busy = browser.post("/acts/hold", form)
        assert (busy.status, 'value="r"' in busy.text, "Wait for one to end" in busy.words) == (503, True, True)
        gate.set()
        runs = application.state.desk.runs
        eventually(lambda: all(run.ended.is_set() for run in runs._runs.values()), "the end of all acts")


def _gated(run: Any, gate: threading.Semaphore) -> Iterator[Any]:
    """The parts of a run, each after a permit."""
    while True:
        assert gate.acquire(timeout=60)
        try:
            yield next(run)
        except StopIteration:
            return


class TestAJobThatWaits:
    def test_is_held_and_released(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        assert "Hold…" in browser.get(f"/jobs/{job}").words
        done = act(browser, f"/acts/hold-job?job={job}", reason="wrong price")
        assert "Done. Changed 1 job" in done.words
        page = browser.get(f"/jobs/{job}").words
        assert "The job is held until it is released" in page
        assert "By anna: wrong price" in page
        assert "Next start once it is released" in page
        assert "held" in browser.get("/jobs").words
        assert "It is held already" in browser.get(f"/acts/hold-job?job={job}").words
        act(browser, f"/acts/release-job?job={job}", reason="it was right")
        assert "It is not held" in browser.get(f"/acts/release-job?job={job}").words
        assert events_of(kept) == [("hold", "anna", "wrong price"), ("release", "anna", "it was right")]

    def test_for_another_job_says_so(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept, after=str(absorbed(kept)))
        assert "Next start once the job that it follows is sent" in browser.get(f"/jobs/{job}").words
        assert "held" not in browser.get("/jobs?rule=after").words
        act(browser, f"/acts/hold-job?job={job}", reason="wrong price")
        assert "Next start once it is released" in browser.get(f"/jobs/{job}").words

    def test_is_rescheduled(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        act(browser, f"/acts/reschedule?job={job}", reason="later", **{"in": "4h"})
        assert abs(kept.job(job).due_at - clock.now() - 4 * HOUR) < 60 * SECOND
        at = datetime.fromtimestamp((clock.now() + 8 * HOUR) // SECOND, UTC)
        act(browser, f"/acts/reschedule?job={job}", reason="later", at=at.isoformat())
        assert kept.job(job).due_at == clock.micros(at)

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({}, "When is missing; choose when it is to be due"),
            ({"in": "at"}, "Time is missing"),
            ({"in": "tomorrow"}, "When is not one of the choices"),
            ({"in": "1h", "at": "2198-01-01T00:00:00Z"}, "choose one of the two"),
            ({"at": "2026-07-01"}, "is not a time with its zone"),
            ({"at": "2001-07-01T00:00:00Z"}, "Time is in the past"),
            ({"at": "2199-01-01T00:00:00Z"}, "before it expires"),
            ({"in": "7d"}, "before it expires"),
        ],
    )
    def test_is_not_rescheduled_to_what_cannot_be(
        self, browser: Browser, kept: Ledger, fields: dict[str, str], says: str
    ) -> None:
        job = absorbed(kept, due_at=moment(clock.now() + 72 * HOUR))
        before = kept.job(job)
        answer = submit(browser, f"/acts/reschedule?job={job}", reason="later", **fields)
        assert (answer.status, says in answer.words) == (422, True), answer.words
        assert 'value="later"' in answer.text
        assert kept.job(job) == before

    def test_shows_when_it_is_due_before_it_is_rescheduled(self, browser: Browser, kept: Ledger) -> None:
        at = clock.now() + 72 * HOUR
        page = browser.get(f"/acts/reschedule?job={absorbed(kept, due_at=moment(at))}")
        assert f"Due {moment(at):%Y-%m-%d %H:%M:%S}Z" in page.words
        assert " selected" not in page.text

    def test_gets_another_priority(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        act(browser, f"/acts/priority?job={job}", reason="a newsletter", to="low")
        assert kept.job(job).priority == 2

    def test_gets_no_priority_that_nobody_chose(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        before = kept.job(job)
        for fields in ({}, {"to": "urgent"}):
            assert submit(browser, f"/acts/priority?job={job}", reason="r", **fields).status == 422
        assert kept.job(job) == before

    @pytest.mark.parametrize("name", ["reschedule", "priority", "hold-job", "release-job"])
    def test_is_left_alone_once_it_no_longer_waits(self, browser: Browser, kept: Ledger, name: str) -> None:
        (job,) = dead(kept)
        page = browser.get(f"/acts/{name}?job={job}")
        assert f"the job {job} is dead: it has ended." in page.words
        assert 'type="submit"' not in page.text.partition('class="card act"')[2]
        assert browser.get(f"/acts/{name}").status == 404

    def test_of_a_batch(self, browser: Browser, kept: Ledger) -> None:
        batch = kept.queue.modify("g1", ["m1", "m2"], unread=False, provider="google")
        kept.absorb()
        assert "Hold 2 jobs" in browser.get(f"/acts/hold-job?batch={batch.id}").words
        assert "Changed 2 jobs" in act(browser, f"/acts/hold-job?batch={batch.id}", reason="stop").words
        page = browser.get(f"/batches/{batch.id}").words
        assert "Held since" in page
        assert "Release…" in page


class TestReplace:
    def test_gives_the_job_another_message_and_shows_none(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        assert f"/acts/replace?job={job}&amp;content=0" in browser.get(f"/jobs/{job}").text
        url = f"/acts/replace?job={job}&content=0"
        page = browser.get(url)
        assert "Content version now 0" in page.words
        assert str(MESSAGE.subject) not in page.text
        done = act(browser, url, message=NEW, reason="a typo")
        assert "Done. Content version 1" in done.words
        (payload,) = kept.rows(schema.payload)
        assert b"Invoice 43" in bytes(payload.body)
        ((kind, by, reason),) = events_of(kept)
        assert (kind, by, reason is not None and reason.endswith(", content version 1: a typo")) == (
            "replace", "anna", True,
        )  # fmt: skip
        for answer in (done, browser.get(f"/jobs/{job}"), browser.get("/journal")):
            assert "Invoice 43" not in answer.text

    @pytest.mark.parametrize(
        ("message", "says"),
        [
            ("{", "Message is not JSON from line 1, column 2 on; correct it."),
            ("", "Message is empty; write the fields of the message."),
            ('{"subject": "x"}', "Message.to has no recipient; pass at least one."),
            ('{"to": ["ann@example"], "subject": "x"}', "Message.to[0].email is not an email address"),
            ('{"to": ["gone@example.com"], "subject": "x"}', "Message.to[0] "),
        ],
    )
    def test_by_what_is_no_message_is_refused_and_the_form_kept(
        self, browser: Browser, kept: Ledger, message: str, says: str
    ) -> None:
        kept.queue.suppress("gone@example.com", source="test")
        job = absorbed(kept)
        before = kept.job(job), kept.rows(schema.payload)
        answer = submit(browser, f"/acts/replace?job={job}", message=message, reason="a typo")
        assert (answer.status, says in answer.words) == (422, True), answer.words
        assert 'value="a typo"' in answer.text
        assert html.escape(message, quote=False) in html.unescape(answer.text)
        assert (kept.job(job), kept.rows(schema.payload)) == before
        assert not [event for event in events_of(kept) if event[0] == "replace"]

    def test_is_of_the_content_that_was_shown(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        page = browser.get(f"/acts/replace?job={job}")
        kept.queue.replace(str(job), MESSAGE.model_copy(update={"subject": "another"}))
        assert "version 1, not 0." in browser.get(f"/acts/replace?job={job}&content=0").words
        form = {name: page.field(name) for name in ("csrf", "id", "job", "content")}
        sent = browser.post("/acts/replace", form | {"message": NEW, "reason": "a typo"})
        assert (sent.status, "its content is another one: version 1, not 0" in sent.words) == (422, True)
        assert "To replace that one with your message, send this form again." in sent.words
        assert (NEW in html.unescape(sent.text), 'value="a typo"' in sent.text) == (True, True)
        assert kept.job(job).content_version == 1
        again = {name: sent.field(name) for name in ("csrf", "id", "job", "content")}
        assert browser.post("/acts/replace", again | {"message": NEW, "reason": "a typo"}).status == 303
        assert kept.job(job).content_version == 2

    def test_says_that_the_content_changed_whatever_else_the_form_lacks(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        page = browser.get(f"/acts/replace?job={job}")
        kept.queue.replace(str(job), MESSAGE.model_copy(update={"subject": "another"}))
        form = {name: page.field(name) for name in ("csrf", "id", "job", "content")}
        sent = browser.post("/acts/replace", form | {"message": NEW, "reason": ""})
        assert (sent.status, "version 1, not 0" in sent.words, NEW in html.unescape(sent.text)) == (422, True, True)

    def test_keeps_what_was_entered_if_the_job_ended_meanwhile(self, browser: Browser, kept: Ledger) -> None:
        job = absorbed(kept)
        page = browser.get(f"/acts/replace?job={job}")
        kept.set_job(job, state="dead", rule="bad_request", finished_at=kept.clock())
        form = {name: page.field(name) for name in ("csrf", "id", "job", "content")}
        sent = browser.post("/acts/replace", form | {"message": NEW, "reason": "a typo"})
        assert (sent.status, "is dead: it has ended; nothing was changed" in sent.words) == (422, True)
        assert NEW in html.unescape(sent.text)
        assert 'type="submit"' not in sent.text.partition('class="card act"')[2]

    def test_keeps_what_was_entered_if_the_console_has_no_key(self, browser: Browser, kept: Ledger, seat: Seat) -> None:
        vault = Vault.parse("k1:" + "A" * 43 + "=")
        made = SendQueue(kept.engine, vault=vault, now=kept.clock).send("g1", MESSAGE)
        kept.absorb()
        answer = submit(browser, f"/acts/replace?job={made.id}", message=NEW, reason="a typo")
        assert (answer.status, "the console does not have its key" in answer.words) == (422, True), answer.words
        assert "sendq replace" in answer.words
        assert (NEW in html.unescape(answer.text), 'value="a typo"' in answer.text) == (True, True)

    def test_is_refused_for_what_does_not_wait_or_is_no_send(self, browser: Browser, kept: Ledger) -> None:
        (job,) = dead(kept)
        assert f"the job {job} is dead: it has ended." in browser.get(f"/acts/replace?job={job}").words
        assert "/acts/replace" not in browser.get(f"/jobs/{job}").text
        kept.queue.modify("g1", ["m1"], unread=False)
        (change,) = [row.id for row in kept.rows(schema.job) if row.operation == "modify"]
        assert "It is not a send" in browser.get(f"/acts/replace?job={change}").words
        assert browser.get("/acts/replace").status == 404
        for content in ("x", "9" * 5_000):
            assert browser.get(f"/acts/replace?job={job}&content={content}").status == 400

    def test_needs_a_queue(self, kept: Ledger, seat: Seat) -> None:
        without, job = Browser(console(Operators(kept.engine), who=seat)), absorbed(kept)
        assert "it was made without a queue" in without.get(f"/acts/replace?job={job}").words
        page = without.get(f"/jobs/{job}")
        assert ("Reschedule…" in page.words, "Replace" in page.words) == (True, False)

    def test_takes_a_message_that_is_larger_than_other_forms(self, browser: Browser, kept: Ledger) -> None:
        large = json.dumps({"to": ["bea@example.com"], "subject": "x", "body": "<p>ü</p>" * 50_000})
        url = f"/acts/replace?job={absorbed(kept)}"
        assert "Content version 1" in act(browser, url, message=large, reason="longer").words
        refused = submit(browser, url, message="x" * 9_000_001, reason="longer")
        assert (refused.status, "Use `sendq replace JOB --message FILE`." in refused.words) == (413, True)

    def test_decodes_forms_beside_the_pages_and_large_ones_one_at_a_time(
        self, browser: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = list[bool]()
        meeting = threading.Barrier(2)

        def watched(body: bytes) -> dict[str, str]:
            assert threading.current_thread() is not threading.main_thread()
            try:
                meeting.wait(0.2)
                alone.append(False)
            except threading.BrokenBarrierError:
                alone.append(True)
            return fields_of(body)

        monkeypatch.setattr(serving, "fields_of", watched)
        large = urlencode({"message": "x" * 40_000}).encode()

        async def send(number: int) -> list[int]:
            sent = [browser.answer_to("POST", "/acts/replace", large) for _ in range(number)]
            return [answer.status for answer in await asyncio.gather(*sent)]

        assert asyncio.run(send(3)) == [403] * 3
        assert alone == [True] * 3
        assert browser.post("/acts/cancel", {"reason": "x" * 40_000}).status == 413


class TestUndo:
    def test_starts_the_batch_that_undoes_it(self, browser: Browser, kept: Ledger) -> None:
        batch = changed(kept)
        assert f"/acts/undo?batch={batch.id}" in browser.get(f"/batches/{batch.id}").text
        page = browser.get(f"/acts/undo?batch={batch.id}")
        assert "Undo 3 changes" in page.words
        assert len(kept.rows(schema.batch)) == 1
        done = act(browser, f"/acts/undo?batch={batch.id}", reason="the wrong folder")
        (undo,) = [row for row in kept.rows(schema.batch) if row.undoes is not None]
        assert "Messages 3" in done.words
        assert f'href="/batches/{undo.id}"' in done.text
        ((kind, by, reason),) = [event for event in events_of(kept) if event[0] == "undo"]
        assert (kind, by, reason) == ("undo", "anna", f"by batch {undo.id}: the wrong folder")
        assert "is undone by batch" in browser.get(f"/acts/undo?batch={batch.id}").words
        refused = browser.get(f"/acts/undo?batch={undo.id}")
        assert "Batch is an undo itself; modify the messages again." in refused.words
        assert 'type="submit"' not in refused.text.partition('class="card act"')[2]
        assert "/acts/undo" not in browser.get(f"/batches/{undo.id}").text

    def test_is_refused_before_it_starts_if_the_console_has_no_key(self, browser: Browser, kept: Ledger) -> None:
        batch = changed(kept, vault=Vault.parse("k1:" + "A" * 43 + "="))
        page = browser.get(f"/acts/undo?batch={batch.id}")
        assert (page.status, "the console does not have its key. Use sendq undo" in page.words) == (200, True)
        assert 'type="submit"' not in page.text.partition('class="card act"')[2]

    def test_says_what_it_leaves_out(self, browser: Browser, kept: Ledger) -> None:
        batch = changed(kept)
        job = next(row.job_id for row in kept.rows(schema.snapshot))
        with kept.writing() as connection:
            connection.execute(schema.snapshot.delete().where(schema.snapshot.c.job_id == job))
        assert "Not restored, since their snapshots are deleted 1 message" in browser.get(
            f"/acts/undo?batch={batch.id}"
        ).words  # fmt: skip
        with kept.writing() as connection:
            connection.execute(schema.snapshot.delete())
        page = browser.get(f"/acts/undo?batch={batch.id}").words
        assert "Batch has changed no message of which a snapshot is kept; nothing is left to undo." in page

    def test_of_what_cannot_be_undone_says_why(self, browser: Browser, kept: Ledger) -> None:
        going = kept.queue.modify("g1", ["m1"], unread=False, undoable=True)
        plain = kept.queue.modify("g1", ["m1"], unread=False)
        sends = kept.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch())
        for batch, says in ((going, "Batch still goes on"), (plain, "keeps no snapshots"), (sends, "batch of sends")):
            page = browser.get(f"/acts/undo?batch={batch.id}")
            assert (page.status, says in page.words) == (200, True), page.words
            assert ("Undo a batch" in page.words, "0 changes" in page.words) == (True, False)
            assert "/acts/undo" not in browser.get(f"/batches/{batch.id}").text
        assert browser.get("/acts/undo").status == 404


class TestApproval:
    def test_that_is_over_a_budget_is_named(self, browser: Browser, kept: Ledger) -> None:
        kept.budgets = Budgets([Budget("default", "", 1, 86_400 * SECOND)])
        jobs = [absorbed(kept), absorbed(kept)]
        kept.finish(kept.serve(jobs_each=1))
        kept.set_lane(ready_at=0)
        kept.claim(kept.offer())
        (waits,) = [job for job in jobs if kept.job(job).state == "queued"]
        assert "Over the budget of default : 1 of 1 per day began" in browser.get("/").words
        assert "over the budget of 1 a day for application default" in browser.get(f"/jobs/{waits}").words

    @pytest.mark.parametrize(("name", "done"), [("approve", "Approved 1 job"), ("reject", "Rejected 1 job")])
    def test_of_a_job_from_its_page(self, browser: Browser, kept: Ledger, name: str, done: str) -> None:
        job = absorbed(kept, needs_approval=True)
        assert "1 wait for approval" in browser.get("/").words
        page = browser.get(f"/jobs/{job}")
        assert "waits for approval" in page.words
        assert f"/acts/{name}?job={job}" in page.text
        assert f"/acts/hold-job?job={job}" in page.text
        assert "Wait for approval 1" in browser.get(f"/acts/{name}?job={job}").words
        assert done in act(browser, f"/acts/{name}?job={job}", reason="read it").words
        assert events_of(kept) == [(name, "anna", "read it")]
        assert "approved already" in browser.get(f"/acts/approve?job={job}").words or name == "reject"

    def test_of_all_that_match_the_list_and_of_a_batch(self, browser: Browser, kept: Ledger) -> None:
        jobs = [absorbed(kept, needs_approval=True) for _ in range(2)]
        page = browser.get("/jobs?rule=needs_approval")
        assert "Approve all that match" in page.words
        assert "Approved 2 jobs" in act(browser, "/acts/approve?rule=needs_approval", reason="read").words
        assert all(kept.job(job).approved_at for job in jobs)
        batch = kept.queue.delete("g1", ["m1", "m2", "m3"], needs_approval=True).id
        assert "3 of its jobs wait for approval" in browser.get(f"/batches/{batch}").words
        assert "Rejected 3 jobs" in act(browser, f"/acts/reject?batch={batch}", reason="all wrong").words
        assert "none of its jobs waits for approval" in browser.get(f"/acts/approve?batch={batch}").words

    def test_is_of_the_content_that_was_shown(self, browser: Browser, kept: Ledger) -> None:
        """Of one job that of its page, or else of the preview; of many what it was at the preview."""
        one, two = absorbed(kept, needs_approval=True), absorbed(kept, needs_approval=True)
        other = MESSAGE.model_copy(update={"subject": "another"})
        assert f"/acts/approve?job={one}&amp;content=0" in browser.get(f"/jobs/{one}").text
        assert browser.get(f"/acts/approve?job={one}").field("content") == "0"
        kept.queue.replace(str(one), other)
        assert "its content is another one: version 1, not 0" in browser.get(f"/acts/approve?job={one}&content=0").words
        assert "Content version 1" in browser.get(f"/jobs/{one}").words
        assert browser.get(f"/acts/approve?job={one}").field("content") == "1"
        assert browser.get(f"/acts/approve?job={one}&content=x").status == 400
        page = browser.get("/acts/approve?rule=needs_approval")
        kept.clock.at = clock.now()
        kept.queue.replace(str(two), other)
        form = {name: page.field(name) for name in ("csrf", "id", "rule", "until")} | {"reason": "read"}
        assert browser.post("/acts/approve", form).status == 303
        eventually(lambda: kept.job(one).approved_at is not None, "the approval")
        assert kept.job(two).approved_at is None
