"""Messages, threads, listings and grants."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from sendq.simulator import Simulator
from tests.integration.simulator.asking import (
    Client,
    Clock,
)


class TestModifying:
    def test_changes_what_is_given_and_replaces_sets(self, sim: Simulator, client: Client) -> None:
        sim.message("g", "m", folders=["INBOX", "A"], metadata={"key1": "x", "note": "y"})
        reply = client.put("m", {"unread": False, "folders": ["B"], "metadata": {"key2": "z"}})
        assert (reply.status, reply.data["unread"], reply.data["starred"]) == (200, False, False)
        assert (reply.data["folders"], reply.data["metadata"]) == (["B"], {"key2": "z"})
        assert sim.modified[0].changes == {"unread": False, "folders": ["B"], "metadata": {"key2": "z"}}
        assert client.list("?metadata_pair=key1:x").data == []
        assert len(client.list("?metadata_pair=key2:z").data) == 1

    @pytest.mark.parametrize("message", ["<a+b/c@mail.example.com>", "AAkALg==", "ü %2F"])
    def test_takes_an_id_with_any_characters(self, sim: Simulator, client: Client, message: str) -> None:
        sim.message("g", message)
        assert client.put(message, {"unread": False}).data["id"] == message

    def test_makes_an_unknown_message_unless_told_otherwise(self, client: Client) -> None:
        assert client.put("new", {"unread": False}).status == 200
        with Simulator(auto_messages=False) as strict:
            reply = Client(strict.url).put("new", {"unread": False})
            assert (reply.status, reply.error["type"]) == (404, "not_found_error")

    @pytest.mark.parametrize("body", [b"", {}])
    def test_with_nothing_is_refused(self, client: Client, body: Any) -> None:
        reply = client.put("m", body)
        assert (reply.status, reply.error["message"]) == (400, "Empty request body")

    @pytest.mark.parametrize("body", [{"unread": "yes"}, {"folders": "INBOX"}, {"answered": True}, {"metadata": []}])
    def test_with_a_wrong_field_is_refused(self, client: Client, body: Any) -> None:
        assert client.put("m", body).status == 400

    def test_a_microsoft_message_is_in_one_folder(self, sim: Simulator, client: Client) -> None:
        sim.grant("g", provider="microsoft")
        assert client.put("m", {"folders": ["a", "b"]}).status == 400
        assert client.put("m", {"folders": ["a"]}).status == 200

    def test_deleting_moves_to_the_trash(self, sim: Simulator, client: Client) -> None:
        sim.message("g", "m")
        assert client.call("DELETE", "/v3/grants/g/messages/m").status == 200
        assert client.get("m").data["folders"] == ["TRASH"]
        assert client.call("DELETE", "/v3/grants/g/messages/other").status == 404

    def test_deleting_for_good_leaves_nothing_where_it_is_enabled(self, sim: Simulator, client: Client) -> None:
        sim.message("g", "m", metadata={"key1": "x"})
        assert client.call("DELETE", "/v3/grants/g/messages/m?hard_delete=true").status == 400
        sim.behaviour.hard_delete = True
        assert client.call("DELETE", "/v3/grants/g/messages/m?hard_delete=true").status == 200
        assert client.get("m").status == 404
        assert client.list("?metadata_pair=key1:x").data == []
        assert sim.modified[-1].changes == {"hard_delete": True}


class TestAThread:
    def test_that_is_modified_modifies_all_its_messages(self, sim: Simulator, client: Client) -> None:
        for number in range(3):
            sim.message("g", f"m{number}", thread_id="t/1" if number < 2 else "t2")
        reply = client.call("PUT", "/v3/grants/g/threads/t%2F1", {"unread": False, "folders": ["A"]})
        assert (reply.status, reply.data["message_ids"]) == (200, ["m0", "m1"])
        assert [client.get(f"m{number}").data["unread"] for number in range(3)] == [False, False, True]
        assert sim.requests[0].operation == "modify_thread"

    @pytest.mark.parametrize(("body", "status"), [({"metadata": {"a": "b"}}, 400), ({}, 400), ({"starred": True}, 404)])
    def test_takes_no_metadata_and_has_to_be_there(self, client: Client, body: Any, status: int) -> None:
        assert client.call("PUT", "/v3/grants/g/threads/t", body).status == status


class TestListing:
    @pytest.mark.parametrize(("shifting", "lost"), [(False, 0), (True, 2)])
    def test_pages_may_shift_when_messages_leave_it(
        self, sim: Simulator, client: Client, shifting: bool, lost: int
    ) -> None:
        sim.behaviour.shifting_pages = shifting
        for number in range(6):
            sim.message("g", f"m{number}")
        first = client.list("?unread=true&limit=2")
        for one in first.data:
            client.put(one["id"], {"unread": False})
        second = client.list(f"?unread=true&limit=200&page_token={first.json['next_cursor']}")
        assert len(second.data) == 4 - lost

    def test_pages_from_new_to_old(self, client: Client) -> None:
        sent = [client.send().data["id"] for _ in range(5)]
        pages, query = [], "?limit=2"
        while True:
            reply = client.list(query)
            pages.append([one["id"] for one in reply.data])
            if reply.json["next_cursor"] is None:
                break
            query = f"?limit=2&page_token={reply.json['next_cursor']}"
        newest = sent[::-1]
        assert pages == [newest[:2], newest[2:4], newest[4:]]

    def test_shows_50_unless_told_otherwise(self, sim: Simulator, client: Client) -> None:
        for number in range(201):
            sim.message("g", f"m{number}")
        assert len(client.list().data) == 50
        assert len(client.list("?limit=200").data) == 200

    def test_finds_a_message_by_its_metadata(self, client: Client) -> None:
        client.send(metadata={"key1": "job-1"})
        found = client.send(metadata={"key1": "job:2 ü"}).data["id"]
        assert [one["id"] for one in client.list(f"?metadata_pair=key1:{quote('job:2 ü')}&limit=5").data] == [found]
        assert client.list("?metadata_pair=key1:job-1", grant="other").data == []

    @pytest.mark.parametrize(
        "query",
        [
            "metadata_pair=key6:x",
            "metadata_pair=key1",
            "metadata_pair=key1:x&metadata_pair=key2:y",
            "metadata_pair=key1:x&in=SENT",
            "metadata_pair=key1:x&to=a@example.com",
            "limit=0",
            "limit=201",
            "limit=many",
            "page_token=x",
            "received_after=yesterday",
            "search_query_native=x",
        ],
    )
    def test_refuses_what_cannot_be_asked(self, client: Client, query: str) -> None:
        client.send()
        assert client.list(f"?{query}").status == 400

    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ("in=SENT", 2),
            ("in=INBOX", 1),
            ("to=LEYAH@example.com", 1),
            ("subject=Hel", 2),
            ("subject=hel", 0),
            ("received_after=1799999999&received_before=1800000001", 3),
            ("received_after=1800000000", 0),
            ("unread=true", 1),
            ("any_email=x@example.com,nyla@example.com", 1),
            ("in=SENT&to=nyla@example.com", 1),
        ],
    )
    def test_filters(self, sim: Simulator, client: Client, query: str, count: int) -> None:
        client.send("leyah@example.com")
        client.send("nyla@example.com")
        sim.message("g", "m")
        assert len(client.list(f"?{query}").data) == count

    def test_shows_headers_and_selected_members_when_asked(self, client: Client) -> None:
        client.send(custom_headers=[{"name": "X-Sendq-Job", "value": "job-1"}])
        (one,) = client.list("?fields=include_headers&select=id,headers").data
        assert one.keys() == {"id", "headers"}
        assert {"name": "X-Sendq-Job", "value": "job-1"} in one["headers"]

    def test_by_metadata_lags_behind_when_told_so(self, sim: Simulator, client: Client, clock: Clock) -> None:
        sim.behaviour.index_delay = 60
        client.send(metadata={"key1": "job-1"})
        assert client.list("?metadata_pair=key1:job-1").data == []
        assert len(client.list("?in=SENT").data) == 1
        clock.now += 60
        assert len(client.list("?metadata_pair=key1:job-1").data) == 1

    @pytest.mark.parametrize(("indexed", "count"), [(True, 1), (False, 0)])
    def test_by_metadata_may_never_find_a_timeout(
        self, sim: Simulator, client: Client, indexed: bool, count: int
    ) -> None:
        sim.behaviour.index_timeouts = indexed
        client.send("timeout@example.com", metadata={"key1": "job-1"})
        assert len(client.list("?metadata_pair=key1:job-1").data) == count
        assert len(client.list("?in=SENT").data) == 1


class TestGrants:
    def test_are_shown_one_by_one_and_together(self, sim: Simulator, client: Client) -> None:
        sim.grant("a", provider="imap", email="a@example.com", status="invalid")
        client.send(grant="b")
        assert client.call("GET", "/v3/grants/a").data["provider"] == "imap"
        assert [(one["id"], one["grant_status"]) for one in client.call("GET", "/v3/grants").data] == [
            ("a", "invalid"),
            ("b", "valid"),
        ]
        assert [one["id"] for one in client.call("GET", "/v3/grants?limit=1&offset=1").data] == ["b"]

    def test_are_found_by_their_address_too(self, sim: Simulator, client: Client) -> None:
        sim.grant("a", email="a@example.com")
        assert client.send(grant=quote("a@example.com")).json["grant_id"] == "a"
        assert client.send(grant=quote("b@example.com")).status == 404

    def test_of_imap_have_message_ids_to_be_encoded(self, sim: Simulator, client: Client) -> None:
        sim.grant("g", provider="imap")
        message = client.send().data["id"]
        assert set("<>@/+") <= set(message)
        assert client.get(message).data["id"] == message

    def test_of_no_known_provider_are_an_error(self, sim: Simulator) -> None:
        with pytest.raises(ValueError, match="provider"):
            sim.grant("a", provider="gmail")


class TestAListingOfASharedMailbox:
    def test_shows_the_messages_of_another_grant_in_one_folder(self, sim: Simulator, client: Client) -> None:
        sim.grant("office", email="office@example.com", provider="microsoft")
        for name, folder in (("m1", "shared"), ("m2", "private")):
            sim.message("office", name, folders=[folder])
        sim.message("g", "own", folders=["shared"])
        for whose in ("office", "office@example.com"):
            (found,) = client.list(f"?shared_from={quote(whose)}&shared_folder_id=shared").data
            assert found["id"] == "m1"
        assert client.list("?shared_from=nobody@example.com&shared_folder_id=shared").data == []

    def test_may_be_asked_of_the_mail_server_itself(self, sim: Simulator, client: Client) -> None:
        sim.message("g", "m", folders=["INBOX"])
        for said in ("true", "false"):
            assert len(client.list(f"?query_imap={said}&in=INBOX").data) == 1

    @pytest.mark.parametrize("query", ["shared_from=x", "query_imap=true", "query_imap=1&in=INBOX"])
    def test_lacks_no_parameter_that_the_document_requires(self, client: Client, query: str) -> None:
        reply = client.list(f"?{query}")
        assert (reply.status, reply.error["type"]) == (400, "invalid_query_params")
