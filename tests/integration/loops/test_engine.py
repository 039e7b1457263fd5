"""The engine of a worker process, with a real ledger and API: what happens between two lines that write."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from sendq import State, clock
from sendq.errors import LedgerUnavailable
from sendq.facts.outcomes import Outcome
from sendq.facts.turns import Recorded, Unopened
from sendq.ledger.db import schema
from sendq.ledger.dispatching import workers
from sendq.ledger.dispatching.offers import give_back, offer_turns
from sendq.simulator import Simulator
from settings import Settings
from tasks import turn
from tasks.policy.table import POLICY
from tests.support.ledger import Ledger
from tests.support.system import API_KEY
from tests.support.waiting import LIMIT_S, eventually
from worker.clocks.ledger_clock import LedgerClock
from worker.serving.engine import Engine
from worker.serving.lease import Lease


@pytest.fixture
def api() -> Iterator[Simulator]:
    with Simulator(api_key=API_KEY) as simulator:
        yield simulator


class House:
    """An engine, and what a dispatcher would do for it."""

    def __init__(self, ledger: Ledger, api: Simulator, **settings: str) -> None:
        self.ledger, self.told = ledger, threading.Event()
        ledger.clock.at = clock.now()
        environ = {"NYLAS_API_KEY": API_KEY, "NYLAS_API_URI": api.url, "SENDQ_BEAT_INTERVAL_S": "0.1"} | settings
        self.unopened = Unopened()
        self.engine = Engine(
            Settings.load(environ),
            ledger.engine,
            policy=POLICY,
            on_recorded=self.tell,
            on_unopened=self.unopened.add,
            now=LedgerClock(),
        )

    def tell(self, outcomes: Sequence[Outcome], recorded: Recorded) -> None:
        self.told.set()

    def offer(self) -> list[tuple[Any, int, int]]:
        self.ledger.clock.at = clock.now()
        return [(one.lane_id, one.fence, one.slots) for one in self.ledger.offer()]


@pytest.fixture
def house(pg_ledger: Ledger, api: Simulator) -> Iterator[House]:
    house = House(pg_ledger, api)
    house.engine.start()
    yield house
    house.engine.stop()


def lose_answer_of_next_commit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """This thread's next commit happens, and the connection breaks before anybody hears of it."""
    dialect, thread = ledger.engine.dialect, threading.get_ident()
    real = dialect.do_commit
    armed = [True]

    def commit(connection: Any) -> None:
        real(connection)
        if armed and threading.get_ident() == thread:
            armed.clear()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", commit)


def at_once(house: House, *, busy: float = 1.0) -> bool:
    """What a dispatcher does that claims turns for its own process, and offers them if it cannot; whether it did."""
    ledger = house.ledger
    ledger.clock.at = clock.now()
    if ledger.rows(schema.wake):
        ledger.absorb()
    with ExitStack() as until_over:
        with ledger.writing() as connection:
            opened = ledger.opened_in(connection)
            begin = house.engine.intake.claim_at_once(connection, opened, busy, until_over)
            if begin is None:
                offer_turns(connection, [(lane.id, lane.turn_slots) for lane in opened], now=ledger.clock())
        if begin is not None:
            begin()
        return begin is not None


class TestATurnThatIsOver:
    def test_is_not_waited_for_when_the_worker_stops(self, pg_ledger: Ledger, api: Simulator) -> None:
        house = House(pg_ledger, api)
        house.engine.start()
        try:
            pg_ledger.send()
            assert house.engine.intake.take_on(house.offer()) == 1
            eventually(lambda: house.engine.slots.used == 0, "the end of the turn")
        finally:
            with capture_logs() as logged:
                house.engine.stop()
        assert [one["calls"] for one in logged if one["event"] == "worker_stopping"] == [0]


class TestATurnThatNobodyCarriesOut:
    def test_is_closed_when_the_answer_to_its_claim_was_lost(
        self, house: House, api: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = house.ledger.send()
        offered = house.offer()
        lose_answer_of_next_commit(house.ledger, monkeypatch)
        with pytest.raises(LedgerUnavailable):
            house.engine.intake.take_on(offered)
        assert house.ledger.lane().turn == "claimed"
        eventually(lambda: house.ledger.lane().turn is None, "the end of the turn")
        assert house.ledger.job(job).deaths == 0
        assert house.engine.intake.take_on(house.offer()) == 1
        eventually(lambda: house.ledger.state(job) is State.SENT, "the sending")
        assert len(api.mailbox) == 1

    def test_is_closed_though_its_message_came_again_just_when_that_was_looked_for(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine, claiming, looked = house.engine, threading.Event(), threading.Event()
        claim, take_back = engine.intake._claim, engine.heartbeat._take_back_lost_turns

        def claim_slowly(names: Any, **options: Any) -> Any:
            claiming.set()
            assert looked.wait(LIMIT_S)
            return claim(names, **options)

        def take_back_meanwhile() -> None:
            assert claiming.wait(LIMIT_S)
            take_back()
            looked.set()

        job = house.ledger.send()
        offered = house.offer()
        with monkeypatch.context() as patched:
            patched.setattr(engine.heartbeat, "_take_back_lost_turns", take_back_meanwhile)
            lose_answer_of_next_commit(house.ledger, patched)
            with pytest.raises(LedgerUnavailable):
                engine.intake.take_on(offered)
            patched.setattr(engine.intake, "_claim", claim_slowly)
            assert engine.intake.take_on(offered) == 0
        eventually(lambda: house.ledger.lane().turn is None, "the end of the turn")
        engine.intake.take_on(house.offer())
        eventually(lambda: house.ledger.state(job) is State.SENT, "the sending")

    @pytest.mark.parametrize("is_at_once", [False, True], ids=["claimed from a bundle", "claimed at once"])
    def test_is_closed_when_it_could_not_be_put_on_the_loop(
        self, house: House, monkeypatch: pytest.MonkeyPatch, is_at_once: bool
    ) -> None:
        def breaks(_claimed: Any) -> None:
            raise RuntimeError("Event loop is closed")

        job = house.ledger.send()
        with monkeypatch.context() as patched:
            patched.setattr(house.engine.intake, "_begin", breaks)
            with pytest.raises(RuntimeError):
                at_once(house) if is_at_once else house.engine.intake.take_on(house.offer())
        assert house.engine.slots.used == 0
        eventually(lambda: house.ledger.lane().turn is None, "the end of the turn")
        assert at_once(house)
        eventually(lambda: house.ledger.state(job) is State.SENT, "the sending")

    def test_is_closed_when_it_broke_off_with_an_exception(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        def breaks(self: Any) -> Any:
            raise RuntimeError("a bug of ours")

        job = house.ledger.send()
        with monkeypatch.context() as patched:
            patched.setattr(turn._Turn, "_next_to_begin", breaks)
            house.engine.intake.take_on(house.offer())
            eventually(lambda: house.engine.slots.used == 0, "the end of the task")
        eventually(lambda: house.ledger.lane().turn is None, "the end of the turn")
        assert house.ledger.state(job) is State.QUEUED
        house.engine.intake.take_on(house.offer())
        eventually(lambda: house.ledger.state(job) is State.SENT, "the sending")


class TestTurnsOfTheOwnDispatcher:
    def test_are_carried_out_without_a_message(self, house: House, api: Simulator) -> None:
        job = house.ledger.send()
        assert house.engine.intake.take_on_soon(house.offer(), busy=0.01)
        eventually(lambda: house.ledger.state(job) is State.SENT, "the sending")
        assert len(api.mailbox) == 1
        eventually(lambda: house.engine.slots.used == 0, "the end of the turn")

    def test_are_left_to_others_beyond_the_share_of_this_process(self, house: House) -> None:
        house.ledger.send()
        offered, slots = house.offer(), house.engine.slots
        assert slots.take(50, limit_s=0)
        assert not house.engine.intake.take_on_soon(offered, busy=0.45)  # of 100 slots
        assert slots.used == 50
        assert house.engine.intake.take_on_soon(offered, busy=0.5)

    def test_are_left_to_others_without_a_free_slot(self, house: House) -> None:
        house.ledger.send()
        offered, slots = house.offer(), house.engine.slots
        assert slots.take(slots.capacity, limit_s=0)
        assert not house.engine.intake.take_on_soon(offered, busy=1.0)
        assert slots.used == slots.capacity

    def test_are_left_to_others_when_it_stops(self, house: House) -> None:
        house.ledger.send()
        offered = house.offer()
        house.engine.intake.close()
        assert not house.engine.intake.take_on_soon(offered, busy=1.0)
        assert house.engine.slots.used == 0
        assert house.ledger.lane().turn == "offered"

    def test_do_no_harm_if_their_claim_fails(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = threading.Event()

        def breaks(*_: Any, **__: Any) -> Any:
            failed.set()
            raise RuntimeError("a bug of ours")

        job = house.ledger.send()
        with monkeypatch.context() as patched:
            patched.setattr(house.engine.intake, "_claim", breaks)
            assert house.engine.intake.take_on_soon(house.offer(), busy=1.0)
            assert failed.wait(LIMIT_S)
            eventually(lambda: house.engine.slots.used == 0, "the slots of the failed claim")
        assert house.ledger.lane().turn == "offered"  # until the rescuer takes it back
        with house.ledger.writing() as connection:
            lane = house.ledger.lane()
            give_back(connection, [(lane.id, lane.fence)], now=clock.now())
        assert house.engine.intake.take_on_soon(house.offer(), busy=1.0)
        eventually(lambda: house.ledger.state(job) is State.SENT, "the sending")


class TestTurnsThatAreClaimedAtOnce:
    """By the own dispatcher, in the transaction of its round."""

    def test_are_carried_out(self, house: House, api: Simulator) -> None:
        job = house.ledger.send()
        assert at_once(house)
        eventually(lambda: house.ledger.state(job) is State.SENT, "the sending")
        assert len(api.mailbox) == 1
        eventually(lambda: house.engine.slots.used == 0, "the end of the turn")

    @pytest.mark.parametrize(("used", "busy"), [(50, 0.45), (100, 1.0)])
    def test_are_left_to_others_under_the_same_conditions(self, house: House, used: int, busy: float) -> None:
        house.ledger.send()
        assert house.engine.slots.take(used, limit_s=0)
        assert not at_once(house, busy=busy)
        assert (house.engine.slots.used, house.ledger.lane().turn) == (used, "offered")

    def test_are_left_to_others_when_it_stops(self, house: House) -> None:
        house.ledger.send()
        house.engine.intake.close()
        assert not at_once(house)
        assert (house.engine.slots.used, house.ledger.lane().turn) == (0, "offered")

    @pytest.mark.parametrize("ends", ["it stops", "its lease ends"])
    def test_are_left_to_others_when_that_happens_just_after_it_took_slots(
        self, house: House, monkeypatch: pytest.MonkeyPatch, ends: str
    ) -> None:
        engine, take = house.engine, house.engine.slots.take

        def take_and_end(slots: int, *, limit_s: float) -> bool:
            taken = take(slots, limit_s=limit_s)
            if ends == "it stops":
                engine.intake.close()
            else:
                monkeypatch.setattr(Lease, "holds", lambda self: False)
            return taken

        house.ledger.send()
        monkeypatch.setattr(engine.slots, "take", take_and_end)
        assert not at_once(house)
        assert (engine.slots.used, house.ledger.lane().turn) == (0, "offered")

    def test_give_back_their_slots_if_they_are_not_claimed(self, house: House) -> None:
        house.ledger.modify("g1", ["m1"], unread=False)  # for the usual claim, which knows of other jobs of the message
        assert not at_once(house)
        assert (house.engine.slots.used, house.ledger.lane().turn) == (0, "offered")

    def test_are_closed_and_begun_again_if_the_answer_to_the_commit_was_lost(
        self, house: House, api: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = house.ledger.send()
        house.ledger.absorb()
        lose_answer_of_next_commit(house.ledger, monkeypatch)
        with pytest.raises(LedgerUnavailable):
            at_once(house)
        assert (house.engine.slots.used, house.ledger.lane().turn) == (0, "claimed")
        eventually(lambda: house.ledger.lane().turn is None, "the end of the turn")
        assert api.mailbox == []
        assert at_once(house)
        eventually(lambda: house.ledger.state(job) is State.SENT, "the sending")
        assert len(api.mailbox) == 1


class TestAnExceptionThatShouldNotBe:
    def test_in_who_is_told_leaves_the_recorder_alive(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        def breaks(*_: Any) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(house.engine._recorder, "_on_recorded", breaks)
        jobs = [house.ledger.send(f"g{number}") for number in range(3)]
        for _ in jobs:
            house.engine.intake.take_on(house.offer()[:1])
        house.engine.intake.take_on(house.offer())
        eventually(lambda: house.engine.slots.used == 0, "the end of the turns")

    def test_beside_a_hold_does_not_hold_the_pair_for_ever(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        def breaks(self: Any) -> Any:
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(turn._Turn, "_next_to_begin", breaks)
        monkeypatch.setattr(type(house.engine.application("default")), "api_key", lambda self: "another key")
        house.ledger.send()
        house.engine.intake.take_on(house.offer())
        eventually(lambda: house.engine.slots.used == 0, "the end of the task")
        pair = ("default", "unknown")
        assert not house.engine.may_call(pair, clock.now() - clock.SECOND * 60)
        assert house.engine.may_call(pair, clock.now() + 1)

    def test_in_a_beat_is_not_the_last_beat(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = threading.Event()

        def breaks(*_: Any, **__: Any) -> bool:
            failed.set()
            raise RuntimeError("a bug of ours")

        with monkeypatch.context() as patched:
            patched.setattr(workers, "beat", breaks)
            assert failed.wait(LIMIT_S)
        with house.ledger.engine.connect() as connection:
            before = workers.beats(connection)[house.engine.worker_id].count

        def beats() -> int:
            with house.ledger.engine.connect() as connection:
                return workers.beats(connection)[house.engine.worker_id].count

        eventually(lambda: beats() > before + 1, "another beat")


class TestStopping:
    def test_gives_back_at_once_what_waits_for_room(self, pg_ledger: Ledger, api: Simulator) -> None:
        house = House(pg_ledger, api)
        house.engine.start()
        job = pg_ledger.send()
        offered = house.offer()
        slots = house.engine.slots
        assert slots.take(slots.capacity, limit_s=0)
        waiter = threading.Thread(target=house.engine.intake.take_on, args=(offered,))
        waiter.start()
        house.engine.stop()
        slots.give(slots.capacity)
        waiter.join(LIMIT_S)
        assert pg_ledger.lane().turn is None
        assert (pg_ledger.state(job), pg_ledger.job(job).doubt_at) == (State.QUEUED, None)
        assert slots.used == 0


class TestBeingTakenForDead:
    def test_while_it_waits_for_room_is_noticed_before_anything_is_claimed(self, house: House) -> None:
        house.ledger.send()
        offered = house.offer()
        slots = house.engine.slots
        assert slots.take(slots.capacity, limit_s=0)
        waiter = threading.Thread(target=house.engine.intake.take_on, args=(offered,))
        waiter.start()
        with house.ledger.writing() as connection:
            workers.deregister(connection, house.engine.worker_id)
        old = house.engine.worker_id
        eventually(lambda: house.engine.worker_id != old, "the rebirth")
        house.engine.heartbeat.lease.lose()
        slots.give(slots.capacity)
        waiter.join(LIMIT_S)
        assert house.ledger.lane().turn_worker in (None, house.engine.worker_id)
