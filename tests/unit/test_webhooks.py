"""Webhooks as far as they need no ledger: what is let in, what it says, and what is answered at once."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq import SendQueue
from sendq.clock import SECOND, Micros
from sendq.facts.notices import MailNotice
from sendq.rules.grant_notices import Kind
from sendq.webhooks import BODY_MOST, Received, asgi, challenge, receive
from sendq.webhooks.notice import Notice, read
from settings import Settings, SettingsError
from worker.processes.webhooks import addresses, secrets_of

SECRET = "s3cret"
NOW: Micros = 1_780_000_000 * SECOND
GRANT = "0b8a5b1e-7e3c-4a52-9b1e-3d1f6f0a7c11"


def signed(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def envelope(trigger: str = "grant.expired", facts: Any = None, **more: Any) -> dict[str, Any]:
    facts = {"code": 25009, "grant_id": GRANT, "provider": "google", "email": "leyah@example.com"} | (facts or {})
    return {
        "specversion": "1.0", "type": trigger, "source": "/google/emails/realtime", "id": "n1",
        "time": NOW // SECOND, "webhook_delivery_attempt": 1,
        "data": {"application_id": "a1", "object": facts},
    } | more  # fmt: skip


def found(content: Any, **more: Any) -> Notice | MailNotice | Received:
    """What a body says, signed rightly unless told otherwise."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    values: dict[str, Any] = {"signature": signed(body), "secret": SECRET, "now": NOW} | more
    return read(body, **values)


def status(content: Any, **given: Any) -> int:
    answer = found(content, **given)
    assert isinstance(answer, Received)
    return answer.status


def notice(content: Any) -> Notice:
    said = found(content)
    assert isinstance(said, Notice)
    return said


class TestTheSignature:
    @pytest.mark.parametrize(
        "body",
        [
            json.dumps(envelope(), indent=3).encode(),
            json.dumps(envelope(source="Zoë 🦜 \u2028"), ensure_ascii=False).encode(),
            b" \r\n\t" + json.dumps(envelope()).encode() + b"\n\n",
            json.dumps(envelope()).replace("grant.expired", "grant\\u002eexpired").encode(),
        ],
    )
    def test_is_that_of_the_raw_bytes_however_they_are_written(self, body: bytes) -> None:
        assert isinstance(found(body), Notice)
        rewritten = json.dumps(json.loads(body)).encode()
        assert rewritten != body
        assert status(body, signature=signed(rewritten)) == 401

    def test_may_be_written_in_capitals_and_with_spaces_around(self) -> None:
        body = json.dumps(envelope()).encode()
        assert isinstance(found(body, signature=f" {signed(body).upper()} "), Notice)

    @pytest.mark.parametrize("signature", [None, "", "0" * 64, "zz", "sha256=", "é", "\udcff", "\0"])
    def test_that_is_wrong_or_missing_is_refused(self, signature: str | None) -> None:
        assert status(envelope(), signature=signature) == 401

    def test_of_another_secret_is_refused(self) -> None:
        body = json.dumps(envelope()).encode()
        assert status(body, signature=signed(body, "other")) == 401

    @pytest.mark.parametrize("length", [0, 8, 63])
    def test_that_is_cut_is_refused(self, length: int) -> None:
        body = json.dumps(envelope()).encode()
        assert status(body, signature=signed(body)[:length]) == 401

    def test_does_not_fit_a_body_that_was_cut_or_changed(self) -> None:
        body = json.dumps(envelope()).encode()
        assert status(body[:-1], signature=signed(body)) == 401
        assert status(body.replace(b"n1", b"n2"), signature=signed(body)) == 401

    def test_is_compared_in_constant_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared: list[tuple[bytes, bytes]] = []

        def compare(right: bytes, given: bytes) -> bool:
            compared.append((right, given))
            return False

        monkeypatch.setattr("sendq.webhooks.notice.hmac.compare_digest", compare)
        body = json.dumps(envelope()).encode()
        assert status(body) == 401  # nothing else lets it in
        assert compared == [(signed(body).encode(), signed(body).encode())]

    def test_comes_before_every_look_into_the_body(self) -> None:
        for body in (b"no json", b"[" * 100_000, gzip.compress(b"\0" * 2 * BODY_MOST)):
            assert status(body, signature="0" * 64) == 401

    def test_needs_a_secret(self) -> None:
        with pytest.raises(ValueError, match="secret"):
            found(envelope(), secret="", signature=signed(b"", "x"))


class TestTheBody:
    def test_larger_than_any_notification_is_413(self) -> None:
        assert status(b" " * (BODY_MOST + 1)) == 413
        assert status(b" " * BODY_MOST) == 400

    def test_in_gzip_is_signed_as_it_came(self) -> None:
        plain = json.dumps(envelope()).encode()
        packed = gzip.compress(plain)
        assert isinstance(found(packed), Notice)
        assert status(packed, signature=signed(plain)) == 401

    def test_that_grows_when_unpacked_is_413(self) -> None:
        bomb = gzip.compress(b" " * 64 * 1024 * 1024, compresslevel=1)
        assert len(bomb) < BODY_MOST
        signature = signed(bomb)
        tracemalloc.start()
        try:
            assert status(bomb, signature=signature) == 413
            assert tracemalloc.get_traced_memory()[1] < 8 * BODY_MOST
        finally:
            tracemalloc.stop()
        assert status(gzip.compress(json.dumps(envelope(junk="x" * BODY_MOST)).encode())) == 413

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda packed: packed[:-9],
            lambda packed: packed + b"more",
            lambda packed: packed[:30],
            lambda _: b"\x1f\x8b!",
        ],
    )
    def test_that_is_no_whole_gzip_is_400(self, spoil: Any) -> None:
        assert status(spoil(gzip.compress(json.dumps(envelope()).encode()))) == 400

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{", b"no json", b"\xff\xfe", b"[" * 100_000, b"1" * 5_000, b"null", b"[]", b'"text"', b"7",
            b"{}", b'{"type": 7, "id": "n1"}', json.dumps(envelope())[:-2].encode(),
        ],
    )  # fmt: skip
    def test_that_is_no_envelope_is_400(self, body: bytes) -> None:
        assert status(body) == 400

    @pytest.mark.parametrize("bad", [None, "", 7, "x" * 256, "a\0b", "\ud800", "a\nb", ["n1"]])
    def test_without_an_id_that_can_be_kept_is_400(self, bad: Any) -> None:
        assert status(envelope(id=bad)) == 400

    @pytest.mark.parametrize("bad", [None, "", 7, "x" * 256, "a\0b", "\ud800", {"id": 1}])
    def test_that_names_no_grant_changes_nothing(self, bad: Any) -> None:
        assert status(envelope(facts={"grant_id": bad})) == 200

    @pytest.mark.parametrize("data", [None, 7, [], {}, {"object": None}, {"object": []}])
    def test_without_an_object_changes_nothing(self, data: Any) -> None:
        assert status(envelope(data=data)) == 200

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
    def test_can_hold_anything_anywhere(self, value: Any) -> None:
        for field in ("id", "time", "data", "type"):
            found(envelope(**{field: value}))
        for fact in ("grant_id", "code", "reauthentication_flag"):
            found(envelope("grant.updated", {fact: value}))


class TestWhatItSays:
    @pytest.mark.parametrize(
        ("trigger", "facts", "kind"),
        [
            ("grant.expired", {}, Kind.EXPIRED),
            ("grant.created", {"code": 25012}, Kind.SIGNED_IN),
            ("grant.updated", {"code": 25014, "reauthentication_flag": True}, Kind.SIGNED_IN),
            ("grant.updated", {"code": 25027}, Kind.SIGNED_IN),
            ("grant.updated", {"grant_status": "valid"}, Kind.SIGNED_IN),
            ("grant.updated", {"code": 25014, "reauthentication_flag": False}, Kind.CHANGED),
            ("grant.updated", {"reauthentication_flag": "true"}, Kind.CHANGED),
            ("grant.deleted", {"code": 25013}, Kind.DELETED),
        ],
    )
    def test_is_told_by_its_type_and_facts(self, trigger: str, facts: Mapping[str, Any], kind: Kind) -> None:
        assert notice(envelope(trigger, facts)) == Notice("n1", kind, GRANT, NOW)

    @pytest.mark.parametrize(
        "trigger",
        ["grant.imap_sync_completed", "message.opened", "message.created.truncated", "GRANT.EXPIRED", "", "x"],
    )
    def test_of_another_type_is_200_and_ignored(self, trigger: str) -> None:
        assert status(envelope(trigger, id=None)) == 200

    @pytest.mark.parametrize(
        ("written", "seconds"),
        [
            (NOW // SECOND - 5, -5),
            (NOW / SECOND - 0.5, -0.5),
            ("2026-05-28T20:26:40Z", 0),
            ("2026-05-28T22:26:30+02:00", -10),
            ("2026-05-28T20:26:39", -1),
        ],
    )
    def test_happened_at_the_time_it_names(self, written: Any, seconds: float) -> None:
        assert notice(envelope(time=written)).at == NOW + round(seconds * SECOND)

    @pytest.mark.parametrize(
        "written", [None, True, "yesterday", "", 1e308, float("inf"), float("nan"), -1, 0, 10**400, [], NOW]
    )
    def test_happened_at_no_known_time_if_that_is_nonsense(self, written: Any) -> None:
        assert notice(envelope(time=written)).at is None

    def test_is_ignored_a_day_later(self) -> None:
        assert status(envelope(time=NOW // SECOND - 25 * 3600)) == 200
        assert isinstance(found(envelope(time=NOW // SECOND - 23 * 3600)), Notice)

    def test_is_answered_without_naming_anybody(self) -> None:
        for trigger in ("grant.expired", "x"):
            for more in ({}, {"id": None}, {"time": 1}):
                assert "leyah" not in str(found(envelope(trigger, **more)))


class TestTheChallenge:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            ("challenge=abc", "abc"),
            ("a=1&challenge=a%20b%2Bc&b=2", "a b+c"),
            ("challenge=one&challenge=two", "one"),
            ("challenge=", None),
            ("challenge", None),
            ("", None),
            ("Challenge=abc", None),
            ("challenge=" + "x" * 1001, None),
        ],
    )
    def test_is_the_value_alone(self, query: str, value: str | None) -> None:
        assert challenge(query) == value


class Caller:
    """Speaks ASGI to an application, as a server would."""

    def __init__(self, application: Any) -> None:
        self.application = application

    def ask(
        self, method: str, path: str = "/", *chunks: bytes, leaves: bool = False, **scope: Any
    ) -> tuple[int, dict[str, str], str] | None:
        """Status, headers and text; None if there was no answer. ``leaves``: the client does so after its chunks."""
        parts = list(chunks or (b"",))
        events: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": leaves or place < len(parts)}
            for place, part in enumerate(parts, 1)
        ]
        sent: list[dict[str, Any]] = []
        self.left = events

        async def receive() -> dict[str, Any]:
            return events.pop(0) if events else {"type": "http.disconnect"}

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        whole = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []} | scope
        asyncio.run(self.application(whole, receive, send))
        if not sent:
            return None
        start, body = sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        assert headers["content-length"] == str(len(body["body"]))
        assert headers["content-type"].startswith("text/plain")
        return start["status"], headers, body["body"].decode()

    def status(self, *arguments: Any, **more: Any) -> int:
        answer = self.ask(*arguments, **more)
        assert answer is not None
        return answer[0]


@pytest.fixture
def queue() -> SendQueue:
    """A queue that is never asked: its ledger is not there."""
    return SendQueue("sqlite:////nowhere/ledger.db")


class TestTheApplication:
    def test_echoes_the_challenge_alone_with_its_length(self, queue: SendQueue) -> None:
        answer = Caller(asgi(queue, secret=SECRET)).ask("GET", query_string="challenge=a%20b-ü".encode())
        assert answer is not None
        assert (answer[0], answer[2]) == (200, "a b-ü"), answer
        assert "transfer-encoding" not in answer[1]

    def test_says_so_when_there_is_no_challenge(self, queue: SendQueue) -> None:
        assert Caller(asgi(queue, secret=SECRET)).status("GET") == 400

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"])
    def test_takes_no_other_method(self, queue: SendQueue, method: str) -> None:
        answer = Caller(asgi(queue, secret=SECRET)).ask(method)
        assert answer is not None
        assert (answer[0], answer[1]["allow"]) == (405, "GET, POST")

    @pytest.mark.parametrize(
        ("path", "scope"),
        [
            ("/hooks", {}),
            ("/hooks/", {}),
            ("/app/hooks", {"root_path": "/app"}),
            ("/hooks", {"root_path": "/app"}),
        ],
    )
    def test_is_found_below_wherever_it_is_mounted(self, queue: SendQueue, path: str, scope: dict[str, Any]) -> None:
        asked = Caller(asgi(queue, secret=SECRET, path="/hooks"))
        assert asked.status("GET", path, query_string=b"challenge=x", **scope) == 200

    def test_is_nowhere_else(self, queue: SendQueue) -> None:
        asked = Caller(asgi(queue, secret=SECRET, path="/hooks"))
        for path in ("/", "/hooks/default", "/apphooks", "/application/hooks"):
            assert asked.status("GET", path, query_string=b"challenge=x", root_path="/app") == 404

    def test_has_a_path_for_each_application_and_its_secret(self, queue: SendQueue) -> None:
        asked = Caller(asgi(queue, secret={"default": "one", "eu": "two"}))
        body = json.dumps(envelope("other")).encode()
        for path, right, wrong in (("/", "one", "two"), ("/default", "one", "two"), ("/eu", "two", "one")):
            for secret, expected in ((right, 200), (wrong, 401)):
                headers = [(b"X-Nylas-Signature", signed(body, secret).encode())]
                assert asked.status("POST", path, body, headers=headers) == expected
        assert asked.status("POST", "/other", body) == 404
        assert Caller(asgi(queue, secret={"eu": "two"})).status("POST", "/", body) == 404

    def test_reads_a_body_in_pieces(self, queue: SendQueue) -> None:
        body = json.dumps(envelope("other")).encode()
        pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
        headers = [(b"x-nylas-signature", signed(body).encode())]
        assert Caller(asgi(queue, secret=SECRET)).status("POST", "/", *pieces, headers=headers) == 200

    def test_reads_no_more_than_a_notification_can_have(self, queue: SendQueue) -> None:
        asked = Caller(asgi(queue, secret=SECRET))
        assert asked.status("POST", "/", *[b" " * 100_000] * 100) == 413
        assert len(asked.left) > 80

    def test_reads_nothing_of_a_body_that_announces_more(self, queue: SendQueue) -> None:
        asked = Caller(asgi(queue, secret=SECRET))
        for length in (BODY_MOST + 1, 10**30):
            assert asked.status("POST", "/", b"x", headers=[(b"content-length", str(length).encode())]) == 413
            assert len(asked.left) == 1
        assert asked.status("POST", "/", b"x", headers=[(b"content-length", b"-1")]) == 401

    def test_gives_no_answer_to_a_client_that_left(self, queue: SendQueue) -> None:
        assert Caller(asgi(queue, secret=SECRET)).ask("POST", "/", b"{", leaves=True) is None

    def test_waits_for_a_body_no_longer_than_nylas_waits_for_an_answer(
        self, queue: SendQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.webhooks.endpoint.READ_S", 0.01)
        sent: list[Any] = []

        async def never() -> Any:
            await asyncio.Event().wait()

        async def send(event: Any) -> None:
            sent.append(event)

        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        asyncio.run(asgi(queue, secret=SECRET)(scope, never, send))
        assert sent[0]["status"] == 408

    def test_lives_as_long_as_its_server_and_knows_no_websocket(self, queue: SendQueue) -> None:
        asked = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        said: list[str] = []

        async def receive() -> Any:
            return asked.pop(0)

        async def send(event: Any) -> None:
            said.append(event["type"])

        for kind in ("lifespan", "websocket"):
            asyncio.run(asgi(queue, secret=SECRET)({"type": kind, "path": "/"}, receive, send))
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]

    @pytest.mark.parametrize("secret", ["", {}, {"default": ""}, {"default": "x", "eu": ""}])
    def test_needs_a_secret_for_each(self, queue: SendQueue, secret: Any) -> None:
        with pytest.raises(ValueError, match="secret"):
            asgi(queue, secret=secret)


class TestWithoutALedger:
    def test_a_notification_is_put_off(self, queue: SendQueue) -> None:
        body = json.dumps(envelope(time=None)).encode()
        assert receive(queue, secret=SECRET, raw_body=body, signature=signed(body)).status == 503


class TestTheCommandsSettings:
    def test_are_the_secrets_of_the_applications_that_have_one(self) -> None:
        environ = {
            "NYLAS_API_KEY": "k", "NYLAS_WEBHOOK_SECRET": "one",
            "SENDQ_APPLICATIONS": '{"eu": {"api_key": "k", "webhook_secret": "two"}, "us": {"api_key": "k"}}',
        }  # fmt: skip
        assert secrets_of(Settings.load(environ)) == {"default": "one", "eu": "two"}

    def test_without_any_secret_are_a_mistake(self) -> None:
        with pytest.raises(SettingsError, match="NYLAS_WEBHOOK_SECRET"):
            secrets_of(Settings.load({"NYLAS_API_KEY": "k"}))

    def test_give_each_application_its_address(self) -> None:
        secrets = {"default": "one", "eu": "two"}
        assert addresses(secrets, "127.0.0.1", 80) == {
            "default": "http://127.0.0.1:80/",
            "eu": "http://127.0.0.1:80/eu",
        }
        assert addresses({"eu": "two"}, "::1", 80) == {"eu": "http://[::1]:80/eu"}
