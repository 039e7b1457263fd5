"""What the answer to ``GET /v3/grants/{id}`` says about the grant: its status, its provider, or nothing at all. Pure.

Only a 200 with a status and a 404 of the API say something about the grant. Any other refusal (a 401, a 403, a page of
a proxy, an empty body) is about the question itself: the application's key, or the way to the API.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from sendq.clock import Micros
from sendq.facts.outcomes import Scope
from sendq.rules.pace import PROVIDERS
from sendq.rules.rule_ids import GRANT_NOT_FOUND
from tasks.policy.failure import Answer, Failure, parse
from tasks.policy.row import Row, Wait
from tasks.policy.table import OTHER_APPLICATION, POLICY


class Verdict(StrEnum):
    """What the API says about a grant."""

    VALID = "valid"
    INVALID = "invalid"
    GONE = "gone"
    REFUSED = "refused"  # the question was: the key or the way to the API is at fault
    UNKNOWN = "unknown"  # no answer, or the API is in trouble: ask again


# A question that these statuses answer is asked again: a timeout, a conflict, a rate limit.
_LATER = (408, 409, 429)

# With these the API refuses the question about this one grant; the key and the way are fine.
_ABOUT_THE_GRANT = (400, 410, 422)


def verdict_of(answer: Answer) -> Verdict:
    """Read an answer ("Grant lifecycle": ``grant_status`` is valid or invalid)."""
    if answer.status == 200:
        grant = _grant(answer)
        if grant is None:
            return Verdict.REFUSED
        return {"valid": Verdict.VALID, "invalid": Verdict.INVALID}.get(str(grant.get("grant_status")), Verdict.UNKNOWN)
    status = answer.status
    if status is None or status >= 500 or status in _LATER:
        return Verdict.UNKNOWN
    if _row(answer).id == GRANT_NOT_FOUND:
        return Verdict.GONE
    is_about_the_grant = status in _ABOUT_THE_GRANT and _failure(answer).origin != "edge"
    return Verdict.UNKNOWN if is_about_the_grant else Verdict.REFUSED


def provider_of(answer: Answer) -> str | None:
    """The grant's provider; ``unknown``: one that sendq does not know; None: the answer does not say."""
    grant = _grant(answer) if answer.status == 200 else None
    if grant is None or not isinstance(grant.get("provider"), str):
        return None
    return grant["provider"] if grant["provider"] in PROVIDERS else "unknown"


def refusal(answer: Answer, *, now: Micros, streak: int) -> tuple[str, Micros]:
    """For a question that was refused: the rule that holds the application for it, and how long.

    ``streak``: holds before this one without a success between them.
    """
    row = _row(answer)
    if row.scope is not Scope.APPLICATION or row.wait is None:
        row = _API_KEY if _failure(answer).origin != "edge" and answer.status in (401, 403) else _NOT_THE_API
    assert isinstance(row.wait, Wait)
    return row.id, row.wait.lasts(None, now=now, streak=streak)


class KeyRuling(StrEnum):
    """What the answers about several grants of one application say about its API key."""

    RIGHT = "right"  #    it finds a grant of the application: those that it does not find are gone
    WRONG = "wrong"  #    it finds none of several
    ALONE = "alone"  #    there is no other grant to ask about
    UNKNOWN = "unknown"  # it finds none, but the question about one was not answered: ask again


def key_ruling(missing: int, others: Sequence[Verdict]) -> KeyRuling:
    """Judge the key after ``missing`` grants were not found, from the answers about ``others``."""
    if any(verdict in (Verdict.VALID, Verdict.INVALID) for verdict in others):
        return KeyRuling.RIGHT
    if any(verdict is not Verdict.GONE for verdict in others):
        return KeyRuling.UNKNOWN
    return KeyRuling.WRONG if missing + len(others) >= 2 else KeyRuling.ALONE


def wrong_application(*, now: Micros, streak: int) -> tuple[str, Micros]:
    """The rule that holds an application whose key is wrong, and how long (as `refusal`)."""
    assert OTHER_APPLICATION.wait is not None
    return OTHER_APPLICATION.id, OTHER_APPLICATION.wait.lasts(None, now=now, streak=streak)


def _grant(answer: Answer) -> dict[str, Any] | None:
    """The grant in the API's answer; None: it is none of the API's."""
    try:
        grant = json.loads(answer.body)["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return grant if isinstance(grant, dict) else None


def _failure(answer: Answer) -> Failure:
    result = parse(answer, provider="unknown", operation="modify", now=0)
    return result if isinstance(result, Failure) else _NO_GRANT


def _row(answer: Answer) -> Row:
    return POLICY.rule(_failure(answer))


def _named(name: str) -> Row:
    return next(row for row in POLICY.rows if row.id == name)


_API_KEY, _NOT_THE_API = _named("api_key"), _named("not_the_api")

# A success without a grant in it.
_NO_GRANT = Failure(
    200, "", "", "", None, None, "edge", replayed=False, smtp=None, refused=0, fault=None, provider="unknown",
    operation="modify",
)  # fmt: skip
