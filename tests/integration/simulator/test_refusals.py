"""What the API refuses, the simulator refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sendq.simulator import Simulator
from tests.integration.simulator.asking import (
    FORM,
    SEND_PATH,
    Client,
    form_data,
)


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
