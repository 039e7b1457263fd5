"""The command ``explain``: one object with fixed keys, for whatever is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.policy.explain import explain, explain_lines, policy_table_markdown
from tasks.policy.table import POLICY

NOW = 1_767_863_513.0
KEYS = ["rule", "title", "documented", "route", "scope", "delay_s", "sent", "why", "remedy", "doc"]


def ask(**asked: Any) -> dict[str, Any]:
    return explain(**{"status": 429, "now": NOW, **asked})


def assert_whole(answer: dict[str, Any]) -> None:
    assert list(answer) == KEYS
    assert answer["route"] in ("retry", "requeue", "reauth", "dead_letter", None)
    assert (answer["route"] is None) == (answer["sent"] == "yes")
    assert answer["scope"] in ("job", "grant", "provider", "application")
    assert answer["sent"] in ("no", "maybe", "partly", "yes")
    assert isinstance(answer["documented"], bool)
    if answer["delay_s"] is not None:
        low, high = answer["delay_s"]
        assert 0 <= low <= high


class TestExplaining:
    def test_an_exchange_throttle_with_a_stated_time(self) -> None:
        body = json.dumps({"message": "The Exchange account has been throttled", "type": "api_error"})
        answer = ask(provider="microsoft", headers=["Retry-After: 30"], body=body)
        assert (answer["route"], answer["scope"], answer["delay_s"]) == ("requeue", "grant", [30.0, 31.5])

    def test_an_ambiguous_401_says_that_the_grant_is_checked_first(self) -> None:
        answer = ask(status=401, body={"message": "Could not verify access credentials", "type": "auth"})
        assert (answer["route"], answer["scope"]) == ("reauth", "grant")
        assert "the grant is checked first" in answer["why"]

    def test_a_success_has_no_route(self) -> None:
        answer = ask(status=202, body={"request_id": "r", "schedule_id": "s", "data": {"subject": "x"}})
        assert (answer["route"], answer["delay_s"], answer["sent"]) == (None, None, "yes")

    @pytest.mark.parametrize("route", ["reauth", "dead_letter"])
    def test_what_does_not_wait_has_no_delay(self, route: str) -> None:
        answer = ask(status={"reauth": 403, "dead_letter": 400}[route], body=b"")
        assert (answer["route"], answer["delay_s"]) == (route, None)

    def test_an_undocumented_answer_says_so(self) -> None:
        assert ask(status=418)["documented"] is False

    @pytest.mark.parametrize("status", [None, "429", "soon", 1e999, [], True, "9" * 9_999, -1])
    @pytest.mark.parametrize("headers", [None, {"Retry-After": 30}, ["x", "a: b", 5], 7])
    def test_nonsense_is_explained_too(self, status: Any, headers: Any) -> None:
        assert_whole(ask(status=status, headers=headers, body="\ud800", provider=7, operation=None))

    @given(st.integers(-1, 1000), st.binary(max_size=200), st.text(max_size=20))
    def test_random_answers_are_explained(self, status: int, body: bytes, header: str) -> None:
        assert_whole(ask(status=status, body=body, headers={"Retry-After": header}))


class TestABatch:
    def test_answers_line_by_line_with_the_id(self) -> None:
        lines = [
            '{"id": 7, "status": 429, "provider": "ews", "body": "{}"}',
            "",
            '{"id": "b", "status": 200, "body": {}}',
        ]
        answers = [json.loads(line) for line in explain_lines(lines, now=NOW)]
        assert [answer["id"] for answer in answers] == [7, "b"]
        assert list(answers[0]) == ["id", *KEYS]

    @pytest.mark.parametrize("line", ["not json", "[1]", b"\xff\xfe", "null", "[" * 100_000, '{"status": {}}'])
    def test_a_line_that_asks_nothing_is_answered(self, line: str | bytes) -> None:
        (answer,) = explain_lines([line], now=NOW)
        assert json.loads(answer)["id"] is None


class TestTheReadmesTable:
    def test_has_a_line_for_every_row_in_order(self) -> None:
        lines = policy_table_markdown().splitlines()[2:]
        assert len(lines) == len(POLICY.rows)
        for line, row in zip(lines, POLICY.rows, strict=True):
            assert f"`{row.id}`" in line
            assert line.count("|") == 7
