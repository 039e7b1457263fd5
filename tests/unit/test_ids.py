"""Ids: in order of time where they are made, derived where they stand for something."""

from __future__ import annotations

import threading
import time
from uuid import RFC_4122

from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import now
from sendq.ids import first_id, lane_id, new_id, new_ids


class TestANewId:
    def test_is_a_uuid_of_version_7(self) -> None:
        made = new_id()
        assert made.version == 7
        assert made.variant == RFC_4122

    def test_carries_the_millisecond_in_which_it_was_made(self) -> None:
        before = time.time_ns() // 1_000_000
        made = new_id()
        after = time.time_ns() // 1_000_000
        # Ids that would tie are counted on, which may run ahead by some thousandths of a millisecond.
        assert before <= made.int >> 80 <= after + 10

    def test_lies_between_the_first_ids_of_the_times_around_it(self) -> None:
        before = now()
        made = new_id()
        assert first_id(before) <= made < first_id(now() + 2_000)

    def test_sorts_after_every_earlier_one_of_its_process(self) -> None:
        made = [new_id() for _ in range(20_000)]
        assert made == sorted(made)
        assert len(set(made)) == len(made)

    def test_made_together_with_others_is_as_if_it_were_made_alone(self) -> None:
        first, before = new_id(), now()
        made = list(new_ids(5_000))
        assert [first, *made, last := new_id()] == sorted({first, *made, last})
        assert len(made) == 5_000
        assert {one.version for one in made} == {7}
        assert first_id(before) <= made[0] < made[-1] < first_id(now() + 2_000)
        assert list(new_ids(0)) == []

    def test_is_unlike_those_that_other_threads_make_at_the_same_time(self) -> None:
        made: list[list[int]] = [[] for _ in range(4)]

        def make(into: list[int]) -> None:
            into.extend(new_id().int >> 64 for _ in range(5_000))

        threads = [threading.Thread(target=make, args=(into,)) for into in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(stamps == sorted(stamps) for stamps in made)
        assert len({stamp for stamps in made for stamp in stamps}) == 20_000


class TestALaneId:
    def test_is_the_same_in_every_process_and_release(self) -> None:
        # Lanes are found again by it: another recipe would give every account a second lane.
        assert str(lane_id("default", "grant-1")) == "6f7bdec4-416a-8b72-a159-22c38db4695d"

    def test_is_a_uuid_of_version_8(self) -> None:
        made = lane_id("default", "grant-1")
        assert made.version == 8
        assert made.variant == RFC_4122

    @given(
        st.tuples(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.text(st.characters(codec="utf-8")))
    )
    def test_depends_on_the_application_and_the_grant(self, name: tuple[str, str]) -> None:
        application, grant = name
        assert lane_id(application, grant) == lane_id(application, grant)
        assert lane_id(application, grant) != lane_id(application, grant + "x")
        assert lane_id(application, grant) != lane_id(application + "x", grant)

    def test_does_not_confuse_where_one_name_ends_and_the_other_begins(self) -> None:
        assert lane_id("a", "bc") != lane_id("ab", "c")
