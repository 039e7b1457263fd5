"""Every page of the console: what it shows, how its lists are filtered and paged, and that it shows nothing private."""

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from starlette.applications import Starlette
from starlette.routing import Mount

from sendq import Message, NewBatch, Operators, Scope, Send
from sendq.clock import SECOND, moment
from sendq.console import anyone, console
from sendq.console.live import Rendered
from sendq.console.pages import PAGES
from sendq.console.runs import Facts, Run, RunState
from sendq.ids import new_id
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.db.engine import open_engine
from sendq.messages.fields import Recipient
from tests.integration.console.conftest import RULES, VERA, Seat
from tests.support.asgi import Browser
from tests.support.ledger import Ledger
from tests.support.populated import HELD_RULE, populate
from tests.support.waiting import LIMIT_S

HOUR = 3600 * SECOND
LISTS = ("/accounts", "/jobs", "/dead", "/batches", "/doubts", "/outcomes", "/suppressions", "/journal")

MARK = "plantedmark"
PRIVATE = Message(
    to=[Recipient(email=f"{MARK}-to@marked.example", name=f"{MARK} To")],
    cc=[Recipient(email=f"{MARK}-cc@marked.example", name=f"{MARK} Cc")],
    reply_to=[Recipient(email=f"{MARK}-reply@marked.example")],
    subject=f"{MARK} subject",
    body=f"<p>{MARK} body</p>",
)
HTML = "<script>alert(1)</script>"


def busy(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        populate(connection, grants=60, jobs=600, held=7, now=ledger.clock())


def dead(ledger: Ledger, grant: str = "g1", rule: str = "bad_request", error: str = "it was refused") -> str:
    job = ledger.send(grant, provider="google")
    ledger.absorb()
    now = ledger.clock()
    ledger.set_job(job, state="dead", rule=rule, finished_at=now, attempts=1)
    with ledger.writing() as connection:
        insert_rows(connection, schema.attempt, [{
            "id": new_id(), "job_id": job, "generation": 0, "begun_at": now, "ended_at": now + SECOND, "status": 400,
            "rule": rule, "route": "dead_letter", "sent": "no", "error": error, "replayed": False,
        }])  # fmt: skip
    return str(job)


class TestEveryPage:
    def test_shows_what_an_empty_ledger_means(self, browser: Browser) -> None:
        assert "No worker is registered." in browser.get("/").words
        for path in LISTS:
            page = browser.get(path)
            assert page.status == 200
            assert 'class="empty"' in page.text, path

    def test_shows_a_ledger_after_a_busy_day(self, browser: Browser, kept: Ledger) -> None:
        busy(kept)
        said = {path: browser.get(path).words for path in ("/", *LISTS)}
        assert "Queued 72" in said["/"]
        assert "Dead letters 12 given up" in said["/"]
        assert "sendq1@mail-1 leads running 100" in said["/"]
        assert said["/accounts"].count(HELD_RULE) == 7
        assert "recipients_invalid Bad request 4" in said["/dead"]
        assert "Correct the addresses in the payload" in said["/dead"]
        assert said["/doubts"].count("no_answer") == 6
        assert "https://shop.example" in said["/outcomes"]
        assert "990 of 1,000" in said["/batches"]

    def test_is_found_from_every_other_one(self, browser: Browser) -> None:
        links = set(re.findall(r'<a href="(/[a-z]*)"', browser.get("/").text))
        assert set(LISTS) <= links
        assert {path for path in PAGES if "{" not in path} == {"/", "/search", *LISTS}

    def test_that_does_not_exist_says_where_to_look(self, browser: Browser) -> None:
        for path in ("/nothing", "/jobs/nothing", "/jobs/0192f0c1-2f3e-7c4d-9a5b-0123456789ab", "/batches/x", "/acts/x",
                     "/runs/x"):  # fmt: skip
            assert browser.get(path).status == 404, path

    def test_takes_no_other_method(self, browser: Browser) -> None:
        assert browser.post("/jobs", {}).status == 405

    def test_is_nobodys_who_is_not_signed_in(self, browser: Browser, seat: Seat) -> None:
        seat.person = None
        for path in ("/", *LISTS, "/search?q=x", "/acts/hold?provider=google", "/runs/x"):
            page = browser.get(path)
            assert page.status == 403, path
            assert "<table" not in page.text

    def test_is_mounted_at_any_path(self, kept: Ledger, seat: Seat) -> None:
        job = dead(kept)
        inner = console(Operators(kept.engine), who=seat, rules=RULES)
        browser = Browser(Starlette(routes=[Mount("/mail/queue", inner)]))
        page = browser.get("/mail/queue/dead")
        assert page.status == 200
        links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text)
        assert [link for link in links if not link.startswith("/mail/queue/")] == []
        assert f'href="/mail/queue/jobs/{job}"' in page.text
        assert 'aria-current="page">Dead letters' in page.text
        assert browser.get(f"/mail/queue/search?q={job}").headers["location"] == f"/mail/queue/jobs/{job}"


class TestNothingPrivate:
    def test_of_a_mail_is_on_any_page(self, browser: Browser, kept: Ledger) -> None:
        sent = kept.queue.send("g1", PRIVATE, key=f"{MARK}-key@marked.example", provider="google")
        batch = kept.queue.modify("g1", ["message-1"], unread=False)
        kept.absorb()
        paths = [
            "/", *LISTS, f"/jobs/{sent.id}", f"/batches/{batch.id}", "/accounts/default/g1",
            f"/acts/cancel?job={sent.id}", f"/acts/cancel-batch?batch={batch.id}", "/acts/hold?grant=g1",
        ]  # fmt: skip
        for state in ("queued", "dead", "in_doubt", "expired", "cancelled"):
            kept.set_job(kept.rows(schema.job)[0].id, state=state, finished_at=kept.clock(), rule="bad_request")
            for path in paths:
                assert MARK not in browser.get(path).text, path

    def test_is_html_that_came_with_a_name_or_an_answer(self, browser: Browser, kept: Ledger) -> None:
        job = dead(kept, rule=HTML, error=HTML)
        with kept.writing() as connection:
            events.append(connection, "hold", at=kept.clock(), by=HTML, application="default", grant_id="g1",
                          reason=HTML)  # fmt: skip
            insert_rows(connection, schema.worker, [{
                "id": new_id(), "name": HTML, "pid": 1, "version": HTML, "started_at": 1, "beats": 1, "beat_at": 1,
                "silent": 0, "stale_after": 1, "capacity": 1, "stopping": False,
            }])  # fmt: skip
        kept.set_lane("g1", held_until=kept.clock() + HOUR, held_since=kept.clock(), held_rule=HTML, held_by=HTML)
        paths = ("/", *LISTS, f"/jobs/{job}", "/accounts/default/g1", f"/dead?rule={HTML}", f"/journal?by={HTML}",
                 f"/search?q={HTML}", f"/acts/retry?rule={HTML}")  # fmt: skip
        for path in paths:
            page = browser.get(path)
            assert page.status in (200, 404), page.words
            assert HTML not in page.text, path
        assert "alert(1)" in browser.get("/journal").words


class TestLists:
    @pytest.mark.parametrize("path", ["/jobs", "/accounts", "/journal", "/outcomes"])
    def test_go_on_page_by_page_without_a_row_twice(self, browser: Browser, kept: Ledger, path: str) -> None:
        busy(kept)
        seen: list[str] = []
        url: str | None = path
        pages = 0
        while url is not None:
            page = browser.get(url)
            seen += re.findall(r"<tr>.*?</tr>", page.text.partition("<tbody>")[2], re.DOTALL)
            following = re.search(r'rel="next" href="([^"]*)"', page.text)
            url = following[1].replace("&amp;", "&") if following else None
            pages += 1
        wanted = {"/jobs": 600, "/accounts": 60, "/journal": 8, "/outcomes": 120}[path]
        assert (len(seen), pages) == (wanted, -(-wanted // 50))
        # Relative times move on from page to page, so rows are told apart by their links.
        links = [tuple(re.findall(r'href="([^"]*)"', row)) for row in seen]
        assert path == "/outcomes" or len(set(links)) == wanted

    def test_keep_their_filters_in_the_address_as_chips(self, browser: Browser, kept: Ledger) -> None:
        busy(kept)
        page = browser.get("/jobs?state=dead&provider=google&rule=bad_request&since=7d")
        chips = re.findall(r'class="chip" href="([^"]*)"[^>]*>([^:]*): <b>([^<]*)', page.text)
        assert [(label, value) for _, label, value in chips] == [
            ("State", "dead"), ("Rule", "bad_request"), ("Provider", "google"), ("Since", "last 7 days"),
        ]  # fmt: skip
        assert chips[0][0].replace("&amp;", "&") == "/jobs?provider=google&rule=bad_request&since=7d"
        assert '<option value="dead" selected>' in page.text

    def test_are_filtered_by_each_filter(self, browser: Browser, kept: Ledger) -> None:
        busy(kept)

        def rows(url: str) -> int:
            page = browser.get(url)
            assert page.status == 200, page.words
            return page.text.partition("<tbody>")[2].count("<tr>")

        assert (
            rows("/accounts?state=held") == rows(f"/accounts?rule={HELD_RULE}") == rows("/accounts?provider=ews") == 7
        )
        assert rows("/accounts?text=00000003") == 1
        assert rows("/jobs?state=in_doubt") == rows("/doubts?rule=no_answer") == 6
        assert rows("/batches?state=running") == 10
        assert rows("/outcomes?state=given_up") == 40
        assert rows("/journal?kind=closed") == 1
        for url in ("/jobs?grant=g-none", "/accounts?application=other", "/journal?by=nobody", "/dead?rule=none"):
            assert "Nothing matches these filters." in browser.get(url).words

    def test_of_jobs_are_filtered_by_what_became_of_their_mail(self, browser: Browser, kept: Ledger) -> None:
        batch = kept.queue.send_many([Send("g1", PRIVATE), Send("g2", PRIVATE)], batch=NewBatch())
        kept.absorb()
        job = kept.rows(schema.job)[0].id
        now = kept.clock()
        kept.set_job(job, state="sent", finished_at=now)
        with kept.writing() as connection:
            insert_rows(connection, schema.delivery_status, [{
                "job_id": job, "delivery": "bounced", "at": now, "source": "message.bounced", "noted_at": now,
                "generation": 0,
            }])  # fmt: skip
        link = re.findall(r'href="([^"]*)">Its bounces', browser.get(f"/batches/{batch.id}").text)[0]
        page = browser.get(link.replace("&amp;", "&"))
        assert page.text.partition("<tbody>")[2].count("<tr>") == 1
        assert f'href="/jobs/{job}"' in page.text
        assert "/acts/retry" not in browser.get("/jobs?state=dead&delivery=bounced").text
        assert "Nothing matches" in browser.get("/jobs?delivery=complained").words

    def test_name_the_category_of_a_suppression(self, browser: Browser, kept: Ledger) -> None:
        for category in (None, "news"):
            Operators(kept.engine, now=kept.clock).suppress(
                ["leyah@example.com"], category=category, by="ann", reason="asked"
            ).finish()
        words = browser.get("/journal").words
        assert "application default category news" in words
        assert "application default all mail" in words

    @pytest.mark.parametrize(
        "query",
        ["state=nonsense", "since=1s", "after=nonsense", "grant=leyah@example.com", "batch=17", "application=%00"],
    )
    def test_survive_any_address(self, browser: Browser, query: str) -> None:
        for path in LISTS:
            page = browser.get(f"{path}?{query}")
            assert page.status in (200, 400, 404), page.words


class TestAJob:
    @pytest.mark.parametrize("name", ["id", "key", "message id"])
    def test_is_found_by_any_of_its_names(self, browser: Browser, kept: Ledger, name: str) -> None:
        job = kept.send("g1", key="invoice 42/7", provider="google")
        kept.absorb()
        kept.set_job(job, state="sent", message_id="<message-1@provider>", finished_at=kept.clock())
        text = {"id": str(job), "key": "invoice+42%2F7", "message id": "%3Cmessage-1%40provider%3E"}[name]
        answer = browser.get(f"/search?q=+{text}")
        assert (answer.status, answer.headers["location"]) == (303, f"/jobs/{job}")

    def test_that_waits_says_why_and_until_when(self, browser: Browser, kept: Ledger) -> None:
        job = kept.send("g1", provider="ews")
        kept.absorb()
        now = kept.clock()
        kept.set_lane("g1", held_until=now + HOUR, held_since=now, held_rule=HELD_RULE, held_by="policy")
        page = browser.get(f"/jobs/{job}")
        assert "Until 20" in page.words
        assert RULES[HELD_RULE].remedy in page.words
        assert "No call has been made for it so far." in page.words
        assert f'href="/acts/cancel?job={job}"' in page.text

    def test_that_expires_before_its_wait_ends_says_so(self, browser: Browser, kept: Ledger) -> None:
        job = kept.send("g1", provider="ews")
        kept.absorb()
        now = kept.clock()
        kept.set_job(job, expires_at=now + HOUR // 2)
        kept.set_lane("g1", held_until=now + HOUR, held_since=now, held_rule=HELD_RULE, held_by="policy")
        assert "It expires before that" in browser.get(f"/jobs/{job}").words

    def test_that_waits_for_its_owner_has_the_link_to_sign_in(self, browser: Browser, kept: Ledger) -> None:
        job = kept.send("g1")
        kept.absorb()
        kept.set_lane("g1", closed_at=kept.clock(), closed_rule="grant_expired")
        for path in (f"/jobs/{job}", "/accounts/default/g1", "/accounts"):
            assert 'href="https://shop.example/sign-in?grant=g1"' in browser.get(path).text, path

    def test_shows_each_attempt_with_the_rule_that_decided(self, browser: Browser, kept: Ledger) -> None:
        page = browser.get(f"/jobs/{dead(kept)}")
        assert "dead letter 400 after 1 s, rule bad_request" in page.words
        assert RULES["bad_request"].why in page.words
        assert "it was refused" in page.words
        assert RULES["bad_request"].remedy in page.words


class TestAGrant:
    def test_shows_its_state_pace_and_timeline(self, browser: Browser, kept: Ledger) -> None:
        kept.send("g1", provider="google")
        kept.absorb()
        now = kept.clock()
        kept.set_lane(
            "g1", held_until=now + HOUR, held_since=now, held_rule="rate_limited", held_by="policy", stretch=2 * SECOND
        )
        with kept.writing() as connection:
            events.append(connection, "hold", at=now, by="anna", application="default", grant_id="g1", reason="moving")
        page = browser.get("/accounts/default/g1")
        assert "Nothing is sent until" in page.words
        assert "a call every 2 s" in page.words
        assert "hold by anna: moving" in page.words
        assert re.search(r"The last of them starts in (59|60) min", page.words)
        assert "1 jobs" in page.words

    def test_that_has_had_no_job_is_shown_as_such(self, browser: Browser) -> None:
        assert "seen no job of this grant yet" in browser.get("/accounts/default/g-new").words


class TestLiveUpdates:
    def test_send_what_changed(self, browser: Browser, kept: Ledger) -> None:
        def enqueue(seen: int) -> None:
            if seen == 1:
                kept.send("g1")

        first, second = browser.events("/jobs", 2, enqueue)
        assert first.startswith('event: page\ndata: "')
        assert "The ledger has no job." in first
        assert "queued" in second
        assert "csrf" not in second

    def test_of_many_viewers_are_one_query(self, application: Starlette, kept: Ledger) -> None:
        desk = application.state.desk
        desk.fragments.every_s = 60.0
        asked: list[int] = []
        overview = desk.operators.overview

        def counted() -> Any:
            asked.append(1)
            return overview()

        desk.operators.overview = counted
        for _ in range(5):
            assert len(Browser(application).events("/", 1)) == 1
        assert len(asked) == 1

    def test_end_when_somebody_is_signed_out(self, browser: Browser, seat: Seat) -> None:
        def leave(seen: int) -> None:
            seat.person = None

        assert [one.split("\n")[0] for one in browser.events("/", 2, leave)] == ["event: page", "event: ended"]

    def test_show_no_operators_links_to_viewers(self, browser: Browser, kept: Ledger, seat: Seat) -> None:
        dead(kept)
        assert "/acts/retry" in browser.events("/dead", 1)[0]
        seat.person = VERA
        assert "/acts/" not in browser.events("/dead", 1)[0]
        assert "/acts/" not in browser.get("/dead").text


class TestALedgerThatIsAway:
    @pytest.fixture
    def lost(self, kept: Ledger, tmp_path: Any) -> tuple[Browser, Engine]:
        engine = open_engine(f"sqlite:///{tmp_path}/none/ledger.db")
        return Browser(console(Operators(engine), who=anyone, every_s=0.02)), engine

    def test_is_said_with_the_remedy_and_the_page_comes_back_by_itself(self, lost: tuple[Browser, Engine]) -> None:
        browser, _ = lost
        for path in ("/", *LISTS, "/search?q=x"):
            page = browser.get(path)
            assert page.status == 503
            assert "The ledger cannot be reached" in page.words
            assert '<meta http-equiv="refresh" content="5">' in page.text
            assert page.headers["retry-after"] == "5"

    def test_keeps_the_page_of_a_form_that_was_sent(
        self, browser: Browser, application: Starlette, kept: Ledger
    ) -> None:
        from sendq.errors import LedgerUnavailable

        def away(*_: Any) -> Any:
            raise LedgerUnavailable("the ledger cannot be reached: connection refused")

        url = f"/acts/replace?job={kept.send('g1')}"
        page = browser.get(url)
        application.state.desk.operators.job = away
        form = {name: page.field(name) for name in ("csrf", "id", "job", "content")}
        sent = browser.post("/acts/replace", form | {"message": "{}", "reason": "a typo"})
        assert (sent.status, "Go back in your browser, and send the form again." in sent.words) == (503, True)
        assert ('http-equiv="refresh"' in sent.text, "retry-after" in sent.headers) == (False, False)
        assert 'http-equiv="refresh"' in browser.get(url).text

    def test_interrupts_live_updates_and_they_recover(self, browser: Browser, application: Starlette) -> None:
        from sendq.errors import LedgerUnavailable

        desk = application.state.desk
        overview = desk.operators.overview

        def away() -> Any:
            raise LedgerUnavailable("the ledger cannot be reached: connection refused")

        def during(seen: int) -> None:
            desk.operators.overview = away if seen == 1 else overview

        kinds = [one.split("\n")[0] for one in browser.events("/", 3, during)]
        assert kinds == ["event: page", "event: trouble", "event: page"]


def test_the_end_of_its_lifespan_ends_streams_and_asks_acts_to_stop(application: Starlette) -> None:
    desk = application.state.desk
    desk.fragments.every_s = LIMIT_S
    run = Run("12345678", "Cancel", "anna", "because", "/")
    steps, go_on = queue.Queue[Facts](), threading.Event()

    def parts() -> Iterator[Facts]:
        while True:
            steps.put(())
            yield ()
            go_on.wait(LIMIT_S)

    async def render() -> Rendered:
        return Rendered("page", "x")

    async def allowed() -> bool:
        return True

    async def live() -> list[str]:
        async with application.router.lifespan_context(application):
            stream = desk.fragments.stream(("key",), render, allowed)
            seen = [await anext(stream), await anext(stream)]
        async with asyncio.timeout(LIMIT_S / 2):
            return seen + [event async for event in stream]

    desk.runs.begin(run, parts)
    steps.get(timeout=LIMIT_S)
    assert len(asyncio.run(live())) == 2
    go_on.set()
    assert run.ended.wait(LIMIT_S)
    assert run.state is RunState.STOPPED


class TestTags:
    def test_are_chips_links_and_holds(self, browser: Browser, kept: Ledger) -> None:
        batch = kept.queue.send_many(
            [Send("g1", PRIVATE), Send("g2", PRIVATE)], batch=NewBatch(tags={"campaign": "may"}, open=True)
        )
        kept.absorb()
        operators = Operators(kept.engine)
        until = moment(kept.clock() + HOUR)
        operators.hold(Scope.of_tag("campaign=may"), until=until, by="anna", reason="wrong price")
        listed = browser.get("/jobs?tag=campaign%3Dmay").text
        assert "Tag: <b>campaign=may" in listed
        assert "/acts/release?tag=campaign%3Dmay" in listed
        link = 'href="/jobs?tag=campaign%3Dmay">campaign=may</a>'
        (job, _) = operators.jobs(tag="campaign=may").items
        for path in ("/", f"/jobs/{job.id}", f"/batches/{batch.id}", "/journal"):
            assert link in browser.get(path).text, path
        assert "the tag campaign=may is held" in browser.get(f"/jobs/{job.id}").text.lower()
        assert "more may be added" in browser.get(f"/batches/{batch.id}").text
        assert "2 jobs" in browser.get("/acts/release?tag=campaign%3Dmay").text
