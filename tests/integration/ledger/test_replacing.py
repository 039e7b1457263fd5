"""Replacing the message of a send that waits, under its key."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from sendq import (
    Attachment,
    InvalidArgument,
    InvalidJob,
    KeyConflict,
    Message,
    MimeMessage,
    NewBatch,
    NotFound,
    NotWaiting,
    Replacement,
    Send,
    SendQueue,
    State,
    SuppressedRecipients,
    Unreadable,
    Vault,
)
from sendq.clock import SECOND, moment
from sendq.facts.turns import Claimed, Group
from sendq.ledger.contents import chunk_of, drop_unused_contents, pieces_of
from sendq.ledger.db import schema
from sendq.ledger.dispatching import turns
from sendq.ledger.operators import erasure, recover
from sendq.messages.payload import freeze_send
from sendq.operators import Operators
from sendq.rules.states import Event
from sendq.vault import KEY_BYTES
from tests.support.ledger import MESSAGE, Ledger, begin_of, between_statements, end, outcome
from worker.serving.key_moves import KeyMoves

OTHER = Message(to=["bea@example.com"], subject="Invoice 43", body="<p>43</p>")
VAULT = Vault({"first": os.urandom(KEY_BYTES)})


def file(content: bytes = b"42" * 2_000_000) -> Attachment:
    return Attachment(filename="terms.pdf", content=content)  # large enough for a content


def claim(ledger: Ledger, vault: Vault | None = None) -> Claimed:
    offered = ledger.offer()
    with ledger.writing() as connection:
        (claimed,) = turns.claim(
            connection, [(turn.lane_id, turn.fence) for turn in offered], worker=ledger.worker, now=ledger.clock(),
            jobs_each=50, vault=vault or Vault(),
        )  # fmt: skip
    return claimed


def wire(message: Message, job_id: str) -> bytes:
    return freeze_send(message, job_id=job_id)


def replacements(ledger: Ledger) -> list[Any]:
    return [row for row in sorted(ledger.rows(schema.event), key=lambda row: row.id) if row.kind == "replace"]


class TestReplace:
    def test_sends_the_new_message_at_the_time_of_the_old_one(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE, key="a", priority="high", tags={"campaign": "may"})
        before = ledger.job(UUID(job.id))._asdict()
        replaced = ledger.queue.replace(job.id, OTHER, by="anna", reason="a typo")
        assert replaced == Replacement(job.id, existed=True, dropped=(), replaced=True, content_version=1)
        assert ledger.job(UUID(job.id))._asdict() == before | {"content_version": 1}
        (loaded,) = claim(ledger).jobs
        assert loaded.body == wire(OTHER, job.id)

    def test_keeps_a_hold_and_a_reschedule(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE)
        later = moment(ledger.clock() + 600 * SECOND)
        ledger.queue.hold(job.id)
        ledger.queue.reschedule(job.id, due_at=later)
        before = ledger.job(UUID(job.id))._asdict()
        ledger.queue.replace(job.id, OTHER)
        assert ledger.job(UUID(job.id))._asdict() == before | {"content_version": 1}

    def test_records_the_digests_of_both_requests(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE)
        ledger.queue.replace(job.id, OTHER, by="anna", reason="a typo")
        ledger.queue.replace(job.id, MESSAGE)
        first, second = replacements(ledger)
        assert (first.by, first.job_id, first.grant_id) == ("anna", UUID(job.id), "g1")
        assert first.reason.endswith(", content version 1: a typo")
        assert second.by == "program"
        digests = [[word for word in one.reason.replace(",", "").split() if len(word) == 32] for one in (first, second)]
        assert digests[0] == digests[1][::-1]
        assert digests[0][0] != digests[0][1]

    def test_by_the_same_message_changes_nothing(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE)
        ledger.queue.replace(job.id, MESSAGE)
        assert ledger.job(UUID(job.id)).content_version == 0
        assert not replacements(ledger)

    def test_is_undone_with_the_callers_transaction(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE, key="a")
        with Session(ledger.engine) as session:
            ledger.queue.replace(job.id, OTHER, session=session)
            session.rollback()
        assert claim(ledger).jobs[0].body == wire(MESSAGE, job.id)
        assert ledger.queue.send("g1", MESSAGE, key="a").existed

    def test_of_a_job_that_was_tried_in_vain_keeps_the_key_that_the_api_has_not_seen(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE)
        claimed = claim(ledger)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, counts=True), ends=[end(claimed)])
        assert ledger.job(UUID(job.id)).key_at is not None
        ledger.queue.replace(job.id, OTHER)
        (loaded,) = claim(ledger).jobs
        assert (loaded.generation, loaded.attempts, loaded.body) == (0, 1, wire(OTHER, job.id))

    def test_of_a_job_of_a_batch_leaves_the_others_their_shared_text(self, ledger: Ledger) -> None:
        text = "the same text " * 1_000
        sends = [Send("g1", Message(to=[f"a{n}@example.com"], subject="x", body=text)) for n in range(3)]
        batch = ledger.queue.send_many(sends, batch=NewBatch(key="may"))
        first, *others = sorted(row.id for row in ledger.rows(schema.job))
        ledger.queue.replace(str(first), OTHER)
        ledger.clock.advance(1)
        bodies = {job.id: job.body for job in claim(ledger).jobs}
        assert bodies[first] == wire(OTHER, str(first))
        assert {row.job_id for row in ledger.rows(schema.piece)} == set(others)
        assert ledger.queue.send_many(sends, batch=NewBatch(key="may")).id == batch.id
        assert ledger.job(first).batch_id == UUID(batch.id)


class TestTheKey:
    def test_names_the_new_message_from_then_on(self, ledger: Ledger) -> None:
        later = moment(ledger.clock() + 600 * SECOND)
        job = ledger.queue.send("g1", MESSAGE, key="a", due_at=later)
        ledger.queue.replace(job.id, OTHER)
        assert ledger.queue.send("g1", OTHER, key="a", due_at=later).id == job.id
        assert ledger.queue.send("g1", OTHER, key="a").existed
        with pytest.raises(KeyConflict):
            ledger.queue.send("g1", MESSAGE, key="a", due_at=later)
        with pytest.raises(KeyConflict):
            ledger.queue.send("g2", OTHER, key="a")
        with pytest.raises(KeyConflict):
            ledger.queue.modify("g1", ["m1"], unread=False, key="a")

    def test_names_the_message_that_is_stored_without_its_dropped_recipients(self, ledger: Ledger) -> None:
        both = Message(to=["anna@example.com", "bea@example.com"], subject="x", body="y")
        one = both.model_copy(update={"to": both.to[:1]})
        ledger.queue.suppress("bea@example.com")
        job = ledger.queue.send("g1", both, key="a", suppressed="drop")
        ledger.queue.replace(job.id, one)
        assert not replacements(ledger)
        assert ledger.queue.send("g1", one, key="a").id == job.id
        with pytest.raises(KeyConflict):
            ledger.queue.send("g1", both, key="a", suppressed="drop")

    def test_is_sealed(self, ledger: Ledger) -> None:
        ledger.queue = SendQueue(ledger.engine, now=ledger.clock, vault=VAULT)
        job = ledger.queue.send("g1", MESSAGE, key="a")
        ledger.queue.replace(job.id, OTHER)
        assert b"replaced" not in bytes(ledger.rows(schema.key)[0].digest)
        assert ledger.queue.send("g1", OTHER, key="a").id == job.id
        with pytest.raises(KeyConflict):
            ledger.queue.send("g1", MESSAGE, key="a")

    def test_whose_digest_was_erased_stays_erased(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE, key="a")
        with ledger.writing() as connection:
            erasure.erase_keys(connection, [("default", "a")])
        ledger.queue.replace(job.id, OTHER)
        assert ledger.rows(schema.key)[0].digest == b""


class TestAWorkerThatHasLoadedTheOldMessage:
    def test_does_not_begin_it(self, ledger: Ledger) -> None:
        ids = [ledger.send() for _ in range(2)]
        ledger.clock.advance(1)
        claimed = claim(ledger)
        (waiting,) = set(ids) - claimed.begun
        ledger.queue.replace(str(waiting), OTHER)
        recorded = ledger.record_group(group_of(claimed, waiting))
        assert recorded.begun == set()
        assert ledger.job(waiting).state == State.QUEUED

    def test_does_not_begin_it_if_it_is_replaced_while_the_turn_is_claimed(self, pg_ledger: Ledger) -> None:
        job = pg_ledger.send()
        offered = pg_ledger.offer()

        def replace() -> None:
            pg_ledger.queue.replace(str(job), OTHER)

        with (
            pg_ledger.writing() as connection,
            between_statements(connection, 6, replace) as seen,
        ):
            (claimed,) = turns.claim(
                connection, [(turn.lane_id, turn.fence) for turn in offered], worker=pg_ledger.worker,
                now=pg_ledger.clock(), jobs_each=50,
            )  # fmt: skip
        assert any("sendq_payload" in one for one in seen[:6])
        assert "UPDATE sendq_job" in seen[6]
        assert claimed.begun == frozenset()
        assert pg_ledger.job(job).content_version == 1


class TestALedgerThatHasLostTheChangeAndItsSend:
    @pytest.mark.parametrize("refused", [False, True])
    def test_repeats_the_old_message_under_the_key_of_the_new_one(self, ledger: Ledger, refused: bool) -> None:
        """The API recognises the key, and sends nothing."""
        job = UUID(ledger.queue.send("g1", MESSAGE).id)
        ledger.absorb()
        ledger.clock.advance(1)
        lost_since, moves = ledger.clock(), KeyMoves(3600)
        backup = {table: ledger.rows(table) for table in (schema.lane, schema.job, schema.payload)}
        if refused:  # the next request needs another key
            claimed = ledger.serve()
            answered = outcome(claimed, claimed.jobs[0], Event.RETURN, new_generation=True)
            moves.note([answered])
            ledger.record(answered, ends=[end(claimed)])
        ledger.queue.replace(str(job), OTHER)
        claimed = ledger.serve()
        (sent,) = claimed.jobs
        assert (sent.body, sent.generation) == (wire(OTHER, str(job)), int(refused))
        accepted = outcome(claimed, sent, Event.ACCEPT, sent="yes")
        moves.note([accepted])
        ledger.record(accepted, ends=[end(claimed)])
        with ledger.writing() as connection:
            for table, rows in backup.items():
                kept = {name: value for name, value in rows[0]._mapping.items() if name != "fence"}
                connection.execute(table.update().values(**kept))
            recover.keep_generations(connection, moves.recent())
            recover.repeat_by_key(connection, since=lost_since, now=ledger.clock(), after=None)
        ledger.clock.advance(1)
        (repeat,) = ledger.serve().jobs
        assert repeat.body == wire(MESSAGE, str(job))
        assert repeat.generation == sent.generation


class TestReplacedWhileItsTurnIsClaimed:
    """What the claim read of the old message does not end the job."""

    @pytest.mark.parametrize("gap", range(1, 7))
    def test_encrypted_with_a_file(self, pg_ledger: Ledger, gap: int) -> None:
        pg_ledger.queue = SendQueue(pg_ledger.engine, now=pg_ledger.clock, vault=VAULT)
        job = pg_ledger.queue.send("g1", MESSAGE.model_copy(update={"attachments": (file(b"1" * 4_000_000),)}))
        new = OTHER.model_copy(update={"attachments": (file(b"2" * 4_000_000),)})
        self._replaces(pg_ledger, job.id, new, gap, VAULT)

    @pytest.mark.parametrize("gap", range(1, 7))
    def test_without_its_suppressed_recipient(self, pg_ledger: Ledger, gap: int) -> None:
        job = pg_ledger.queue.send("g1", MESSAGE)
        pg_ledger.absorb()
        pg_ledger.queue.suppress("leyah@example.com")
        self._replaces(pg_ledger, job.id, OTHER, gap, Vault())

    def _replaces(self, ledger: Ledger, job_id: str, new: Message, gap: int, vault: Vault) -> None:
        """At each place until the claim locks the job; after that, a replacement waits for the claim."""
        offered = ledger.offer()
        queue = SendQueue(ledger.engine, now=ledger.clock, vault=vault)

        def replace() -> None:
            queue.replace(job_id, new)

        with (
            ledger.writing() as connection,
            between_statements(connection, gap, replace),
        ):
            (claimed,) = turns.claim(
                connection, [(turn.lane_id, turn.fence) for turn in offered], worker=ledger.worker,
                now=ledger.clock(), jobs_each=50, vault=vault,
            )  # fmt: skip
        row = ledger.job(UUID(job_id))
        assert row.content_version == 1
        if row.state == State.SENDING:  # it was replaced before it was loaded
            assert claimed.jobs[0].content_version == 1
        else:
            assert (row.state, claimed.begun) == (State.QUEUED, frozenset())

    def test_does_not_wait_for_the_applications_own_list(self, pg_ledger: Ledger) -> None:
        """Nor for a file: the account's other jobs go on."""
        job = UUID(pg_ledger.queue.send("g1", MESSAGE).id)
        begun: list[bool] = []

        def own(*_: Any) -> list[str]:
            begun.append(job in claim(pg_ledger).begun)
            return []

        with pytest.raises(NotWaiting):
            SendQueue(pg_ledger.engine, now=pg_ledger.clock, suppressed=own).replace(str(job), OTHER)
        assert begun == [True]


class TestARefusedMessage:
    @pytest.mark.parametrize("replaced", [True, False])
    def test_is_not_held_against_the_new_one(self, ledger: Ledger, replaced: bool) -> None:
        """It was refused twice, and another job of the grant has succeeded since."""
        bad = ledger.send()
        claimed = claim(ledger)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, new_generation=True), ends=[end(claimed)])
        ledger.clock.advance(1)
        refused = json.dumps([[bad.hex, 2]])
        ledger.set_lane(refused_jobs=refused, suspected=True, refused=2, opened_at=ledger.clock())
        ledger.set_job(bad, next_at=ledger.clock() + 600 * SECOND)
        if replaced:
            ledger.queue.replace(str(bad), OTHER)
        ledger.send()
        ledger.clock.advance(1)
        claimed = claim(ledger)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(claimed)])
        assert ledger.job(bad).state == (State.QUEUED if replaced else State.DEAD)


class TestForget:
    def test_erases_the_digests(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE)
        ledger.queue.replace(job.id, OTHER)
        Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked").finish()
        assert [row.reason for row in replacements(ledger)] == [None]


class TestIsRefused:
    @pytest.mark.parametrize("state", ["sending", "in_doubt", "sent", "dead", "cancelled", "expired", "repeat"])
    def test_once_the_job_no_longer_waits(self, ledger: Ledger, state: str) -> None:
        job = ledger.send(key="a")
        changes: dict[str, Any] = {"state": state}
        if state == "repeat":  # it waits for its repeat: it may have gone out
            changes = {"doubt_at": ledger.clock(), "key_at": ledger.clock()}
        ledger.set_job(job, **changes)
        before, payload = ledger.job(job), ledger.rows(schema.payload)
        with pytest.raises(NotWaiting) as refused:
            ledger.queue.replace(str(job), OTHER)
        assert refused.value.state == before.state
        assert (ledger.job(job), ledger.rows(schema.payload)) == (before, payload)
        assert not replacements(ledger)

    def test_of_a_change_of_a_message_and_of_nothing(self, ledger: Ledger) -> None:
        (job,) = ledger.modify("g1", ["m1"])
        with pytest.raises(InvalidArgument, match="job_id: is not a send"):
            ledger.queue.replace(str(job), OTHER)
        with pytest.raises(NotFound):
            ledger.queue.replace("01970000-0000-7000-8000-000000000000", OTHER)

    @pytest.mark.parametrize(
        ("message", "fields"),
        [
            ("not a message", ["message"]),
            (Message(subject="x"), ["to"]),
            (Message(to=["bea@example.com"], from_=["eve@example.com"]), ["from"]),
            (Message(to=["bea@example.com"], unsubscribe="news"), ["unsubscribe.url"]),
        ],
    )
    def test_with_the_problems_of_the_message(self, ledger: Ledger, message: Any, fields: list[str]) -> None:
        queue = SendQueue(ledger.engine, now=ledger.clock, senders={"g1": ["anna@example.com"]})
        job = queue.send("g1", MESSAGE, key="a")
        with pytest.raises(InvalidJob) as refused:
            queue.replace(job.id, message)
        assert [problem.field for problem in refused.value.problems][:1] == fields
        assert claim(ledger).jobs[0].body == wire(MESSAGE, job.id)

    def test_for_suppressed_recipients_even_under_a_known_key(self, ledger: Ledger) -> None:
        queue = SendQueue(ledger.engine, now=ledger.clock, suppressed=lambda *_: ["cleo@example.com"])
        job = queue.send("g1", MESSAGE, key="a")
        queue.suppress("bea@example.com")
        both = Message(to=["anna@example.com", "bea@example.com"], cc=["cleo@example.com"], subject="x")
        with pytest.raises(SuppressedRecipients) as refused:
            queue.replace(job.id, both)
        assert {problem.field for problem in refused.value.problems} == {"to[1]", "cc[0]"}
        assert set(queue.replace(job.id, both, suppressed="drop").dropped) == {"to[1]", "cc[0]"}
        (dropped,) = [row for row in ledger.rows(schema.event) if row.kind == "recipients_dropped"]
        assert dropped.job_id == UUID(job.id)
        kept = both.model_copy(update={"to": both.to[:1], "cc": []})
        assert claim(ledger).jobs[0].body == wire(kept, job.id)


class TestFiles:
    def test_are_replaced_and_counted(self, ledger: Ledger) -> None:
        shared, own = file(), file(b"own" * 1_000_000)
        with_files = MESSAGE.model_copy(update={"attachments": (shared, own)})
        job, other = ledger.queue.send("g1", with_files), ledger.queue.send("g1", with_files)
        new = file(b"new" * 2_000_000)
        ledger.queue.replace(job.id, OTHER.model_copy(update={"attachments": (shared, new)}))
        assert dropped(ledger) == 0
        ledger.queue.replace(other.id, OTHER)
        assert dropped(ledger) == 1
        assert len(ledger.rows(schema.content)) == 2
        assert read(ledger, job.id) == [b"42" * 2_000_000, b"new" * 2_000_000]
        assert read(ledger, other.id) == []

    def test_that_changed_meanwhile_leave_the_old_message(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE)
        source = io.BytesIO(b"1" * 4_000_000)
        attachment = Attachment(filename="terms.pdf", content=source)
        attachment.content.measure()
        source.seek(0)
        source.write(b"2")
        with ledger.writing() as connection, pytest.raises(InvalidJob):
            ledger.queue.replace(job.id, OTHER.model_copy(update={"attachments": (attachment,)}), session=connection)
        assert claim(ledger).jobs[0].body == wire(MESSAGE, job.id)
        assert not ledger.rows(schema.chunk)

    def test_of_finished_messages(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", MESSAGE)
        ledger.queue.replace(job.id, MimeMessage(b"From: anna@example.com\r\nTo: bea@example.com\r\n\r\nhello"))
        (loaded,) = claim(ledger).jobs
        assert (loaded.form, loaded.length is not None) == ("mime", True)


class TestSealed:
    def test_requests_stay_sealed_and_bound(self, ledger: Ledger) -> None:
        ledger.queue = SendQueue(ledger.engine, now=ledger.clock, vault=VAULT)
        first = ledger.queue.send("g1", MESSAGE, key="a")
        ledger.queue.replace(first.id, OTHER.model_copy(update={"attachments": (file(),)}))
        second = ledger.queue.send("g1", MESSAGE.model_copy(update={"attachments": (file(),)}))
        ledger.queue.replace(second.id, OTHER)
        ledger.clock.advance(1)
        loaded = {str(job.id): job for job in claim(ledger, VAULT).jobs}
        assert loaded[first.id].files is not None
        assert loaded[second.id].body == wire(OTHER, second.id)
        assert all(row.cipher_key == "first" for row in ledger.rows(schema.payload))

    def test_a_message_that_cannot_be_opened_is_left(self, ledger: Ledger) -> None:
        sealing = SendQueue(ledger.engine, now=ledger.clock, vault=VAULT)
        job = sealing.send("g1", MESSAGE)
        stranger = SendQueue(ledger.engine, now=ledger.clock, vault=Vault({"second": os.urandom(KEY_BYTES)}))
        with pytest.raises(Unreadable):
            stranger.replace(job.id, OTHER)
        assert claim(ledger, VAULT).jobs[0].body == wire(MESSAGE, job.id)


def group_of(claimed: Claimed, job: UUID) -> Any:

    return Group(begins=[begin_of(claimed, job)])


def dropped(ledger: Ledger) -> int:
    with ledger.writing() as connection:
        return drop_unused_contents(connection, 100)


def read(ledger: Ledger, job_id: str) -> list[bytes]:
    def each(connection: Connection) -> list[bytes]:
        found = []
        for piece in pieces_of(connection, UUID(job_id), vault=Vault()):
            table = schema.chunk.c
            positions = connection.execute(select(table.position).where(table.content_id == piece.content_id))
            chunks = [chunk_of(connection, piece, at, vault=Vault()) or b"" for at in sorted(positions.scalars())]
            found.append(b"".join(chunks))
        return found

    query: Callable[[Connection], list[bytes]] = each
    with ledger.writing() as connection:
        return query(connection)
