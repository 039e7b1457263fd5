"""What the answer to a question about a grant says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sendq.clock import SECOND
from tasks.policy.failure import Answer
from tasks.policy.grant_verdict import KeyRuling, Verdict, key_ruling, provider_of, refusal, verdict_of

PAGE = b"<html><body><h1>403 Forbidden</h1></body></html>"
HTML = {"content-type": "text/html"}
GRANT = {"id": "g1", "provider": "imap", "grant_status": "valid"}


def answer(status: int | None, body: Any = b"", headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def error(type_: str, message: str) -> dict[str, Any]:
    return {"request_id": "5967ca40", "error": {"type": type_, "message": message}}


KEY_REFUSED = answer(401, error("unauthorized", "Unauthorized"))
FORBIDDEN = answer(403, error("api.forbidden", "You are not allowed to do this"))
FIREWALL = answer(403, PAGE, HTML)

REFUSED = {
    "a 401 of the API": KEY_REFUSED,
    "a 401 about the key": answer(401, error("token.unauthorized_access", "Bearer token invalid")),
    "a 401 in a provider's words": answer(
        401, {"error": {"type": "api.provider_error", "message": "no", "provider_error": {"error": "invalid_grant"}}}
    ),
    "a 403 of the API": FORBIDDEN,
    "a firewall's page under 403": FIREWALL,
    "a firewall's page under 401": answer(401, PAGE, HTML),
    "a firewall's page under 404": answer(404, PAGE, HTML),
    "a firewall's page under 200": answer(200, PAGE, HTML),
    "an empty 401": answer(401),
    "an empty 403": answer(403),
    "an empty 200": answer(200),
    "a list under 200": answer(200, {"data": [1]}),
    "a redirect": answer(302),
    "a proxy that wants a sign-in": answer(407, PAGE, HTML),
    "another service's 404": answer(404, {"message": "no Route matched with those values"}),
}


class TestTheVerdict:
    def test_is_the_grants_status_under_200(self) -> None:
        assert verdict_of(answer(200, {"data": GRANT})) is Verdict.VALID
        assert verdict_of(answer(200, {"data": GRANT | {"grant_status": "invalid"}})) is Verdict.INVALID

    def test_is_gone_under_the_apis_404(self) -> None:
        gone = error("grant.not_found", "No Grant found for this Grant ID")
        assert verdict_of(answer(404, gone)) is Verdict.GONE

    @pytest.mark.parametrize("name", REFUSED)
    def test_blames_the_key_or_the_way_for_a_refused_question(self, name: str) -> None:
        assert verdict_of(REFUSED[name]) is Verdict.REFUSED

    @pytest.mark.parametrize("status", [400, 410, 422])
    def test_is_unknown_if_the_api_refuses_the_question_about_this_grant_alone(self, status: int) -> None:
        assert verdict_of(answer(status, error("invalid_request_error", "bad"))) is Verdict.UNKNOWN

    @pytest.mark.parametrize("status", [None, 408, 429, 500, 502, 503, 504])
    def test_is_unknown_while_the_api_is_in_trouble(self, status: int | None) -> None:
        assert verdict_of(answer(status, PAGE, HTML)) is Verdict.UNKNOWN

    @pytest.mark.parametrize("status", ["pending", None, 7, ["valid"]])
    def test_is_unknown_for_a_status_that_is_not_documented(self, status: Any) -> None:
        assert verdict_of(answer(200, {"data": GRANT | {"grant_status": status}})) is Verdict.UNKNOWN


class TestTheProvider:
    def test_is_the_apis_word(self) -> None:
        assert provider_of(answer(200, {"data": GRANT})) == "imap"
        assert provider_of(answer(200, {"data": GRANT | {"provider": "zoom"}})) == "unknown"

    @pytest.mark.parametrize("name", REFUSED)
    def test_is_not_known_from_anything_else(self, name: str) -> None:
        assert provider_of(REFUSED[name]) is None


class TestARefusedQuestion:
    @pytest.mark.parametrize(
        ("asked", "rule"),
        [
            (KEY_REFUSED, "api_key"),
            (FORBIDDEN, "api_key"),
            (answer(403), "api_key"),
            (FIREWALL, "not_the_api"),
            (answer(200, PAGE, HTML), "not_the_api"),
            (answer(302), "redirect"),
            (answer(407, PAGE, HTML), "proxy_sign_in"),
            (answer(404, PAGE, HTML), "wrong_address"),
        ],
    )
    def test_names_what_is_at_fault(self, asked: Answer, rule: str) -> None:
        assert refusal(asked, now=0, streak=0) == (rule, 60 * SECOND)

    def test_holds_longer_each_time_up_to_a_quarter_of_an_hour(self) -> None:
        lasts = [refusal(KEY_REFUSED, now=0, streak=streak)[1] // SECOND for streak in range(6)]
        assert lasts == [60, 120, 240, 480, 900, 900]


class TestTheKey:
    def test_is_right_if_the_api_knows_any_grant_of_the_application(self) -> None:
        for known in (Verdict.VALID, Verdict.INVALID):
            assert key_ruling(5, [Verdict.GONE, known, Verdict.UNKNOWN]) is KeyRuling.RIGHT

    def test_is_wrong_if_the_api_knows_none_of_several(self) -> None:
        assert key_ruling(1, [Verdict.GONE]) is KeyRuling.WRONG
        assert key_ruling(2, []) is KeyRuling.WRONG
        assert key_ruling(2, [Verdict.GONE] * 5) is KeyRuling.WRONG

    @pytest.mark.parametrize("missing", [1, 2, 7])
    @pytest.mark.parametrize("unanswered", [Verdict.UNKNOWN, Verdict.REFUSED])
    def test_is_not_judged_while_a_question_about_another_is_not_answered(
        self, missing: int, unanswered: Verdict
    ) -> None:
        for others in ([unanswered], [unanswered] * 3, [Verdict.GONE, unanswered], [Verdict.GONE] * 4 + [unanswered]):
            assert key_ruling(missing, others) is KeyRuling.UNKNOWN

    def test_is_not_judged_by_one_grant_alone(self) -> None:
        assert key_ruling(1, []) is KeyRuling.ALONE
