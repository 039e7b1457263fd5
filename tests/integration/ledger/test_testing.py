"""`sendq.testing`: an application's tests see what was enqueued, committed or in their own transaction."""

from __future__ import annotations

import asyncio
import os
import re
from email.message import EmailMessage
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from sendq import (
    AsyncSendQueue,
    Attachment,
    InvalidArgument,
    Message,
    MimeMessage,
    Query,
    SendQueue,
    State,
    Unreadable,
    Vault,
)
from sendq.ledger.db import schema
from sendq.messages.forms import MAX_JSON_BYTES
from sendq.testing import LISTED_MOST, assert_enqueued, assert_not_enqueued, enqueued
from tests.support.ledger import MESSAGE, Ledger


@pytest.fixture
def queue(sqlite_ledger_url: str) -> Any:
    queue = SendQueue(sqlite_ledger_url)
    yield queue
    queue.close()


class TestWhatWasEnqueued:
    def test_is_seen_in_the_callers_transaction_alone(self, ledger: Ledger) -> None:
        with Session(ledger.engine) as session:
            ledger.queue.send("g1", MESSAGE, key="invoice-42", session=session)
            job = assert_enqueued(ledger.queue, key="invoice-42", session=session)
            assert (job.grant_id, job.application, job.operation) == ("g1", "default", "send")
            assert (job.state, job.to, job.subject) == (State.QUEUED, ("leyah@example.com",), "Invoice 42")
            assert job.body is not None
            assert job.body["body"] == "<p>42</p>"
            with pytest.raises(AssertionError, match="pass session= to see an open transaction"):
                assert_enqueued(ledger.queue, key="invoice-42")
            session.rollback()
        assert_not_enqueued(ledger.queue)

    def test_has_its_grant_before_and_after_the_dispatcher_has_seen_it(self, ledger: Ledger) -> None:
        ledger.send("g1")
        assert_enqueued(ledger.queue, grant_id="g1")
        ledger.absorb()
        assert_enqueued(ledger.queue, grant_id="g1")
        ledger.finish(ledger.serve())
        assert assert_enqueued(ledger.queue, grant_id="g1").state is State.SENT

    def test_is_found_by_every_filter(self, queue: SendQueue) -> None:
        queue.send("g1", Message(to=["a@example.com", "B@example.com"], subject="One", body="1"), key="k1")
        queue.send("g2", Message(to=["a@example.com"], subject="Two", body="2"), key="k2", application="shop")
        changes = queue.modify("g1", ["m1", "m2"], unread=False, key="tidy")
        queue.delete_matching("g1", Query(unread=True))
        assert_enqueued(queue, key="k1", to="b@EXAMPLE.com", subject="One", operation="send", grant_id="g1")
        assert [job.key for job in enqueued(queue, to="a@example.com")] == ["k1", "k2"]
        assert assert_enqueued(queue, application="shop").grant_id == "g2"
        found = enqueued(queue, key="tidy", operation="modify")
        assert [(job.object_id, job.body, job.batch_id) for job in found] == [
            ("m1", {"unread": False}, changes.id),
            ("m2", {"unread": False}, changes.id),
        ]
        assert assert_enqueued(queue, operation="delete").object_id is None
        for other in ({"key": "k3"}, {"to": "c@example.com"}, {"subject": "on"}, {"application": "x"}):
            assert_not_enqueued(queue, **other)
        assert_not_enqueued(queue, grant_id="g2", key="k1")

    @pytest.mark.parametrize("keys", [{}, {"2026-11": b"k" * 32}])
    def test_is_read_whatever_form_the_request_has(self, sqlite_ledger_url: str, keys: dict[str, bytes]) -> None:
        queue = SendQueue(sqlite_ledger_url, vault=Vault(keys))
        small, large = b"1,2\r\n", os.urandom(MAX_JSON_BYTES)
        names = 'rechnung "für" 42.csv', "b.bin"
        for key, content, body in (
            ("json", small, "short"), ("multipart", large, "short"), ("long", large, "x" * MAX_JSON_BYTES),
        ):  # fmt: skip
            files = [Attachment(filename=name, content=content) for name in names]
            queue.send("g1", Message(to=["ä <a@example.com>"], subject=key, body=body, attachments=files), key=key)
            job = assert_enqueued(queue, key=key, subject=key, to="a@example.com")
            assert job.attachments == names
            assert job.body is not None
            assert job.body["body"] == body
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "Us <us@example.com>", "Ü <a@example.com>", "Grüße"
        mail.set_content("hello")
        mail.add_attachment(small, maintype="text", subtype="csv", filename=names[1])
        queue.send("g1", MimeMessage(mail.as_bytes()), key="mime")
        job = assert_enqueued(queue, key="mime", to="a@example.com", subject="Grüße")
        assert job.body is not None
        assert (job.body["from"], job.body["body"]) == ([{"email": "us@example.com", "name": "Us"}], "hello\n")
        assert job.attachments == names[1:]
        queue.modify("g1", ["m1"], starred=True)
        assert assert_enqueued(queue, operation="modify").body == {"starred": True}
        queue.close()
        if keys:
            without_keys = SendQueue(sqlite_ledger_url)
            with pytest.raises(Unreadable):
                enqueued(without_keys)
            without_keys.close()

    def test_is_known_without_its_message_when_that_was_deleted(self, ledger: Ledger) -> None:
        ledger.send(key="k1")
        with ledger.writing() as connection:
            connection.execute(delete(schema.payload))
        job = assert_enqueued(ledger.queue, key="k1")
        assert (job.body, job.to, job.subject, job.attachments) == (None, (), None, ())

    def test_is_awaited_of_an_asyncio_queue(self, pg_ledger_url: str) -> None:
        async def work() -> None:
            engine = create_async_engine(pg_ledger_url)
            queue = AsyncSendQueue(engine)
            async with engine.connect() as connection, connection.begin() as transaction:
                await queue.send("g1", MESSAGE, key="k1", session=connection)
                assert (await assert_enqueued(queue, key="k1", session=connection)).subject == "Invoice 42"
                with pytest.raises(AssertionError, match="1 job was enqueued; expected none"):
                    await assert_not_enqueued(queue, session=connection)
                await transaction.rollback()
            assert await enqueued(queue) == []
            await engine.dispose()

        asyncio.run(work())


class TestAFailedAssertion:
    def test_lists_what_was_enqueued_instead(self, queue: SendQueue) -> None:
        with pytest.raises(AssertionError, match=r"nothing was enqueued$"):
            assert_enqueued(queue, key="k2")
        queue.send("g1", MESSAGE, key="k1")
        queue.modify("g1", ["m1"], unread=False)
        with pytest.raises(AssertionError) as failed:
            assert_enqueued(queue, key="k2", to="x@example.com")
        assert str(failed.value).splitlines() == [
            "no job was enqueued with key='k2', to='x@example.com' (and committed: pass session= to see an open"
            " transaction); 2 jobs were enqueued:",
            "  send to leyah@example.com subject='Invoice 42' grant_id='g1' application='default' key='k1' queued",
            "  modify m1 grant_id='g1' application='default' key=None queued",
        ]

    def test_lists_those_that_are_too_many(self, queue: SendQueue) -> None:
        for _ in range(LISTED_MOST + 2):
            queue.send("g1", MESSAGE)
        with pytest.raises(
            AssertionError, match=r"^22 jobs were enqueued with grant_id='g1'; expected one:\n"
        ) as failed:
            assert_enqueued(queue, grant_id="g1")
        assert len(str(failed.value).splitlines()) == 1 + LISTED_MOST + 1
        assert str(failed.value).endswith("\n  and 2 more")
        with pytest.raises(AssertionError, match=re.escape("22 jobs were enqueued; expected none:")):
            assert_not_enqueued(queue)

    @pytest.mark.parametrize(
        "mistaken",
        [{"operation": "sent"}, {"key": ""}, {"key": None}, {"to": 7}, {"grant_id": "a@b.c"}, {"subject": None}],
    )
    def test_is_no_answer_to_a_mistaken_filter(self, queue: SendQueue, mistaken: Any) -> None:
        with pytest.raises(InvalidArgument, match=next(iter(mistaken))):
            assert_not_enqueued(queue, **mistaken)

    def test_is_no_answer_to_an_unknown_filter(self, queue: SendQueue) -> None:
        with pytest.raises(TypeError, match="no filter 'recipient'; there are application"):
            assert_not_enqueued(queue, recipient="a@example.com")  # type: ignore[call-overload]
