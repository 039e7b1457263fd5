"""The simulator against what is documented: the official OpenAPI document, the official client, the rules of keys.

Every answer that passes through `Client.call` is held against the facts of the document (tests/data/nylas_facts.json).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.client
import ipaddress
import json
import re
import signal
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nylas import Client as OfficialClient
from nylas.models.errors import NylasApiError

from sendq.simulator import Fault, Request, Simulator
from sendq.simulator.checks import MODIFY, SEND
from sendq.simulator.faults import MAGIC
from sendq.simulator.idempotency import LIFETIME

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "nylas_facts.json").read_text())

PATHS = (
    ("send", "POST", r"/v3/grants/[^/]+/messages/send"),
    ("list", "GET", r"/v3/grants/[^/]+/messages"),
    ("get", "GET", r"/v3/grants/[^/]+/messages/[^/]+"),
    ("modify", "PUT", r"/v3/grants/[^/]+/messages/[^/]+"),
    ("delete", "DELETE", r"/v3/grants/[^/]+/messages/[^/]+"),
    ("modify_thread", "PUT", r"/v3/grants/[^/]+/threads/[^/]+"),
    ("grants", "GET", r"/v3/grants"),
    ("grant", "GET", r"/v3/grants/[^/]+"),
)


def conforms(method: str, path: str, status: int, document: Any) -> None:
    """The answer keeps the document's facts; what an operation does not declare has the shape of its other errors."""
    operation = next(
        (name for name, verb, form in PATHS if verb == method and re.fullmatch(form, path.partition("?")[0])), "grant"
    )
    declared = FACTS[operation]
    schema = declared.get(str(status), FACTS["list"]["401"])
    jsonschema.validate(document, schema)
    if status < 300:
        assert "request_id" in document
        if "data" in document:
            assert invented(document["data"], schema["properties"]["data"]) == set()
    else:
        assert isinstance(document["request_id"], str)
        assert document["error"]["type"]
        assert document["error"]["message"]


def invented(value: Any, schema: dict[str, Any]) -> set[str]:
    """Members at any depth that the document does not know."""
    if isinstance(value, list):
        return {name for one in value for name in invented(one, schema.get("items", {}))}
    if not isinstance(value, dict) or "properties" not in schema:
        return set()
    known = schema["properties"]
    deeper = {name for key, one in value.items() if key in known for name in invented(one, known[key])}
    return deeper | {name for name in value if name not in known}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.json["data"]

    @property
    def error(self) -> Any:
        return self.json["error"]


class Client:
    """A plain HTTP client that changes nothing: what a test says is what goes over the wire."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        self._where, self._context = urlsplit(url).netloc, context

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        if self._context:
            wire: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._where, timeout=10, context=self._context
            )
        else:
            wire = http.client.HTTPConnection(self._where, timeout=10)
        with contextlib.closing(wire):
            yield wire

    def call(self, method: str, path: str, body: Any = None, *, check: bool = True, **headers: str) -> Reply:
        with self.connection() as wire:
            self.ask(wire, method, path, body, **headers)
            answer = wire.getresponse()
            reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        if check and not path.startswith("/_simulator"):
            conforms(method, path, reply.status, reply.json)
            assert reply.headers["x-request-id"] == reply.json["request_id"]
        return reply

    def ask(self, wire: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> None:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        usual = {"authorization": "Bearer test-key", "content_type": "application/json"}
        sent = {name.replace("_", "-"): value for name, value in {**usual, **headers}.items() if value}
        wire.request(method, path, raw, sent)

    def send(self, to: str = "leyah@example.com", grant: str = "g", *, check: bool = True, **more: Any) -> Reply:
        key = more.pop("key", "")
        body = {"to": [{"email": to}], "subject": "Hello", "body": "<p>Hi</p>", **more}
        return self.call("POST", f"/v3/grants/{grant}/messages/send", body, check=check, idempotency_key=key)

    def put(self, message: str, body: Any, grant: str = "g") -> Reply:
        return self.call("PUT", f"/v3/grants/{grant}/messages/{quote(message, safe='')}", body)

    def get(self, message: str, grant: str = "g", query: str = "") -> Reply:
        return self.call("GET", f"/v3/grants/{grant}/messages/{quote(message, safe='')}{query}")

    def list(self, query: str = "", grant: str = "g") -> Reply:
        return self.call("GET", f"/v3/grants/{grant}/messages{query}")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sim(clock: Clock) -> Iterator[Simulator]:
    with Simulator(clock=clock) as simulator:
        yield simulator


@pytest.fixture
def client(sim: Simulator) -> Client:
    return Client(sim.url)


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


SEND_PATH = "/v3/grants/g/messages/send"
FORM = "multipart/form-data; boundary=b"


def form_data(name: str, content: bytes) -> bytes:
    """Form data with this part alone."""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


class TestARequestIsRefused:
    @pytest.mark.parametrize(
        ("path", "content_type", "body"),
        [
            (SEND_PATH, FORM, form_data("mime", b"To: a@example.com\r\n\r\n")),
            (f"{SEND_PATH}?type=mime", FORM, form_data("message", b'{"to":[{"email":"a@example.com"}]}')),
            (f"{SEND_PATH}?type=mime", "application/json", b'{"to":[{"email":"a@example.com"}]}'),
            (f"{SEND_PATH}?type=mime", FORM, form_data("mime", b"From: a@example.com\r\n\r\nTo: b@example.com")),
            (SEND_PATH, FORM, form_data("message", b'{"to":[{"email":"a@example.com"}]}')[:-6]),
            (SEND_PATH, "multipart/form-data", form_data("message", b'{"to":[{"email":"a@example.com"}]}')),
        ],
    )
    def test_for_form_data_that_does_not_fit(
        self, sim: Simulator, client: Client, path: str, content_type: str, body: bytes
    ) -> None:
        assert client.call("POST", path, body, content_type=content_type).status == 400
        assert sim.mailbox == []

    def test_for_an_attachment_that_is_not_base64(self, client: Client) -> None:
        reply = client.send(attachments=[{"filename": "a", "content": "a-b"}])
        assert (reply.status, reply.error["message"]) == (400, "attachments: content must be base64")

    def test_for_form_data_of_more_than_25_megabytes(self, sim: Simulator, client: Client) -> None:
        message = b'{"to":[{"email":"a@example.com"}]}\r\n--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n'
        room = 25 * 1024 * 1024 - len(form_data("message", message))
        path = "/v3/grants/g/messages/send"
        assert client.call("POST", path, form_data("message", message + b"x" * room), content_type=FORM).status == 200
        over = client.call("POST", path, form_data("message", message + b"x" * (room + 1)), content_type=FORM)
        assert over.status == 413
        assert len(sim.requests[0].body) < 100

    @pytest.mark.parametrize("header", ["", "Bearer wrong", "test-key", "Basic dGVzdA=="])
    def test_without_the_right_key(self, sim: Simulator, client: Client, header: str) -> None:
        reply = client.call("GET", "/v3/grants/g", authorization=header)
        assert (reply.status, reply.error["type"]) == (401, "token.unauthorized_access")
        assert "provider_error" not in reply.error

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "//v3/grants/g/messages/send"),
            ("GET", "//v3/grants/g"),
            ("GET", "/v3/grants/g/messages/send/more"),
            ("POST", "/v3/grants/g/messages"),
            ("GET", "/v3/grants/g/threads"),
            ("GET", "/"),
            ("PATCH", "/v3/grants/g"),
        ],
    )
    def test_for_a_path_that_is_not_there(self, client: Client, method: str, path: str) -> None:
        reply = client.call(method, path, check=False)
        assert (reply.status, reply.error["type"]) == (404, "not_found_error")

    @pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", ""])
    def test_for_any_other_content_type(self, client: Client, content_type: str) -> None:
        reply = client.call("POST", "/v3/grants/g/messages/send", b"{}", content_type=content_type)
        assert (reply.status, reply.error["message"].partition(" ")[0]) == (400, "Content-Type")

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"subject": NaN}', b"\xff{}", b"[" * 5000])
    def test_for_what_is_not_a_json_object(self, client: Client, body: bytes) -> None:
        reply = client.call("POST", "/v3/grants/g/messages/send", body)
        assert (reply.status, reply.error["type"]) == (400, "invalid_request_payload")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("to", "leyah@example.com"),
            ("to", ["leyah@example.com"]),
            ("to", []),
            ("to", [{"name": "Leyah"}]),
            ("to", [{"email": "nobody"}]),
            ("to", [{"email": "a b@example.com"}]),
            ("cc", {"email": "a@example.com"}),
            ("from", [{"email": "a@example.com"}, {"email": "b@example.com"}]),
            ("subject", 5),
            ("is_plaintext", 1),
            ("send_at", True),
            ("use_draft", True),
            ("custom_headers", [{"name": "X"}]),
            ("attachments", [{"filename": "a"}]),
            ("metadata", {"a": 1}),
            ("metadata", {"a": {"b": "c"}}),
            ("metadata", {f"k{n}": "" for n in range(51)}),
            ("metadata", {"k" * 41: ""}),
            ("metadata", {"k": "v" * 501}),
            ("subjekt", "misspelt"),
        ],
    )
    def test_for_a_field_that_cannot_be(self, sim: Simulator, client: Client, field: str, value: Any) -> None:
        body = {"to": [{"email": "a@example.com"}], field: value}
        reply = client.call("POST", "/v3/grants/g/messages/send", body)
        assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
        assert reply.error["message"].strip("'").startswith(field)
        assert sim.mailbox == []

    def test_at_the_limits_of_metadata_it_is_not(self, client: Client) -> None:
        assert client.send(metadata={f"{n:040}": "v" * 500 for n in range(50)}).status == 200

    def test_for_more_than_3_megabytes_of_json(self, client: Client) -> None:
        room = 3 * 1024 * 1024 - len(json.dumps({"to": [{"email": "a@example.com"}], "body": ""}))
        path = "/v3/grants/g/messages/send"
        fits = {"to": [{"email": "a@example.com"}], "body": "x" * room}
        assert client.call("POST", path, fits).status == 200
        assert client.call("POST", path, {**fits, "body": "x" * (room + 1)}).status == 413

    def test_with_402_for_an_address_outside_ascii(self, client: Client) -> None:
        assert client.send("jürgen@example.com").status == 402

    def test_once_its_grant_has_expired(self, sim: Simulator, client: Client) -> None:
        sim.grant("g", status="invalid")
        reply = client.send()
        assert (reply.status, reply.error["type"], reply.error["provider_error"]["code"]) == (401, "unauthorized", 401)
        assert client.put("m", {"unread": True}).status == 401
        assert client.list().status == 401
        assert client.call("GET", "/v3/grants/g").data["grant_status"] == "invalid"

    def test_for_an_unknown_grant_when_grants_are_not_made_on_sight(self) -> None:
        with Simulator(auto_grants=False) as sim:
            reply = Client(sim.url).send()
            assert (reply.status, reply.error["type"]) == (404, "grant.not_found")
            sim.grant("g")
            assert Client(sim.url).send().status == 200


class TestAnIdempotencyKey:
    def test_used_again_finds_the_first_answer(self, sim: Simulator, client: Client) -> None:
        first, second = client.send(key="k"), client.send(key="k")
        assert second.body == first.body
        assert (first.headers.get("idempotent-response"), second.headers["idempotent-response"]) == (None, "true")
        assert len(sim.mailbox) == 1
        assert [request.replayed for request in sim.requests] == [False, True]

    def test_belongs_to_its_grant(self, sim: Simulator, client: Client) -> None:
        client.send(grant="a", key="k")
        client.send(grant="b", key="k")
        assert len(sim.mailbox) == 2

    def test_is_free_one_hour_after_its_first_use(self, sim: Simulator, client: Client, clock: Clock) -> None:
        client.send(key="k")
        clock.now += LIFETIME - 1
        client.send(key="k")
        assert len(sim.mailbox) == 1
        clock.now += 1
        client.send(key="k")
        assert len(sim.mailbox) == 2

    def test_with_another_payload_is_refused(self, sim: Simulator, client: Client) -> None:
        client.send(key="k")
        reply = client.send(key="k", subject="Another")
        assert (reply.status, reply.error["type"]) == (409, "api.invalid_idempotent_request")
        assert client.send(key="k").status == 200

    def test_over_256_characters_is_refused(self, client: Client) -> None:
        assert client.send(key="k" * 256).status == 200
        reply = client.send(key="k" * 257)
        assert (reply.status, reply.error["type"]) == (400, "api.invalid_idempotency_key")

    def test_whose_first_request_still_runs_is_refused(self, sim: Simulator, client: Client) -> None:
        body = {"to": [{"email": "hang@example.com"}], "subject": "Hello", "body": "<p>Hi</p>"}
        with client.connection() as wire:
            client.ask(wire, "POST", "/v3/grants/g/messages/send", body, idempotency_key="k")
            sim.wait_for(lambda s: s.mailbox)
            reply = client.send("hang@example.com", key="k")
            assert (reply.status, reply.error["type"]) == (409, "api.concurrent_idempotent_request")
        sim.wait_for(lambda s: s.requests[0].done_at)
        reply = client.send("hang@example.com", key="k")
        assert (reply.status, reply.headers["idempotent-response"]) == (200, "true")
        assert len(sim.mailbox) == 1

    @pytest.mark.parametrize(
        ("name", "status"), [("tempfail", 503), ("throttle", 429), ("refused", 402), ("timeout", 504)]
    )
    def test_stores_errors_too(self, client: Client, name: str, status: int) -> None:
        first, second = (client.send(f"{name}@example.com", key="k") for _ in range(2))
        assert (first.status, second.status, second.body) == (status, status, first.body)
        assert second.headers["idempotent-response"] == "true"
        assert "retry-after" not in second.headers

    def test_stores_refusals_of_the_body(self, client: Client) -> None:
        assert client.send(key="k", subject=5).status == 400
        assert client.send(key="k", subject=5).headers["idempotent-response"] == "true"

    def test_does_not_store_throttles_when_told_so(self, sim: Simulator, client: Client) -> None:
        sim.behaviour.stores_throttles = False
        assert client.send("throttle@example.com", key="k").status == 429
        assert client.send("throttle@example.com", key="k").status == 200

    def test_is_not_spent_on_a_wrong_api_key(self, sim: Simulator, client: Client) -> None:
        body = {"to": [{"email": "a@example.com"}]}
        path = "/v3/grants/g/messages/send"
        assert client.call("POST", path, body, idempotency_key="k", authorization="Bearer wrong").status == 401
        assert client.call("POST", path, body, idempotency_key="k").status == 200

    @pytest.mark.parametrize(
        ("kept", "again"),
        [("answer", (504, True)), ("outcome", (200, True)), ("nothing", (200, False)), ("stuck", (409, False))],
    )
    def test_keeps_what_the_fault_says(
        self, sim: Simulator, client: Client, kept: Any, again: tuple[int, bool]
    ) -> None:
        sim.will(Fault.status(504, accepted=True, kept=kept))
        client.send(key="k")
        reply = client.send(key="k")
        assert (reply.status, "idempotent-response" in reply.headers) == again


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


class TestAScriptedFault:
    def test_happens_as_often_as_told_then_no_more(self, sim: Simulator, client: Client) -> None:
        sim.will(Fault.status(429, type="rate_limit_error", headers={"Retry-After": "3"}), times=2)
        replies = [client.send() for _ in range(3)]
        assert [reply.status for reply in replies] == [429, 429, 200]
        assert replies[0].headers["retry-after"] == "3"

    def test_happens_only_to_its_grant_and_operation(self, sim: Simulator, client: Client) -> None:
        sim.will("throttle", grant="a", operation="modify", headers={"Retry-After": "9"})
        assert client.send(grant="a").status == 200
        assert client.put("m", {"unread": False}, grant="b").status == 200
        reply = client.put("m", {"unread": False}, grant="a")
        assert (reply.status, reply.headers["retry-after"]) == (429, "9")

    def test_can_follow_a_change_that_was_made(self, sim: Simulator, client: Client) -> None:
        sim.will(Fault.status(504, type="provider_error", accepted=True), operation="modify")
        assert client.put("m", {"starred": True}).status == 504
        assert client.get("m").data["starred"] is True

    def test_can_answer_anything(self, sim: Simulator, client: Client) -> None:
        sim.will(Fault.body(200, {"message": "Sending failed", "type": "api_error"}))
        assert client.send(check=False).json == {"message": "Sending failed", "type": "api_error"}

    def test_that_hangs_ends_with_the_simulator(self) -> None:
        with Simulator() as sim:
            client = Client(sim.url)
            sim.will(Fault.hang(), grant="g")
            with client.connection() as wire:
                client.ask(wire, "GET", "/v3/grants/g")
                sim.wait_for(lambda s: s.requests)
                sim.stop()
                with pytest.raises(ConnectionError):
                    wire.getresponse()

    def test_that_is_slow_still_succeeds(self, sim: Simulator, client: Client) -> None:
        sim.will(Fault.slow(0.05))
        assert client.send().status == 200
        (request,) = sim.requests
        assert request.done_at is not None
        assert request.done_at - request.at >= 0.05

    def test_of_a_name_nobody_knows_is_an_error(self, sim: Simulator) -> None:
        with pytest.raises(ValueError, match="no fault is called 'thortle'"):
            sim.will("thortle")

    def test_by_chance_happens_the_same_for_the_same_seed(self) -> None:
        def faults(seed: int) -> list[int]:
            with Simulator(seed=seed) as sim:
                sim.sometimes(0.5, "tempfail")
                return [client.send().status for client in [Client(sim.url)] for _ in range(30)]

        first = faults(1)
        assert first == faults(1)
        assert first != faults(2)
        assert set(first) == {200, 503}


class TestAGate:
    def test_decides_before_any_script_and_sees_each_request(self, sim: Simulator, client: Client) -> None:
        admitted: list[str | None] = []

        def three_then_no_more(request: Request) -> Fault | None:
            if len(admitted) == 3:
                return Fault.status(429, headers={"Retry-After": "5"})
            admitted.append(request.grant)
            return None

        sim.behaviour.gate = three_then_no_more
        sim.will(Fault.status(503), times=1)
        replies = [client.send() for _ in range(5)]
        assert [reply.status for reply in replies] == [503, 200, 200, 429, 429]
        assert admitted == ["g"] * 3
        assert len(sim.mailbox) == 2
        sim.behaviour.gate = None
        assert client.send().status == 200


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


class TestTheSimulator:
    def test_waits_for_the_thing(self, sim: Simulator, client: Client) -> None:
        client.send()
        assert sim.wait_for(lambda s: len(s.mailbox)) == 1

    def test_stops_waiting_at_the_limit(self, sim: Simulator) -> None:
        with pytest.raises(TimeoutError, match="0 accepted"):
            sim.wait_for(lambda s: s.mailbox, timeout=0.01)

    def test_forgets_everything_on_reset(self, sim: Simulator, client: Client) -> None:
        sim.will("throttle", times=None)
        client.send(key="k")
        sim.reset()
        assert (sim.requests, sim.mailbox, client.list().data) == ([], [], [])
        assert "idempotent-response" not in client.send(key="k").headers

    def test_logs_no_bodies_when_told_so(self) -> None:
        with Simulator(log_bodies=False) as sim:
            Client(sim.url).send()
            assert sim.requests[0].body == b""

    def test_comes_back_at_the_same_address_with_its_memory(self, sim: Simulator, client: Client) -> None:
        client.send(key="k")
        sim.stop()
        with pytest.raises(ConnectionRefusedError):
            client.send(key="k")
        sim.start()
        assert client.send(key="k").headers["idempotent-response"] == "true"

    @given(
        body=st.binary(max_size=200),
        content_type=st.sampled_from(["application/json", "multipart/form-data; boundary=b"]),
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_answers_whatever_the_body_holds(self, client: Client, body: bytes, content_type: str) -> None:
        part = b'--b\r\nContent-Disposition: form-data; name="message"\r\n\r\n'
        for raw in (body, part + body, part + b'{"attachments": 1}\r\n--b\r\n\r\n--b--'):
            reply = client.call("POST", "/v3/grants/g/messages/send", raw, content_type=content_type)
            assert reply.status == 400

    @pytest.mark.parametrize(
        "content_type", ["multipart/form-data;", "multipart/form-data; boundary=", "multipart/form-data; x"]
    )
    def test_answers_a_multipart_without_a_boundary(self, client: Client, content_type: str) -> None:
        reply = client.call("POST", "/v3/grants/g/messages/send", b"x", content_type=content_type)
        assert reply.status == 400

    def test_says_so_when_its_address_is_taken(self, sim: Simulator) -> None:
        with pytest.raises(OSError, match="in use"):
            Simulator(port=int(sim.url.rpartition(":")[2])).start()

    def test_knows_the_fields_that_the_document_knows(self) -> None:
        assert SEND.keys() == FACTS["send"]["request"]["properties"].keys()
        assert MODIFY.keys() == FACTS["modify"]["request"]["properties"].keys()

    def test_without_aiohttp_names_the_extra(self) -> None:
        code = "import sys; sys.modules['aiohttp'] = None; import sendq.simulator"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ended.stderr.strip().endswith("the simulator needs aiohttp: pip install 'sendq[simulator]'")


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], Client]]:
    with subprocess.Popen([sys.executable, "-m", "sendq.simulator"], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield started, Client(started.stdout.readline().strip())
        finally:
            started.kill()


class TestAnotherProcess:
    def test_scripts_it_and_looks_inside(self, process: tuple[subprocess.Popen[str], Client]) -> None:
        _, client = process
        fault = {"status": 429, "type": "rate_limit_error", "headers": {"Retry-After": "2"}}
        assert client.call("POST", "/_simulator/faults", {"fault": fault, "operation": "send"}).status == 200
        assert client.call("POST", "/_simulator/grants", {"id": "g", "provider": "imap"}).json["provider"] == "imap"
        assert [client.send().status for _ in range(2)] == [429, 200]
        state = client.call("GET", "/_simulator/").json
        assert (state["requests"], state["accepted"], state["by_status"]) == (2, 1, {"429": 1, "200": 1})
        assert [one["status"] for one in client.call("GET", "/_simulator/requests?since=1").json] == [200]
        assert client.call("GET", "/_simulator/mailbox").json[0]["payload"]["subject"] == "Hello"
        assert client.call("POST", "/_simulator/reset").json["requests"] == 0

    @pytest.mark.parametrize(
        "fault",
        [
            "throttle",
            {"ending": "drop", "accepted": True},
            {"ending": "hang", "kept": "stuck"},
            {"ending": "pass", "delay": 0.1},
            {"status": 502, "body": "<html>", "content_type": "text/html"},
        ],
    )
    def test_may_give_any_fault(self, client: Client, fault: Any) -> None:
        reply = client.call("POST", "/_simulator/faults", {"fault": fault, "probability": 0.5})
        assert (reply.status, reply.json) == (200, {"faults_waiting": 1})

    @pytest.mark.parametrize(
        "asked",
        [
            {},
            {"fault": "x"},
            {"fault": {}},
            {"fault": {"ending": "x"}},
            {"fault": "bad", "x": 1},
            {"fault": "bad", "times": "x"},
            {"fault": "bad", "probability": "x"},
            {"fault": {"status": 400, "delay": "x"}},
            {"fault": {"status": 400, "headers": {"Retry-After": 1}}},
            {"fault": {"status": 400, "headers": 1}},
            {"fault": {"status": 99}},
        ],
    )
    def test_is_told_what_is_no_fault(self, client: Client, asked: Any) -> None:
        assert client.call("POST", "/_simulator/faults", asked).status == 400

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_ends_it_by_signal(self, process: tuple[subprocess.Popen[str], Client], how: signal.Signals) -> None:
        started, client = process
        with client.connection() as wire:
            client.ask(wire, "POST", "/v3/grants/g/messages/send", {"to": [{"email": "hang@example.com"}]})
            started.send_signal(how)
            assert started.wait(10) == 0


class TestTheFixture:
    def test_gives_each_test_a_simulator_of_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "conftest.py").write_text('pytest_plugins = ["sendq.simulator.fixture"]\n')
        (tmp_path / "test_mine.py").write_text(
            textwrap.dedent("""
                import pytest
                from urllib.request import urlopen, Request

                def grants(nylas):
                    ask = Request(nylas.url + "/v3/grants/g", headers={"Authorization": "Bearer mine"})
                    with urlopen(ask) as answer:
                        return answer.status

                @pytest.mark.nylas_simulator(api_key="mine")
                @pytest.mark.parametrize("again", [1, 2])
                def test_marked(nylas_simulator, again):
                    assert grants(nylas_simulator) == 200
                    assert len(nylas_simulator.requests) == 1

                def test_unmarked(nylas_simulator):
                    assert nylas_simulator.behaviour.api_key == "test-key"
            """)
        )
        command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-W", "error", "-p", "no:cacheprovider"]
        ended = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "3 passed" in ended.stdout, ended.stdout


class TestTheOfficialClient:
    @pytest.fixture
    def nylas(self, sim: Simulator) -> OfficialClient:
        return OfficialClient("test-key", sim.url)

    def test_sends_and_finds_by_metadata(self, sim: Simulator, nylas: OfficialClient) -> None:
        message = {"to": [{"email": "leyah@example.com"}], "subject": "Hello", "body": "Hi", "metadata": {"key1": "j"}}
        key = {"headers": {"Idempotency-Key": "k"}}
        sent = nylas.messages.send("g", message, overrides=key).data
        assert sent.id == sim.mailbox[0].id
        assert nylas.messages.send("g", message, overrides=key).headers["idempotent-response"] == "true"
        found = nylas.messages.list("g", {"metadata_pair": {"key1": "j"}, "limit": 5})
        assert [one.id for one in found.data] == [sent.id]

    def test_sends_large_files_as_multipart(self, sim: Simulator, nylas: OfficialClient) -> None:
        size = 3 * 1024 * 1024
        file = {"filename": "a.bin", "content_type": "application/octet-stream", "content": b"x" * size, "size": size}
        nylas.messages.send("g", {"to": [{"email": "leyah@example.com"}], "attachments": [file]})
        assert sim.requests[0].headers["content-type"].startswith("multipart/form-data")
        assert len(sim.mailbox) == 1

    def test_finds_changes_and_deletes(self, sim: Simulator, nylas: OfficialClient) -> None:
        message = "<a+b/c@example.com>"
        sim.message("g", message)
        assert nylas.messages.find("g", message).data.unread is True
        assert nylas.messages.update("g", message, {"unread": False, "starred": True}).data.starred is True
        assert nylas.messages.destroy("g", message).request_id
        assert nylas.messages.find("g", message).data.folders == ["TRASH"]

    def test_finds_grants(self, sim: Simulator, nylas: OfficialClient) -> None:
        sim.grant("g", provider="microsoft", status="invalid")
        assert nylas.grants.find("g").data.grant_status == "invalid"
        assert [grant.provider for grant in nylas.grants.list().data] == ["microsoft"]

    def test_raises_its_own_error_on_a_wrong_key(self, sim: Simulator) -> None:
        with pytest.raises(NylasApiError) as caught:
            OfficialClient("wrong", sim.url).grants.find("g")
        assert (caught.value.status_code, caught.value.type) == (401, "token.unauthorized_access")
        assert caught.value.request_id == caught.value.headers["x-request-id"]


def tls_contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of its own making, and a client's that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "simulator")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "simulator.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))
