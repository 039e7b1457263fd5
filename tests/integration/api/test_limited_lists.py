"""What a token that is limited to some grants finds in lists and batches, whatever filters it combines."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sendq.ledger.reading import paging
from tests.integration.api.conftest import MESSAGE, Client, fields_of, told
from tests.support.ledger import Ledger

Clients = Callable[..., Client]


def one(grant_id: str, **more: Any) -> dict[str, Any]:
    """A send."""
    return {"grant_id": grant_id, "message": MESSAGE, **more}


@pytest.fixture
def a(client_of: Clients) -> Client:
    """Covers what begins with ``a-``."""
    return client_of("a", grants=("a-*",))


@pytest.fixture
def b(client_of: Clients) -> Client:
    """Covers what begins with ``b-``."""
    return client_of("b", grants=("b-*",))


class TestWhateverFiltersAreCombined:
    @pytest.mark.parametrize("absorbed", [False, True])
    def test_no_job_of_another_grant_is_shown_or_betrayed(
        self, kept: Ledger, a: Client, b: Client, absorbed: bool
    ) -> None:
        tags = {"campaign": "may"}
        mine = told(a.post("/v1/batches", {"sends": [one("a-1"), one("a-2")], "tags": tags}, idempotency_key="my"))
        theirs = told(b.post("/v1/batches", {"sends": [one("b-1")] * 2, "tags": tags}, idempotency_key="their"))
        b.post("/v1/send", one("b-1", tags=tags), idempotency_key="lone")
        if absorbed:
            kept.absorb()
        values = {
            "batch_id": (mine["id"], theirs["id"]), "key": ("my", "their", "lone", "none"), "grant_id": ("a-1", "a-2"),
            "tag": ("campaign=may",), "state": ("queued",), "limit": ("1",),
        }  # fmt: skip
        seen = set()
        for query in _combinations(values):
            answer = a.get("/v1/jobs?" + "&".join(f"{name}={value}" for name, value in query.items()))
            foreign = query.get("key") in ("their", "lone", "none") or query.get("batch_id") == theirs["id"]
            assert answer.status == (404 if foreign else 200), (query, answer.text)
            if answer.status == 200:
                seen |= {line["batch_id"] for line in told(answer)["items"]}
        assert seen == {mine["id"]}
        if absorbed:
            assert {line["grant_id"] for line in told(a.get("/v1/jobs?key=my"))["items"]} == {"a-1", "a-2"}
        assert len(told(a.get(f"/v1/jobs?batch_id={mine['id']}"))["items"]) == 2

    def test_pages_are_full_and_their_cursors_name_no_job_of_another(
        self, kept: Ledger, a: Client, b: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tags = {"customer": "acme"}
        monkeypatch.setattr(paging, "SCAN_MOST", 3)
        own: list[str] = []
        foreign: list[str] = []
        for _ in range(3):
            own.append(told(a.post("/v1/send", one("a-1", tags=tags)))["id"])
            foreign += [told(b.post("/v1/send", one("b-1", tags=tags)))["id"] for _ in range(4)]
        kept.absorb()
        for query in ("limit=1", "limit=1&tag=customer%3Dacme", "limit=2&state=queued"):
            found: list[str] = []
            cursor = None
            for _ in range(20):
                page = told(a.get(f"/v1/jobs?{query}" + (f"&cursor={cursor}" if cursor else "")))
                found += [line["id"] for line in page["items"]]
                cursor = page["next"]
                if cursor is None:
                    break
                (_, place) = json.loads(base64.urlsafe_b64decode(cursor + "=="))
                assert place not in {job_id.replace("-", "") for job_id in foreign}
            assert found == own[::-1], query

    def test_patterns_are_the_same_in_lists_as_elsewhere(self, kept: Ledger, client_of: Clients) -> None:
        everything = client_of("all")
        grants = ("a-1", "A-1", "a_1", "xa-1", "a-1x", "a.1", "b+1", "bb1", "b-x-1")
        everything.post("/v1/send-many", {"sends": [one(grant_id) for grant_id in grants]})
        kept.absorb()
        for number, patterns in enumerate(
            (("a-1",), ("a-*",), ("a.*", "b+1"), ("*-1",), ("b*1",), ("a_*",), ("[a]*",))
        ):
            client = client_of(f"t{number}", grants=patterns)
            listed = {line["grant_id"] for line in told(client.get("/v1/jobs"))["items"]}
            assert listed == {grant for grant in grants if client.get(f"/v1/grants/{grant}").status == 200}


class TestAnOpenBatch:
    def test_without_messages_is_no_limited_tokens(self, kept: Ledger, client: Client, a: Client, b: Client) -> None:
        empty = told(client.post("/v1/batches", {"open": True, "tags": {"x": "1"}}, idempotency_key="k"))["id"]
        again = a.post("/v1/batches", {"open": True, "tags": {"x": "1"}, "sends": [one("a-1")]}, idempotency_key="k")
        assert (again.status, empty in again.text) == (409, False)
        assert a.get(f"/v1/batches/{empty}").status == 404
        for path, given in (("sends", {"sends": [one("a-1", key="1")]}), ("close", None), ("cancel", None)):
            assert a.post(f"/v1/batches/{empty}/{path}", given).status == 404
        assert a.get("/v1/jobs?key=k").status == 404
        assert client.post(f"/v1/batches/{empty}/sends", {"sends": [one("b-1", key="1")]}).status == 201
        assert b.get(f"/v1/batches/{empty}").status == 200

    def test_of_a_limited_token_begins_with_a_message(self, kept: Ledger, a: Client) -> None:
        refused = a.post("/v1/batches", {"open": True}, idempotency_key="k")
        assert (refused.status, fields_of(refused)) == (422, ["sends"])
        made = a.post("/v1/batches", {"open": True, "sends": [one("a-1", key="1")]}, idempotency_key="k")
        assert made.status == 201
        path = f"{made.headers['location']}/sends"
        assert a.post(path, {"sends": [one("a-2", key="2")]}).status == 201


def _combinations(values: dict[str, tuple[str, ...]]) -> Iterator[dict[str, str]]:
    for chosen in itertools.product(*((None, *some) for some in values.values())):
        query = {name: value for name, value in zip(values, chosen, strict=True) if value is not None}
        if "key" in query or "batch_id" in query:
            yield query
