"""The recorder: groups, a poisoned row among them, and a ledger that is away for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from sendq import State
from sendq.clock import SECOND
from sendq.facts.outcomes import Hold, Outcome, Scope
from sendq.facts.turns import Claimed, Recorded
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine
from sendq.rules.states import Event
from tests.support.ledger import Ledger, begin_of, end, outcome
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S, eventually
from worker.serving.recorder import TEXT_REFUSED, Entry, Recorder
from worker.telemetry import journal

PAIR = ("default", "unknown")


class Told:
    """Remembers what the recorder tells."""

    def __init__(self) -> None:
        self.groups: list[tuple[Sequence[Outcome], Recorded]] = []
        self.begun: list[set[UUID]] = []
        self.done = threading.Semaphore(0)

    def group(self, outcomes: Sequence[Outcome], recorded: Recorded) -> None:
        self.groups.append((outcomes, recorded))

    def entry(self, begun: set[UUID]) -> None:
        self.begun.append(begun)
        self.done.release()

    def wait_for(self, entries: int) -> None:
        for _ in range(entries):
            assert self.done.acquire(timeout=LIMIT_S), "an entry was not recorded"


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def recorder(pg_ledger: Ledger, told: Told) -> Iterator[Recorder]:
    """Not started: what is put before `start` becomes one group."""
    recorder = Recorder(pg_ledger.engine, now=pg_ledger.clock, on_recorded=told.group)
    yield recorder
    assert recorder.stop(20)


def claimed_turns(ledger: Ledger, number: int) -> list[Claimed]:
    for grant in range(number):
        ledger.send(f"g{grant}")
    return ledger.claim(ledger.offer())


def accepted(claimed: Claimed, told: Told, **changes: Any) -> Entry:
    done = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
    assert done.attempt is not None
    done = done._replace(attempt=done.attempt._replace(**changes))
    return Entry(PAIR, done, (), end(claimed), told.entry)


def refused(claimed: Claimed, told: Told, *, hold: Hold | None, **changes: Any) -> Entry:
    """The job goes back after this answer."""
    back = outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold)
    assert back.attempt is not None
    back = back._replace(attempt=back.attempt._replace(**changes), sent=changes.get("sent", back.sent))
    return Entry(PAIR, back, (), end(claimed), told.entry)


class TestAGroup:
    def test_is_what_came_in_while_nobody_looked(self, pg_ledger: Ledger, recorder: Recorder, told: Told) -> None:
        turns = claimed_turns(pg_ledger, 5)
        for claimed in turns:
            recorder.put(accepted(claimed, told))
        recorder.start()
        told.wait_for(5)
        assert [len(outcomes) for outcomes, _ in told.groups] == [5]
        assert all(pg_ledger.state(claimed.jobs[0].id) is State.SENT for claimed in turns)

    def test_with_a_row_that_the_ledger_refuses_loses_its_text_and_nothing_else(
        self, pg_ledger: Ledger, recorder: Recorder, told: Told
    ) -> None:
        turns = claimed_turns(pg_ledger, 8)
        for number, claimed in enumerate(turns):
            recorder.put(accepted(claimed, told, error="a\0b" if number == 5 else "fine"))
        recorder.start()
        told.wait_for(8)
        assert all(pg_ledger.state(claimed.jobs[0].id) is State.SENT for claimed in turns)
        texts = [attempt.error for attempt in pg_ledger.rows(schema.attempt)]
        assert sorted(texts) == sorted([TEXT_REFUSED] + ["fine"] * 7)
        assert all(pg_ledger.lane(f"g{number}").turn is None for number in range(8))

    def test_that_cannot_be_recorded_at_all_keeps_nobody_else_waiting(
        self, pg_ledger: Ledger, recorder: Recorder, told: Told
    ) -> None:
        first, second = claimed_turns(pg_ledger, 2)
        recorder.put(accepted(first, told, status="no number"))
        recorder.put(accepted(second, told))
        recorder.start()
        told.wait_for(2)
        assert pg_ledger.state(second.jobs[0].id) is State.SENT
        # A bug of ours: the job stays begun for everybody to see, and its lane goes on.
        assert pg_ledger.state(first.jobs[0].id) is State.SENDING
        assert pg_ledger.lane("g0").turn is None

    def test_whose_second_half_meets_a_broken_connection_is_told_once(
        self, pg_ledger: Ledger, recorder: Recorder, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Refused and halved; the first half is committed; then the connection breaks."""
        turns = claimed_turns(pg_ledger, 4)
        for number, claimed in enumerate(turns):
            recorder.put(accepted(claimed, told, error="a\0b" if number == 3 else "fine"))
        dialect, real, commits = pg_ledger.engine.dialect, pg_ledger.engine.dialect.do_commit, 0

        def commit(connection: Any) -> None:
            nonlocal commits
            commits += 1
            real(connection)
            if commits == 2:  # it happened, and nobody hears of it
                raise psycopg.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(dialect, "do_commit", commit)
        recorder.start()
        told.wait_for(4)
        assert commits > 2
        said = [one.job_id for outcomes, _ in told.groups for one in outcomes]
        assert sorted(said) == sorted(claimed.jobs[0].id for claimed in turns)
        assert len(told.begun) == 4

    def test_tells_each_turn_which_jobs_may_begin(self, pg_ledger: Ledger, recorder: Recorder, told: Told) -> None:
        ids = pg_ledger.modify("g0", [f"m{number}" for number in range(4)])
        pg_ledger.clock.advance(1)
        (claimed,) = pg_ledger.claim(pg_ledger.offer())
        following = next(job.id for job in claimed.jobs if job.id not in claimed.begun)
        pg_ledger.queue.cancel(str(ids[3]))
        wanted = [begin_of(claimed, job) for job in (following, ids[3])]
        done = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
        recorder.put(Entry(PAIR, done, wanted, None, told.entry))
        recorder.start()
        told.wait_for(1)
        assert told.begun == [{following}]


class TestAPairThatWasHeld:
    def test_is_shown_to_work_by_the_first_success_after_the_hold(
        self, pg_ledger: Ledger, recorder: Recorder, told: Told
    ) -> None:
        before, throttled, after = claimed_turns(pg_ledger, 3)
        with pg_ledger.writing() as connection:
            connection.execute(schema.pair.update().values(ramp=None, proven_at=pg_ledger.clock()))
        recorder.start()
        recorder.put(accepted(before, told))
        told.wait_for(1)
        pg_ledger.clock.advance(1)
        hold = Hold(Scope.APPLICATION, "rate_limit", "policy", pg_ledger.clock() + SECOND)
        back = outcome(throttled, throttled.jobs[0], Event.RETURN, hold=hold, begun_at=pg_ledger.clock())
        recorder.put(Entry(PAIR, back, (), end(throttled), told.entry))
        told.wait_for(1)
        assert self.ramp(pg_ledger) == 1
        pg_ledger.clock.advance(2)
        entry = accepted(after, told)
        assert entry.outcome is not None
        recorder.put(entry._replace(outcome=entry.outcome._replace(begun_at=pg_ledger.clock())))
        told.wait_for(1)
        assert self.ramp(pg_ledger) == 2

    @pytest.mark.parametrize(
        ("refusal", "proves"),
        [
            ({"status": 401, "route": "reauth", "rule": "unauthorized"}, False),  # the key is refused, or the grant
            ({"status": None, "route": "retry", "rule": "no_answer"}, False),
            ({"status": 503, "route": "retry", "rule": "provider_unreachable"}, True),
            ({"status": 200, "route": "retry", "rule": "contradiction", "sent": "maybe"}, False),  # a proxy's
            ({"status": 404, "route": "dead_letter", "rule": "grant_not_found"}, False),  # or of another application
        ],
        ids=["unauthorized", "no answer", "trouble behind the API", "a page with 200", "no such grant"],
    )
    def test_is_shown_to_work_by_no_answer_that_may_be_about_the_key(
        self, pg_ledger: Ledger, recorder: Recorder, told: Told, refusal: dict[str, Any], proves: bool
    ) -> None:
        (claimed,) = claimed_turns(pg_ledger, 1)
        hold = None
        if refusal["route"] != "retry":
            hold = Hold(Scope.GRANT, refusal["rule"], "policy", None, missing=refusal["status"] == 404)
        before = self.ramp(pg_ledger)
        assert before == 1
        entry = refused(claimed, told, hold=hold, **refusal)
        recorder.start()
        recorder.put(entry)
        told.wait_for(1)
        assert self.ramp(pg_ledger) == (2 if proves else 1)

    def ramp(self, ledger: Ledger) -> int | None:
        (ramp,) = [row.ramp for row in ledger.rows(schema.pair) if row.provider == PAIR[1]]
        return None if ramp is None else int(ramp)


class TestAConflictWithAnotherTransaction:
    def test_is_not_called_a_ledger_that_is_away(
        self, pg_ledger: Ledger, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logged: list[str] = []
        for event in ("ledger_conflict", "ledger_unavailable"):
            monkeypatch.setattr(journal, event, lambda *_, event=event, **__: logged.append(event))
        (claimed,) = claimed_turns(pg_ledger, 1)
        engine = open_engine(pg_ledger.engine.url.update_query_dict({"options": "-c lock_timeout=50"}))
        recorder = Recorder(engine, now=pg_ledger.clock, on_recorded=told.group)
        with pg_ledger.engine.begin() as connection:
            connection.execute(text("LOCK TABLE sendq_attempt IN ACCESS EXCLUSIVE MODE"))
            recorder.put(accepted(claimed, told))
            recorder.start()
            eventually(lambda: recorder.tries >= 2, "two tries in vain")
        told.wait_for(1)
        assert pg_ledger.state(claimed.jobs[0].id) is State.SENT
        assert recorder.stop(20)
        assert set(logged) == {"ledger_conflict"}
        engine.dispose()


class TestALedgerThatIsAway:
    def test_gets_what_was_held_back_when_it_returns(self, pg_server: PgServer, pg_ledger: Ledger, told: Told) -> None:
        turns = claimed_turns(pg_ledger, 3)
        database = pg_ledger.engine.url.database
        engine = open_engine(pg_ledger.engine.url)
        recorder = Recorder(engine, now=pg_ledger.clock, on_recorded=told.group)
        pg_ledger.engine.dispose()
        pg_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        recorder.start()
        for claimed in turns:
            recorder.put(accepted(claimed, told))
        eventually(lambda: not told.begun and recorder.tries >= 2, "two tries in vain")
        pg_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        told.wait_for(3)
        assert all(pg_ledger.state(claimed.jobs[0].id) is State.SENT for claimed in turns)
        assert recorder.stop(20)
        engine.dispose()
