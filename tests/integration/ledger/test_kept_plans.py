"""The plans that a worker's sessions keep, made while the tables are nearly empty: they must be right for millions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, event, text

from sendq import Attachment, Message, Operators, Query, Scope, SendQueue
from sendq.clock import SECOND, moment
from sendq.facts.outcomes import Hold, Page
from sendq.facts.outcomes import Scope as Scope_
from sendq.ledger import contents, pending_work, sealed
from sendq.ledger.db import direct, schema
from sendq.ledger.dispatching import broker, lineage, offers, rescue, tag_holds, turns, workers
from sendq.ledger.dispatching.lane_paces import apply_paces
from sendq.ledger.dispatching.waking import any_wakes, take_wakes, take_wakes_and_lock
from sendq.ledger.operators import recover
from sendq.rules.floors import Floors
from sendq.rules.paces import Paces
from sendq.rules.states import Event
from sendq.vault import KEY_BYTES, Vault
from tests.integration.ledger.test_turns_at_once import at_once
from tests.support.ledger import Ledger, end, outcome

# The few rows of pairs, workers and the leader may be read in any way.
_LARGE = "job lane payload attempt wake batch batch_change key job_tag piece chunk after delivery delivery_status"
LARGE = {f"sendq_{name}" for name in _LARGE.split()}

# What is found by these may be sorted: the jobs of one message, and the lanes that are held.
SORTED = {"sendq_job_object_idx", "sendq_job_message_idx", "sendq_lane_held_idx"}

# Indexes that may be read whole: of the turns that are open now; and those of what a loop of the leader looks after, of
# which the first row is enough.
SMALL = {
    "sendq_lane_turn_idx",
    "sendq_lane_closed_idx",
    "sendq_job_look_idx",
    "sendq_job_doubt_idx",
    "sendq_batch_change_news_idx",
}
SMALL |= {"sendq_batch_making_idx", "sendq_batch_cancel_idx", "sendq_delivery_status_pending_idx"}
SMALL |= {"sendq_after_waiting_idx", "sendq_after_check_idx", "sendq_after_read_idx", "sendq_after_lane_idx"}
SMALL |= {"sendq_delivery_waiting_idx"}


@pytest.fixture
def analyzed(pg_ledger: Ledger) -> Ledger:
    """A ledger of which the planner knows that it is nearly empty."""
    with pg_ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
    return pg_ledger


def work(ledger: Ledger) -> None:
    """Lone sends, several at once, a batch; one send is put off."""
    for together in (["g1"], ["g1", "g2"]):
        for grant in together:
            ledger.send(grant)
        for claimed in at_once(ledger):
            ledger.finish(claimed)
        ledger.clock.advance(1)
    ledger.modify("g1", ["m1", "m2"])
    ledger.finish(ledger.serve())
    ledger.send()
    claimed = ledger.serve()
    later = outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=ledger.clock() + 1)
    ledger.record(later, ends=[end(claimed)])
    ledger.clock.advance(1)
    ledger.finish(ledger.serve())
    with ledger.writing() as connection:
        offers.overview(connection, old_before=ledger.clock(), floors=Floors())
    ledger.clock.advance(1)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


class Watched(Ledger):
    """A ledger that keeps the statements of a worker: those of its transactions, but not of what is enqueued."""

    seen: set[str]

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with super().writing() as connection:
            event.listen(connection, "before_cursor_execute", self._see)
            try:
                yield connection
            finally:
                event.remove(connection, "before_cursor_execute", self._see)

    def _see(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
            self.seen.add(statement)


def held_tags(ledger: Ledger) -> None:
    """Jobs of a held tag, others behind them, one that is repeated; and the end of the hold."""
    for tags in ({"campaign": "may"}, {"campaign": "may"}, None):
        ledger.send(tags=tags)
    until = moment(ledger.clock()) + timedelta(hours=1)
    hold = Operators(ledger.engine, now=ledger.clock).hold
    assert hold(Scope.of_tag("campaign=may"), until=until, by="anna", reason="wrong price").done
    ledger.clock.advance(1)
    ledger.finish(ledger.serve())
    with ledger.writing() as connection:
        assert at_once(ledger) == []
        tag_holds.ended(connection, now=ledger.clock())
    ledger.clock.advance(3_601)
    ledger.finish(ledger.serve())


def outcomes_of_all_kinds(ledger: Ledger) -> None:
    """Jobs that end, return, are in doubt, hold their grant, provider or application, or close their lane."""
    holds = [
        *(Hold(Scope_(name), "throttled", "policy", ledger.clock() + SECOND) for name in ("grant", "provider")),
        Hold(Scope_.APPLICATION, "key_check", "policy", ledger.clock() + SECOND),
        Hold(Scope_.GRANT, "grant_expired", "policy", None),
    ]
    events = [(Event.GIVE_UP, None), (Event.DOUBT, None), *((Event.RETURN, hold) for hold in holds)]
    for number, (happens, hold) in enumerate(events):
        ledger.send(f"g{number}", provider="google", on_outcome="webhook:shop")
        ledger.clock.advance(2)
        for claimed in ledger.claim(ledger.offer()):
            done = [
                outcome(claimed, job, happens, hold=hold, sent="maybe" if happens is Event.DOUBT else "no")
                for job in claimed.jobs
                if job.id in claimed.begun
            ]
            ledger.record(*done, ends=[end(claimed)])
    walk = ledger.queue.modify_matching("g9", Query(unread=True), unread=False)
    ledger.clock.advance(2)
    for claimed in ledger.claim(ledger.offer()):
        (job,) = claimed.jobs
        if job.batch_id == UUID(walk.id):
            page = Page(["m1", "m2"], None, "")
            ledger.record(outcome(claimed, job, Event.ACCEPT, sent="yes", page=page), ends=[end(claimed)])


def lost_work(ledger: Ledger) -> None:
    """Turns that are given back, or that a worker leaves behind; jobs that have expired, or are unreadable."""
    ledger.send("g1")
    ledger.clock.advance(1)
    offered = ledger.offer()
    with ledger.writing() as connection:
        offers.give_back(connection, [(turn.lane_id, turn.fence) for turn in offered], now=ledger.clock())
    ledger.serve()
    with ledger.writing() as connection:
        rescue.take_back_strays(connection, ledger.worker, in_flight=(), now=ledger.clock())
    ledger.clock.advance(2)
    ledger.serve()
    with ledger.writing() as connection:
        rescue.bury(connection, ledger.worker, now=ledger.clock(), died=True)
        recover.keep_generations(connection, {row.id: 0 for row in ledger.rows(schema.job)})
        sealed.release(connection, after=UUID(int=0), now=ledger.clock())
        apply_paces(connection, Paces(), after=UUID(int=0), limit=100)
    ledger.clock.advance(60)
    ledger.serve()


def sealed_mail(ledger: Ledger) -> None:
    """Mail with files, encrypted, in an application that has a suppression list."""
    vault = Vault({"k1": b"k" * KEY_BYTES})
    queue = SendQueue(ledger.engine, now=ledger.clock, vault=vault)
    for address in ("ann@example.com", "bea@example.com"):
        files = [Attachment(filename="a.txt", content=b"x" * 2_400_000)]
        queue.send("g1", Message(to=[address], subject="a", body="b", attachments=files))
    queue.suppress("bea@example.com")
    ledger.clock.advance(1)
    for keys in (Vault(), vault):
        turns_ = [(turn.lane_id, turn.fence) for turn in ledger.offer()]
        with ledger.writing() as connection:
            given: Any = {"worker": ledger.worker, "now": ledger.clock(), "jobs_each": 50}
            turns.claim(connection, turns_, vault=keys, **given)
            for row in ledger.rows(schema.payload):
                for piece in contents.pieces_of(connection, row.job_id, vault=vault):
                    contents.chunk_of(connection, piece, 0, vault=vault)
        ledger.clock.advance(3_600)


def idle_rounds(ledger: Ledger) -> None:
    """What the loops of an idle leader look for."""
    for _ in range(2):
        with ledger.writing() as connection:
            workers.lead(connection, ledger.worker, now=ledger.clock(), lease=SECOND)
            workers.beat(connection, ledger.worker, load=workers.Load(1), now=ledger.clock())
            workers.beats(connection)
            lineage.see(connection, ledger.clock())
            lineage.read(connection)
            broker.read(connection)
            pending_work.find(connection, now=ledger.clock())
            assert not any_wakes(connection)
            assert take_wakes(connection, limit=1) == []
            assert take_wakes_and_lock(connection, limit=1) == ([], {})


def test_find_rows_of_large_tables_through_an_index(analyzed: Ledger) -> None:
    for _ in range(3):
        work(analyzed)
    idle_rounds(analyzed)
    with analyzed.engine.connect() as connection:
        assert wrong_plans(connection, of_at_least=25, scans=30) == []


@pytest.mark.parametrize("work", [work, held_tags, outcomes_of_all_kinds, lost_work, sealed_mail])
def test_are_right_for_statements_that_are_no_constants_too(analyzed: Ledger, work: Callable[[Ledger], None]) -> None:
    """Such a session plans each statement for any values: what the condition of an index says must be in its text."""
    watched = Watched(analyzed.engine, analyzed.clock, analyzed.worker)
    watched.seen = set()
    work(watched)
    with analyzed.engine.connect() as connection:
        connection.exec_driver_sql("DEALLOCATE ALL")
        for number, statement in enumerate(sorted(watched.seen)):
            numbered, _, _ = direct._in_form_of_libpq(statement)
            connection.exec_driver_sql(f"PREPARE seen_{number} AS {numbered.decode()}")
        assert wrong_plans(connection, of_at_least=10, scans=10) == []


def wrong_plans(connection: Connection, *, of_at_least: int, scans: int) -> list[tuple[str, str]]:
    """What reads more of a large table than an index finds, in the prepared statements of a session."""
    wrong, seen = [], 0
    prepared = text("SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements")
    kept = connection.execute(prepared).all()
    for name, statement, parameters in kept:
        nulls = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
        ((plan,),) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) EXECUTE {name}{nulls}")
        for node in nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]):
            kind, table = node["Node Type"], node.get("Relation Name")
            below = [one for one in nodes(node) if kind == "Limit"]
            sorted_first = any(one["Node Type"].endswith("Sort") for one in below) and not any(
                one.get("Index Name") in SORTED for one in below
            )
            if kind in ("Hash Join", "Merge Join", "Bitmap Heap Scan") or sorted_first:
                wrong.append((kind, statement))
            elif table in LARGE and kind.endswith("Scan"):
                seen += 1
                if not (kind.startswith("Index") and ("Index Cond" in node or node.get("Index Name") in SMALL)):
                    wrong.append((f"{kind} {node.get('Index Name')} on {table}", statement))
    assert len(kept) > of_at_least
    assert seen > scans
    return wrong
