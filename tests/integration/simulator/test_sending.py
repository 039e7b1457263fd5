"""Sending: what is taken, and the recipients that make it fail."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from sendq.simulator import Simulator
from sendq.simulator.faults import MAGIC
from tests.integration.simulator.asking import (
    FORM,
    SEND_PATH,
    Client,
    form_data,
    tls_contexts,
)


class TestSending:
    def test_puts_the_message_into_the_mailbox(self, sim: Simulator, client: Client) -> None:
        reply = client.send(metadata={"key1": "job-1"}, key="job-1:0")
        assert (reply.status, reply.json["grant_id"], reply.data["folders"]) == (200, "g", ["SENT"])
        (accepted,) = sim.mailbox
        assert (accepted.id, accepted.grant, accepted.key, accepted.job) == (reply.data["id"], "g", "job-1:0", "job-1")
        assert accepted.payload["subject"] == "Hello"

    def test_is_logged_with_its_bytes_key_and_status(self, sim: Simulator, client: Client) -> None:
        headers = [{"name": "X-Sendq-Job", "value": "job-2"}]
        client.send(key="k", custom_headers=headers, metadata={"key1": "other"})
        (request,) = sim.requests
        assert json.loads(request.body)["custom_headers"] == headers
        assert (request.operation, request.grant, request.key, request.job) == ("send", "g", "k", "job-2")
        assert (request.status, request.replayed, request.headers["content-type"]) == (200, False, "application/json")
        assert request.done_at is not None
        assert request.done_at >= request.at

    def test_can_be_asked_for_the_message_id(self, client: Client) -> None:
        body = {"to": [{"email": "a@example.com"}], "custom_headers": [{"name": "X-A", "value": "1"}]}
        path = "/v3/grants/g/messages/send?fields="
        basic = client.call("POST", path + "include_basic_headers", body).data["headers"]
        whole = client.call("POST", path + "include_headers", body).data["headers"]
        assert [header["name"] for header in basic] == ["Message-ID"]
        assert [header["name"] for header in whole] == ["Message-ID", "X-A"]

    def test_later_is_answered_202_without_an_id(self, client: Client) -> None:
        reply = client.send(send_at=1_900_000_000)
        assert (reply.status, "id" in reply.data, reply.json["send_at"]) == (202, False, 1_900_000_000)

    def test_a_reply_joins_the_thread(self, client: Client) -> None:
        first = client.send().data
        assert client.send(reply_to_message_id=first["id"]).data["thread_id"] == first["thread_id"]

    def test_takes_multipart(self, sim: Simulator, client: Client) -> None:
        message = json.dumps({"to": [{"email": "a@example.com"}], "subject": "Files"})
        body = (
            f'--b\r\nContent-Disposition: form-data; name="message"\r\n\r\n{message}\r\n'
            '--b\r\nContent-Disposition: form-data; name="file0"; filename="a.txt"\r\n'
            "Content-Type: text/plain\r\n\r\nabc\r\n--b--\r\n"
        ).encode()
        reply = client.call("POST", "/v3/grants/g/messages/send", body, content_type="multipart/form-data; boundary=b")
        assert reply.status == 200
        assert [one["filename"] for one in reply.data["attachments"]] == ["a.txt"]
        assert sim.mailbox[0].payload["subject"] == "Files"
        digest = hashlib.sha256(b"abc").hexdigest()
        assert sim.mailbox[0].payload["attachments"] == [
            {"filename": "a.txt", "content_type": "text/plain", "content_id": "file0", "size": 3, "digest": digest}
        ]
        assert (sim.requests[0].size, sim.requests[0].digest) == (len(body), hashlib.sha256(body).hexdigest())
        assert json.loads(sim.requests[0].body)["subject"] == "Files"

    def test_keeps_of_a_file_in_json_its_digest_alone(self, sim: Simulator, client: Client) -> None:
        client.send(attachments=[{"filename": "a.txt", "content_type": "text/plain", "content": "YWJj"}])
        digest = hashlib.sha256(b"abc").hexdigest()
        assert sim.mailbox[0].payload["attachments"] == [
            {"filename": "a.txt", "content_type": "text/plain", "size": 3, "digest": digest}
        ]

    def test_takes_a_finished_message(self, sim: Simulator, client: Client) -> None:
        head = b"From: me@example.com\r\nTo: =?utf-8?q?B=C3=A9a?= <bea@example.com>\r\n"
        raw = head + b"X-Sendq-Job: j\r\nSubject: Hi\r\n\r\nBody"
        reply = client.call("POST", f"{SEND_PATH}?type=mime", form_data("mime", raw), content_type=FORM)
        assert reply.status == 200
        (accepted,) = sim.mailbox
        assert accepted.job == sim.requests[0].job == "j"
        assert accepted.payload["to"] == [{"name": "Béa", "email": "bea@example.com"}]
        assert (accepted.payload["subject"], reply.data["subject"]) == ("Hi", "Hi")
        assert accepted.payload["attachments"][0]["digest"] == hashlib.sha256(raw).hexdigest()
        assert sim.requests[0].body.endswith(b"Subject: Hi\n\n")

    def test_reads_a_body_as_slowly_as_it_is_told(self, sim: Simulator, client: Client) -> None:
        sim.behaviour.bytes_per_s = 200_000
        began = time.monotonic()
        client.send(body="x" * 100_000)
        assert time.monotonic() - began >= 0.5
        assert sim.received == sim.requests[0].size

    def test_over_tls(self, tmp_path: Path) -> None:
        server, trusting = tls_contexts(tmp_path)
        with Simulator(tls=server) as sim:
            assert sim.url.startswith("https://")
            assert Client(sim.url, trusting).send().status == 200


class TestAMagicRecipient:
    @pytest.mark.parametrize(
        ("name", "statuses", "delivered"),
        [
            ("tempfail", [503, 503, 200], 1),
            ("throttle", [429, 200], 1),
            ("exchange", [429, 200], 1),
            ("reject", [402, 402], 2),
            ("refused", [402, 402], 0),
            ("bad", [400, 400], 0),
            ("reauth", [401, 401], 0),
            ("timeout", [504, 504], 2),
            ("blocked-rule", [403, 403], 0),
            ("paused", [400, 200], 1),
            ("smtp-signin", [422, 401], 0),
            ("sender-quota", [422, 200], 1),
        ],
    )
    def test_brings_about_its_fault(
        self, sim: Simulator, client: Client, name: str, statuses: list[int], delivered: int
    ) -> None:
        assert [client.send(f"{name}+7@example.com").status for _ in statuses] == statuses
        assert len(sim.mailbox) == delivered
        assert sim.requests[0].fault == name

    def test_is_each_tested_here(self) -> None:
        tested = {"tempfail", "throttle", "exchange", "reject", "refused", "bad", "reauth", "timeout"}
        tested |= {"blocked-rule", "paused", "smtp-signin", "sender-quota"}
        assert MAGIC.keys() == tested | {"drop", "dropbefore", "hang", "html", "garbage"}

    def test_throttle_says_when_to_come_back(self, client: Client) -> None:
        assert client.send("throttle@example.com").headers["retry-after"] == "1"

    def test_counts_each_job_for_itself(self, client: Client) -> None:
        assert [client.send("throttle@example.com", metadata={"key1": job}).status for job in "aabb"] == [429, 200] * 2

    def test_reauth_makes_the_grant_invalid_until_it_is_set_valid(self, sim: Simulator, client: Client) -> None:
        client.send("reauth@example.com")
        assert client.call("GET", "/v3/grants/g").data["grant_status"] == "invalid"
        assert client.send().status == 401
        sim.grant("g", status="valid")
        assert client.send().status == 200

    @pytest.mark.parametrize(("name", "delivered"), [("drop", 1), ("dropbefore", 0)])
    def test_closes_the_connection(self, sim: Simulator, client: Client, name: str, delivered: int) -> None:
        with pytest.raises(ConnectionError):
            client.send(f"{name}@example.com", key="k")
        sim.wait_for(lambda s: s.requests[0].done_at)
        assert len(sim.mailbox) == delivered
        assert sim.requests[0].status is None

    def test_drop_is_found_again_under_its_key(self, sim: Simulator, client: Client) -> None:
        with pytest.raises(ConnectionError):
            client.send("drop@example.com", key="k")
        reply = client.send("drop@example.com", key="k")
        assert (reply.status, reply.headers["idempotent-response"], len(sim.mailbox)) == (200, "true", 1)

    def test_html_is_no_json(self, sim: Simulator, client: Client) -> None:
        reply = client.send("html@example.com", check=False)
        assert (reply.status, reply.headers["content-type"], sim.mailbox) == (502, "text/html", [])
        assert reply.body.startswith(b"<html>")

    def test_garbage_is_a_200_that_cannot_be_read(self, sim: Simulator, client: Client) -> None:
        reply = client.send("garbage@example.com", check=False)
        assert (reply.status, len(sim.mailbox)) == (200, 1)
        with pytest.raises(ValueError):
            json.loads(reply.body)
