"""How many calls a worker process takes on."""

from __future__ import annotations

import threading

from tests.support.waiting import LIMIT_S
from worker.serving.slots import SHORTEST_S, Slots, Usual, jobs_to_load


class TestTakingSlots:
    def test_stops_at_the_capacity(self) -> None:
        slots = Slots(3, slow_each=3)
        assert slots.take(2, limit_s=0)
        assert not slots.take(2, limit_s=0)
        assert slots.take(1, limit_s=0)

    def test_waits_until_somebody_gives_some_back(self) -> None:
        slots = Slots(1, slow_each=1)
        slots.take(1, limit_s=0)
        got = []
        waiter = threading.Thread(target=lambda: got.append(slots.take(1, limit_s=10)))
        waiter.start()
        slots.give(1)
        waiter.join(LIMIT_S)
        assert got == [True]

    def test_more_than_the_capacity_goes_when_nothing_else_does(self) -> None:
        slots = Slots(2, slow_each=2)
        assert slots.take(5, limit_s=0)
        assert not slots.take(1, limit_s=0)

    def test_gives_up_as_soon_as_there_will_be_no_more(self) -> None:
        slots = Slots(1, slow_each=1)
        slots.take(1, limit_s=0)
        got = []
        waiter = threading.Thread(target=lambda: got.append(slots.take(1, limit_s=10)))
        waiter.start()
        slots.close()
        waiter.join(LIMIT_S)
        slots.give(1)
        assert got == [False]
        assert not slots.take(1, limit_s=0)


class TestASlowCall:
    def test_gives_its_slot_to_others(self) -> None:
        slots = Slots(1, slow_each=1)
        slots.take(1, limit_s=0)
        assert slots.slow_down("imap")
        assert slots.slow == 1
        assert slots.take(1, limit_s=0)

    def test_keeps_its_slot_when_its_providers_allowance_is_used_up(self) -> None:
        slots = Slots(2, slow_each=1)
        slots.take(2, limit_s=0)
        assert slots.slow_down("imap")
        assert not slots.slow_down("imap")
        assert slots.used == 1

    def test_of_one_provider_leaves_the_allowance_of_another_alone(self) -> None:
        slots = Slots(2, slow_each=1)
        slots.take(2, limit_s=0)
        assert slots.slow_down("imap")
        assert slots.slow_down("google")

    def test_leaves_the_count_as_it_was_once_it_and_its_turn_are_over(self) -> None:
        slots = Slots(2, slow_each=1)
        slots.take(1, limit_s=0)
        slots.slow_down("imap")
        slots.slow_call_ended("imap")
        slots.give(1)
        assert (slots.used, slots.slow) == (0, 0)
        assert slots.slow_down("imap")


class TestAFullHouse:
    def test_waits_for_a_call_as_long_as_it_may_take_while_nothing_is_known(self) -> None:
        assert Usual().patience("imap", most_s=5) == 5

    def test_waits_several_times_as_long_as_calls_of_the_provider_usually_take(self) -> None:
        usual = Usual()
        usual.ended("imap", 0.5)
        usual.ended("google", 0.1)
        assert usual.patience("imap", most_s=5) == 2.0

    def test_takes_what_others_need_for_usual_where_nothing_is_known_of_the_provider(self) -> None:
        usual = Usual()
        usual.ended("imap", 0.5)
        assert usual.patience("google", most_s=5) == 2.0

    def test_waits_no_longer_than_for_any_slow_call_and_no_shorter_than_a_busy_machine_needs(self) -> None:
        usual = Usual()
        usual.ended("imap", 0.001)
        usual.ended("ews", 60.0)
        assert (usual.patience("imap", most_s=5), usual.patience("ews", most_s=5)) == (SHORTEST_S, 5)


class TestATurn:
    def test_loads_few_jobs_while_nobody_knows_how_long_a_call_takes(self) -> None:
        assert jobs_to_load(Usual().fit_into(2.0), slots=1, most=20) == 4

    def test_loads_what_its_time_is_enough_for_and_one_more(self) -> None:
        usual = Usual()
        usual.ended("imap", 0.5)
        assert jobs_to_load(usual.fit_into(2.0), slots=1, most=20) == 5
        assert jobs_to_load(usual.fit_into(2.0), slots=3, most=20) == 15

    def test_loads_no_more_than_is_set_and_never_none(self) -> None:
        quick, slow = Usual(), Usual()
        quick.ended("imap", 0.0)
        slow.ended("imap", 3600.0)
        assert jobs_to_load(quick.fit_into(2.0), slots=1, most=20) == 20
        assert jobs_to_load(slow.fit_into(2.0), slots=1, most=20) == 2
