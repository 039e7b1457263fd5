"""Sends and batches over HTTP: what is stored, and what is answered."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from email.message import EmailMessage
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from sendq import State
from sendq.ledger.db import schema
from sendq.testing import enqueued
from tests.integration.api.conftest import MESSAGE, Client, fields_of, told
from tests.integration.ledger.test_undo import changed, lead
from tests.support.ledger import Ledger

SEND = {"grant_id": "g1", "message": MESSAGE}


def form(boundary: str, *parts: tuple[str, bytes]) -> bytes:
    """A body of multipart/form-data from the headers and contents of its parts."""
    whole = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    return whole + f"--{boundary}--\r\n".encode()


FORM = {"content_type": "multipart/form-data; boundary=abc"}


class TestSend:
    def test_is_committed_before_it_is_answered_with_the_job_and_its_address(
        self, client: Client, kept: Ledger
    ) -> None:
        answer = client.post("/v1/send", SEND | {"priority": "high", "tags": {"campaign": "may"}})
        assert answer.status == 201
        job = told(answer)
        assert job == {"id": job["id"], "existed": False, "dropped": []}
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
        (stored,) = enqueued(kept.queue)
        assert (stored.id, stored.to, stored.subject) == (job["id"], ("leyah@example.com",), "Invoice 42")
        assert stored.tags == {"campaign": "may"}
        shown = told(client.get(answer.headers["location"]))
        assert (shown["state"], shown["priority"], shown["tags"]) == ("queued", "high", {"campaign": "may"})

    def test_with_a_key_that_was_used_answers_the_first_job(self, client: Client, kept: Ledger) -> None:
        first = client.post("/v1/send", SEND, idempotency_key="invoice-42")
        again = client.post("/v1/send", SEND | {"key": "invoice-42"})
        assert (first.status, again.status) == (201, 200)
        assert told(again)["id"] == told(first)["id"]
        assert told(again)["existed"] is True
        assert len(enqueued(kept.queue)) == 1
        other = client.post("/v1/send", {"grant_id": "g1", "message": {"to": ["a@example.com"]}, "key": "invoice-42"})
        assert (other.status, told(other)["job_id"]) == (409, told(first)["id"])

    def test_with_the_key_of_a_batch_that_has_other_content_names_the_batch(self, client: Client) -> None:
        batch = told(client.post("/v1/batches", {"sends": [SEND]}, idempotency_key="may"))["id"]
        for path, given in (
            ("/v1/send", SEND),
            ("/v1/batches", {"sends": [SEND, SEND]}),
            ("/v1/modify", {"grant_id": "g1", "message_ids": ["m1"], "unread": False}),
        ):
            answer = client.post(path, given, idempotency_key="may")
            assert (answer.status, told(answer)["batch_id"], "job_id" in told(answer)) == (409, batch, False)

    def test_names_every_problem_of_options_and_message_and_stores_nothing(self, client: Client, kept: Ledger) -> None:
        answer = client.post(
            "/v1/send",
            {
                "grant_id": "", "key": "", "due_at": "tomorrow", "expires_at": "2026-07-01T09:00:00", "priority": "vip",
                "colour": 1, "tags": [], "on_outcome": 5,
                "message": {"to": ["leyah@example"], "subject": "two\nlines", "size": 3, "from_": [],
                            "attachments": [{"filename": "", "content": "?"}, {"content": 7}]},
            },
        )  # fmt: skip
        assert answer.status == 422
        assert set(fields_of(answer)) == {
            "grant_id", "key", "due_at", "expires_at", "priority", "colour", "tags", "on_outcome", "to[0].email",
            "subject", "size", "from_", "attachments[0].content", "attachments[1].content", "attachments[1].filename",
        }  # fmt: skip
        assert enqueued(kept.queue) == []

    @pytest.mark.parametrize("given", [[], None, 1, "x", {}, {"grant_id": "g1"}, SEND | {"mime": "aGk="}])
    def test_without_the_right_parts_says_so(self, client: Client, given: Any) -> None:
        assert client.post("/v1/send", b"null" if given is None else given).status == 422

    def test_with_a_value_of_the_wrong_type_is_refused_with_its_field(self, client: Client, kept: Ledger) -> None:
        names = ("grant_id", "key", "due_at", "expires_at", "priority", "application", "provider", "on_outcome",
                 "in_doubt", "tags", "suppressed", "traceparent", "message", "mime")  # fmt: skip
        for name, value in product(names, [[], 1.5, True, "\ud800", "", ["x"], {"a": 1}, -1, 10**30, "\u0000"]):
            answer = client.post("/v1/send", SEND | {name: value})
            assert answer.status in (403, 422), (name, value, answer.text)
        assert enqueued(kept.queue) == []

    def test_takes_times_and_never(self, client: Client, kept: Ledger) -> None:
        due = SEND | {"due_at": "2100-07-01T09:00:00+02:00", "expires_at": "never"}
        job = told(client.get(client.post("/v1/send", due).headers["location"]))
        assert (job["due_at"], job["expires_at"]) == ("2100-07-01T07:00:00+00:00", None)

    def test_takes_a_mail_after_another(self, client: Client, kept: Ledger) -> None:
        first = told(client.post("/v1/send", SEND))["id"]
        follows = {"reply_to": first, "delay": 259_200, "unless": ["replied", "bounced"]}
        assert client.post("/v1/send", SEND | follows).status == 201
        (row,) = kept.rows(schema.after)
        assert (str(row.after_id), row.delay, row.unless) == (first, 259_200_000_000, "bounced replied")
        for name, value in product(("after", "reply_to"), [[], 1.5, True, "\ud800", "", ["x"], {"id": first}, 0, -1]):
            assert fields_of(client.post("/v1/send", SEND | {name: value})) == [name]
        for name, value in product(("delay", "unless"), [[], True, "", ["x"], {"a": 1}, -1, 10**30]):
            assert fields_of(client.post("/v1/send", SEND | {"after": first, name: value})) == [name]

    def test_takes_windows_and_spreads(self, client: Client, kept: Ledger) -> None:
        window = {"hours": "09:00-17:30", "days": "mon-fri", "tz": "Europe/Berlin", "holidays": ["2100-01-01"]}
        answer = client.post("/v1/batches", {"window": window, "spread": 3600, "sends": [SEND, SEND]})
        assert answer.status == 201, answer.text
        assert {row.time_window for row in kept.rows(schema.job)} == {"09:00-17:30 mon-fri Europe/Berlin 2100-01-01"}
        wrong = client.post("/v1/send", SEND | {"window": {"hours": "9-5", "tz": "Mars", "color": 1}, "priority": "x"})
        assert fields_of(wrong) == ["window.color", "priority"]
        wrong = client.post("/v1/send", SEND | {"window": {"hours": "9-5", "holidays": ["x"], "tz": "Mars"}})
        assert {one.partition("[")[0] for one in fields_of(wrong)} == {"window.hours", "window.tz", "window.holidays"}
        windows: list[Any] = [5, "x", [], True, {}]
        for value in windows:
            assert fields_of(client.post("/v1/send", SEND | {"window": value}))[0].startswith("window")
        for value in [*windows[1:], 1e300, -5]:
            assert fields_of(client.post("/v1/batches", {"spread": value, "sends": [SEND]}))[0].endswith("spread")

    def test_joins_the_trace_of_the_request(self, client: Client, kept: Ledger) -> None:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        client.post("/v1/send", SEND, traceparent=trace)
        client.post("/v1/send", SEND, traceparent="nonsense")
        assert [row.traceparent for row in kept.rows(schema.job)] == [trace, None]


class TestFiles:
    def test_come_in_base64(self, client: Client, kept: Ledger) -> None:
        file = {"filename": "a.txt", "content": base64.b64encode(b"hello").decode()}
        assert client.post("/v1/send", {"grant_id": "g1", "message": MESSAGE | {"attachments": [file]}}).status == 201
        assert enqueued(kept.queue)[0].attachments == ("a.txt",)

    def test_come_as_parts_of_a_form_in_pieces(self, client: Client, kept: Ledger) -> None:
        body = form(
            "abc",
            ('name="send"', json.dumps(SEND).encode()),
            ('name="attachments"; filename="b.pdf"\r\nContent-Type: application/pdf', b"x" * 3_000_000),
            ('name="logo"; filename="logo.png"', b"png"),
        )
        answer = client.request("POST", "/v1/send", body, idempotency_key="k", **FORM)
        assert answer.status == 201, answer.text
        (job,) = enqueued(kept.queue)
        assert job.attachments == ("b.pdf", "logo.png")
        assert client.request("POST", "/v1/send", body, idempotency_key="k", **FORM).status == 200

    def test_of_a_form_without_its_end_are_not_left_out(self, client: Client, kept: Ledger) -> None:
        body = form("abc", ('name="send"', b'{"grant_id":"g1","message":{"to":["a@example.com"]}}'),
                    ('name="attachments"; filename="b.pdf"', b"12345"))  # fmt: skip
        answer = client.request("POST", "/v1/send", body[:-12], **FORM)
        assert (answer.status, "boundary" in told(answer)["detail"]) == (400, True)
        assert enqueued(kept.queue) == []

    def test_are_a_finished_message(self, client: Client, kept: Ledger) -> None:
        mail = EmailMessage()
        mail["To"], mail["From"], mail["Subject"] = "leyah@example.com", "shop@example.com", "Hello"
        mail.set_content("Hello")
        raw = mail.as_bytes()
        encoded = {"grant_id": "g1", "mime": base64.b64encode(raw).decode(), "key": "m"}
        assert client.post("/v1/send", encoded).status == 201
        body = form("abc", ('name="send"', b'{"grant_id":"g1","key":"m"}'), ('name="mime"; filename="m.eml"', raw))
        assert client.request("POST", "/v1/send", body, **FORM).status == 200

    @pytest.mark.parametrize(
        "parts",
        [
            [],
            [('name="other"', b"x")],
            [('name="send"', b"{}"), ('name="send"', b"{}")],
            [('name="send"', b"not json")],
            [('name="send"', '{"grant_id":"é"}'.encode("latin-1"))],
            [("nothing", b"")],
        ],
    )
    def test_in_a_form_that_cannot_be_read_are_refused(self, client: Client, parts: Any) -> None:
        assert client.request("POST", "/v1/send", form("abc", *parts), **FORM).status == 400
        assert client.request("POST", "/v1/send", b"x", content_type="multipart/form-data").status == 400


class TestSendMany:
    def test_stores_all_or_none_and_names_positions(self, client: Client, kept: Ledger) -> None:
        wrong = [SEND, SEND | {"mime": "x"}, {"grant_id": "g1", "message": {"to": []}}, SEND | {"priority": "x"}, 5]
        answer = client.post("/v1/send-many", {"sends": wrong})
        assert (answer.status, fields_of(answer)) == (422, ["[1].message", "[2].to", "[3].priority", "[4]"])
        assert enqueued(kept.queue) == []
        twice = {"sends": [SEND | {"key": "a"}, SEND | {"key": "b"}]}
        first, again = client.post("/v1/send-many", twice), client.post("/v1/send-many", twice)
        assert (first.status, again.status) == (201, 200)
        assert [one["id"] for one in told(first)["jobs"]] == [one["id"] for one in told(again)["jobs"]]

    def test_takes_no_key_for_the_request(self, client: Client) -> None:
        answer = client.post("/v1/send-many", {"sends": [SEND]}, idempotency_key="k")
        assert (answer.status, fields_of(answer)) == (422, ["Idempotency-Key"])

    def test_lists_a_hundred_problems_and_counts_the_rest(self, client: Client) -> None:
        answer = client.post("/v1/send-many", {"sends": [5] * 150})
        assert len(fields_of(answer)) == 101
        assert told(answer)["problems"][-1]["reason"] == "has 50 more problems"


class TestBatch:
    def test_is_made_open_added_to_closed_and_cancelled(self, client: Client, kept: Ledger) -> None:
        made = client.post("/v1/batches", {"open": True, "tags": {"campaign": "may"}}, idempotency_key="may")
        assert made.status == 201
        url = made.headers["location"]
        assert client.post("/v1/batches", {"open": True, "tags": {"campaign": "may"}, "key": "may"}).status == 200
        assert told(client.post(f"{url}/sends", {"sends": [SEND | {"key": "1"}, SEND]}))["total"] == 2
        assert client.post(f"{url}/sends", {"sends": [SEND | {"key": "1"}]}).status == 200
        assert told(client.get(url))["open"] is True
        assert told(client.post(f"{url}/close")) == {"total": 2}
        assert client.post(f"{url}/sends", {"sends": [SEND]}).status == 422
        assert told(client.post(f"{url}/hold", {"reason": "wait"})) == {"changed": 2}
        assert told(client.post(f"{url}/cancel"))["counts"] == {"cancelled": 2}

    def test_names_the_problems_of_itself_and_of_its_messages(self, client: Client) -> None:
        answer = client.post("/v1/batches", {"open": 5, "sends": [5], "x": 1})
        assert (answer.status, fields_of(answer)) == (422, ["x", "[0]"])
        assert fields_of(client.post("/v1/batches", {"open": 5, "sends": [SEND]})) == ["batch.open"]
        assert fields_of(client.post("/v1/batches", {})) == ["sends"]


class TestModify:
    def test_and_delete_take_named_messages_or_a_query(self, client: Client, kept: Ledger) -> None:
        made = client.post("/v1/modify", {"grant_id": "g1", "message_ids": ["m1", "m2"], "unread": False, "key": "k"})
        assert (made.status, told(made)["total"]) == (201, 2)
        query = {"in": "INBOX", "from": "a@example.com", "received_before": "2026-01-01T00:00:00Z"}
        found = client.post("/v1/modify", {"grant_id": "g1", "query": query, "starred": True}, idempotency_key="q")
        assert (found.status, told(found)["total"]) == (201, None)
        assert client.post("/v1/delete", {"grant_id": "g1", "thread_ids": ["t1"]}).status == 201
        assert client.post("/v1/delete", {"grant_id": "g1", "query": query, "hard": True}).status == 201
        assert told(client.get(found.headers["location"]))["operation"] == "modify"

    def test_can_be_undone_once_the_batch_has_ended(self, client: Client, kept: Ledger) -> None:
        made = client.post("/v1/modify", {"grant_id": "g1", "message_ids": ["m1"], "unread": False, "undoable": True})
        url = made.headers["location"]
        assert client.post(f"{url}/undo").status in (409, 422)
        assert fields_of(client.post(f"{url}/undo", {"x": 1})) == ["x"]
        kept.absorb()
        client.post(f"{url}/cancel")
        assert client.post(f"{url}/undo", {"reason": "a mistake"}).status in (201, 422)

    def test_are_undone_once_by_requests_with_the_same_key(self, client: Client, kept: Ledger) -> None:
        batch = changed(kept)
        url = f"/v1/batches/{batch.id}/undo"
        made = client.post(url, idempotency_key="undo-1")
        assert (made.status, told(made)["total"]) == (201, 3)
        kept.queue.cancel_batch(told(made)["id"])
        lead(kept)
        for repeat in (client.post(url, idempotency_key="undo-1"), client.post(url, {"key": "undo-1"})):
            assert (repeat.status, told(repeat)["id"]) == (200, told(made)["id"])
            assert repeat.headers["location"] == made.headers["location"]
        assert fields_of(client.post(url, {"key": "other"}, idempotency_key="undo-1")) == ["key"]
        assert fields_of(client.post(url, {"key": "x" * 256})) == ["key"]
        client.post("/v1/modify", {"grant_id": "g1", "message_ids": ["m1"], "unread": False, "key": "taken"})
        assert client.post(url, idempotency_key="taken").status == 409
        assert client.post(url, idempotency_key="undo-2").status == 201

    def test_name_every_problem(self, client: Client) -> None:
        answer = client.post(
            "/v1/modify",
            {"grant_id": "g1", "message_ids": ["m"], "query": {"in_": "x", "unread": 5}, "suppressed": "drop",
             "whole_threads": True},
        )  # fmt: skip
        assert fields_of(answer) == ["suppressed", "message_ids", "whole_threads", "query.in_"]
        assert fields_of(client.post("/v1/modify", {"grant_id": "g1", "message_ids": "m", "unread": 1})) != []
        assert fields_of(client.post("/v1/delete", {"grant_id": "g1"})) != []

    def test_with_any_value_never_fail(self, client: Client) -> None:
        names = ("message_ids", "thread_ids", "query", "whole_threads", "unread", "starred", "folders", "metadata",
                 "shared_from", "shared_folder_id", "query_imap", "hard")  # fmt: skip
        for name, value in product(names, [[], {}, 1.5, "\ud800", "", ["x", 1], {"a": 1}, 10**30, True]):
            for path, given in (("modify", {"unread": True}), ("delete", {})):
                answer = client.post(f"/v1/{path}", {"grant_id": "g1", "message_ids": ["m"]} | given | {name: value})
                assert answer.status in (201, 422), (name, value, answer.text)


class TestJobs:
    def test_are_listed_held_rescheduled_and_cancelled(
        self, client: Client, kept: Ledger, client_of: Callable[..., Client]
    ) -> None:
        ids = [told(client.post("/v1/send", SEND | {"key": f"k{n}", "tags": {"n": str(n)}}))["id"] for n in range(3)]
        page = told(client.get("/v1/jobs?grant_id=g1&limit=2"))
        assert [one["id"] for one in page["items"]] == ids[:0:-1]
        rest = told(client.get(f"/v1/jobs?grant_id=g1&limit=2&cursor={page['next']}"))
        assert [one["id"] for one in rest["items"]] == ids[:1]
        assert [one["id"] for one in told(client.get("/v1/jobs?key=k1"))["items"]] == [ids[1]]
        assert client.get("/v1/jobs?key=other").status == 404
        url = f"/v1/jobs/{ids[0]}"
        assert told(client.post(f"{url}/hold", {"reason": "wait"})) == {"changed": 1}
        why = told(client.get(f"{url}/why"))
        assert (why["by"], why["note"]) == ("api:shop", "wait")
        assert told(client.post(f"{url}/release")) == {"changed": 1}
        assert told(client.post(f"{url}/reschedule", {"due_at": "2100-01-01T00:00:00Z", "expires_at": "never"}))
        assert told(client.post(f"{url}/priority", {"priority": "low"})) == {"changed": 1}
        shown = told(client.get(url))
        assert (shown["due_at"], shown["priority"]) == ("2100-01-01T00:00:00+00:00", "low")
        assert told(client.post(f"{url}/cancel")) == {"state": "cancelled"}
        answer = client.post(f"{url}/hold")
        assert (answer.status, told(answer)["state"]) == (409, State.CANCELLED)

    def test_and_batches_are_cancelled_in_the_name_of_the_token(self, client: Client, kept: Ledger) -> None:
        job = client.post("/v1/send", SEND).headers["location"]
        batch = client.post("/v1/batches", {"sends": [SEND]}).headers["location"]
        for url in (job, batch, job, batch):  # the second time, nothing is left to cancel
            assert client.post(f"{url}/cancel", {"reason": "a mistake"}).status == 200
        events = [(row.job_id, row.batch_id, row.kind, row.by, row.reason) for row in kept.rows(schema.event)]
        told_of = [(UUID(job.rpartition("/")[2]), None), (None, UUID(batch.rpartition("/")[2]))]
        assert events == [(*which, "cancel", "api:shop", "a mistake") for which in told_of]
        assert fields_of(client.post(f"{job}/cancel", {"reason": "", "by": "anna"})) == ["by", "reason"]
        assert fields_of(client.post(f"{job}/cancel", {"reason": ""})) == ["reason"]

    def test_get_another_message_while_they_wait(self, client: Client, kept: Ledger) -> None:
        url = client.post("/v1/send", SEND | {"key": "k"}).headers["location"]
        kept.absorb()
        assert client.post(f"{url}/replace", {"message": MESSAGE | {"subject": "New"}, "reason": "typo"}).status == 200
        assert enqueued(kept.queue)[0].subject == "New"
        body = form(
            "abc",
            ('name="send"', json.dumps({"message": MESSAGE}).encode()),
            ('name="attachments"; filename="a"', b"x"),
        )
        assert client.request("POST", f"{url}/replace", body, **FORM).status == 200
        assert enqueued(kept.queue)[0].attachments == ("a",)
        assert fields_of(client.post(f"{url}/replace", {"message": {"to": ["x"]}, "key": "k"})) == [
            "key",
            "to[0].email",
        ]
        assert fields_of(client.post(f"{url}/replace", {"message": {"to": ["x"]}})) == ["to[0].email"]
        assert fields_of(client.post(f"{url}/replace", {})) == ["message"]
        kept.queue.suppress("nyah@example.com")
        modified = kept.queue.modify("g1", ["m1"], unread=True).id
        for refused in (
            client.post(f"{url}/replace", {}),
            client.post(f"{url}/replace", {"message": {"to": ["nyah@example.com"]}}),
            client.post(f"/v1/batches/{modified}/close"),
        ):
            assert (refused.status, told(refused)["detail"]) == (422, "Nothing was changed.")

    def test_name_every_problem_of_a_change(self, client: Client) -> None:
        job = client.post("/v1/send", SEND).headers["location"]
        batch = client.post("/v1/batches", {"sends": [SEND]}).headers["location"]
        more = {"reason": "", "foo": 1}
        for path, given, fields in (
            ("reschedule", {"due_at": "x", "expires_at": "2000-01-01T00:00:00Z"}, ["due_at", "expires_at"]),
            ("reschedule", {}, ["due_at"]),
            ("priority", {"priority": "x"}, ["priority"]),
            ("priority", {}, ["priority"]),
            ("hold", {}, []),
            ("release", {}, []),
            ("cancel", {}, []),
        ):
            for url in (job, batch):
                answer = client.post(f"{url}/{path}", given | more)
                assert sorted(fields_of(answer)) == sorted([*fields, "foo", "reason"]), (url, path)
        answer = client.post(f"{job}/replace", {"message": {"to": ["x"]}, "content": -1} | more)
        assert sorted(fields_of(answer)) == ["content", "foo", "reason", "to[0].email"]
        undo = {"priority": "x", "on_outcome": "", "key": ""}
        assert sorted(fields_of(client.post(f"{batch}/undo", undo | more))) == [
            "foo", "key", "on_outcome", "priority", "reason",
        ]  # fmt: skip
        assert fields_of(client.post(f"{batch}/undo", idempotency_key="k" * 300)) == ["key"]

    def test_is_refused_if_it_was_replaced_since_it_was_read(self, client: Client) -> None:
        url = client.post("/v1/send", SEND).headers["location"]
        read = told(client.get(url))["content_version"]
        given = {"message": MESSAGE | {"subject": "New"}, "content": read}
        assert client.post(f"{url}/replace", given).status == 200
        answer = client.post(f"{url}/replace", given | {"message": MESSAGE})
        now = told(client.get(url))["content_version"]
        assert (answer.status, told(answer)) == (409, {
            "type": "urn:sendq:problem:content-changed", "title": "The message was replaced", "status": 409,
            "detail": "The message was replaced since: read it again, and send its content version.",
            "id": url.rpartition("/")[2], "content_version": now,
        })  # fmt: skip
        assert client.post(f"{url}/replace", given | {"message": MESSAGE, "content": now}).status == 200
        assert client.post(f"{url}/cancel").status == 200
        over = client.post(f"{url}/replace", given)
        assert (over.status, told(over)["type"], told(over)["state"]) == (
            409, "urn:sendq:problem:not-waiting", "cancelled",
        )  # fmt: skip

    def test_tell_what_is_wrong_with_a_filter_or_a_change(self, client: Client) -> None:
        assert fields_of(client.get("/v1/jobs?colour=red&limit=1&limit=2")) == ["colour", "limit"]
        for wrong in ("limit=x", "since=now", "state=lost", "batch_id=", "tag=x", "grant_id=%00", "cursor=x", "key="):
            answer = client.get(f"/v1/jobs?{wrong}")
            assert answer.status in (404, 422), (wrong, answer.text)
        url = f"/v1/jobs/{told(client.post('/v1/send', SEND))['id']}"
        assert fields_of(client.post(f"{url}/reschedule", {})) == ["due_at"]
        assert fields_of(client.post(f"{url}/reschedule", {"due_at": "now"})) == ["due_at"]
        assert fields_of(client.post(f"{url}/priority", {})) == ["priority"]
        assert fields_of(client.post(f"{url}/priority", {"priority": []})) == ["priority"]
        assert fields_of(client.post(f"{url}/hold", {"reason": 5})) == ["reason"]
        assert fields_of(client.post(f"{url}/hold", {"by": "me"})) == ["by"]
        assert fields_of(client.post(f"{url}/hold", [])) == [""]

    def test_of_a_grant_are_counted_and_estimated(self, client: Client) -> None:
        client.post("/v1/send", SEND)
        grant = told(client.get("/v1/grants/g1"))
        assert (grant["application"], grant["waiting"], grant["connected"]) == ("default", 1, True)
        for priority in ("low", "2"):
            answer = client.get(f"/v1/grants/g1/eta?priority={priority}&due_at=2100-01-01T00:00:00Z")
            assert told(answer)["ahead"] >= 0
        later = client.get(
            "/v1/grants/g1/eta?window=00:00-24:00%20mon-sun%20UTC%202100-01-02&due_at=2100-01-02T12:00:00Z"
        )
        assert told(later)["at"].startswith("2100-01-03T00:00")
        wrong = client.get("/v1/grants/g1/eta?priority=vip&due_at=now&operation=x&window=always")
        assert sorted(fields_of(wrong)) == ["due_at", "operation", "priority", "window"]
        assert client.get("/v1/grants/a@b").status == 422


def test_a_repeat_after_another_version_of_the_id_is_found(client: Client) -> None:
    job = told(client.post("/v1/send", SEND))["id"]
    assert told(client.get(f"/v1/jobs/{str(UUID(job)).upper()}"))["id"] == job
