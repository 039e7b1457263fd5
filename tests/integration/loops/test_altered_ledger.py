"""Somebody who can write to the ledger, but has no key: whatever they change, no wrong request reaches the API.

Each attack has two customers of its own, and changes their rows with plain SQL before a worker with the key serves all
lanes. Then every request at the API must be one that was enqueued, for the account that it was enqueued for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ColumnElement, Table, delete, insert, select, update
from sqlalchemy.exc import OperationalError

from sendq import Attachment, Message, Query, SendQueue, Vault, clock
from sendq.errors import Retryable
from sendq.ids import lane_id, new_id
from sendq.ledger import walks
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from sendq.rules.rule_ids import INTEGRITY, NO_KEY, NOT_ENCRYPTED
from sendq.simulator import Request, Simulator
from sendq.vault import new_key
from tests.integration.loops.test_engine import House
from tests.support.ledger import Ledger
from tests.support.system import API_KEY
from tests.support.waiting import eventually

KEY = new_key("ours")
JOB, PAYLOAD, BATCH, FOUND = schema.job, schema.payload, schema.batch, schema.found
PIECE, CONTENT, CHUNK = schema.piece, schema.content, schema.chunk
LANE, PAIR = schema.lane, schema.pair

DEAD, WAITS, NO_SUCH_KEY, HELD = ("dead", INTEGRITY), ("queued", NOT_ENCRYPTED), ("queued", NO_KEY), ("queued", None)
SENT = ("sent", "accepted")


@dataclass
class Scene:
    """Two customers, `a` (attacked) and `b`, their jobs, and the attacker's access to the tables."""

    ledger: Ledger
    queue: SendQueue
    name: str
    expected: dict[UUID, tuple[str, str | None]] = field(default_factory=dict)

    @property
    def a(self) -> str:
        return f"{self.name}-a"

    @property
    def b(self) -> str:
        return f"{self.name}-b"

    # --- what the applications enqueue ---

    def mail(self, grant: str, *files: bytes) -> UUID:
        attachments = [Attachment(filename=f"{n}.txt", content=one) for n, one in enumerate(files)]
        message = Message(to=["x@example.com"], subject=f"of {grant}", body="secret", attachments=attachments)
        return UUID(self.queue.send(grant, message).id)

    def files(self, grant: str) -> UUID:
        return self.mail(grant, f"first of {grant}".encode(), f"second of {grant}".encode())

    def change(self, grant: str) -> UUID:
        return self.job_of(UUID(self.queue.modify(grant, [f"m of {grant}"], unread=False).id))

    def deletion(self, grant: str) -> UUID:
        return self.job_of(UUID(self.queue.delete(grant, [f"m of {grant}"]).id))

    def walk(self, grant: str) -> UUID:
        return self.job_of(UUID(self.queue.modify_matching(grant, Query(subject=grant), unread=False).id))

    # --- what the attacker reads and writes ---

    def job_of(self, batch_id: UUID) -> UUID:
        job: UUID = self.one(JOB, JOB.c.batch_id == batch_id).id
        return job

    def rows(self, table: Table, *where: ColumnElement[bool]) -> list[Any]:
        with reading(self.ledger.engine) as connection:
            return list(connection.execute(select(table).where(*where).order_by(*table.primary_key.columns)))

    def one(self, table: Table, *where: ColumnElement[bool]) -> Any:
        (row,) = self.rows(table, *where)
        return row

    def set(self, table: Table, *where: ColumnElement[bool], **values: Any) -> None:
        with self.ledger.writing() as connection:
            assert connection.execute(update(table).where(*where).values(**values)).rowcount

    def add(self, table: Table, like: Any, **values: Any) -> None:
        with self.ledger.writing() as connection:
            connection.execute(insert(table), like._asdict() | values)

    def drop(self, table: Table, *where: ColumnElement[bool]) -> None:
        with self.ledger.writing() as connection:
            assert connection.execute(delete(table).where(*where)).rowcount

    def batch_of(self, job: UUID) -> UUID:
        batch: UUID = self.one(JOB, JOB.c.id == job).batch_id
        return batch

    def expect(self, end: tuple[str, str | None], *jobs: UUID) -> None:
        self.expected |= dict.fromkeys(jobs, end)


ATTACKS: dict[str, Callable[[Scene], None]] = {}


def attack(function: Callable[[Scene], None]) -> Callable[[Scene], None]:
    ATTACKS[function.__name__.replace("_", "-")] = function
    return function


FORGED = b'{"to":[{"email":"evil@example.com"}],"subject":"forged","body":"forged"}'


@attack
def a_plain_body_in_place_of_a_sealed_one(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, body=FORGED, cipher_key=None)
    scene.expect(WAITS, job)


@attack
def a_plain_body_under_the_name_of_a_key(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, body=FORGED)
    scene.expect(DEAD, job)


@attack
def a_plain_job(scene: Scene) -> None:
    job, forged = scene.mail(scene.a), new_id()
    scene.add(JOB, scene.one(JOB, JOB.c.id == job), id=forged)
    scene.add(PAYLOAD, scene.one(PAYLOAD, PAYLOAD.c.job_id == job), job_id=forged, body=FORGED, cipher_key=None)
    scene.expect(SENT, job)
    scene.expect(WAITS, forged)


@attack
def a_body_that_was_sealed_with_another_key(scene: Scene) -> None:
    job = scene.mail(scene.a)
    sealed = Vault.parse(new_key("theirs")).seal(FORGED, context=b"")
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, body=sealed.data, cipher_key=sealed.key_name)
    scene.expect(NO_SUCH_KEY, job)


@attack
def a_changed_byte(scene: Scene) -> None:
    job = scene.mail(scene.a)
    body = bytearray(scene.one(PAYLOAD, PAYLOAD.c.job_id == job).body)
    body[-1] ^= 1
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, body=bytes(body))
    scene.expect(DEAD, job)


@attack
def a_copy_of_a_mail_under_another_id(scene: Scene) -> None:
    job, copy = scene.mail(scene.a), new_id()
    scene.add(JOB, scene.one(JOB, JOB.c.id == job), id=copy)
    scene.add(PAYLOAD, scene.one(PAYLOAD, PAYLOAD.c.job_id == job), job_id=copy)
    scene.expect(SENT, job)
    scene.expect(DEAD, copy)


@attack
def the_bodies_of_two_jobs_of_a_lane_swapped(scene: Scene) -> None:
    one, other = scene.mail(scene.a), scene.mail(scene.a)
    bodies = [scene.one(PAYLOAD, PAYLOAD.c.job_id == job).body for job in (one, other)]
    for job, body in zip((other, one), bodies, strict=True):
        scene.set(PAYLOAD, PAYLOAD.c.job_id == job, body=body)
    scene.expect(DEAD, one, other)


@attack
def the_body_of_another_customer(scene: Scene) -> None:
    job, other = scene.mail(scene.a), scene.mail(scene.b)
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, body=scene.one(PAYLOAD, PAYLOAD.c.job_id == other).body)
    scene.expect(DEAD, job)
    scene.expect(SENT, other)


@attack
def a_job_moved_to_another_lane(scene: Scene) -> None:
    job, other = scene.mail(scene.a), scene.mail(scene.b)
    scene.set(JOB, JOB.c.id == job, lane_id=lane_id("default", scene.b))
    scene.expect(DEAD, job)
    scene.expect(SENT, other)


@attack
def a_lane_that_names_another_grant(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.ledger.absorb()
    scene.set(LANE, LANE.c.grant_id == scene.a, grant_id=scene.b)
    scene.expect(HELD, job)


@attack
def a_lane_that_names_another_application(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.ledger.absorb()
    scene.set(LANE, LANE.c.grant_id == scene.a, application="other")
    scene.add(PAIR, scene.rows(PAIR, PAIR.c.application == "default")[0], application="other")
    scene.expect(HELD, job)


@attack
def another_form(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.set(JOB, JOB.c.id == job, form="mime")
    scene.expect(DEAD, job)


@attack
def another_content_type(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, content_type="text/html")
    scene.expect(DEAD, job)


@attack
def a_length_where_there_are_no_files(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, length=10)
    scene.expect(DEAD, job)


@attack
def no_length_where_there_are_files(scene: Scene) -> None:
    job = scene.files(scene.a)
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, length=None)
    scene.expect(DEAD, job)


@attack
def a_mail_made_a_deletion(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.set(JOB, JOB.c.id == job, operation="delete", object_id=f"m of {scene.a}", form=None)
    scene.expect(DEAD, job)


@attack
def a_mail_made_a_listing(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.set(JOB, JOB.c.id == job, operation="list")
    scene.expect(DEAD, job)


@attack
def a_mail_without_its_body(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.drop(PAYLOAD, PAYLOAD.c.job_id == job)
    scene.expect(DEAD, job)


@attack
def the_file_of_another_customer(scene: Scene) -> None:
    job, other = scene.files(scene.a), scene.files(scene.b)
    theirs = scene.rows(PIECE, PIECE.c.job_id == other)[0].content_id
    scene.set(PIECE, PIECE.c.job_id == job, PIECE.c.position == 0, content_id=theirs)
    scene.expect(DEAD, job)
    scene.expect(SENT, other)


@attack
def two_files_in_the_other_order(scene: Scene) -> None:
    job = scene.files(scene.a)
    first, second = (row.content_id for row in scene.rows(PIECE, PIECE.c.job_id == job))
    for position, content in enumerate((second, first)):
        scene.set(PIECE, PIECE.c.job_id == job, PIECE.c.position == position, content_id=content)
    scene.expect(DEAD, job)


@attack
def one_file_fewer(scene: Scene) -> None:
    job = scene.files(scene.a)
    scene.drop(PIECE, PIECE.c.job_id == job, PIECE.c.position == 1)
    scene.expect(DEAD, job)


@attack
def the_bytes_between_two_files_of_another_customer(scene: Scene) -> None:
    job, other = scene.files(scene.a), scene.files(scene.b)
    after = scene.rows(PIECE, PIECE.c.job_id == other)[0].after
    scene.set(PIECE, PIECE.c.job_id == job, PIECE.c.position == 0, after=after)
    scene.expect(DEAD, job)
    scene.expect(SENT, other)


@attack
def the_chunks_of_another_customers_file(scene: Scene) -> None:
    job, other = scene.files(scene.a), scene.files(scene.b)
    ours, theirs = (scene.rows(PIECE, PIECE.c.job_id == one)[0].content_id for one in (job, other))
    # Of equal length, so that only its content is another.
    scene.set(CHUNK, CHUNK.c.content_id == ours, data=scene.one(CHUNK, CHUNK.c.content_id == theirs).data)
    scene.expect(DEAD, job)
    scene.expect(SENT, other)


@attack
def another_customers_file_under_the_digest_of_ours(scene: Scene) -> None:
    job, other = scene.files(scene.a), scene.files(scene.b)
    ours, theirs = (scene.rows(PIECE, PIECE.c.job_id == one)[0].content_id for one in (job, other))
    digest = scene.one(CONTENT, CONTENT.c.id == ours).digest
    scene.add(CONTENT, scene.one(CONTENT, CONTENT.c.id == theirs), id=(forged := new_id()), digest=digest)
    scene.add(CHUNK, scene.one(CHUNK, CHUNK.c.content_id == theirs), content_id=forged)
    scene.set(PIECE, PIECE.c.job_id == job, PIECE.c.position == 0, content_id=forged)
    scene.expect(DEAD, job)
    scene.expect(SENT, other)


@attack
def a_plain_file(scene: Scene) -> None:
    job = scene.files(scene.a)
    content = scene.rows(PIECE, PIECE.c.job_id == job)[0].content_id
    scene.set(CHUNK, CHUNK.c.content_id == content, data=b"forged", cipher_key=None)
    scene.expect(WAITS, job)


@attack
def another_message_to_be_changed(scene: Scene) -> None:
    job = scene.change(scene.a)
    scene.set(JOB, JOB.c.id == job, object_id="another")
    scene.expect(DEAD, job)


@attack
def a_message_more_to_be_deleted(scene: Scene) -> None:
    job = scene.deletion(scene.a)
    row = scene.one(JOB, JOB.c.id == job)
    plain, copied = new_id(), new_id()
    scene.add(JOB, row, id=plain, object_id="another", seal=None, seal_key=None)
    scene.add(JOB, row, id=copied, object_id="one more")
    scene.expect(WAITS, plain)
    scene.expect(DEAD, copied)


@attack
def a_change_made_a_deletion(scene: Scene) -> None:
    job = scene.change(scene.a)
    scene.set(JOB, JOB.c.id == job, operation="delete")
    scene.set(BATCH, BATCH.c.id == scene.batch_of(job), operation="delete", hard=True)
    scene.expect(DEAD, job)


@attack
def a_deletion_made_permanent(scene: Scene) -> None:
    job = scene.deletion(scene.a)
    scene.set(BATCH, BATCH.c.id == scene.batch_of(job), hard=True)
    scene.expect(DEAD, job)


@attack
def a_change_of_a_whole_thread(scene: Scene) -> None:
    job = scene.change(scene.a)
    scene.set(BATCH, BATCH.c.id == scene.batch_of(job), target="thread")
    scene.expect(DEAD, job)


@attack
def a_change_of_other_fields(scene: Scene) -> None:
    job = scene.change(scene.a)
    scene.set(BATCH, BATCH.c.id == scene.batch_of(job), fields=0)
    scene.expect(DEAD, job)


@attack
def a_plain_change(scene: Scene) -> None:
    job = scene.change(scene.a)
    scene.set(BATCH, BATCH.c.id == scene.batch_of(job), body=b'{"folders":["trash"]}', cipher_key=None)
    scene.expect(WAITS, job)


@attack
def a_plain_body_for_a_change(scene: Scene) -> None:
    job = scene.change(scene.a)
    like = scene.one(PAYLOAD, PAYLOAD.c.job_id == scene.mail(scene.b))
    scene.add(PAYLOAD, like, job_id=job, body=b'{"folders":["trash"]}', cipher_key=None)
    scene.expect(WAITS, job)


@attack
def the_change_of_another_customer(scene: Scene) -> None:
    job, other = scene.change(scene.a), scene.change(scene.b)
    scene.set(JOB, JOB.c.id == job, batch_id=scene.batch_of(other))
    scene.expect(DEAD, job)


@attack
def a_batch_moved_to_another_lane(scene: Scene) -> None:
    job, other = scene.change(scene.a), scene.mail(scene.b)
    scene.set(BATCH, BATCH.c.id == scene.batch_of(job), lane_id=lane_id("default", scene.b))
    scene.set(JOB, JOB.c.id == job, lane_id=lane_id("default", scene.b))
    scene.expect(DEAD, job)
    scene.expect(SENT, other)


@attack
def a_listing_for_another_batch(scene: Scene) -> None:
    job, other = scene.walk(scene.a), scene.deletion(scene.a)
    scene.set(JOB, JOB.c.id == job, batch_id=scene.batch_of(other))
    scene.expect(DEAD, job)


@attack
def messages_that_no_walk_has_found(scene: Scene) -> None:
    page = scene.walk(scene.a)
    batch = scene.batch_of(page)
    seal = scene.one(JOB, JOB.c.id == scene.change(scene.b))
    scene.ledger.absorb()
    with scene.ledger.writing() as connection:
        connection.execute(insert(FOUND), {"batch_id": batch, "object_id": "plain"})
        copied = {"object_id": "copied", "seal": seal.seal, "seal_key": seal.seal_key}
        connection.execute(insert(FOUND), {"batch_id": batch} | copied)
        connection.execute(update(BATCH).where(BATCH.c.id == batch).values(making=True))
        connection.execute(delete(JOB).where(JOB.c.id == page))
        walks.make_jobs(connection, batch, now=scene.ledger.clock())
    copied_, plain = sorted(scene.rows(JOB, JOB.c.batch_id == batch), key=lambda row: str(row.object_id))
    scene.expect(WAITS, plain.id)
    scene.expect(DEAD, copied_.id)


@attack
def a_job_in_doubt(scene: Scene) -> None:
    job, now = scene.mail(scene.a), scene.ledger.clock()
    scene.set(JOB, JOB.c.id == job, doubt_at=now, key_at=now)
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, content_type="text/html")
    scene.expect(("in_doubt", INTEGRITY), job)  # an earlier request may have gone out


@attack
def another_name_for_the_key(scene: Scene) -> None:
    job = scene.mail(scene.a)
    scene.set(PAYLOAD, PAYLOAD.c.job_id == job, cipher_key="renamed")
    scene.expect(SENT, job)  # the name is only a hint


@pytest.fixture
def api() -> Iterator[Simulator]:
    with Simulator(api_key=API_KEY) as simulator:
        yield simulator


def serve(house: House) -> bool:
    """A round of the dispatcher; whether a lane was due."""
    offered = in_turn(house.offer)
    in_turn(partial(house.engine.intake.take_on, offered))
    return bool(offered)


def in_turn(write: Callable[[], Any]) -> Any:
    """As a worker does: SQLite has one writer at a time."""
    while True:
        try:
            return write()
        except (OperationalError, Retryable) as error:
            if "locked" not in str(error):
                raise


def is_busy(ledger: Ledger) -> bool:
    turns, begun = select(LANE.c.id).where(LANE.c.turn.is_not(None)), select(JOB.c.id).where(JOB.c.state == "sending")
    with reading(ledger.engine) as connection:
        return connection.execute(turns.union_all(begun).limit(1)).first() is not None


def is_as_enqueued(request: Request) -> bool:
    """Whether a request is one that an application made, through the account that it was made for."""
    body = json.loads(request.body or b"null")
    if request.operation == "send":
        files = [f"{which} of {request.grant}" for which in ("first", "second")]
        sent = [base64.b64decode(one["content"]).decode() for one in body.get("attachments", [])]
        said = (body["subject"], body["body"])
        return said == (f"of {request.grant}", "secret") and sent in ([], files)
    if request.message_id != f"m of {request.grant}":
        return False
    if request.operation == "modify":
        return request.body == b'{"unread":false}'
    return request.operation == "delete" and "hard" not in request.path


class TestAnAttackerWithTheLedger:
    def test_has_nothing_wrong_sent(self, ledger: Ledger, api: Simulator) -> None:
        house = House(ledger, api, SENDQ_ENCRYPTION_KEYS=KEY, SENDQ_CONCURRENCY="100", SENDQ_BEAT_INTERVAL_S="1")
        ledger.clock.at = clock.now() - 60 * clock.SECOND
        queue = SendQueue(ledger.engine, now=ledger.clock, vault=Vault.parse(KEY))
        scenes = [Scene(ledger, queue, name) for name in ATTACKS]
        neighbours = {}
        for scene in scenes:
            ATTACKS[scene.name](scene)
            neighbours[scene.name] = scene.mail(scene.a)
        house.engine.start()
        try:
            eventually(lambda: not (serve(house) or is_busy(ledger)), "the end of all turns")
        finally:
            house.engine.stop()
        rows = {row.id: row for row in scenes[0].rows(JOB)}
        ends = {scene.name: [(rows[job].state, rows[job].rule) for job in scene.expected] for scene in scenes}
        assert ends == {scene.name: [*scene.expected.values()] for scene in scenes}
        wrong = [(one.operation, one.grant, one.message_id) for one in api.requests if not is_as_enqueued(one)]
        assert wrong == []
        jobs = [one.job for one in api.mailbox]
        assert len(jobs) == len(set(jobs))
        # The lane's other jobs go on, unless the lane itself is altered.
        held = {row.id for row in scenes[0].rows(LANE) if row.held_until is not None}
        stuck = {name for name, job in neighbours.items() if rows[job].state != "sent"}
        assert stuck == {"a-lane-that-names-another-grant", "a-lane-that-names-another-application"}
        assert {rows[neighbours[name]].lane_id for name in stuck} <= held
        altered = [job for scene in scenes for job, end in scene.expected.items() if end[1] == INTEGRITY]
        # Those whose files were altered are found when these are read, during the call.
        during_calls = [row.job_id for row in scenes[0].rows(schema.attempt) if row.rule == INTEGRITY]
        names = {job: scene.name for scene in scenes for job in scene.expected}
        found = sorted(names[job] for job in [*house.unopened.altered, *during_calls])
        assert found == sorted(names[job] for job in altered)
        assert len(house.unopened.altered_lanes) == 2
        assert "SENDQ_ACCEPT_UNENCRYPTED" in ledger.queue.why(str(jobs_with(ends, scenes, WAITS))).says
        why = ledger.queue.why(str(jobs_with(ends, scenes, DEAD)))
        assert (why.reason, why.rule) == ("dead", INTEGRITY)
        assert "something other than sendq changed the ledger" in why.says


def jobs_with(ends: Any, scenes: list[Scene], end: tuple[str, str | None]) -> UUID:
    """A job that ended so."""
    return next(job for scene in scenes for job, expected in scene.expected.items() if expected == end)
