"""Which jobs of a lane were refused, and which of them are at fault."""

from __future__ import annotations

from sendq.ids import new_id
from sendq.rules import refused_jobs
from sendq.rules.refused_jobs import JOBS_MOST, blamed, counts, one_chance_each, one_more, without


class TestAJob:
    def test_is_at_fault_after_its_second_refusal(self) -> None:
        job, other = new_id(), new_id()
        once = one_more(one_more(None, job), other)
        assert blamed(once) == frozenset()
        assert blamed(one_more(once, job)) == {job}

    def test_is_forgotten_when_it_has_ended(self) -> None:
        job, other = new_id(), new_id()
        text = one_more(one_more(None, job), other)
        assert counts(without(text, [job])) == {other: 1}
        assert without(text, [job, other]) is None

    def test_is_not_at_fault_where_the_grant_is(self) -> None:
        job = new_id()
        twice = one_more(one_more(None, job), job)
        assert counts(one_chance_each(twice)) == {job: refused_jobs.BLAMED_AFTER - 1}
        assert one_chance_each(None) is None


class TestTheText:
    def test_keeps_the_latest_jobs_only(self) -> None:
        jobs = [new_id() for _ in range(JOBS_MOST + 5)]
        text = None
        for job in jobs:
            text = one_more(text, job)
        text = one_more(text, jobs[5])
        assert list(counts(text)) == [*jobs[6:], jobs[5]]

    def test_of_a_lane_without_refusals_is_null(self) -> None:
        assert counts(None) == {}
        assert blamed(None) == frozenset()
