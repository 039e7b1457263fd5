"""When the demo's account adds up, and when it must not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from worker.demo.summary import Account, lines

GOOD = Account(
    sent=490,
    dead=1,
    reauth=9,
    other=0,
    messages=190,
    changes=300,
    repeated=0,
    faults=Counter(throttle=3, refused=1),
    bounced=1,
)


class TestTheAccount:
    def test_it_adds_up_when_both_sides_agree(self) -> None:
        assert GOOD.adds_up

    @pytest.mark.parametrize(
        "wrong",
        [
            {"sent": 489, "other": 1, "messages": 189},  # a job is nowhere
            {"messages": 189},  # called sent, and the API never had it
            {"messages": 191},  # the API has it, and nobody knows
            {"repeated": 1},  # sent twice
            {"changes": 299, "messages": 191},  # a change is missing
        ],
    )
    def test_it_does_not_when_anything_is_missing_or_done_twice(self, wrong: dict[str, Any]) -> None:
        assert not replace(GOOD, **wrong).adds_up


class TestTheSummary:
    def test_it_says_what_one_would_write_next(self) -> None:
        said = "\n".join(lines(GOOD, 20.0, "sqlite:////home/me/sendq.db"))
        assert 'SendQueue("sqlite:////home/me/sendq.db")' in said
        assert "the two agree" in said
        assert "unfinished" not in said
        assert "1 bounced" in said

    def test_it_does_not_hide_a_discrepancy(self) -> None:
        said = "\n".join(lines(replace(GOOD, sent=489, other=1), 20.0, "sqlite:///x.db"))
        assert "THE TWO DO NOT AGREE" in said
        assert "1  unfinished" in said
