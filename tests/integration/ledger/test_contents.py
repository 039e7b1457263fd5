"""Contents in the ledger: each kept once, nobody waits, none is lost that is needed, none is kept that is not."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, event, func, select

from sendq import AsyncSendQueue, Attachment, InvalidJob, KeyConflict, Message, MimeMessage, Send, SendQueue, Unreadable
from sendq.enqueueing.options import Options
from sendq.ledger import contents
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine, reading, writing
from sendq.messages.content import CHUNK, chunk_count
from sendq.vault import KEY_BYTES, Vault
from tests.support.ledger import Ledger
from tests.support.waiting import LIMIT_S, eventually

PDF = bytes(range(256)) * 2_000  # two whole chunks and a part of one
VAULT = Vault({"first": b"k" * KEY_BYTES})


def mail(*files: bytes, **fields: Any) -> Message:
    attachments = [Attachment(filename=f"{n}.pdf", content=content) for n, content in enumerate(files)]
    return Message(**{"to": ["leyah@example.com"], "attachments": attachments, **fields})


def stored(ledger: Ledger, job: str, *, vault: Vault | None = None) -> list[bytes]:
    """The contents of a job's request, as a worker reads them."""
    vault = vault or Vault()
    with reading(ledger.engine) as connection:
        found = []
        for piece in contents.pieces_of(connection, UUID(job), vault=vault):
            positions = range(chunk_count(piece.size))
            chunks = (contents.chunk_of(connection, piece, at, vault=vault) for at in positions)
            found.append(b"".join(chunk or b"" for chunk in chunks))
        return found


def count(ledger: Ledger, table: Any) -> int:
    with reading(ledger.engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def drop(ledger: Ledger, limit: int = 100) -> int:
    with ledger.writing() as connection:
        return contents.drop_unused_contents(connection, limit)


def forget(ledger: Ledger, job: str) -> None:
    """Nobody needs a job's request any more."""
    with ledger.writing() as connection:
        connection.execute(delete(schema.piece).where(schema.piece.c.job_id == UUID(job)))


class TestEnqueue:
    def test_stores_a_file_in_chunks(self, ledger: Ledger) -> None:
        job = ledger.queue.send("g1", mail(PDF, b"", b"small"))
        assert stored(ledger, job.id) == [PDF, b"", b"small"]
        sizes = [len(row.data) for row in ledger.rows(schema.chunk)]
        assert sorted(sizes) == [5, len(PDF) - 2 * CHUNK, CHUNK, CHUNK]

    def test_says_in_the_job_which_form_its_request_has(self, ledger: Ledger) -> None:
        small = ledger.queue.send("g1", mail(b"small"))
        large = ledger.queue.send("g1", mail(b"x" * 3_000_000))
        mime = ledger.queue.send("g1", MimeMessage(b"To: a@example.com\r\n\r\nBody"))
        plain = ledger.queue.send("g1", mail())
        (modified,) = ledger.modify("g1", ["m1"])
        forms = [ledger.job(UUID(job.id)).form for job in (small, large, mime, plain)]
        assert forms == ["json", "multipart", "mime", "json"]
        assert ledger.job(modified).form is None

    def test_brings_length_and_form_along_with_a_claim(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", mail()), Send("g1", mail(PDF))])
        ledger.clock.advance(1)
        plain, large = ledger.serve().jobs
        assert (plain.form, plain.length) == ("json", None)
        (after,) = (row.after for row in ledger.rows(schema.piece))
        assert (large.form, large.length) == ("json", len(large.body) + -(-len(PDF) // 3) * 4 + len(after))

    def test_keeps_one_file_once_for_all_jobs(self, ledger: Ledger) -> None:
        first = ledger.queue.send("g1", mail(PDF))
        several = ledger.queue.send_many([Send(f"g{n}", mail(PDF, PDF)) for n in range(20)])
        assert (count(ledger, schema.content), count(ledger, schema.piece)) == (1, 41)
        assert stored(ledger, first.id) == [PDF]
        assert stored(ledger, several[-1].id) == [PDF, PDF]

    def test_keeps_it_once_in_whatever_form_it_travels(self, ledger: Ledger) -> None:
        ledger.queue.send("g1", mail(PDF))
        ledger.queue.send("g1", mail(PDF, b"x" * 3_000_000))
        assert count(ledger, schema.content) == 2

    def test_does_not_read_a_path_again_whose_content_is_there(self, ledger: Ledger, tmp_path: Path) -> None:
        path = tmp_path / "a.pdf"
        path.write_bytes(PDF)
        reads = 0
        attachment = Attachment.of(path)
        raw = attachment.content._raw

        def counted() -> Any:
            nonlocal reads
            reads += 1
            return raw()

        ledger.queue.send("g1", mail(PDF))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(attachment.content), "_raw", lambda self: counted())
            message = Message(to=["a@example.com"], attachments=[attachment])
            ledger.queue.send_many([Send(f"g{n}", message) for n in range(5)])
        assert reads == 1

    def test_stores_nothing_for_a_key_that_is_known(self, ledger: Ledger) -> None:
        ledger.queue.send("g1", mail(PDF), key="k")
        again = ledger.queue.send("g1", mail(PDF), key="k")
        assert again.existed
        with pytest.raises(KeyConflict):
            ledger.queue.send("g1", mail(b"other"), key="k")
        assert (count(ledger, schema.content), count(ledger, schema.piece)) == (1, 1)

    def test_leaves_nothing_behind_when_it_is_rolled_back(self, ledger: Ledger) -> None:
        with ledger.engine.connect() as connection, connection.begin() as transaction:
            ledger.queue.send("g1", mail(PDF), session=connection)
            transaction.rollback()
        assert [count(ledger, table) for table in (schema.job, schema.piece, schema.content, schema.chunk)] == [0] * 4

    def test_stores_nothing_of_a_file_that_changes_meanwhile(self, ledger: Ledger) -> None:
        file = io.BytesIO(PDF)
        attachment = Attachment(filename="a.pdf", content=file)
        attachment.content.measure()
        file.write(b"changed")
        message = Message(to=["a@example.com"], attachments=[attachment])
        changed = pytest.raises(InvalidJob, match="changed while it was being read")
        with ledger.engine.connect() as connection, connection.begin(), changed:  # and the caller commits what is left
            ledger.queue.send("g1", message, session=connection)
        assert [count(ledger, table) for table in (schema.job, schema.piece, schema.content, schema.chunk)] == [0] * 4

    def test_of_an_asyncio_application_stores_the_same(self, ledger: Ledger, ledger_url: str) -> None:
        async def story() -> str:
            queue = AsyncSendQueue(ledger_url)
            try:
                many = await queue.send_many([Send("g1", mail(PDF)), Send("g2", mail(b"x" * 4_000_000, PDF))])
                raw = b"To: a@example.com\n\n" + base64.encodebytes(PDF)
                mime = await queue.send("g1", MimeMessage(raw))
                assert stored(ledger, mime.id) == [raw]
                return many[1].id
            finally:
                await queue.close()

        assert stored(ledger, asyncio.run(story())) == [b"x" * 4_000_000, PDF]

    def test_holds_a_chunk_of_a_file_and_not_all_of_it(self, ledger: Ledger, tmp_path: Path) -> None:
        import tracemalloc

        path = tmp_path / "large.bin"
        with path.open("wb") as file:
            for n in range(120):
                file.write(bytes([n]) * CHUNK)
        message = Message(to=["a@example.com"], attachments=[path])
        ledger.queue.send("g1", mail())  # what is loaded once
        tracemalloc.start()
        try:
            ledger.queue.send("g1", message)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert path.stat().st_size > 23_000_000
        assert peak < 4_000_000


class TestSealed:
    def test_files_and_their_names_open_with_the_key_alone(self, ledger: Ledger) -> None:
        queue = SendQueue(ledger.engine, now=ledger.clock, vault=VAULT)
        job = queue.send("g1", mail(b"marked content", b"marked as well"))
        kept = b"".join(bytes(row.data) for row in ledger.rows(schema.chunk))
        kept += b"".join(bytes(row.after) for row in ledger.rows(schema.piece))
        assert b"marked" not in kept
        assert b"1.pdf" not in kept
        assert {row.cipher_key for table in (schema.chunk, schema.piece) for row in ledger.rows(table)} == {"first"}
        assert stored(ledger, job.id, vault=VAULT) == [b"marked content", b"marked as well"]
        with pytest.raises(Unreadable):
            stored(ledger, job.id)

    def test_a_chunk_in_another_place_does_not_open(self, ledger: Ledger) -> None:
        queue = SendQueue(ledger.engine, now=ledger.clock, vault=VAULT)
        job = queue.send("g1", mail(PDF))
        with ledger.writing() as connection:
            table = schema.chunk
            first, second = connection.execute(select(table.c.data).order_by(table.c.position).limit(2)).scalars()
            for position, data in ((0, second), (1, first)):
                connection.execute(table.update().where(table.c.position == position).values(data=data))
        with pytest.raises(Unreadable):
            stored(ledger, job.id, vault=VAULT)


class TestTwoAtOnce:
    def test_nobody_waits_for_another_transaction_with_the_same_file(self, pg_ledger: Ledger) -> None:
        queue, engine = pg_ledger.queue, pg_ledger.engine
        with engine.connect() as one, engine.connect() as other, one.begin(), other.begin():
            first = queue.send("g1", mail(PDF, b"second"), session=one)
            last = queue.send("g2", mail(b"second", PDF), session=other)  # a unique digest would wait here
        assert stored(pg_ledger, first.id) == [PDF, b"second"]
        assert stored(pg_ledger, last.id) == [b"second", PDF]
        before = count(pg_ledger, schema.content)
        pg_ledger.queue.send("g3", mail(PDF, b"second"))
        assert count(pg_ledger, schema.content) == before == 4

    def test_callers_side_by_side_all_store_what_they_bring(self, ledger_url: str, ledger: Ledger) -> None:
        jobs: list[str] = []
        files = [bytes([n]) * 300_000 for n in range(4)]
        gate = threading.Barrier(4)

        def enqueue(n: int) -> None:
            queue = SendQueue(open_engine(ledger_url))
            gate.wait()
            message = mail(*files[n:], *files[:n])
            jobs.extend(queue.send(f"g{n}", message, key=f"{n}-{turn}").id for turn in range(5))
            queue.close()

        threads = [threading.Thread(target=enqueue, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert len(jobs) == 20
        for job in jobs:
            assert sorted(stored(ledger, job)) == sorted(files)
        assert count(ledger, schema.content) <= 4 * 4  # in the worst case each thread's first call; most often four


class TestDropping:
    def test_takes_what_no_job_needs_and_leaves_the_rest(self, ledger: Ledger) -> None:
        first = ledger.queue.send("g1", mail(PDF, b"own"))
        second = ledger.queue.send("g2", mail(PDF))
        assert drop(ledger) == 0
        forget(ledger, first.id)
        assert drop(ledger) == 1
        assert stored(ledger, second.id) == [PDF]
        forget(ledger, second.id)
        assert drop(ledger) == 1
        assert (count(ledger, schema.content), count(ledger, schema.chunk)) == (0, 0)

    def test_goes_in_steps(self, ledger: Ledger) -> None:
        jobs = ledger.queue.send_many([Send("g1", mail(b"%d" % n)) for n in range(5)])
        for job in jobs:
            forget(ledger, job.id)
        assert [drop(ledger, 2) for _ in range(4)] == [2, 2, 1, 0]

    def test_passes_over_what_a_transaction_is_about_to_use(self, pg_ledger: Ledger) -> None:
        old = pg_ledger.queue.send("g1", mail(PDF))
        forget(pg_ledger, old.id)
        with pg_ledger.engine.connect() as connection, connection.begin():
            new = pg_ledger.queue.send("g1", mail(PDF), session=connection)
            assert drop(pg_ledger) == 0
        assert drop(pg_ledger) == 0
        assert stored(pg_ledger, new.id) == [PDF]

    def test_does_not_make_an_enqueue_wait_that_brings_the_same_file(self, pg_ledger: Ledger) -> None:
        old = pg_ledger.queue.send("g1", mail(PDF))
        forget(pg_ledger, old.id)
        with pg_ledger.engine.connect() as connection, connection.begin():
            assert contents.drop_unused_contents(connection, 10) == 1
            new = pg_ledger.queue.send("g1", mail(PDF))
        assert stored(pg_ledger, new.id) == [PDF]

    def test_looks_again_at_what_it_has_locked(self, pg_ledger: Ledger) -> None:
        """A job that comes to need a content between the choice and the lock keeps it."""
        old = pg_ledger.queue.send("g1", mail(PDF))
        forget(pg_ledger, old.id)
        arrived: list[str] = []

        def late(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            # Between its two statements: committed after the first one's snapshot, before its lock could stop it.
            if "FOR UPDATE" in statement and "sendq_piece" in statement and not arrived:
                arrived.append("")
                with writing(engine) as other:
                    other.execute(
                        schema.piece.insert().values(job_id=UUID(old.id), position=0, content_id=content_id, after=b"")
                    )

        (content_id,) = (row.id for row in pg_ledger.rows(schema.content))
        engine = open_engine(pg_ledger.engine.url)
        event.listen(pg_ledger.engine, "after_cursor_execute", late)
        try:
            assert drop(pg_ledger) == 0
        finally:
            event.remove(pg_ledger.engine, "after_cursor_execute", late)
            engine.dispose()
        assert arrived
        assert count(pg_ledger, schema.content) == 1


def test_a_plan_of_many_files_is_one_transaction(ledger: Ledger) -> None:
    sends = [Send(f"g{n}", mail(b"file %d" % (n % 7)), Options(key=f"k{n}")) for n in range(50)]
    jobs = ledger.queue.send_many(sends)
    eventually(lambda: count(ledger, schema.piece) == 50, "the pieces")
    assert count(ledger, schema.content) == 7
    assert stored(ledger, jobs[20].id) == [b"file 6"]
