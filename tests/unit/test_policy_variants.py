"""One error in other clothes: the order of members, unknown ones, and where the words stand change no route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.policy.body import Body
from tasks.policy.failure import Failure
from tasks.policy.row import Row, fits_status
from tasks.policy.table import POLICY
from tests.unit.test_field_errors import FIELD_CASES
from tests.unit.test_policy import CASES, failure_of, named

FIELD = [{**case, "rule": POLICY.rule(failure_of(case)).id} for case in FIELD_CASES]
JSON_CASES = [case for case in (*CASES, *FIELD) if isinstance(case["body"], dict)]
# Not words of the error, but of its envelope.
ENVELOPE = ("api_error", "api.provider_error", "api.invalid_request_error", "provider_error", "rate_limit_error")
REQUEST_ID = "5fa64c92-e840-4357-86b9-2aa364d35b88"


def turned(value: Any) -> Any:
    """The same JSON with the members of each object in the opposite order."""
    if isinstance(value, dict):
        return {name: turned(member) for name, member in reversed(value.items())}
    return [turned(item) for item in value] if isinstance(value, list) else value


def widened(value: Any) -> Any:
    """The same JSON with members in each object that nobody knows."""
    if isinstance(value, dict):
        return {
            "x_new": None,
            **{name: widened(member) for name, member in value.items()},
            "x_version": 12,
            "x_on": True,
        }
    return value


def prefixed(body: dict[str, Any]) -> dict[str, Any]:
    """The same error with ``api.`` before its type, or without it."""
    error = body.get("error")
    holder = error if isinstance(error, dict) else body
    kind = holder.get("type")
    if not isinstance(kind, str):
        return body
    other = {**holder, "type": kind.removeprefix("api.") if kind.startswith("api.") else f"api.{kind}"}
    return {**body, "error": other} if holder is error else other


def words(body: dict[str, Any]) -> str:
    leaves = dict.fromkeys(Body(body, "").leaves(body))
    return " ".join(leaf for leaf in leaves if leaf not in (*ENVELOPE, REQUEST_ID))


PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "message": lambda text: {"request_id": "r", "error": {"type": "api.provider_error", "message": text}},
    "flat message": lambda text: {"type": "api_error", "message": text},
    "provider_error": lambda text: {
        "request_id": "r",
        "error": {"type": "api.provider_error", "message": "x", "provider_error": {"error": {"message": text}}},
    },
    "server_error": lambda text: {"message": "x", "type": "api_error", "server_error": text},
}


def row_and_failure(case: dict[str, Any], body: Any) -> tuple[Row, Failure]:
    failure = failure_of({**case, "body": body})
    return POLICY.rule(failure), failure


class TestAnErrorInOtherClothes:
    @pytest.mark.parametrize("case", named(JSON_CASES))
    def test_meets_the_same_row(self, case: dict[str, Any]) -> None:
        for change in (turned, widened, prefixed):
            assert row_and_failure(case, change(case["body"]))[0].id == case["rule"], change.__name__

    @pytest.mark.parametrize("case", named(JSON_CASES))
    def test_meets_it_wherever_its_words_stand(self, case: dict[str, Any]) -> None:
        row, failure = row_and_failure(case, case["body"])
        told_by_words = (bool(row.text) and failure.type not in row.type) or bool(row.smtp)
        for place, put in PLACES.items():
            moved, elsewhere = row_and_failure(case, put(words(case["body"])))
            needs_code = any(fits_status(status, elsewhere.status) for status in row.by_code)
            speakers = ("provider",) if needs_code else row.origin
            who_speaks_matters = bool(speakers) and elsewhere.origin not in speakers
            if told_by_words and not who_speaks_matters:
                assert moved.id == row.id, place
