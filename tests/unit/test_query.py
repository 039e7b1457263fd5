"""Which messages a walk is to find: what can be asked, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs

import pytest

from sendq.enqueueing.page_query import PAGE
from sendq.enqueueing.query import Query, check_query, freeze_query, given

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def problems(query: object, provider: str | None = None) -> list[str]:
    return [str(problem) for problem in check_query(query, provider=provider)]


def asked(query: Query) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(freeze_query(query).decode()).items()}


class TestTheFirstPage:
    def test_asks_for_ids_alone_and_for_few(self) -> None:
        assert asked(Query(unread=True)) == {"unread": "true", "limit": str(PAGE), "select": "id"}
        assert PAGE <= 20  # what the vendor's page on quota errors advises

    def test_has_the_filters_under_their_names_at_the_api(self) -> None:
        query = Query(
            in_="INBOX", from_="a@example.com", any_email=["a@example.com", "b@example.com"], starred=False,
            received_after=NOON, received_before=NOON.astimezone(timezone(timedelta(hours=9))) + timedelta(days=1),
            subject="50 % & more",
        )  # fmt: skip
        at = int(NOON.timestamp())
        assert asked(query) == {
            "in": "INBOX", "from": "a@example.com", "any_email": "a@example.com,b@example.com", "starred": "false",
            "received_after": str(at), "received_before": str(at + 86_400), "subject": "50 % & more",
            "limit": "20", "select": "id",
        }  # fmt: skip

    def test_has_the_parameters_of_a_shared_mailbox_and_of_imap(self) -> None:
        query = Query(shared_from=" team@bücher.example", shared_folder_id="f1", to="a@bücher.example ")
        assert asked(query) == {
            "shared_from": "team@xn--bcher-kva.example", "shared_folder_id": "f1", "to": "a@xn--bcher-kva.example",
            "limit": "20", "select": "id",
        }  # fmt: skip
        assert asked(Query(in_="x", query_imap=True)) == {
            "in": "x", "query_imap": "true", "limit": "20", "select": "id"
        }  # fmt: skip

    def test_is_the_same_bytes_for_the_same_query(self) -> None:
        assert freeze_query(Query(unread=True, in_="x")) == freeze_query(Query(in_="x", unread=True))


class TestAQuery:
    @pytest.mark.parametrize(
        "query",
        [
            Query(unread=False),
            Query(to="leyah@example.com", has_attachment=True),
            Query(metadata_pair="key1:value"),
            Query(search_query_native="subject:invoice", in_="INBOX"),
            Query(any_email=("a@example.com",), thread_id="t1"),
            Query(shared_from="team@example.com", shared_folder_id="f1"),
            Query(shared_from="f81d4fae-7dec-11d0-a765-00a0c91e6bf6", shared_folder_id="f1", search_query_native="x"),
            Query(query_imap=True, in_="INBOX"),
            Query(to=" leyah@example.com\n"),
        ],
    )
    def test_that_can_be_asked_is_fine(self, query: Query) -> None:
        assert problems(query) == []

    @pytest.mark.parametrize(
        ("query", "word"),
        [
            (Query(), "every message"),
            (None, "sendq.Query"),
            ({"unread": True}, "sendq.Query"),
            (Query(unread="yes"), "query.unread"),  # type: ignore[arg-type]
            (Query(to="nobody"), "query.to"),
            (Query(cc=7), "query.cc"),  # type: ignore[arg-type]
            (Query(any_email=[]), "query.any_email"),
            (Query(any_email=["a@example.com"] * 26), "1 to 25"),
            (Query(any_email="a@example.com"), "query.any_email"),
            (Query(any_email=["nobody"]), "any_email[0]"),
            (Query(received_after=datetime(2026, 7, 1)), "time zone"),  # noqa: DTZ001 - the mistake
            (Query(received_before=1_780_000_000), "time zone"),  # type: ignore[arg-type]
            (Query(subject=""), "query.subject"),
            (Query(subject="x" * 2_001), "2,000"),
            (Query(subject="a\0b"), "NUL"),
            (Query(metadata_pair="key6:x"), "key1 to key5"),
            (Query(metadata_pair="key1:x", unread=True), "cannot be combined with other filters"),
            (Query(shared_from="team@example.com"), "query.shared_folder_id: is missing"),
            (Query(shared_from="team at example", shared_folder_id="f1"), "query.shared_from"),
            (Query(shared_from=7, shared_folder_id="f1"), "query.shared_from"),  # type: ignore[arg-type]
            (Query(shared_folder_id=""), "query.shared_folder_id"),
            (Query(query_imap=True, unread=True), "query.in_: is missing"),
            (Query(query_imap="yes", in_="x"), "query.query_imap"),  # type: ignore[arg-type]
        ],
    )
    def test_that_cannot_is_refused_with_field_and_remedy(self, query: object, word: str) -> None:
        (problem,) = problems(query)
        assert word in problem

    @pytest.mark.parametrize(
        ("provider", "query"),
        [
            ("microsoft", Query(unread=True, subject="x")),
            ("microsoft", Query(thread_id="t", any_email=["a@example.com"])),
            ("microsoft", Query(starred=True, to="a@example.com", cc="a@example.com")),
            ("google", Query(search_query_native="x", unread=True)),
            ("microsoft", Query(search_query_native="x", subject="y")),
            ("ews", Query(search_query_native="x", thread_id="t")),
            ("google", Query(shared_folder_id="f1")),
            ("microsoft", Query(query_imap=True, in_="x")),
        ],
    )
    def test_that_its_provider_cannot_answer_is_refused_where_the_provider_is_known(
        self, provider: str, query: Query
    ) -> None:
        assert len(problems(query, provider)) == 1
        assert problems(query) == []
        assert problems(query, "microsoft" if query.shared_folder_id else "imap") == []

    def test_shows_no_address_and_no_subject(self) -> None:
        query = Query(to="leyah@example.com", subject="Invoice 42")
        assert repr(query) == "Query(to=…, subject=…)"
        assert set(given(query)) == {"to", "subject"}
        wrong: Any = Query(to="leyah at example", metadata_pair="secret")
        assert not any(word in " ".join(problems(wrong)) for word in ("leyah", "secret"))
