"""What Nylas's send events say: of known and unknown shapes, page by page. The API is a function here."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from sendq import Delivery
from sendq.clock import SECOND
from sendq.webhooks.send_event import notice_of_event
from tasks.calling.nylas import NylasClient
from tasks.calling.send_events import ReadEvents, read_events
from tasks.policy.failure import Answer

NOW = 1_780_000_000 * SECOND
EVENT = {
    "id": "e1", "event_type": "bounced", "bounce_class": "hard", "grant_id": "g1", "message_id": "m1",
    "recipient": "leyah@example.com", "reason": "General (5.1.1) <leyah@example.com>", "timestamp": 1_779_999_000,
}  # fmt: skip


def event(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**EVENT, **changes}.items() if value is not None}


class TestAnEvent:
    @pytest.mark.parametrize(
        ("kind", "delivery"),
        [
            ("delivered", Delivery.DELIVERED),
            ("bounced", Delivery.BOUNCED),
            ("complaint", Delivery.COMPLAINED),
            ("rejected", Delivery.REJECTED),
            ("accepted", None),  # a mail that is queued may still fail: no evidence that it went out
        ],
    )
    def test_is_a_notice_about_one_recipient(self, kind: str, delivery: Delivery | None) -> None:
        notice = notice_of_event(event(event_type=kind), now=NOW)
        assert notice is not None
        assert (notice.kind, notice.delivery, notice.message_id) == (f"send_event.{kind}", delivery, "m1")
        assert [one.address for one in notice.recipients] == ["leyah@example.com"]
        assert notice.at == 1_779_999_000 * SECOND
        assert [one.hard for one in notice.recipients] == [kind == "bounced"]
        assert notice.detail is not None
        assert "leyah" not in notice.detail

    @pytest.mark.parametrize("name", ["timestamp", "event_time", "occurred_at", "created_at", "time", "date"])
    @pytest.mark.parametrize("value", [1_779_999_000, "2026-05-28T20:10:00Z"])
    def test_may_call_its_time_by_another_name(self, name: str, value: object) -> None:
        notice = notice_of_event(event(**{"timestamp": None, name: value}), now=NOW)
        assert notice is not None
        assert notice.at == 1_779_999_000 * SECOND

    def test_without_a_time_or_recipient_is_one_all_the_same(self) -> None:
        notice = notice_of_event(event(timestamp=None, recipient=None), now=NOW)
        assert notice is not None
        assert (notice.at, notice.recipients) == (None, ())

    @pytest.mark.parametrize(
        "strange",
        [
            None, [], "bounced", 7, {},
            event(event_type="opened"), event(event_type=None), event(event_type=["bounced"]),
            event(id=None), event(id=""), event(id=7), event(id="x" * 300),
            event(grant_id=None), event(grant_id={}), event(message_id=None), event(message_id="a\nb"),
        ],
    )  # fmt: skip
    def test_of_another_shape_is_none(self, strange: object) -> None:
        assert notice_of_event(strange, now=NOW) is None


class Api:
    """Answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), list[dict[str, str]]()

    async def send_events(self, application: object, query: dict[str, str]) -> Answer:
        self.asked.append(dict(query))
        return self.answers.pop(0)

    def read(self, *, pages: int = 20, since: int = 0) -> ReadEvents:
        client = cast(NylasClient, self)
        return asyncio.run(read_events(client, cast(Any, None), since=since, now=NOW, pages=pages))


def page(*events: object, cursor: object = None, status: int = 200) -> Answer:
    return Answer(status, {}, json.dumps({"data": events, "next_cursor": cursor}).encode())


class TestReading:
    def test_goes_page_by_page_to_the_last(self) -> None:
        api = Api(page(event(id="e1"), cursor="p2"), page(event(id="e2")))
        assert [one.id for one in api.read().notices] == ["send_event.e1", "send_event.e2"]
        assert [query.get("page_token") for query in api.asked] == [None, "p2"]

    def test_ends_with_the_page_that_is_older_than_wanted(self) -> None:
        since = 1_779_999_000 * SECOND
        old = event(id="e2", timestamp=1_779_998_999)
        api = Api(page(event(id="e1"), old, cursor="p2"))
        assert [one.id for one in api.read(since=since).notices] == ["send_event.e1"]

    def test_stays_within_its_budget(self) -> None:
        api = Api(*[page(event(id=f"e{number}"), cursor="more") for number in range(9)])
        assert len(api.read(pages=3).notices) == len(api.asked) == 3

    @pytest.mark.parametrize("status", [403, 404, 405, 410, 501])
    def test_knows_that_there_is_no_such_endpoint(self, status: int) -> None:
        assert Api(page(status=status)).read().absent

    @pytest.mark.parametrize(
        "answer",
        [
            page(status=500), page(status=429), page(status=401), Answer(None, {}, b"", "timeout"),
            Answer(200, {}, b"<html>"), Answer(200, {}, b"[]"), Answer(200, {}, b'{"data": {}}'),
            Answer(200, {}, b"[" * 100_000), Answer(200, {}, b'{"data": [', "cut"),
        ],
    )  # fmt: skip
    def test_ends_with_an_answer_that_is_no_page_and_proves_nothing(self, answer: Answer) -> None:
        assert Api(answer).read() == ReadEvents([])
        read = Api(page(event(), cursor="p2"), answer).read()
        assert [one.id for one in read.notices] == ["send_event.e1"]

    def test_counts_what_it_does_not_know(self) -> None:
        read = Api(page(event(event_type="opened"), 7, event())).read()
        assert (len(read.notices), read.unknown) == (1, 2)

    def test_does_without_a_limit_if_it_is_refused(self) -> None:
        api = Api(page(status=400), page(event()))
        assert len(api.read().notices) == 1
        assert ["limit" in query for query in api.asked] == [True, False]
