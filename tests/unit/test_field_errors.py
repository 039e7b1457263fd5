"""What people who send mail really got back, from public bug reports and questions: each is routed as it should be.

``python -m tests.unit.test_field_errors`` prints each case and how many are right. ``right`` of a case is route, scope
and whether it may have gone out, each with its alternatives (``reauth|requeue/grant/no``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.policy.table import POLICY
from tests.unit.test_policy import failure_of, named

FILE = Path(__file__).parents[1] / "data" / "field_errors.jsonl"
FIELD_CASES: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def outcome(case: dict[str, Any]) -> str:
    """The route, the scope, and whether the message may have gone out."""
    row = POLICY.rule(failure_of(case))
    return f"{row.route}/{row.scope}/{row.sent}"


def is_right(case: dict[str, Any]) -> bool:
    """Whether each part of the outcome is one of the alternatives."""
    parts = zip(outcome(case).split("/"), case["right"].split("/"), strict=True)
    return all(found in right.split("|") for found, right in parts)


@pytest.mark.parametrize("case", named(FIELD_CASES))
def test_an_error_from_the_field_is_routed_right(case: dict[str, Any]) -> None:
    assert is_right(case), outcome(case)


def test_there_are_thirty_three_of_them() -> None:
    assert len(FIELD_CASES) == 33


def main() -> int:
    for case in FIELD_CASES:
        rule = POLICY.rule(failure_of(case)).id
        print("right" if is_right(case) else "WRONG", case["status"], rule, outcome(case), "-", case["name"])
    right = sum(map(is_right, FIELD_CASES))
    print(f"{right} of {len(FIELD_CASES)} right")
    return int(right < len(FIELD_CASES))


if __name__ == "__main__":
    sys.exit(main())
