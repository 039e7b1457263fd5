"""Sealed ledgers: what lies in them, jobs whose encryption key is not at hand, and a change of keys."""

from __future__ import annotations

import os
from collections import Counter
from uuid import UUID

import pytest
from sqlalchemy import select, update

from sendq import Attachment, KeyConflict, Message, Query, SendQueue, State, Unreadable, Vault
from sendq.facts.outcomes import Page
from sendq.facts.turns import Claimed, Group, Unopened
from sendq.ids import lane_id
from sendq.ledger import sealed
from sendq.ledger import sealing as sealing_rows
from sendq.ledger.contents import pieces_of
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.db.engine import open_engine, reading, writing
from sendq.ledger.dispatching import turns
from sendq.ledger.dispatching.record import record
from sendq.ledger.operators import rekey
from sendq.ledger.sealed import HOLD_MOST, RECHECK
from sendq.rules.rule_ids import NO_KEY
from sendq.rules.states import Event
from sendq.vault import KEY_BYTES
from tests.support.ledger import MESSAGE, Ledger, end, outcome

RAW = {name: os.urandom(KEY_BYTES) for name in ("old", "new")}
OLD, NEW = (Vault({name: RAW[name]}) for name in ("old", "new"))
BOTH = Vault({"new": RAW["new"], "old": RAW["old"]})  # as in the middle of a change
INTRODUCING = Vault({"new": RAW["new"], "old": RAW["old"]}, accept_unencrypted=True)


def sealing(ledger: Ledger, vault: Vault = OLD) -> SendQueue:
    """What is enqueued from now on is sealed."""
    ledger.queue = SendQueue(ledger.engine, now=ledger.clock, vault=vault)
    return ledger.queue


def claim(ledger: Ledger, vault: Vault, unopened: Unopened | None = None, *, jobs_each: int = 50) -> list[Claimed]:
    """One round of the dispatcher, and a worker with these keys."""
    ledger.clock.advance(0.001)  # the jobs of one call are due a microsecond apart
    offered = ledger.offer()
    with ledger.writing() as connection:
        return turns.claim(
            connection,
            [(turn.lane_id, turn.fence) for turn in offered],
            worker=ledger.worker,
            now=ledger.clock(),
            jobs_each=jobs_each,
            vault=vault,
            unopened=unopened,
        )


def everything(ledger: Ledger) -> bytes:
    """Each value of each row."""
    values = (value for table in schema.metadata.sorted_tables for row in ledger.rows(table) for value in row)
    return b"\n".join(bytes(one) if isinstance(one, bytes | memoryview) else str(one).encode() for one in values)


def rekeyed(ledger: Ledger, vault: Vault) -> tuple[int, Counter[str]]:
    """What ``sendq rekey`` does: rows sealed anew, and those that could not be opened."""
    result = steps(ledger, vault)
    return result.sealed, result.unreadable


def steps(ledger: Ledger, vault: Vault) -> rekey.Step:
    """All steps of a rekey."""
    total = rekey.Step()
    for kept in rekey.KEPT:
        after = None
        while True:
            with ledger.writing() as connection:
                total += rekey.step(connection, kept, vault, after=after)
            after = total.after
            if after is None:
                break
    return total


def still_with(ledger: Ledger) -> dict[str | None, int]:
    with ledger.writing() as connection:
        return rekey.still_with(connection)


class TestEnqueue:
    def test_leaves_nothing_to_read(self, ledger: Ledger) -> None:
        queue = sealing(ledger)
        queue.send("g1", Message(to=["marked@example.com"], subject="marked", body="marked"), key="k")
        queue.modify("g1", ["m1"], metadata={"key2": "marked"}, key="b")
        assert b"marked" not in everything(ledger)
        kept = [row for table in (schema.payload, schema.batch, schema.key) for row in ledger.rows(table)]
        assert [row.cipher_key for row in kept] == ["old"] * 4

    def test_keeps_no_digest_that_a_guess_could_be_tried_on(self, ledger: Ledger) -> None:
        for key in ("a", "b"):
            sealing(ledger).send("g1", MESSAGE, key=key)
        first, second = (bytes(row.digest) for row in ledger.rows(schema.key))
        assert first != second

    def test_finds_the_same_content_again_after_a_change_of_keys(self, ledger: Ledger) -> None:
        first = sealing(ledger).send("g1", MESSAGE, key="k")
        again = sealing(ledger, BOTH).send("g1", MESSAGE, key="k")
        assert (again.id, again.existed) == (first.id, True)
        with pytest.raises(KeyConflict):
            ledger.queue.send("g2", MESSAGE, key="k")

    def test_under_a_known_key_whose_digest_it_cannot_read_stores_nothing(self, ledger: Ledger) -> None:
        sealing(ledger).send("g1", MESSAGE, key="k")
        with pytest.raises(Unreadable, match="'old'"):
            sealing(ledger, NEW).send("g1", MESSAGE, key="k")
        assert len(ledger.rows(schema.job)) == 1


class TestAClaim:
    def test_opens_bodies_of_messages_and_of_batches(self, ledger: Ledger) -> None:
        queue = sealing(ledger)
        queue.send("g1", MESSAGE)
        queue.modify("g1", ["m1", "m2"], unread=True)
        (claimed,) = claim(ledger, OLD)
        bodies = Counter(bytes(job.body)[:15] for job in claimed.jobs)
        assert bodies == {b'{"to":[{"email"': 1, b'{"unread":true}': 2}

    def test_opens_what_was_stored_before_there_was_a_key_while_that_is_accepted(self, ledger: Ledger) -> None:
        ledger.send()
        (claimed,) = claim(ledger, Vault({"old": RAW["old"]}, accept_unencrypted=True))
        assert bytes(claimed.jobs[0].body).startswith(b"{")

    def test_waits_for_the_key_of_a_file_that_another_job_brought(self, ledger: Ledger) -> None:
        file = Attachment(filename="a.txt", content=b"marked")
        with_file = Message(to=["a@example.com"], attachments=[file])
        sealing(ledger).send("g1", with_file)
        job = UUID(sealing(ledger, NEW).send("g2", with_file).id)
        unopened = Unopened()
        assert claim(ledger, NEW, unopened) == []
        assert unopened.missing == {"old": 2}
        assert ledger.job(job).rule == NO_KEY
        assert b"marked" not in everything(ledger)
        assert rekeyed(ledger, BOTH)[1] == Counter()
        assert still_with(ledger).keys() == {"new"}
        ledger.clock.advance(31)
        assert len(claim(ledger, NEW)) == 2

    @pytest.mark.parametrize("vault", [Vault(), NEW, Vault({"old": RAW["new"]})], ids=["none", "other", "wrong"])
    def test_without_the_key_begins_nothing_and_holds_the_lane(self, ledger: Ledger, vault: Vault) -> None:
        job = UUID(sealing(ledger).send("g1", MESSAGE).id)
        unopened = Unopened()
        assert claim(ledger, vault, unopened) == []
        assert unopened.missing == {"old": 1}
        row, lane = ledger.job(job), ledger.lane()
        assert (row.state, row.attempts, row.deaths, row.rule) == ("queued", 0, 0, NO_KEY)
        assert (lane.turn, lane.held_rule, lane.held_until) == (None, NO_KEY, ledger.clock() + RECHECK)
        why = ledger.queue.why(str(job))
        assert (why.reason, why.rule) == ("held", NO_KEY)
        assert "'old'" in why.says

    def test_goes_on_when_the_key_is_there(self, ledger: Ledger) -> None:
        job = UUID(sealing(ledger).send("g1", MESSAGE).id)
        assert claim(ledger, NEW) == []
        assert ledger.offer() == []
        ledger.clock.advance(31)
        (claimed,) = claim(ledger, BOTH)
        assert [one.id for one in claimed.jobs] == [job]
        ledger.finish(claimed)
        assert ledger.state(job) is State.SENT

    def test_looks_at_the_jobs_behind_the_next_time(self, ledger: Ledger) -> None:
        for _ in range(60):
            sealing(ledger).send("g1", MESSAGE)
        ledger.clock.advance(1)
        open_ = UUID(sealing(ledger, NEW).send("g1", MESSAGE).id)
        assert claim(ledger, NEW) == []
        ledger.clock.advance(31)
        (claimed,) = claim(ledger, NEW)
        assert [job.id for job in claimed.jobs] == [open_]

    @pytest.mark.parametrize("priority", ["normal", "low"])
    def test_looks_at_all_jobs_behind_a_full_turn_at_once(self, ledger: Ledger, priority: str) -> None:
        for _ in range(20):
            sealing(ledger).send("g1", MESSAGE)
        ledger.clock.advance(1)
        open_ = UUID(sealing(ledger, NEW).send("g1", MESSAGE, priority=priority).id)
        began, found = ledger.clock(), list[Claimed]()
        for _ in range(6):
            assert found == []
            found = claim(ledger, NEW, jobs_each=4)
        assert [job.id for one in found for job in one.jobs] == [open_]
        assert ledger.clock() - began < RECHECK
        ledger.finish(*found)
        claim(ledger, NEW, jobs_each=4)
        assert ledger.offer() == []  # nothing more is due
        assert len([event for event in ledger.rows(schema.event) if event.rule == NO_KEY]) == 1

    def test_asks_ever_more_rarely_and_writes_one_event(self, ledger: Ledger) -> None:
        sealing(ledger).send("g1", MESSAGE)
        pauses = []
        for _ in range(8):
            assert claim(ledger, NEW) == []
            pauses.append(ledger.lane().held_until - ledger.clock())
            ledger.clock.at = max(ledger.lane().next_at, ledger.lane().held_until)
        assert pauses == sorted(pauses)
        assert (pauses[0], pauses[-1]) == (RECHECK, HOLD_MOST)
        events = [event for event in ledger.rows(schema.event) if event.rule == NO_KEY]
        assert len(events) == 1
        assert "'old'" in events[0].reason

    def test_lets_those_pass_that_it_can_open(self, ledger: Ledger) -> None:
        locked = UUID(sealing(ledger).send("g1", MESSAGE).id)
        open_ = UUID(sealing(ledger, NEW).send("g1", MESSAGE).id)
        (claimed,) = claim(ledger, NEW)
        assert [job.id for job in claimed.jobs] == [open_]
        assert ledger.lane().held_until is None
        assert ledger.job(locked).next_at >= ledger.clock() + RECHECK

    def test_never_lets_a_later_change_of_a_message_pass_an_earlier_one(self, ledger: Ledger) -> None:
        sealing(ledger).modify("g1", ["m1"], unread=True)
        ledger.clock.advance(1)
        sealing(ledger, NEW).modify("g1", ["m1", "m2"], unread=False)
        (claimed,) = claim(ledger, NEW)
        assert [job.object_id for job in claimed.jobs] == ["m2"]
        ledger.finish(claimed)
        ledger.clock.advance(31)
        (claimed,) = claim(ledger, BOTH)
        assert [bytes(job.body) for job in claimed.jobs] == [b'{"unread":true}', b'{"unread":false}']

    def test_a_worker_that_starts_ends_the_holds(self, ledger: Ledger) -> None:
        for grant in ("g1", "g2"):
            sealing(ledger).send(grant, MESSAGE)
        assert claim(ledger, NEW) == []
        ledger.clock.advance(30)
        assert claim(ledger, NEW) == []
        ledger.clock.advance(30)
        ledger.set_lane("g1", held_until=ledger.clock() + HOLD_MOST)
        with ledger.writing() as connection:
            assert sealed.release(connection, after=UUID(int=0), now=ledger.clock()) is None
        assert len(claim(ledger, OLD)) == 2


class TestAWalk:
    def test_is_sealed_from_page_to_page(self, ledger: Ledger) -> None:
        sealing(ledger).modify_matching("g1", Query(from_="marked@example.com"), unread=True)
        (claimed,) = claim(ledger, OLD)
        assert b"marked" in bytes(claimed.jobs[0].body)
        brought = Page(("m1",), b"any_email=marked@example.com", "text/plain")
        accepted = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", page=brought)
        with ledger.writing() as connection:
            record(connection, Group([accepted], (), [end(claimed)]), now=ledger.clock(), vault=OLD)
        assert b"marked" not in everything(ledger)
        (claimed,) = claim(ledger, OLD)
        assert bytes(claimed.jobs[0].body) == brought.following


class TestAChangeOfKeys:
    def fill(self, ledger: Ledger) -> None:
        queue = sealing(ledger)
        for number in range(7):
            queue.send("g1", MESSAGE, key=f"k{number}")
        queue.modify("g1", ["m1"], unread=True)
        SendQueue(ledger.engine, now=ledger.clock).send("g1", MESSAGE)  # not sealed

    def test_seals_everything_anew_in_small_steps(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fill(ledger)
        monkeypatch.setattr(rekey, "STEP_ROWS", 3)
        assert still_with(ledger) == {"old": 16, None: 1}
        assert rekeyed(ledger, INTRODUCING) == (17, Counter())
        assert still_with(ledger) == {"new": 17}
        (claimed,) = claim(ledger, NEW)
        assert len(claimed.jobs) == 9
        assert sealing(ledger, NEW).send("g1", MESSAGE, key="k3").existed

    def test_takes_few_large_bodies_at_a_time(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fill(ledger)
        monkeypatch.setattr(rekey, "STEP_BYTES", 500)
        with ledger.writing() as connection:
            assert 1 <= rekey.step(connection, rekey.KEPT[0], INTRODUCING, after=None).sealed <= 2
        assert rekeyed(ledger, INTRODUCING)[1] == Counter()
        assert still_with(ledger) == {"new": 17}

    def test_goes_on_where_it_was_interrupted(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fill(ledger)
        monkeypatch.setattr(rekey, "STEP_ROWS", 3)
        with ledger.writing() as connection:
            rekey.step(connection, rekey.KEPT[0], INTRODUCING, after=None)
        assert still_with(ledger)["new"] == 3
        assert rekeyed(ledger, INTRODUCING)[0] == 14

    def test_leaves_what_it_cannot_open_as_it_is_and_counts_it(self, ledger: Ledger) -> None:
        self.fill(ledger)
        before = [bytes(row.body) for row in ledger.rows(schema.batch)]
        assert rekeyed(ledger, NEW) == (0, Counter({"old": 16}))
        assert [bytes(row.body) for row in ledger.rows(schema.batch)] == before
        assert rekeyed(ledger, BOTH) == (16, Counter())

    def test_seals_unencrypted_rows_only_if_it_is_to_accept_them(self, ledger: Ledger) -> None:
        self.fill(ledger)
        assert (steps(ledger, BOTH).sealed, steps(ledger, BOTH).unencrypted) == (16, 1)
        assert still_with(ledger) == {"new": 16, None: 1}

    def test_seals_none_that_was_altered(self, ledger: Ledger) -> None:
        self.fill(ledger)
        with ledger.writing() as connection:
            connection.execute(update(schema.job).values(object_id="m2").where(schema.job.c.object_id == "m1"))
            connection.execute(update(schema.payload).values(content_type="text/html"))
        result = steps(ledger, BOTH)
        assert (result.sealed, result.altered) == (8, 8)  # keys and the batch; bodies and the tag
        assert "old" in still_with(ledger)

    def test_of_everything_that_can_be_enqueued_leaves_nothing_behind(self, ledger: Ledger) -> None:
        plain = SendQueue(ledger.engine, now=ledger.clock)
        file = Attachment(filename="a.txt", content=os.urandom(500_000))
        for queue, grant in ((plain, "g1"), (sealing(ledger), "g2")):
            queue.send(grant, MESSAGE, key=grant)
            queue.send(grant, Message(to=["a@example.com"], attachments=[file]))
            queue.delete(grant, ["m1"])
            queue.modify_matching(grant, Query(unread=True), unread=False)
            found = {"batch_id": UUID(queue.modify_matching(grant, Query(unread=True), unread=False).id)}
            with ledger.writing() as connection:
                one = sealing_rows.tag(found["batch_id"], lane_id("default", grant), "modify", "m7", queue._vault)
                insert_rows(connection, schema.found, [found | {"object_id": "m7"} | one])
        assert None in still_with(ledger)
        assert rekeyed(ledger, INTRODUCING)[1] == Counter()
        assert still_with(ledger).keys() == {"new"}
        claimed = claim(ledger, NEW)
        operations = Counter(job.operation for turn in claimed for job in turn.jobs)
        assert operations == {"send": 4, "delete": 2, "list": 4}

    def test_does_not_disturb_jobs_on_the_wire(self, ledger: Ledger) -> None:
        job = UUID(sealing(ledger).send("g1", MESSAGE).id)
        (claimed,) = claim(ledger, BOTH)
        assert rekeyed(ledger, BOTH)[0] == 1
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN), ends=[end(claimed)])
        (claimed,) = claim(ledger, NEW)
        assert [one.id for one in claimed.jobs] == [job]


class TestAWriterToTheLedger:
    def test_can_have_a_stored_mail_sent_again_as_it_is(self, ledger: Ledger) -> None:
        job = UUID(sealing(ledger).send("g1", MESSAGE).id)
        (claimed,) = claim(ledger, OLD)
        body = claimed.jobs[0].body
        ledger.finish(claimed)
        back = {"state": "queued", "finished_at": None, "generation": 1, "key_at": None}
        with ledger.writing() as connection:
            connection.execute(update(schema.job).values(**back))
            connection.execute(update(schema.lane).values(next_at=ledger.clock(), normal_floor=0))
        (claimed,) = claim(ledger, OLD)
        assert [(one.id, one.body) for one in claimed.jobs] == [(job, body)]


class TestAPieceThatCannotBeOpened:
    def test_leaves_no_connection_on_an_old_state(self, ledger: Ledger) -> None:
        """Its exception may live on, in the outcome of a call, while the connection is used again."""
        queue = SendQueue(ledger.engine, now=ledger.clock, vault=OLD)
        files = [Attachment(filename=f"{n}.txt", content=b"x" * 10) for n in range(3)]
        job = UUID(queue.send("g1", Message(to=["a@example.com"], attachments=files)).id)
        ours, theirs = open_engine(ledger.engine.url, pool_size=1), open_engine(ledger.engine.url)
        with reading(ours) as connection, pytest.raises(Unreadable) as kept:
            pieces_of(connection, job, vault=NEW)
        with writing(theirs) as connection:
            connection.execute(update(schema.job).where(schema.job.c.id == job).values(attempts=3))
        with reading(ours) as connection:
            assert connection.execute(select(schema.job.c.attempts).where(schema.job.c.id == job)).scalar_one() == 3
        ours.dispose()
        theirs.dispose()
        assert kept.value
