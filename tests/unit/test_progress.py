"""How far a batch is: when its walk is over, when its last job has ended, and when that may be."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sendq.clock import SECOND
from sendq.rules.progress import ended, eta, rate, walk_is_complete, walk_state


@dataclass
class Batch:
    walk: str | None = None
    listings: int = 0
    cancel_at: int | None = None


GIVEN = Batch()
QUERY = Batch("query", 1)
THREADS = Batch("threads", 3)


class TestABatchOfGivenIds:
    def test_has_ended_with_its_last_job(self) -> None:
        assert not ended(GIVEN, {"sent": 2}, total=3)
        assert not ended(GIVEN, {"sent": 2, "in_doubt": 1}, total=3)
        assert ended(GIVEN, {"sent": 1, "dead": 1, "cancelled": 1}, total=3)


class TestAWalkByQuery:
    def test_is_over_when_its_last_page_is_listed(self) -> None:
        assert not walk_is_complete(QUERY, {"page": 7, "found": 140})
        assert walk_is_complete(QUERY, {"page": 8, "found": 150, "list:sent": 1})

    def test_stops_at_a_page_that_was_given_up_and_changes_nothing(self) -> None:
        stopped = {"page": 7, "found": 140, "list:dead": 1}
        assert not walk_is_complete(QUERY, stopped)
        assert walk_state(QUERY, stopped, total=None, making=False) == "stopped"
        assert ended(QUERY, stopped, total=None)

    def test_goes_on_when_that_page_is_sent_round_again(self) -> None:
        retried = {"page": 7, "found": 140, "list:dead": 0}
        assert walk_state(QUERY, retried, total=None, making=False) == "listing"
        assert not ended(QUERY, retried, total=None)

    def test_has_not_ended_before_the_jobs_that_it_finds(self) -> None:
        over = {"page": 1, "found": 2, "list:sent": 1}
        assert not ended(QUERY, over, total=None)
        assert not ended(QUERY, over, total=2)
        assert walk_state(QUERY, over, total=2, making=True) == "making"
        assert ended(QUERY, {**over, "sent": 2}, total=2)
        assert walk_state(QUERY, {**over, "sent": 2}, total=2, making=False) == "done"

    def test_of_a_cancelled_batch_is_never_complete(self) -> None:
        cancelled = Batch("query", 1, cancel_at=1)
        assert not walk_is_complete(cancelled, {"list:sent": 1})
        assert ended(cancelled, {"list:cancelled": 1}, total=None)


class TestAWalkByThreads:
    def test_is_over_with_the_last_thread_though_one_could_not_be_listed(self) -> None:
        assert not walk_is_complete(THREADS, {"list:sent": 1, "list:dead": 1})
        assert walk_is_complete(THREADS, {"list:sent": 2, "list:dead": 1})


class TestTheRate:
    def test_is_that_since_the_first_end_of_the_last_minute(self) -> None:
        assert rate(120, over=60 * SECOND) == 2
        assert rate(120, over=30 * SECOND) == 4

    def test_is_bounded_where_no_time_has_passed(self) -> None:
        assert rate(5, over=0) == 5
        assert rate(-3, over=0) == 0  # dead letters that were sent round again


class TestTheEta:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"waiting": 0}, 100),
            ({"rate": 2.0}, 105),
            ({"rate": 2.0, "held_until": 400 * SECOND}, 405),
            ({"rate": 2.0, "held_until": 50 * SECOND}, 105),
            ({"rate": 2.0, "paced_at": 110 * SECOND}, 110),  # it goes no faster than its lane may
            ({"paced_at": 130 * SECOND}, 130),
            ({"paced_at": 130 * SECOND, "held_until": 400 * SECOND}, 430),
            ({"rate": 2.0, "closed": True}, None),
        ],
    )
    def test_follows_from_rate_pace_and_holds(self, given: dict[str, object], expected: int | None) -> None:
        alike = {"waiting": 10, "rate": 0.0, "paced_at": 0, "held_until": 0, "closed": False, "now": 100 * SECOND}
        at = eta(**{**alike, **given})  # type: ignore[arg-type]
        assert at == (None if expected is None else expected * SECOND)
