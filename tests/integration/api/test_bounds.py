"""What the API takes in: size, depth, time and form of requests, and what it says when the ledger is away."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from sendq import SendQueue
from sendq.api import api, bodies
from sendq.api.openapi import document
from sendq.testing import enqueued
from tests.integration.api.conftest import MESSAGE, Client, fields_of, told
from tests.support.asgi import Answer, Browser
from tests.support.ledger import Ledger

SEND = {"grant_id": "g1", "message": MESSAGE}
SECRET = "private words of a mail"


class TestABody:
    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{", b"\xff", b'{"grant_id": "g1", "grant_id": "g2"}', b'{"a": NaN}', b'{"a": -Infinity}',
            b"[" * 100_000, b'{"a":' * 5_000 + b"1" + b"}" * 5_000, b"[" * 30 + b"]" * 30, b"9" * 5_000, b"{} {}",
            b'\xef\xbb\xbf{}', json.dumps(SEND).encode("utf-16"),
        ],
        ids=range(13),
    )  # fmt: skip
    def test_that_is_not_json_is_refused(self, client: Client, body: bytes) -> None:
        answer = client.post("/v1/send", body)
        assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"", "is empty: send JSON."),
            (b'{"grant_id":\n [,]}', "is not JSON from line 2, column 3 on: correct it."),
            (b'{"subject": "private words"', "is not JSON from line 1, column 28 on: correct it."),
            (b"\xff", "is not UTF-8: encode it as UTF-8."),
            (b'{"a": 1, "a": 2}', "has an object with the same name twice: leave one out."),
            (b'{"a": NaN}', "has a number that JSON does not have, or that is too long: correct it."),
            (b"[" * 100_000, "is nested too deeply: use fewer levels."),
            (b"[" * 30 + b"]" * 30, "is nested too deeply: use at most 20 levels."),
        ],
    )  # fmt: skip
    def test_that_is_not_json_says_where_and_why(self, client: Client, body: bytes, says: str) -> None:
        assert told(client.post("/v1/send", body))["detail"] == f"The body {says}"
        form = client.request(
            "POST", "/v1/send", b'--b\r\nContent-Disposition: form-data; name="send"\r\n\r\n' + body + b"\r\n--b--\r\n",
            content_type="multipart/form-data; boundary=b",
        )  # fmt: skip
        assert told(form)["detail"] == f"The part `send` {says}"

    @pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/json5"])
    def test_of_another_type_is_refused(self, client: Client, kind: str) -> None:
        answer = client.post("/v1/send", SEND, content_type=kind)
        assert (answer.status, "application/json" in answer.headers["accept"]) == (415, True)
        assert client.post("/v1/modify", SEND, content_type="multipart/form-data; boundary=x").status == 415

    def test_in_another_encoding_is_refused(self, client: Client) -> None:
        assert client.post("/v1/send", SEND, content_encoding="gzip").status == 415
        assert client.post("/v1/send", SEND, content_type="application/json; charset=latin-1").status == 415
        for kind in ('charset="UTF-8"', "charset=utf-8; profile=a", 'profile="a;charset=latin-1"', "Charset=utf-8"):
            assert client.post("/v1/send", SEND, content_type=f"application/json; {kind}").status == 201

    def test_that_is_too_large_is_refused_before_and_while_it_is_read(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, kept: Ledger
    ) -> None:
        monkeypatch.setattr(bodies, "JSON_MOST", 1_000)
        large = SEND | {"message": MESSAGE | {"body": "x" * 1_000}}
        assert client.post("/v1/send", large).status == 413
        assert client.post("/v1/send", large, content_length="5").status == 413
        assert client.post("/v1/send", SEND, content_length="9" * 5_000).status == 413
        assert enqueued(kept.queue) == []

    @pytest.mark.parametrize("limit", ["PART_S", "BODY_S"])
    def test_that_never_ends_is_given_up(
        self, application: Starlette, client: Client, monkeypatch: pytest.MonkeyPatch, limit: str
    ) -> None:
        monkeypatch.setattr(bodies, limit, 0.05)
        browser = Browser(application)
        browser.sends_all = False
        headers = {"authorization": f"Bearer {client.token}", "content-type": "application/json"}
        answer = browser.request("POST", "/v1/send", b"{", headers)
        assert (answer.status, answer.headers["connection"]) == (408, "close")

    def test_beyond_what_all_requests_may_keep_has_to_wait(
        self, kept: Ledger, tokens: Path, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.api.application.KEPT_MOST", 300)
        small = Client(api(SendQueue(kept.engine), tokens=tokens), client.token)
        large = SEND | {"message": MESSAGE | {"body": "x" * 1_000}}
        answer = small.post("/v1/send", large)
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert [small.post("/v1/send", SEND).status for _ in range(5)] == [201] * 5  # what was read is given back

    def test_may_be_left_out_where_it_says_nothing(self, client: Client) -> None:
        url = client.post("/v1/send", SEND).headers["location"]
        assert client.post(f"{url}/hold", {}).status == 200
        assert client.post(f"{url}/release").status == 200

    def test_without_a_length_in_its_headers_is_read(self, application: Starlette, client: Client) -> None:
        """As HTTP/2 allows: the end of the stream is the end of the body."""
        job = told(client.post("/v1/send", SEND))["id"]

        def post(body: bytes, **headers: str) -> Answer:
            sent = {"authorization": f"Bearer {client.token}"} | headers
            return Browser(application).request("POST", f"/v1/jobs/{job}/hold", body, sent)

        assert post(b'{"reason": 5}', content_type="application/json").status == 422
        assert post(b'{"reason": "later"}').status == 415
        assert post(b"{", content_type="application/json").status == 400
        assert post(b"", transfer_encoding="chunked").status == 200
        assert post(b"").status == 200


class TestAnAnswer:
    def test_to_an_unknown_address_or_method_is_a_problem(self, client: Client) -> None:
        assert told(client.get("/v1/nothing"))["status"] == 404
        answer = client.request("DELETE", "/v1/jobs/1")
        assert (answer.status, answer.headers["allow"]) == (405, "GET")
        assert told(client.post("/v1/openapi.json"))["status"] == 405

    def test_names_addresses_below_the_mount_point(self, application: Starlette, client: Client) -> None:
        mounted = Client(Starlette(routes=[Mount("/mail", application)]), client.token)
        url = mounted.post("/mail/v1/send", SEND).headers["location"]
        assert url.startswith("/mail/v1/jobs/")
        assert mounted.get(url).status == 200

    def test_and_the_log_have_no_private_values(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        wrong = {"to": [f"{SECRET}@"], "subject": f"{SECRET}\n", "body": SECRET + "\0", "metadata": {SECRET: 5}}
        answers = [
            client.post("/v1/send", {"grant_id": f"{SECRET}@", "message": wrong, "key": SECRET + "\0", SECRET: 1})
        ]
        first = client.post("/v1/send", SEND, idempotency_key=SECRET)
        answers += [first, client.post("/v1/send", SEND | {"grant_id": "g2"}, idempotency_key=SECRET)]

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError(SECRET)

        monkeypatch.setattr(SendQueue, "send", fail)
        answers.append(client.post("/v1/send", SEND | {"message": MESSAGE | {"body": SECRET}}))
        assert [one.status for one in answers] == [422, 201, 409, 500]
        assert not any(SECRET in one.text for one in answers)
        assert SECRET not in caplog.text
        assert "RuntimeError" in caplog.text

    def test_without_the_ledger_says_when_to_come_again_and_not_why(
        self, tokens: Path, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = SendQueue("postgresql+psycopg://sendq:hush@127.0.0.1:1/x")
        away = Client(api(queue, tokens=tokens), client.token)
        for answer in (away.post("/v1/send", SEND), away.get("/v1/jobs"), away.get("/v1/grants/g1")):
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert "127.0.0.1" not in answer.text
        assert "cannot be reached" in caplog.text
        assert "hush" not in caplog.text

    def test_for_a_full_lane_says_when_to_come_again(self, kept: Ledger, tokens: Path, client: Client) -> None:
        full = Client(api(SendQueue(kept.engine, lane_cap=1), tokens=tokens), client.token)
        assert full.post("/v1/send", SEND).status == 201
        answer = full.post("/v1/send", SEND)
        assert (answer.status, int(answer.headers["retry-after"]) >= 1) == (429, True)

    def test_for_suppressed_recipients_names_their_positions(self, kept: Ledger, client: Client) -> None:
        kept.queue.suppress("leyah@example.com")
        answer = client.post("/v1/send", SEND)
        assert (answer.status, told(answer)["problems"][0]["field"]) == (422, "to[0]")
        both = MESSAGE | {"to": ["nyah@example.com", "leyah@example.com"]}
        dropped = client.post("/v1/send", {"grant_id": "g1", "message": both, "suppressed": "drop"})
        assert told(dropped)["dropped"] == ["to[1]"]

    def test_to_an_address_with_a_slash_at_its_end_is_no_redirect(self, client: Client) -> None:
        for answer in (client.post("/v1/send/", SEND, host="evil.example"), client.get("/v1/jobs/")):
            assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
            assert "location" not in answer.headers

    def test_to_a_time_outside_of_the_calendar_names_it(self, client: Client) -> None:
        last = "9999-12-31T23:59:59Z"
        assert client.get(f"/v1/grants/g/eta?due_at={last}").status == 422
        assert client.get(f"/v1/jobs?until={last}").status == 200
        for at in ("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00%2B23:59"):
            for path in (f"grants/g/eta?due_at={at}", f"jobs?since={at}", f"jobs?until={at}"):
                answer = client.get(f"/v1/{path}")
                assert (answer.status, "is no" in answer.text) == (422, True), answer.text

    @pytest.mark.parametrize(
        ("path", "fields"),
        [
            ("jobs?limit=x&foo=1", ["foo", "limit"]),
            ("jobs?limit=0&since=x&until=y&state=odd&tag=&key=%00&grant_id=%00&bar=1&limit=5",
             ["bar", "grant_id", "key", "limit", "limit", "since", "state", "tag", "until"]),
            ("jobs?cursor=x&state=odd", ["cursor", "state"]),
            ("grants/g1/eta?foo=1&operation=x&priority=y&due_at=z&window=w",
             ["due_at", "foo", "operation", "priority", "window"]),
        ],
    )  # fmt: skip
    def test_to_wrong_parameters_names_all_of_them(self, client: Client, path: str, fields: list[str]) -> None:
        answer = client.get(f"/v1/{path}")
        assert (answer.status, sorted(fields_of(answer))) == (422, fields), answer.text

    def test_to_a_key_that_has_no_effect_says_so(self, client: Client) -> None:
        url = client.post("/v1/send", SEND).headers["location"]
        for path in (f"{url}/cancel", f"{url}/hold", "/v1/batches/x/sends", "/v1/send-many"):
            answer = client.post(path, {}, idempotency_key="k")
            assert (answer.status, told(answer)["problems"][0]["field"]) == (422, "Idempotency-Key")
        assert client.get(url, idempotency_key="k").status == 200


class TestADatabaseThatAborts:
    def test_is_asked_again_before_the_client_is(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, kept: Ledger
    ) -> None:
        from sendq import Retryable

        real, calls = SendQueue.send, []

        def send(self: SendQueue, *arguments: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) < 3:
                raise Retryable("deadlock")
            return real(self, *arguments, **options)

        monkeypatch.setattr(SendQueue, "send", send)
        assert client.post("/v1/send", SEND).status == 201
        monkeypatch.setattr(SendQueue, "send", lambda *_, **__: (_ for _ in ()).throw(Retryable("deadlock")))
        answer = client.post("/v1/send", SEND)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


class TestTheDocument:
    def test_is_served_to_everybody_and_describes_every_option(self, application: Starlette) -> None:
        from sendq.enqueueing.batch_sends import NewBatch
        from sendq.enqueueing.options import Options, OptionsGiven
        from sendq.messages.message import Message

        answer = Client(application, None).get("/v1/openapi.json")
        assert told(answer) == document()
        schemas = told(answer)["components"]["schemas"]
        assert schemas["Send"]["properties"].keys() == {*Options.__dataclass_fields__, "grant_id", "message", "mime"}
        assert schemas["NewBatch"]["properties"].keys() == {*NewBatch.__dataclass_fields__, "sends"}
        assert set(OptionsGiven.__annotations__) <= schemas["Modify"]["properties"].keys()
        assert schemas["Message"]["properties"].keys() == {name.rstrip("_") for name in Message.model_fields}
        assert not [name for name, one in schemas["Send"]["properties"].items() if not one]  # every type is known
