"""Retention: what goes when its time is over, and what stays."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import text

from sendq import NEVER, Attachment, KeyConflict, Message, NewBatch, Options, Pruned, Send, State
from sendq.clock import SECOND, Micros
from sendq.ids import new_id
from sendq.ledger import batches, events, retention
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.rules.states import Event
from settings import Settings
from tests.support.leading import FixedLeadership
from tests.support.ledger import MESSAGE, Ledger, end, outcome
from worker.leading.pruner import DAY, Pruner


def ended(ledger: Ledger, event: Event = Event.ACCEPT, grant: str = "g1", **options: object) -> UUID:
    """A job that was called for and has ended."""
    job = ledger.send(grant, **options)
    claimed = ledger.serve()
    ledger.record(outcome(claimed, claimed.jobs[0], event), ends=[end(claimed)])
    return job


def pruner(ledger: Ledger, *, leads: bool = True, **settings: float) -> Pruner:
    return Pruner(ledger.engine, FixedLeadership(leads=leads), Settings().replace(**settings), now=ledger.clock)


def after(ledger: Ledger, days: float) -> None:
    """So many days later, the pruner runs."""
    ledger.clock.advance(days * 86_400)
    pruner(ledger).run_once()


def states(ledger: Ledger) -> list[str]:
    return sorted(row.state for row in ledger.rows(schema.job))


class TestTheKeeper:
    def test_drops_the_bodies_of_what_went_out_after_a_day(self, ledger: Ledger) -> None:
        job = ended(ledger)
        after(ledger, 0.9)
        assert len(ledger.rows(schema.payload)) == 1
        after(ledger, 0.2)
        assert ledger.rows(schema.payload) == []
        assert ledger.state(job) is State.SENT

    def test_drops_a_file_with_the_last_body_that_needs_it(self, ledger: Ledger) -> None:
        with_file = Message(to=["a@example.com"], attachments=[Attachment(filename="a.txt", content=b"a")])
        for grant in ("g1", "g2"):
            ledger.queue.send(grant, with_file, expires_at=NEVER)
        (first, second) = ledger.claim(ledger.offer())
        ledger.finish(first)
        after(ledger, 2)
        assert [len(ledger.rows(table)) for table in (schema.content, schema.chunk, schema.piece)] == [1, 1, 1]
        ledger.finish(second)
        after(ledger, 2)
        assert [len(ledger.rows(table)) for table in (schema.content, schema.chunk, schema.piece)] == [0, 0, 0]

    def test_keeps_the_bodies_of_dead_letters_for_a_retry(self, ledger: Ledger) -> None:
        ended(ledger, Event.GIVE_UP)
        after(ledger, 89)
        assert len(ledger.rows(schema.payload)) == 1

    def test_lets_jobs_go_by_their_state_with_all_that_hangs_on_them(self, ledger: Ledger) -> None:
        ended(ledger)
        ended(ledger, Event.GIVE_UP)
        after(ledger, 31)
        assert states(ledger) == ["dead"]
        after(ledger, 60)
        for table in (schema.job, schema.attempt, schema.payload):
            assert ledger.rows(table) == []

    def test_never_touches_what_has_not_ended(self, ledger: Ledger) -> None:
        ended(ledger)
        waits = ledger.send("waits")
        ledger.set_job(waits, expires_at=None)
        doubt = ledger.send("doubt")
        (claimed,) = ledger.claim([turn for turn in ledger.offer() if turn.lane_id == ledger.lane("doubt").id])
        ledger.record(outcome(claimed, claimed.jobs[0], Event.DOUBT, sent="maybe"), ends=[end(claimed)])
        after(ledger, 4000)
        assert {row.id for row in ledger.rows(schema.job)} == {waits, doubt}
        assert {row.job_id for row in ledger.rows(schema.payload)} == {waits, doubt}
        assert len(ledger.rows(schema.attempt)) == 1

    def test_a_batch_goes_with_its_last_job(self, ledger: Ledger) -> None:
        ledger.modify("g1", ["m1", "m2"])
        ledger.clock.advance(1)
        claimed = ledger.serve()
        first, second = sorted(claimed.jobs, key=lambda job: job.id not in claimed.begun)
        ledger.record(outcome(claimed, first, Event.ACCEPT), begins=[(claimed, second.id)])
        ledger.record(outcome(claimed, second, Event.GIVE_UP), ends=[end(claimed)])
        with ledger.writing() as connection:
            (batch,) = batches.finish_batches(connection, now=ledger.clock(), limit=100)
        after(ledger, 31)
        assert ledger.queue.batch(str(batch)).counts == {State.SENT: 1, State.DEAD: 1}
        after(ledger, 60)
        assert ledger.rows(schema.batch) == ledger.rows(schema.batch_change) == []

    def test_a_batch_without_jobs_goes_too(self, ledger: Ledger) -> None:
        """All of its messages had jobs already, or its jobs were pruned while it was open."""
        ended(ledger, key="a")
        sends = [Send("g1", MESSAGE, Options(key="a"))]
        ledger.queue.send_many(sends, batch=NewBatch(key="empty"))
        opened = ledger.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch(open=True, key="open"))
        ledger.finish(ledger.serve())
        after(ledger, 40)
        ledger.queue.close_batch(opened.id)
        going_on = ledger.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch(key="going on"))
        with ledger.writing() as connection:
            batches.finish_batches(connection, now=ledger.clock(), limit=100)
        after(ledger, 29)
        assert len(ledger.rows(schema.batch)) == 3
        after(ledger, 2)
        assert [str(row.id) for row in ledger.rows(schema.batch)] == [going_on.id]
        after(ledger, 400)
        assert [row.key for row in ledger.rows(schema.key)] == ["going on"]

    def test_does_nothing_where_it_does_not_lead(self, ledger: Ledger) -> None:
        ended(ledger)
        ledger.clock.advance(400 * 86_400)
        pruner(ledger, leads=False).run_once()
        assert states(ledger) == ["sent"]

    def test_lets_events_and_notifications_go(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            events.append(connection, "hold", at=ledger.clock(), by="anna")
            insert_rows(connection, schema.webhook, [{"id": "n1", "at": ledger.clock()}])
        after(ledger, 8)
        assert ledger.rows(schema.webhook) == []
        assert len(ledger.rows(schema.event)) == 1
        after(ledger, 173)
        assert ledger.rows(schema.event) == []

    def test_lets_told_outcomes_go_and_keeps_those_that_wait(self, ledger: Ledger) -> None:
        common = {
            "target": "t", "receiver": "t", "kind": "sent", "subject": new_id(), "lane_id": new_id(), "facts": "{}",
            "created_at": 1, "next_at": 1, "until": 1,
        }  # fmt: skip
        rows = [
            common | {"id": new_id(), "sequence": 1, "state": "delivered", "done_at": ledger.clock()},
            common | {"id": new_id(), "sequence": 2, "state": "waiting", "done_at": None},
        ]
        with ledger.writing() as connection:
            insert_rows(connection, schema.delivery, rows)
        after(ledger, 31)
        assert [row.state for row in ledger.rows(schema.delivery)] == ["waiting"]

    def test_keeps_what_the_settings_say(self, ledger: Ledger) -> None:
        ended(ledger)
        ledger.clock.advance(120)
        pruner(ledger, keep_bodies_days=0, keep_sent_days=1).run_once()
        assert (len(ledger.rows(schema.payload)), states(ledger)) == (0, ["sent"])
        ledger.clock.advance(86_400)
        pruner(ledger, keep_sent_days=1).run_once()
        assert states(ledger) == []


class TestAKey:
    def test_finds_its_job_again_long_after_it_was_pruned(self, ledger: Ledger) -> None:
        job = ended(ledger, key="invoice-42")
        after(ledger, 31)
        with pytest.raises(Pruned, match=f"{job}, 2026-.*has ended and was deleted") as raised:
            ledger.queue.job(key="invoice-42")
        assert raised.value.id == str(job)
        with pytest.raises(Pruned):
            ledger.queue.why(key="invoice-42")
        again = ledger.queue.send("g1", MESSAGE, key="invoice-42")
        assert (again.id, again.existed) == (str(job), True)
        with pytest.raises(KeyConflict):
            ledger.queue.send("g2", MESSAGE, key="invoice-42")
        assert ledger.rows(schema.job) == []

    def test_is_forgotten_after_a_year(self, ledger: Ledger) -> None:
        ended(ledger, key="invoice-42")
        after(ledger, 364)
        assert len(ledger.rows(schema.key)) == 1
        after(ledger, 2)
        assert ledger.rows(schema.key) == []

    def test_stays_while_its_job_does(self, ledger: Ledger) -> None:
        job = ledger.send(key="invoice-42")
        ledger.set_job(job, expires_at=None)
        after(ledger, 4000)
        assert ledger.queue.job(key="invoice-42").id == str(job)


class TestAStep:
    def test_takes_no_more_than_its_rows(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "STEP", 3)
        for _ in range(7):
            ended(ledger)
            ledger.clock.advance(1)
        ledger.clock.advance(40 * 86_400)
        taken = []
        for _ in range(4):
            with ledger.writing() as connection:
                taken.append(
                    retention.drop_jobs(connection, State.SENT, before=ledger.clock() - 30 * DAY, now=ledger.clock())
                )
        assert taken == [3, 3, 1, 0]

    def test_of_bodies_goes_on_where_the_last_one_ended(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "STEP", 3)
        for number in range(7):
            ended(ledger)
            ledger.clock.advance(1 if number % 3 else 0)  # some at the same moment
        now = ledger.clock.advance(3600)
        left = []
        for _ in range(4):
            with ledger.writing() as connection:
                retention.drop_bodies(connection, State.SENT, before=now, now=now)
            left.append(len(ledger.rows(schema.payload)))
        assert left[-1] == 0
        with ledger.writing() as connection:
            assert retention.drop_bodies(connection, State.SENT, before=now, now=now) == 0

    def test_of_bodies_stays_behind_what_may_not_be_committed_yet(self, ledger: Ledger) -> None:
        ended(ledger)
        now = ledger.clock.advance(30)
        with ledger.writing() as connection:
            assert retention.drop_bodies(connection, State.SENT, before=now, now=now) == 0

    def test_passes_over_a_dead_letter_that_an_operator_retries(self, pg_ledger: Ledger) -> None:
        job = ended(pg_ledger, Event.GIVE_UP)
        now = pg_ledger.clock.advance(100 * 86_400)
        with pg_ledger.writing() as operator, pg_ledger.writing() as connection:
            operator.execute(text("SELECT 1 FROM sendq_job FOR UPDATE"))
            assert retention.drop_jobs(connection, State.DEAD, before=now, now=now) == 0
        assert pg_ledger.state(job) is State.DEAD

    def test_walks_along_an_index(self, pg_ledger: Ledger) -> None:
        fill(pg_ledger, 20_000)
        plans: list[str] = []
        with pg_ledger.writing() as connection:
            connection.execute(text("ANALYZE"))
            for state in ("sent", "dead"):
                wanted = f"state = '{state}' AND finished_at < {pg_ledger.clock() - 10 * SECOND}"
                query = f"EXPLAIN SELECT id FROM sendq_job WHERE {wanted} ORDER BY finished_at LIMIT 500"
                plans += connection.execute(text(query)).scalars()
        assert "\n".join(plans).count("sendq_job_finished_idx") == 2


def fill(ledger: Ledger, jobs: int) -> None:
    """Jobs that ended one after another, most of them sent, and as many that wait."""
    at: Micros = ledger.clock()
    common = {
        "lane_id": new_id(), "operation": "send", "priority": 1, "due_at": at, "next_at": at, "created_at": at,
    }  # fmt: skip
    with ledger.writing() as connection:
        for start in range(0, jobs, 1_000):
            rows = [
                common | {"id": new_id(), "state": "dead" if n % 50 == 0 else "sent", "finished_at": at - n * SECOND}
                for n in range(start, start + 1_000)
            ]
            insert_rows(connection, schema.job, rows)
            insert_rows(connection, schema.job, [common | {"id": new_id(), "state": "queued"} for _ in rows])
