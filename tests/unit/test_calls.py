"""What a job's answer means, beyond its status: pages that can be believed, deletions that were made before."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.facts.jobs import ClaimedJob
from sendq.facts.outcomes import Page
from tasks.calling.calls import SMALL_PAGE, kind_of, read_answer
from tasks.calling.page import CURSOR_MOST, IDS_MOST, read_page
from tasks.policy.failure import Answer, Failure, Success
from tests.support.facts import claimed_job


def job_of(operation: str, **given: Any) -> ClaimedJob:
    facts = {"body": b"limit=20&select=id&unread=true", "content_type": "application/x-www-form-urlencoded"}
    return claimed_job(**facts | {"operation": operation, "form": None, "object_id": "m1"} | given)


def answer(status: int, body: Any, **headers: str) -> Answer:
    return Answer(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


def listed(ids: list[Any], cursor: Any = None) -> bytes:
    return json.dumps({"request_id": "r", "data": [{"id": one} for one in ids], "next_cursor": cursor}).encode()


def read(job: ClaimedJob, given: Answer) -> tuple[Success | Failure, Page | None]:
    return read_answer(job, given, provider="google", now=0)


class TestAPage:
    def test_has_ids_and_where_the_next_one_begins(self) -> None:
        page = read_page(listed(["a", "<b@c/+d>"], "next"))
        assert page is not None
        assert (page.ids, page.cursor) == (("a", "<b@c/+d>"), "next")

    @pytest.mark.parametrize("cursor", [None, ""])
    def test_without_a_cursor_is_the_last(self, cursor: str | None) -> None:
        page = read_page(listed([], cursor))
        assert page is not None
        assert page.cursor is None

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{}", b"[]", b"<html>", b'{"data": {"id": "a"}}', b'{"data": [{"id": "a"}',
            listed([None]), listed(["a", ""]), listed(["a\0b"]), listed(["x" * 513]), listed(["a"], 7),
            listed([".", "a"]), listed([".."]),
            listed(["a"], "x" * (CURSOR_MOST + 1)), listed([f"{n}" for n in range(IDS_MOST + 1)]),
            b'{"data": ["a"]}',
        ],
    )  # fmt: skip
    def test_that_cannot_be_believed_whole_is_none(self, body: bytes) -> None:
        assert read_page(body) is None

    @given(st.binary(max_size=200))
    def test_is_read_whatever_the_bytes(self, body: bytes) -> None:
        read_page(body)


class TestTheAnswerToAListing:
    def test_brings_its_ids_and_the_request_for_the_next_page(self) -> None:
        result, page = read(job_of("list"), answer(200, listed(["a", "b"], "to & fro")))
        assert isinstance(result, Success)
        assert page is not None
        assert page.found == ("a", "b")
        assert page.following is not None
        asked = parse_qs(page.following.decode())
        assert asked == {"limit": ["20"], "select": ["id"], "unread": ["true"], "page_token": ["to & fro"]}

    def test_that_is_the_last_page_asks_for_no_other(self) -> None:
        _, page = read(job_of("list"), answer(200, listed(["a"])))
        assert page is not None
        assert page.following is None

    @pytest.mark.parametrize("body", [b'{"data": [{"id": "a"}, {"i', b"", b'{"data": {}}'])
    def test_that_cannot_be_read_is_no_success(self, body: bytes) -> None:
        result, page = read(job_of("list"), answer(200, body, **{"x-request-id": "r"}))
        assert isinstance(result, Failure)
        assert page is None

    def test_after_trouble_goes_on_in_small_pages(self) -> None:
        _, page = read(job_of("list", rule="gmail_quota"), answer(200, listed(["a"], "next")))
        assert page is not None
        assert parse_qs((page.following or b"").decode())["limit"] == [str(SMALL_PAGE)]

    @pytest.mark.parametrize("rule", [None, "not_begun", "worker_died", "worker_stopped"])
    def test_after_no_answer_at_all_does_not(self, rule: str | None) -> None:
        _, page = read(job_of("list", rule=rule), answer(200, listed(["a"], "next")))
        assert page is not None
        assert parse_qs((page.following or b"").decode())["limit"] == ["20"]


class TestADeletion:
    gone = answer(404, {"error": {"type": "not_found_error", "message": "requested object not found"}})

    def test_that_finds_nothing_is_a_failure(self) -> None:
        assert isinstance(read(job_of("delete"), self.gone)[0], Failure)

    def test_that_may_have_been_made_before_and_finds_nothing_has_been_made(self) -> None:
        assert isinstance(read(job_of("delete", doubt_at=1), self.gone)[0], Success)

    def test_for_a_grant_that_is_gone_has_not(self) -> None:
        no_grant = answer(404, {"error": {"type": "grant.not_found", "message": "No Grant found for this Grant ID"}})
        assert isinstance(read(job_of("delete", doubt_at=1), no_grant)[0], Failure)

    def test_is_the_only_one_for_which_nothing_left_means_done(self) -> None:
        assert isinstance(read(job_of("modify", doubt_at=1), self.gone)[0], Failure)


class TestThePolicysWords:
    def test_are_two(self) -> None:
        kinds = {operation: kind_of(operation) for operation in ("send", "modify", "delete", "list")}
        assert kinds == {"send": "send", "modify": "modify", "delete": "modify", "list": "modify"}
