"""Unsubscribe links on both databases: the endpoint, what it stores, and what it does to the next mail."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import pytest

from sendq import InvalidArgument, Message, Operators, SendQueue, SuppressedRecipients
from sendq.async_queue import AsyncSendQueue
from sendq.ledger.db import schema
from sendq.testing import enqueued
from sendq.vault import Vault
from sendq.webhooks import asgi, unsubscribe_asgi
from sendq.webhooks.link_pages import BUSY, NOT_ASKED, UNKNOWN, done
from sendq.webhooks.unsubscribing import AT_ONCE, BODY_MOST, BURST, RATE, Endpoint
from tests.integration.ledger.test_suppression import LEYAH, NOOR, listed
from tests.integration.ledger.test_webhooks import envelope, signed
from tests.support.asgi import Answer, Browser
from tests.support.ledger import Ledger
from tests.support.waiting import LIMIT_S

URL = "https://mail.example.com/unsubscribe"
ONE_CLICK = b"List-Unsubscribe=One-Click"
DONE = done("newsletter")


@pytest.fixture
def queue(ledger: Ledger) -> SendQueue:
    ledger.queue = SendQueue(ledger.engine, now=ledger.clock, unsubscribe_url=URL)
    return ledger.queue


def link_in(queue: SendQueue, **options: Any) -> str:
    """The path of the link in the headers of a newsletter, as a mail program has it."""
    queue.send("g1", Message(to=[LEYAH], unsubscribe="newsletter"), **options)
    body = enqueued(queue)[-1].body
    assert body is not None
    header = {one["name"]: one["value"] for one in body["custom_headers"]}["List-Unsubscribe"]
    return str(header[len("<https://mail.example.com") : -1])


def token_of(queue: SendQueue, recipient: str) -> str:
    return queue.unsubscribe_url(recipient, "newsletter").rpartition("/")[2]


def one_click(application: Any, path: str, body: bytes = ONE_CLICK, **headers: str) -> Answer:
    given = {"content-type": "application/x-www-form-urlencoded"} | headers
    return Browser(application).request("POST", path, body, given)


class TestALink:
    def test_puts_the_person_on_the_list_of_its_category_once(self, ledger: Ledger, queue: SendQueue) -> None:
        path, application = link_in(queue), asgi(queue, secret="s3cret")
        for _ in range(2):
            answer = one_click(application, path)
            assert (answer.status, answer.cookies) == (200, [])
        assert listed(ledger) == [("default", LEYAH, "newsletter", "unsubscribed")]
        (entry,) = queue.suppressions(LEYAH)
        assert (entry.category, entry.source) == ("newsletter", "one-click")
        with pytest.raises(SuppressedRecipients, match="unsubscribed"):
            queue.send("g1", Message(to=[LEYAH], unsubscribe="newsletter"))
        queue.send("g1", Message(to=[LEYAH]))
        queue.send("g1", Message(to=[LEYAH], unsubscribe="offers"))
        queue.send("g1", Message(to=[NOOR], unsubscribe="newsletter"))

    def test_of_another_application_changes_that_ones_list(self, ledger: Ledger, queue: SendQueue) -> None:
        assert (
            one_click(unsubscribe_asgi(queue, path="/unsubscribe"), link_in(queue, application="other")).status == 200
        )
        assert listed(ledger) == [("other", LEYAH, "newsletter", "unsubscribed")]

    def test_in_form_data_counts_too(self, ledger: Ledger, queue: SendQueue) -> None:
        body = b'--b\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b--\r\n'
        answer = one_click(
            asgi(queue, secret="x"), link_in(queue), body, **{"content-type": "multipart/form-data; boundary=b"}
        )
        assert (answer.status, len(listed(ledger))) == (200, 1)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_that_is_only_looked_at_changes_nothing(self, ledger: Ledger, queue: SendQueue, method: str) -> None:
        answer = Browser(asgi(queue, secret="x")).request(method, link_in(queue))
        assert (answer.status, listed(ledger)) == (200, [])
        assert ("<button>Unsubscribe</button>" in answer.text) == (method == "GET")
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "script" not in answer.headers["content-security-policy"]

    def test_shows_a_form_that_unsubscribes(self, ledger: Ledger, queue: SendQueue) -> None:
        path, browser = link_in(queue), Browser(asgi(queue, secret="x"))
        page = browser.get(path)
        done = browser.post(path, {"List-Unsubscribe": page.field("List-Unsubscribe")})
        assert (done.status, done.words.startswith("Unsubscribed")) == (200, True)
        assert len(listed(ledger)) == 1

    def test_that_was_altered_changes_nothing(self, ledger: Ledger, queue: SendQueue) -> None:
        path, application = link_in(queue), asgi(queue, secret="x")
        start, _, token = path.rpartition("/")
        data = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        forged = [token[:-1], token + "A", token + "/x", "", "%00", "x" * 5_000]
        for place in (0, 3, 20, 30, len(data) - 1):
            data[place] ^= 1
            forged.append(base64.urlsafe_b64encode(data).decode().rstrip("="))
            data[place] ^= 1
        for one in forged:
            for method in ("GET", "POST"):
                answer = Browser(application).request(method, f"{start}/{one}", ONE_CLICK if method == "POST" else b"")
                assert answer.status in (400, 404), one
        assert listed(ledger) == []

    def test_shows_its_category_escaped_and_what_the_button_does(self, queue: SendQueue) -> None:
        link = queue.unsubscribe_url(LEYAH, "<b>tips & news</b>").removeprefix("https://mail.example.com")
        page = Browser(asgi(queue, secret="x")).get(link)
        assert "Press the button to stop mail of the kind “<b>tips & news</b>”." in page.words
        assert "“&lt;b&gt;tips &amp; news&lt;/b&gt;”" in page.text
        assert "no more mail" not in page.text
        assert "no more mail of the kind “<b>tips & news</b>”" in one_click(asgi(queue, secret="x"), link).words

    @pytest.mark.parametrize(("version", "closes"), [("1.1", True), ("1.0", True), ("2", False), ("3", False)])
    def test_closes_the_connection_where_the_protocol_allows_it(
        self, queue: SendQueue, version: str, closes: bool
    ) -> None:
        browser = Browser(asgi(queue, secret="x"))
        browser.sent_as = {"http_version": version}
        answer = browser.request("POST", link_in(queue), b"x" * (BODY_MOST + 1))
        assert (answer.status, "connection" in answer.headers) == (413, closes)

    def test_that_is_posted_to_is_logged_without_its_token(
        self, queue: SendQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "sendq.webhooks")
        path, application = link_in(queue), asgi(queue, secret="x")
        for body in (ONE_CLICK, b"", b"x" * (BODY_MOST + 1)):
            one_click(application, path, body)
        assert one_click(application, "/nowhere").status == 404
        assert [text.split(",")[0] for text in caplog.messages] == [
            "unsubscribe: 200", "unsubscribe: 400", "unsubscribe: 413", "webhook: 404",
        ]  # fmt: skip
        assert path.rpartition("/")[2] not in caplog.text

    @pytest.mark.parametrize("body", [b"", b"List-Unsubscribe=", b"x=1", b"List-Unsubscribe=One-Cl"])
    def test_with_another_request_changes_nothing(self, ledger: Ledger, queue: SendQueue, body: bytes) -> None:
        assert one_click(asgi(queue, secret="x"), link_in(queue), body).status == NOT_ASKED.status
        assert Browser(asgi(queue, secret="x")).request("DELETE", link_in(queue)).status == 405
        assert listed(ledger) == []

    def test_with_a_body_that_is_too_large_is_refused_unread(self, ledger: Ledger, queue: SendQueue) -> None:
        path = link_in(queue)
        assert one_click(asgi(queue, secret="x"), path, ONE_CLICK + b"x" * BODY_MOST).status == 413
        big = {"content-length": "999999999"}
        assert one_click(asgi(queue, secret="x"), path, b"", **big).status == 413
        assert listed(ledger) == []

    def test_needs_the_ledgers_key_and_survives_another_one(self, ledger: Ledger, queue: SendQueue) -> None:
        first, second = {"k1": bytes(32)}, {"k2": bytes([2]) * 32}
        queue._vault = Vault(first)
        path = link_in(queue)

        Operators(ledger.engine).rekey(Vault(second | first), by="ann").finish()
        after = SendQueue(ledger.engine, now=ledger.clock, unsubscribe_url=URL, vault=Vault(second))
        assert one_click(asgi(after, secret="x"), path).status == 200
        with pytest.raises(SuppressedRecipients):
            after.send("g1", Message(to=[LEYAH], unsubscribe="newsletter"))

    def test_is_answered_with_503_while_the_ledger_is_away(self, ledger: Ledger, queue: SendQueue) -> None:
        path = link_in(queue)
        away = SendQueue("postgresql+psycopg://nobody@127.0.0.1:1/none", unsubscribe_url=URL)
        assert one_click(asgi(away, secret="x"), path).status == 503

    def test_of_the_queue_is_the_one_in_the_mail(self, queue: SendQueue) -> None:
        path = link_in(queue)
        assert queue.unsubscribe_url(f"L <{LEYAH}>", "newsletter") == "https://mail.example.com" + path
        with pytest.raises(InvalidArgument):
            queue.unsubscribe_url("nobody", "newsletter")
        assert queue.unsubscribe(path.rpartition("/")[2]) is True
        assert queue.unsubscribe("nonsense") is False

    def test_in_a_transaction_that_is_rolled_back_leaves_no_key_behind(self, ledger: Ledger, queue: SendQueue) -> None:
        with ledger.writing() as connection:
            queue.send("g1", Message(to=[LEYAH], unsubscribe="newsletter"), session=connection)
            connection.rollback()
        assert one_click(asgi(queue, secret="x"), link_in(queue)).status == 200
        again = SendQueue(ledger.engine, now=ledger.clock, unsubscribe_url=URL)
        with pytest.raises(SuppressedRecipients):
            again.send("g1", Message(to=[LEYAH], unsubscribe="newsletter"))


class TestTheEndpoint:
    def test_stores_no_more_than_it_has_room_for(self, ledger: Ledger, queue: SendQueue) -> None:
        tokens = [token_of(queue, f"a{number}@example.com") for number in range(3)]
        at = [0.0]
        endpoint = Endpoint(queue, clock=lambda: at[0])

        async def story() -> None:
            for _ in range(BURST + 1):
                assert await endpoint.unsubscribe("forged", ONE_CLICK) is UNKNOWN
            endpoint._room = 1.0
            assert await endpoint.unsubscribe(tokens[0], ONE_CLICK) == DONE
            assert await endpoint.unsubscribe(tokens[1], ONE_CLICK) is BUSY
            at[0] += 1 / RATE
            assert await endpoint.unsubscribe(tokens[2], ONE_CLICK) == DONE

        asyncio.run(story())

    def test_answers_repeats_without_the_room_of_others(self, ledger: Ledger, queue: SendQueue) -> None:
        mine, others = token_of(queue, LEYAH), token_of(queue, NOOR)
        endpoint = Endpoint(queue, clock=lambda: 0.0)

        async def story() -> None:
            endpoint._room = 2.0
            for _ in range(3):
                at_once = await asyncio.gather(*(endpoint.unsubscribe(mine, ONE_CLICK) for _ in range(50)))
                assert set(at_once) == {DONE}
            assert endpoint._room == 1.0
            assert await endpoint.unsubscribe(others, ONE_CLICK) == DONE

        asyncio.run(story())
        assert len(listed(ledger)) == 2

    def test_stores_a_repeat_after_the_entry_was_removed(self, ledger: Ledger, queue: SendQueue) -> None:
        token, endpoint = token_of(queue, LEYAH), Endpoint(queue)

        async def story() -> None:
            assert await endpoint.unsubscribe(token, ONE_CLICK) == DONE
            queue.unsuppress(LEYAH, category="newsletter")
            assert await endpoint.unsubscribe(token, ONE_CLICK) == DONE

        asyncio.run(story())
        assert len(listed(ledger)) == 1

    def test_of_links_leaves_threads_for_notifications(
        self, ledger: Ledger, queue: SendQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While every link hangs in the ledger, a notification is stored at once."""
        tokens = [token_of(queue, f"a{number}@example.com") for number in range(60)]
        application, released, inside = asgi(queue, secret="s3cret"), threading.Event(), threading.Semaphore(0)
        store = queue.unsubscribe

        def hanging(token: str, **session: Any) -> bool:
            inside.release()
            assert released.wait(LIMIT_S)
            return store(token, **session)

        monkeypatch.setattr(queue, "unsubscribe", hanging)
        notice = envelope("grant.expired", ledger.clock())
        browser = Browser(application)

        async def story() -> None:
            links = [
                asyncio.create_task(browser.answer_to("POST", f"/unsubscribe/{token}", ONE_CLICK)) for token in tokens
            ]
            try:
                for _ in range(AT_ONCE):
                    assert await asyncio.to_thread(inside.acquire, timeout=LIMIT_S)
                answer = await browser.answer_to("POST", "/", notice, {"x-nylas-signature": signed(notice, "s3cret")})
                assert answer.status == 200
                assert not inside.acquire(blocking=False)
            finally:
                released.set()
                await asyncio.gather(*links)

        asyncio.run(asyncio.wait_for(story(), LIMIT_S))

    def test_serves_a_queue_for_asyncio(self, ledger: Ledger, queue: SendQueue, ledger_url: str) -> None:
        url = ledger_url.replace("postgresql+psycopg:", "postgresql:").split("?")[0]
        path = link_in(queue)

        async def story() -> None:
            own = AsyncSendQueue(url, unsubscribe_url=URL)
            try:
                assert await Endpoint(own).unsubscribe(path.rpartition("/")[2], ONE_CLICK) == DONE
            finally:
                await own.close()

        asyncio.run(story())
        assert len(ledger.rows(schema.suppression)) == 1
