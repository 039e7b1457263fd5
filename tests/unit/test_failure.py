"""From bytes to a failure: all dialects, all damages, no address kept, nothing raised."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import SECOND
from sendq.facts.outcomes import Sent
from tasks.policy.failure import Answer, Failure, Success, parse
from tasks.policy.table import POLICY
from tasks.policy.waits import until_midnight_pacific

NOW = 1_767_863_513 * SECOND  # 2026-01-08T09:11:53Z
GRANT, OTHER = "5d3b2a1c-0000-4000-8000-00000000000a", "5d3b2a1c-0000-4000-8000-00000000000b"

# Bodies that a proxy, a portal or a gateway may write, and damaged ones.
FOREIGN = [
    b"<html>Sign in to our network</html>", b"<!doctype html><title>OK</title>", b"OK", b'"OK"', b"", b"{}", b"[]",
    b"null", b"true", b"7", b"\x00\xff", b'{"data": [1]}', b'{"data": [{"id": "m"}]}', b'{"data": "m"}',
    b'{"data": null}', b'{"data": {}}', b'{"data": {"id": 5}}', b'{"data": {"id": ""}}', b'{"data": {"id": ["m"]}}',
    b'{"data": {"data": {"id": "m"}}}', b'[{"data": {"id": "m"}}]', b'{"id": "m"}', b'{"status": "ok"}',
    b'{"request_id": "r"}', b'{"request_id": "r", "data": {"subject": "x"}}', b'{"data": {"id": "m", "bo',
    b"[" * 10_000, b'{"a":' * 10_000,
]  # fmt: skip


def read(status: int | None, body: Any, headers: dict[str, str] | None = None, **facts: str) -> Success | Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = Answer(status, headers or {}, raw, facts.pop("fault", None))
    provider, operation = facts.get("provider", "google"), facts.get("operation", "send")
    return parse(answer, provider=provider, operation=operation, now=NOW, grant_id=facts.get("grant_id"))


def failure(status: int | None, body: Any, headers: dict[str, str] | None = None, **facts: str) -> Failure:
    outcome = read(status, body, headers, **facts)
    assert isinstance(outcome, Failure)
    return outcome


def success(status: int, body: Any, headers: dict[str, str] | None = None, **facts: str) -> Success:
    outcome = read(status, body, headers, **facts)
    assert isinstance(outcome, Success)
    return outcome


class TestReadingASuccess:
    def test_takes_the_ids(self) -> None:
        got = success(200, {"request_id": "r", "data": {"id": "m", "thread_id": "t"}})
        assert (got.message_id, got.thread_id, got.request_id, got.queued, got.replayed) == (
            "m",
            "t",
            "r",
            False,
            False,
        )

    def test_needs_no_id_when_queued(self) -> None:
        got = success(202, {"request_id": "r", "schedule_id": "s", "data": {"subject": "x"}})
        assert got.queued
        assert got.message_id is None

    def test_takes_the_samples_of_the_official_document_which_have_no_id(self) -> None:
        message = {"subject": "x", "to": [{"email": "a@example.com"}]}
        envelope = {"request_id": "r", "grant_id": GRANT, "data": message}
        assert success(200, envelope, grant_id=GRANT).message_id is None
        assert success(202, {**envelope, "schedule_id": "s", "send_at": 1}, grant_id=GRANT).queued

    @pytest.mark.parametrize("named", [GRANT, GRANT.upper(), "", None])
    def test_takes_one_that_names_its_grant_or_none(self, named: str | None) -> None:
        assert success(200, {"grant_id": named, "data": {"id": "m", "grant_id": named}}, grant_id=GRANT)

    @pytest.mark.parametrize(
        "called", [f"grant:{GRANT}", "leyah@example.com", "email:leyah@example.com", "external:user-12345", "me"]
    )
    def test_takes_one_for_a_grant_that_was_called_by_another_name(self, called: str) -> None:
        assert success(200, {"grant_id": GRANT, "data": {"id": "m", "grant_id": GRANT}}, grant_id=called)

    def test_judges_one_that_is_too_long_to_be_read_by_its_beginning(self) -> None:
        long = "x" * (5 * 1024 * 1024)
        body = {"request_id": "r", "data": {"attachments": [{"id": "a"}], "id": "m", "to": [{"id": 1}], "body": long}}
        assert success(200, body).message_id == "m"
        assert success(200, {"request_id": "r", "grant_id": GRANT, "data": {"body": long}}, grant_id=GRANT)

    def test_sees_that_it_is_a_replay(self) -> None:
        assert success(200, {"data": {"id": "m"}}, {"idempotent-response": "true"}).replayed

    def test_ignores_broken_characters_beside_the_id(self) -> None:
        assert success(200, b'{"data":{"id":"m","subject":"\xff\xfe"}}').message_id == "m"

    def test_unpacks_what_was_left_compressed(self) -> None:
        assert success(200, gzip.compress(b'{"data":{"id":"m"}}')).message_id == "m"


class TestA200ThatIsNone:
    def test_carries_a_legacy_error(self) -> None:
        body = {
            "type": "api_error",
            "message": "Sending to at least one recipent failed",
            "failures": {"a@b.c": [550, "no"]},
        }
        assert failure(200, body).refused == 1

    @pytest.mark.parametrize("body", [{"error": {"type": "api_error", "message": "x"}}, {"error": "x"}])
    def test_carries_an_error(self, body: Any) -> None:
        assert failure(200, body).message == "x"

    @pytest.mark.parametrize("body", [b"<html>Sign in to our network</html>", b"OK", b"[]", b"null", b"\x00\x01"])
    def test_was_written_by_somebody_in_between(self, body: bytes) -> None:
        assert failure(200, body).origin == "edge"

    @pytest.mark.parametrize("body", [b" ", b"\r\n", b"\t \n"])
    def test_that_is_a_blank_page_is_no_success(self, body: bytes) -> None:
        assert isinstance(read(200, body), Failure)

    @pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
    @pytest.mark.parametrize("body", FOREIGN)
    def test_was_not_written_by_the_api_whatever_its_headers(self, status: int, body: bytes) -> None:
        got = failure(status, body, {"x-request-id": "added by Envoy"})
        assert (got.status, POLICY.rule(got).id, POLICY.rule(got).sent) == (status, "contradiction", Sent.MAYBE)

    @pytest.mark.parametrize(
        "body",
        [
            {"grant_id": OTHER, "data": {"id": "m"}},
            {"data": {"id": "m", "grant_id": OTHER}},
            {"data": {"id": "m", "grant_id": 7}},
            {"request_id": "r", "grant_id": OTHER, "data": {"subject": "x"}},
        ],
    )
    def test_is_about_another_grant(self, body: dict[str, Any]) -> None:
        assert failure(200, body, grant_id=GRANT).message == "the answer names another grant"

    def test_broke_off(self) -> None:
        assert isinstance(read(200, b'{"data": {"id": "m", "bo', fault="cut"), Failure)

    def test_is_too_long_and_does_not_begin_like_one(self) -> None:
        long = "x" * (5 * 1024 * 1024)
        hidden = f'{{"body": "{long}", "data": {{"id": "m"}}}}'
        for body in (hidden, f"<html>{long}", f'{{"x": "\\"data\\":{{\\"id\\": \\"m\\"", "y": "{long}"}}'):
            assert isinstance(read(200, body.encode()), Failure)

    @pytest.mark.parametrize(
        "body",
        [
            {"data": {"subject": "Invoice", "body": "secret", "id": 5}},
            {"subject": "Invoice", "body": "secret"},
            {"data": ["secret"]},
            {"error": "x", "data": {"body": "secret"}},
            b'{"data": {"body": "secret", "to',
            ["secret"],
        ],
    )
    def test_quotes_nothing_that_may_be_the_message(self, body: Any) -> None:
        assert "secret" not in repr(failure(200, body))

    def test_says_what_is_missing(self) -> None:
        assert failure(200, {"request_id": "r", "data": {}}).message == "the answer has no object in data"
        assert failure(200, b"").message == "the answer is not a JSON object"


class TestTheAnswerToAModification:
    """It may be repeated, so it needs less to be believed."""

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (200, {"request_id": "r", "data": {"id": "m", "grant_id": GRANT}}),
            (200, {"request_id": "r"}),  # of a deletion
            (200, {"data": [{"id": "m"}]}),  # of a listing
            (204, b""),
        ],
    )
    def test_is_a_success_in_the_apis_envelope(self, status: int, body: Any) -> None:
        assert isinstance(read(status, body, operation="modify", grant_id=GRANT), Success)

    @pytest.mark.parametrize("body", [b"", b"<html>", b"OK", b"[]", b"{}", b'{"data": null}', b'{"status": "ok"}'])
    def test_is_none_without_it(self, body: bytes) -> None:
        got = failure(200, body, {"x-request-id": "added by Envoy"}, operation="modify")
        assert POLICY.rule(got).id == "contradiction"

    def test_is_none_if_it_is_about_another_grant(self) -> None:
        body = {"request_id": "r", "data": {"id": "m", "grant_id": OTHER}}
        assert isinstance(read(200, body, operation="modify", grant_id=GRANT), Failure)


class TestReadingAnError:
    def test_takes_type_and_message_from_each_dialect(self) -> None:
        nested = failure(400, {"request_id": "r", "error": {"type": "api.invalid_request_error", "message": "m"}})
        flat = failure(400, {"type": "invalid_request_error", "message": "m"})
        coded = failure(400, {"error": {"code": "api.invalid_request_error", "message": "m"}})
        for got in (nested, flat, coded):
            assert (got.type, got.message) == ("invalid_request_error", "m")
        assert nested.request_id == "r"

    def test_takes_a_string_for_the_message(self) -> None:
        assert failure(502, {"error": "upstream server is unavailable"}).message == "upstream server is unavailable"

    def test_takes_the_title_of_a_page(self) -> None:
        got = failure(502, b"<html><head><title>502 Bad Gateway</title></head><body>x</body></html>")
        assert got.message.startswith("502 Bad Gateway")
        assert got.origin == "edge"

    @pytest.mark.parametrize(
        "provider_error",
        [
            {"error": {"code": "ErrorX", "message": "deep"}},
            {"code": 403, "message": "deep"},
            "deep",
            [{"reason": "deep"}],
        ],
    )
    def test_finds_the_providers_words_wherever_they_are(self, provider_error: Any) -> None:
        got = failure(403, {"error": {"type": "provider_error", "message": "m", "provider_error": provider_error}})
        assert "deep" in got.text
        assert got.origin == "provider"

    def test_knows_a_providers_envelope_without_a_wrapper(self) -> None:
        assert failure(429, {"error": {"code": 429, "message": "x", "errors": []}}).origin == "provider"

    def test_falls_back_to_the_headers_request_id(self) -> None:
        assert failure(500, b"", {"x-request-id": "h"}).request_id == "h"

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({"message": "x", "server_error": "550 : 5.1.1 no such user"}, 550),
            ({"error": {"message": "(451, '4.7.1 greylisted')"}}, 451),
            ({"error": {"message": "said: 4.2.2 mailbox full"}}, 400),
            ({"error": {"message": "gave up after 550ms on 10.5.5.1"}}, None),
            ({"error": {"message": "x", "provider_error": {"code": 422}}}, None),
        ],
    )
    def test_finds_the_smtp_code(self, body: Any, code: int | None) -> None:
        assert failure(422, body).smtp == code

    def test_takes_no_bare_number_of_a_5xx_for_a_refusal(self) -> None:
        assert failure(504, {"error": {"message": "x", "provider_error": {"code": 550}}}).smtp is None
        assert failure(502, {"error": {"message": "x", "provider_error": "550 5.7.1 spam"}}).smtp == 550

    def test_takes_no_address_after_a_number_for_an_enhanced_code(self) -> None:
        assert failure(502, {"error": {"message": "x", "provider_error": "no route to 550: 5.1.90.3"}}).smtp is None


def waited(failure: Failure) -> float | None:
    """The stated wait in seconds."""
    return None if failure.stated is None else failure.stated / SECOND


class TestAStatedWait:
    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("30", 30), (" 30 ", 30), ("1.5", 1.5), ("Thu, 08 Jan 2026 09:26:53 GMT", 900),
            ("2026-01-08T09:26:53Z", 900),
            ("0", None), ("-5", None), ("999999999", None), ("soon", None), ("", None), ("nan", None), ("1e3", None),
            ("Thu, 08 Jan 2026 09:00:00 GMT", None), ("Thu, 99 Jan 2026 99:00:00 GMT", None), ("٣", None),
        ],
    )  # fmt: skip
    def test_is_read_from_the_header(self, header: str, seconds: float | None) -> None:
        assert failure(429, b"", {"retry-after": header}).stated == (
            None if seconds is None else round(seconds * SECOND)
        )

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("User-rate limit exceeded.  Retry after 2026-01-08T09:26:53Z", 900),
            ("User-rate limit exceeded.  Retry after 2026-01-08T09:26:53.123Z (Mail sending)", 900),
            ("Retry after 2026-01-08T10:26:53+01:00", 900),
            ("retry after 45 seconds", 45), ("Please try again in 5 minutes.", 300), ("Retry-After: 20", 20),
            ("wait 200 ms", 0.2), ("retry after 2025-01-08T09:26:53Z", None), ("retry after lunch", None),
            ("Retry after 2026-99-99T09:26:53Z", None),
            ("Your limit resets in 35 minutes", 2100), ("Relay quota will reset in 1.52 hours.", 5472),
            ("You can send again in 45 min", 2700), ("Try again in 1 hour and 20 min", 4800),
            ("Try again in an hour", 3600), ("Please try your request after 5 seconds", 5),
            ("Please try again 15 minutes later", 900), ("Try again 30 minutes from now", 1800),
            ("Try again later. BackOffMilliseconds: 5000", 5), ("The block will be lifted in 3 hours", 10800),
            ("You sent 500 messages in 24 hours", None), ("It timed out after 30 seconds", None),
            ("verify your account: the link expires in 7 days", None), ("Your token expired 3 hours later", None),
            ("Exceeded the max emails per hour (105/100 (105%))", None),
        ],
    )  # fmt: skip
    def test_is_read_from_the_text(self, text: str, seconds: float | None) -> None:
        assert failure(429, {"error": {"message": text}}).stated == (
            None if seconds is None else round(seconds * SECOND)
        )

    def test_is_read_from_data(self) -> None:
        body = {"error": {"message": "x", "provider_error": {"details": [{"retryDelay": "34.5s"}]}}}
        assert waited(failure(429, body)) == 34.5

    def test_is_the_longest_of_several(self) -> None:
        assert (
            failure(429, {"error": {"message": "retry after 90 seconds"}}, {"retry-after": "30"}).stated == 90 * SECOND
        )


class TestAddresses:
    def test_survive_nowhere_in_a_failure(self) -> None:
        address = "leyah@example.com"
        body = {
            "type": address,
            "message": f"Sending to at least one recipient failed: {address}",
            "failures": {address: [550, f"no {address}"]},
            "server_error": f"550 : {address}",
            "error": {"message": address, "provider_error": {"x": [address]}},
        }
        assert "leyah" not in repr(failure(402, body))


class TestWhateverTheBytes:
    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 100_000, b'{"a":' * 100_000, b"x" * 5_000_000, b"\xff" * 1000, b"1" * 10_000, b"NaN", b'"text"',
            b'{"error":' + b"9" * 9_999 + b"}", b'{"error": {"type": 5, "message": {"a": []}}}',
            b'{"error": null, "error": {"type": "x"}}', b"\x1f\x8bnonsense", b'{"error":{"message":"\\ud800\\u0000"}}',
            b'{"a": NaN, "b": Infinity}', b"\xef\xbb\xbf{}", b'{"failures": "x"}',
        ],
        ids=range(15),
    )  # fmt: skip
    @pytest.mark.parametrize("status", [None, 200, 402, 429, 503, 999])
    def test_an_answer_is_read(self, status: int | None, body: bytes) -> None:
        outcome = read(status, body)
        assert "\x00" not in repr(outcome)
        if isinstance(outcome, Failure):
            assert len(outcome.message) <= 500
            outcome.message.encode()
            outcome.text.encode()

    @given(
        status=st.none() | st.integers(-5, 1000),
        body=st.binary(max_size=300),
        retry=st.text(max_size=40),
        provider=st.text(max_size=9),
    )
    def test_random_bytes_are_read(self, status: int | None, body: bytes, retry: str, provider: str) -> None:
        read(status, body, {"retry-after": retry, "idempotent-response": retry}, provider=provider)

    @given(status=st.sampled_from([200, 400, 402, 403, 422, 429, 500]), data=st.data())
    def test_random_json_is_read(self, status: int, data: st.DataObject) -> None:
        leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
        names = st.sampled_from(
            [
                "error",
                "type",
                "message",
                "provider_error",
                "failures",
                "data",
                "id",
                "code",
                "retryAfter",
                "server_error",
            ]
        )
        tree = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5))
        read(status, json.dumps(data.draw(tree)).encode())


class TestMidnightInCalifornia:
    @pytest.mark.parametrize(
        ("now", "hours"),
        [
            (1_767_863_513.0 - 713, 23),  # 8 January 2026, 09:00 UTC is 01:00 standard time
            (1_783_500_000.0 - 1_783_500_000.0 % 86_400 + 7 * 3600, 24),  # in July midnight is at 07:00 UTC
        ],
    )
    def test_comes_when_it_is_midnight_there(self, now: float, hours: float) -> None:
        assert until_midnight_pacific(now) == hours * 3600

    @given(st.floats(1_500_000_000, 2_500_000_000))
    def test_is_within_a_day(self, now: float) -> None:
        assert 0 < until_midnight_pacific(now) <= 25 * 3600
