"""Facts that are made from whole rows have the columns of their tables, in the same order."""

from __future__ import annotations

from typing import Any

import pytest

from sendq.facts.jobs import JOB_CHANGES, ClaimedJob, LockedJob
from sendq.facts.lanes import Lane, Pair, Wake
from sendq.facts.outcomes import Attempt
from sendq.ledger.db import schema


@pytest.mark.parametrize(
    ("fact", "table"),
    [(Lane, schema.lane), (Pair, schema.pair), (Attempt, schema.attempt)],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_have_the_columns_of_their_table(fact: Any, table: Any) -> None:
    assert list(fact._fields) == [column.name for column in table.columns]


def test_a_wake_has_also_whether_its_lane_exists() -> None:
    assert list(Wake._fields) == [*(column.name for column in schema.wake.columns), "lane_exists"]


def test_of_a_job_are_columns_of_the_job() -> None:
    names = {column.name for column in schema.job.columns}
    assert set(LockedJob._fields) <= names
    assert set(ClaimedJob._fields[: ClaimedJob._fields.index("rule") + 1]) <= names
    assert JOB_CHANGES[0] == "id"
    assert JOB_CHANGES[-1] == "cancel_at"
