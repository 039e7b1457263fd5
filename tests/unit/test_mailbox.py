"""Looking for one message: which questions are asked, and what their answers show. The API is a function here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from sendq.clock import SECOND
from sendq.rules.reconcile import LONGEST_REQUEST
from tasks.calling.mailbox import NAMED_MOST, PAGE, PAGES_MOST, QUIET_PAGE, Brought, Wanted, look
from tasks.calling.nylas import NylasClient
from tasks.policy.failure import Answer

MARK = "01900000-0000-7000-8000-000000000001"
OTHER = "01900000-0000-7000-8000-000000000002"
T_S = 1_780_000_000
T = T_S * SECOND
AFTER_S = T_S + LONGEST_REQUEST // SECOND

Query = Mapping[str, str]


def message(id: str = "m1", *, header: str | None = None, date: int = T_S, **members: Any) -> dict[str, Any]:
    headers = [{"name": "x-sendq-job", "value": header}] if header else []
    return {"id": id, "date": date, "folders": ["SENT"], "metadata": {}, "headers": headers, **members}


def page(*messages: dict[str, Any], cursor: str | None = None) -> Answer:
    body = json.dumps({"request_id": "r", "data": messages, "next_cursor": cursor}).encode()
    return Answer(200, {"date": "Thu, 28 May 2026 20:26:40 GMT"}, body)


def folder(*attributes: str) -> Answer:
    return Answer(200, {}, json.dumps({"request_id": "r", "data": {"attributes": attributes}}).encode())


class Api:
    """Answers both questions, and keeps them."""

    def __init__(
        self,
        *,
        by_pair: Answer | None = None,
        listing: Callable[[Query], Answer] | None = None,
        folder: Answer | None = None,
        events: Answer | None = None,
        messages: Mapping[str, Answer] | None = None,
    ) -> None:
        self.events_asked: list[Query] = []
        self.read: list[str] = []
        self._events, self._messages = events, messages or {}
        self.asked: list[Query] = []
        self.folders: list[str] = []
        self._folder = folder or Answer(200, {}, b'{"data": {"id": "f", "attributes": ["\\\\Sent"]}}')
        self._by_pair, self._listing = by_pair or page(), listing or (lambda _: page())

    async def find(self, application: object, grant_id: str, query: Query) -> Answer:
        self.asked.append(query)
        return self._by_pair if "metadata_pair" in query else self._listing(query)

    async def send_events(self, application: object, query: Query) -> Answer:
        self.events_asked.append(query)
        assert self._events is not None
        return self._events

    async def message(self, application: object, grant_id: str, message_id: str, query: Query) -> Answer:
        self.read.append(message_id)
        return self._messages.get(message_id, Answer(404, {}, b"{}"))

    async def folder(self, application: object, grant_id: str, folder_id: str) -> Answer:
        self.folders.append(folder_id)
        return self._folder

    def look(self, *, provider: str = "ews", now_s: int = T_S + 3600, quiet: bool = False) -> Brought:
        over_at = T + LONGEST_REQUEST
        wanted = Wanted(
            "g1", provider, MARK, "key1", first_at=T, over_at=over_at, now=now_s * SECOND, quiet=quiet,
            events=self._events is not None,
        )  # fmt: skip
        return asyncio.run(look(cast(NylasClient, self), cast(Any, None), wanted))

    @property
    def listings(self) -> list[Query]:
        return [query for query in self.asked if "metadata_pair" not in query]


class TestTheQuestions:
    def test_the_pair_goes_together_with_no_filter(self) -> None:
        api = Api()
        api.look()
        assert api.asked[0].keys() == {"metadata_pair", "limit", "fields", "select"}
        assert api.asked[0]["metadata_pair"] == f"key1:{MARK}"

    def test_pages_are_small_and_show_neither_subject_nor_recipient_nor_body(self) -> None:
        api = Api()
        api.look()
        assert {int(query["limit"]) for query in api.asked} == {PAGE}
        assert PAGE <= 5
        assert all(not {"subject", "to", "body", "snippet"} & set(query["select"].split(",")) for query in api.asked)

    def test_the_listing_reaches_around_the_attempts(self) -> None:
        api = Api()
        api.look()
        first = api.listings[0]
        assert int(first["received_after"]) < T_S
        assert int(first["received_before"]) > AFTER_S

    def test_of_google_only_what_is_sent_is_listed(self) -> None:
        google, other = Api(), Api()
        google.look(provider="google")
        other.look()
        assert {query.get("in") for query in google.listings} == {"SENT"}
        assert {query.get("in") for query in other.listings} == {None}

    def test_the_listing_reaches_further_while_nothing_later_shows(self) -> None:
        later = message("m2", header=OTHER, date=AFTER_S + 30_000)
        api = Api(listing=lambda query: page(later) if int(query["received_before"]) > later["date"] else page())
        brought = api.look(now_s=T_S + 100_000)
        assert (brought.look.whole, brought.look.later) == (True, (OTHER,))
        assert len(api.listings) > 2

    def test_it_reaches_no_further_than_the_present(self) -> None:
        api = Api()
        assert api.look(now_s=AFTER_S).look.whole
        assert len(api.listings) == 1

    def test_it_stops_after_so_many_pages(self) -> None:
        api = Api(listing=lambda _: page(message("m2"), cursor="more"))
        brought = api.look()
        assert not brought.look.whole
        assert len(api.listings) == PAGES_MOST


class TestALookIntoAnAccountThatAskedForQuiet:
    def test_is_one_listing_around_the_request(self) -> None:
        api = Api(listing=lambda _: page(message("m2"), message("m3", header=OTHER)))
        brought = api.look(quiet=True, now_s=T_S + 100_000)
        (query,) = api.asked
        assert int(query["received_after"]) < T_S < AFTER_S < int(query["received_before"]) < AFTER_S + 1800
        assert int(query["limit"]) == QUIET_PAGE
        assert (brought.look.answered, brought.look.whole, brought.look.found) == (True, True, None)

    @pytest.mark.parametrize("shown", [{"header": MARK}, {"metadata": {"key1": MARK}}])
    def test_finds_the_message_by_either_mark(self, shown: dict[str, Any]) -> None:
        api = Api(listing=lambda _: page(message("m2"), message(**shown)))
        assert api.look(quiet=True).look.found == "m1"
        assert len(api.asked) == 1

    def test_reads_a_long_listing_page_by_page_and_gives_up_in_the_end(self) -> None:
        api = Api(listing=lambda _: page(message("m2"), cursor="more"))
        assert not api.look(quiet=True).look.whole
        assert len(api.asked) == PAGES_MOST

    def test_that_is_refused_is_no_look(self) -> None:
        refusal = Answer(429, {"retry-after": "30"}, b"{}")
        brought = Api(listing=lambda _: refusal).look(quiet=True)
        assert (brought.look.answered, brought.refusal) == (False, refusal)


class TestWhatIsFound:
    def test_by_the_pair(self) -> None:
        api = Api(by_pair=page(message(metadata={"key1": MARK})))
        assert api.look().look.found == "m1"
        assert len(api.asked) == 1

    def test_by_the_header_whatever_its_case(self) -> None:
        api = Api(listing=lambda _: page(message("m2", header=OTHER), message(header=MARK.upper())))
        assert api.look().look.found == "m1"

    def test_on_a_later_page(self) -> None:
        def listing(query: Query) -> Answer:
            return page(message(header=MARK)) if "page_token" in query else page(message("m2"), cursor="2")

        assert Api(listing=listing).look().look.found == "m1"

    @pytest.mark.parametrize("answered", [message(), message(header=OTHER), message(metadata={"key2": MARK})])
    def test_nothing_that_shows_neither_mark_though_it_answers_the_question_by_the_pair(
        self, answered: dict[str, Any]
    ) -> None:
        assert Api(by_pair=page(answered)).look().look.found is None

    @pytest.mark.parametrize("where", [{"folders": ["DRAFT"]}, {"folders": ["Drafts"]}, {"object": "draft"}])
    def test_no_draft(self, where: dict[str, Any]) -> None:
        found = Api(listing=lambda _: page(message(header=MARK, **where))).look().look
        assert (found.found, found.draft) == (None, True)

    @pytest.mark.parametrize("quiet", [False, True])
    def test_no_draft_whose_folder_has_an_id_that_says_nothing(self, quiet: bool) -> None:
        ours = page(message(header=MARK, folders=["AAMkAD"]))
        api = Api(listing=lambda _: ours, folder=folder("\\Drafts"))
        found = api.look(provider="microsoft", quiet=quiet).look
        assert (found.found, found.draft) == (None, True)
        assert set(api.folders) == {"AAMkAD"}

    @pytest.mark.parametrize("answer", [folder("\\Sent"), folder()])
    def test_whatever_else_its_folder_is(self, answer: Answer) -> None:
        api = Api(by_pair=page(message(metadata={"key1": MARK}, folders=["AAMkAD"])), folder=answer)
        assert api.look(provider="microsoft").look.found == "m1"

    def test_without_a_lookup_where_folders_have_names(self) -> None:
        api = Api(by_pair=page(message(metadata={"key1": MARK})))
        assert api.look(provider="google").look.found == "m1"
        assert api.folders == []

    @pytest.mark.parametrize(
        "refusal",
        [
            Answer(429, {}, b"{}"),
            Answer(503, {}, b""),
            Answer(None, {}, b"", "timeout"),
            Answer(403, {}, b"{}"),
            Answer(404, {}, b"{}"),
            Answer(200, {}, b"<html>"),
            Answer(200, {}, b'{"data": []}'),
            Answer(200, {}, b'{"data": {"attributes": ["\\\\Sent"]}}', "cut off"),
        ],
    )
    def test_not_while_its_folder_cannot_be_looked_up(self, refusal: Answer) -> None:
        api = Api(by_pair=page(message(metadata={"key1": MARK}, folders=["AAMkAD"])), folder=refusal)
        brought = api.look(provider="microsoft")
        assert (brought.look.answered, brought.refusal) == (False, refusal)


class TestWhatIsLater:
    @pytest.mark.parametrize(
        "other",
        [
            message("m2", date=AFTER_S),  # not ours
            message("m2", header=OTHER, date=T_S - 1),  # before
            message("m2", header=OTHER, date=AFTER_S, folders=["DRAFT"]),
            message("m2", header="no id", date=AFTER_S),
            message("m2", header=OTHER) | {"date": "soon"},
        ],
    )
    def test_is_nothing_else_than_another_jobs_message(self, other: dict[str, Any]) -> None:
        assert Api(listing=lambda _: page(other)).look(now_s=AFTER_S).look.later == ()


class TestNoAnswer:
    @pytest.mark.parametrize(
        "refusal",
        [
            Answer(None, {}, b"", "timeout"),
            Answer(401, {}, b"{}"),
            Answer(429, {"retry-after": "30"}, b"{}"),
            Answer(200, {}, b"<html>"),
            Answer(200, {}, b'{"data": {}}'),
            Answer(200, {}, b'{"data": [1]}'),
            Answer(200, {}, b'{"data": []}', "cut"),
        ],
    )
    @pytest.mark.parametrize("which", ["pair", "listing"])
    def test_to_either_question_is_told(self, refusal: Answer, which: str) -> None:
        api = Api(by_pair=refusal) if which == "pair" else Api(listing=lambda _: refusal)
        brought = api.look()
        assert (brought.look.answered, brought.refusal) == (False, refusal)

    @pytest.mark.parametrize(
        "document", [b"[]", b"null", b'{"data": [{"headers": 1}]}', b'{"data": [{"headers": [1]}]}']
    )
    def test_however_odd_raises_nothing(self, document: bytes) -> None:
        Api(listing=lambda _: Answer(200, {"date": "yesterday"}, document)).look()


class TestTheTimeOfTheApi:
    def test_is_the_earliest_that_it_states(self) -> None:
        assert Api().look().api_time == T


def events(*named: str, grant: str = "g1", kind: str = "accepted", at_s: int = T_S) -> Answer:
    data = [
        {"id": f"e{number}", "event_type": kind, "grant_id": grant, "message_id": one, "timestamp": at_s}
        for number, one in enumerate(named)
    ]
    return Answer(200, {}, json.dumps({"data": data, "next_cursor": None}).encode())


def one(found: dict[str, Any]) -> Answer:
    return Answer(200, {}, json.dumps({"request_id": "r", "data": found}).encode())


class TestTheEvents:
    """Of Agent Accounts: they name accepted messages, and each message has to show the mark itself."""

    def test_name_the_message_before_any_search(self) -> None:
        others = {f"m{number}": one(message(f"m{number}", header=OTHER)) for number in range(2)}
        api = Api(events=events("m0", "m1", "m2"), messages={**others, "m2": one(message("m2", header=MARK))})
        assert api.look(provider="nylas").look.found == "m2"
        assert (api.asked, api.read) == ([], ["m0", "m1", "m2"])

    @pytest.mark.parametrize(
        "shown",
        [
            events(), events("m1", grant="g2"), events("m1", kind="delivered"), events("m1", at_s=AFTER_S + 1000),
            events("m1", at_s=T_S - 1000), events("gone"), events("other"), events("draft"),
            Answer(404, {}, b"{}"), Answer(500, {}, b"{}"), Answer(200, {}, b"nonsense"),
        ],
    )  # fmt: skip
    def test_that_do_not_name_it_prove_nothing(self, shown: Answer) -> None:
        """The search is made as without them, and it alone counts."""
        known = {
            "m1": one(message("m1", header=MARK)),
            "other": one(message("other", header=OTHER)),
            "draft": one(message("draft", header=MARK, object="draft")),
        }
        with_events, without = Api(events=shown, messages=known), Api()
        found, plain = with_events.look(provider="nylas"), without.look(provider="nylas")
        assert (found.look.found, found.look.whole, found.look.later) == (None, plain.look.whole, plain.look.later)
        assert with_events.asked == without.asked
        assert found.no_events is (shown.status == 404)

    def test_are_not_read_after_a_refusal(self) -> None:
        api = Api(events=events("m1"), messages={"m1": one(message("m1", header=MARK))})
        assert api.look(provider="nylas", quiet=True).look.found is None
        assert api.events_asked == []

    def test_cost_a_few_calls_at_most(self) -> None:
        api = Api(events=events(*(f"m{number}" for number in range(50))))
        api.look(provider="nylas")
        assert (len(api.events_asked), len(api.read)) == (1, NAMED_MOST)
