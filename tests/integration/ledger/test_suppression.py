"""The suppression list on both databases: what puts recipients on it, and what it does to their mail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from threading import Event
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, select

from sendq import (
    Attachment,
    InvalidJob,
    KeyConflict,
    Message,
    MimeMessage,
    NewBatch,
    Operators,
    Send,
    SendQueue,
    SuppressedRecipients,
    SuppressionListFailed,
    Vault,
)
from sendq.enqueueing import async_own_list, own_list
from sendq.enqueueing.suppressing import Hit
from sendq.facts.turns import Claimed, Unopened
from sendq.ledger import suppressions
from sendq.ledger.db import schema
from sendq.ledger.dispatching.turns import claim as usual_claim
from sendq.ledger.dispatching.turns import claim_at_once
from sendq.ledger.reading import gauges
from sendq.ledger.reading.gauges import levels
from sendq.ledger.secrets import digest_key, stored_digest_key
from sendq.ledger.suppressions import Entry
from sendq.messages.digests import digest_of
from sendq.rules.rule_ids import NO_KEY, SUPPRESSED
from sendq.rules.suppression import ALL_MAIL
from sendq.testing import enqueued
from tests.integration.ledger.mail import report, sent
from tests.support.ledger import Ledger, end
from tests.support.waiting import LIMIT_S

LEYAH, NOOR = "leyah@example.com", "noor@example.com"


def listed(ledger: Ledger) -> list[tuple[str, str, str, str]]:
    """The entries, by the known addresses of these tests."""
    with ledger.engine.connect() as connection:
        key = stored_digest_key(connection, ledger.queue._vault)
        rows = connection.execute(select(schema.suppression)).all()
    names = {} if key is None else {
        digest_of(key, app, one): one for app in ("default", "other") for one in (LEYAH, NOOR)
    }  # fmt: skip
    return sorted((row.application, names[bytes(row.digest)], row.category, row.reason) for row in rows)


def suppress(ledger: Ledger, address: str, *, application: str = "default", category: str = ALL_MAIL) -> None:
    with ledger.writing() as connection:
        key = digest_key(connection, ledger.queue._vault)
        entry = Entry(application, digest_of(key, application, address), category, "added", ledger.clock(), "test")
        suppressions.add(connection, [entry])


def claimed_at_once(ledger: Ledger, **options: Any) -> list[Claimed]:
    """A round of a dispatcher that claims what it offers; without a claim it is rolled back."""
    ledger.absorb()
    with ledger.engine.connect() as connection:
        opened = ledger.opened_in(connection)
        assert opened
        given: dict[str, Any] = {"worker": ledger.worker, "now": ledger.clock(), "jobs_each": 50} | options
        claimed = claim_at_once(connection, opened, **given)
        if claimed:
            connection.commit()
        return claimed


def claim(ledger: Ledger, **options: Any) -> list[UUID]:
    """The ids of the jobs that a claim loads."""
    offered = [(turn.lane_id, turn.fence) for turn in ledger.offer()]
    with ledger.writing() as connection:
        turns = usual_claim(connection, offered, worker=ledger.worker, now=ledger.clock(), jobs_each=50, **options)
    return [job.id for turn in turns for job in turn.jobs]


class TestReports:
    def test_put_a_recipient_on_the_list_of_the_application(self, ledger: Ledger) -> None:
        sent(ledger)
        report(ledger, "message.bounced", bounced=[NOOR], reason="smtp; 550 5.1.1 user unknown")
        report(ledger, "message.complaint", notice="n2")
        assert listed(ledger) == [("default", LEYAH, "", "complained"), ("default", NOOR, "", "bounced")]

    @pytest.mark.parametrize("reason", ["smtp; 552 5.2.2 mailbox full", "smtp; 450 4.2.0 try again", "550 5.7.1 spam"])
    def test_do_not_if_the_address_is_not_at_fault(self, ledger: Ledger, reason: str) -> None:
        sent(ledger)
        report(ledger, "message.bounced", reason=reason)
        assert listed(ledger) == []

    def test_do_not_if_they_are_repeats_or_about_no_mail_of_ours(self, ledger: Ledger) -> None:
        sent(ledger)
        report(ledger, "message.bounced", "m9")
        report(ledger, "message.bounced", notice="n3", application="other")
        assert listed(ledger) == []
        report(ledger, "message.bounced")
        with ledger.writing() as connection:
            connection.execute(schema.suppression.delete())
        report(ledger, "message.bounced")
        assert listed(ledger) == []

    def test_keep_the_first_reason(self, ledger: Ledger) -> None:
        sent(ledger)
        report(ledger, "message.bounced")
        report(ledger, "message.complaint", notice="n2")
        assert listed(ledger) == [("default", LEYAH, "", "bounced")]


MAILS: dict[str, Message | MimeMessage] = {
    "json": Message(to=["Leyah <LEYAH@Example.com>"], subject="Invoice 42", body="…"),
    "cc": Message(to=["sam@example.com"], cc=["alex@example.com", LEYAH]),
    "bcc": Message(to=["sam@example.com"], bcc=[LEYAH]),
    "multipart": Message(to=[LEYAH], body="x" * 3_000_000),
    "multipart with a file": Message(to=[LEYAH], attachments=[Attachment(filename="a.txt", content=b"x" * 2_400_000)]),
    "json with a file": Message(to=[LEYAH], attachments=[Attachment(filename="a.txt", content=b"x")]),
    "mime": MimeMessage(b"To: sam@example.com\nCc: alex@example.com,\n Leyah <leyah@EXAMPLE.com>\n\n."),
}


class TestAWaitingJob:
    @pytest.mark.parametrize("form", MAILS)
    @pytest.mark.parametrize("vault", [Vault(), Vault({"k1": bytes(32)})], ids=["open", "sealed"])
    def test_ends_unsent_once_a_recipient_is_suppressed(self, ledger: Ledger, form: str, vault: Vault) -> None:
        ledger.queue._vault = vault
        job = UUID(ledger.queue.send("g1", MAILS[form]).id)
        rest = UUID(ledger.queue.send("g1", Message(to=[NOOR])).id)
        suppress(ledger, LEYAH)
        ledger.clock.advance(1)
        assert claimed_at_once(ledger, vault=vault) == []
        assert claim(ledger, vault=vault) == [rest]
        assert (ledger.job(job).state, ledger.job(job).rule) == ("dead", SUPPRESSED)
        assert ledger.rows(schema.attempt) == []

    def test_of_a_batch_whose_text_is_shared_ends_too(self, ledger: Ledger) -> None:
        ledger.queue._unsubscribe_url = "https://mail.example.com/u"
        letters = [Send("g1", Message(to=[one], body="x" * 10_000, unsubscribe="news")) for one in (LEYAH, NOOR)]
        ledger.queue.send_many(letters, batch=NewBatch())
        suppress(ledger, LEYAH, category="news")
        ledger.clock.advance(1)
        assert len(claim(ledger)) == 1
        assert [row.rule for row in ledger.rows(schema.job) if row.state == "dead"] == [SUPPRESSED]

    def test_is_sent_if_the_entry_is_another_applications_or_for_a_category(self, ledger: Ledger) -> None:
        job = ledger.send()
        suppress(ledger, LEYAH, application="other")
        suppress(ledger, LEYAH, category="newsletter")
        suppress(ledger, NOOR)
        ledger.clock.advance(1)
        assert [one.id for turn in claimed_at_once(ledger) for one in turn.jobs] == [job]

    def test_that_may_have_gone_out_is_in_doubt(self, ledger: Ledger) -> None:
        job = ledger.send()
        with ledger.writing() as connection:
            at = {"key_at": ledger.clock(), "doubt_at": ledger.clock()}
            connection.execute(schema.job.update().where(schema.job.c.id == job).values(**at))
        suppress(ledger, LEYAH)
        assert claim(ledger) == []
        assert (ledger.job(job).state, ledger.job(job).rule) == ("in_doubt", SUPPRESSED)

    def test_is_sent_when_it_is_retried_after_a_removal(self, ledger: Ledger) -> None:
        job = ledger.send()
        suppress(ledger, LEYAH)
        turn = ledger.serve()
        assert (turn.jobs, ledger.job(job).state) == ([], "dead")
        ledger.record(ends=[end(turn)])
        with ledger.writing() as connection:
            key = digest_key(connection, Vault())
            names = suppressions.names_of(connection, "default", [digest_of(key, "default", LEYAH)])
            assert suppressions.remove(connection, names) == 1
        Operators(ledger.engine, now=ledger.clock).retry([str(job)], by="ann", reason="a typo").finish()
        assert [one.id for one in ledger.serve().jobs] == [job]

    def test_waits_for_the_key_of_the_list(self, ledger: Ledger) -> None:
        """A worker without it could check no mail."""
        ledger.queue._vault = Vault({"k1": bytes(32)})
        suppress(ledger, NOOR)
        ledger.queue._vault = Vault()
        job = ledger.send()
        unopened = Unopened()
        assert claim(ledger, vault=Vault(), unopened=unopened) == []
        assert unopened.missing == {"k1": 1}
        assert (ledger.job(job).state, ledger.lane().held_rule) == ("queued", NO_KEY)

    def test_of_one_application_does_not_delay_the_mail_of_others(self, ledger: Ledger) -> None:
        """Not even if their jobs are claimed together."""
        ledger.queue._vault = Vault({"k1": bytes(32)})
        suppress(ledger, NOOR, application="other")
        ledger.queue._vault = Vault()
        waits, goes = ledger.send(application="other"), ledger.send()
        assert claim(ledger, vault=Vault()) == [goes]
        assert (ledger.job(waits).state, ledger.lane(application="other").held_rule) == ("queued", NO_KEY)

    def test_costs_no_statement_more_where_nobody_is_suppressed(self, ledger: Ledger) -> None:
        counts = []
        for grant, application in (("g0", None), ("g1", None), ("g2", "other"), ("g3", "default")):
            if application is not None:
                suppress(ledger, NOOR, application=application)
            ledger.send(grant)
            ledger.clock.advance(1)
            ledger.absorb()
            statements: list[str] = []
            event.listen(ledger.engine, "before_cursor_execute", lambda *given, to=statements: to.append(given[2]))
            assert claimed_at_once(ledger)
            counts.append(len(statements))
        _, alone, others, with_a_list = counts
        assert (others, with_a_list) == (alone, alone + 2)


def refused(ledger: Ledger, message: Message | MimeMessage, **options: Any) -> list[tuple[str, str]]:
    """The fields of a refused send and the reasons; nothing is stored."""
    before = len(ledger.rows(schema.job))
    with pytest.raises(SuppressedRecipients) as error:
        ledger.queue.send("g1", message, **options)
    assert len(ledger.rows(schema.job)) == before
    assert not any(one in str(error.value) for one in (LEYAH, NOOR))
    return [(problem.field, problem.reason) for problem in error.value.problems]


LISTED = "is on the suppression list of application 'default' (added)"


class TestTheGauge:
    def test_counts_entries_by_application_and_reason(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        sent(ledger)
        report(ledger, "message.complaint")
        suppress(ledger, LEYAH, category="news")
        suppress(ledger, NOOR, application="other")
        with ledger.engine.connect() as connection:
            found = levels(connection, now=ledger.clock()).suppressed
            assert found == {("default", "complained"): 1, ("default", "added"): 1, ("other", "added"): 1}
            monkeypatch.setattr(gauges, "SUPPRESSED_MOST", 2)
            assert sum(levels(connection, now=ledger.clock()).suppressed.values()) == 2


class TestASend:
    @pytest.mark.parametrize(
        ("message", "field"),
        [
            (Message(to=[NOOR, "Leyah <LEYAH@example.com>"]), "to[1]"),
            (Message(to=[NOOR], cc=[LEYAH]), "cc[0]"),
            (Message(to=[NOOR], bcc=["sam@example.com", LEYAH]), "bcc[1]"),
            (MimeMessage(b"To: noor@example.com\nCc: sam@example.com, leyah@example.com\n\n."), "mime.Cc[1]"),
        ],
    )
    def test_to_a_suppressed_recipient_is_refused_with_the_position(
        self, ledger: Ledger, message: Message | MimeMessage, field: str
    ) -> None:
        suppress(ledger, LEYAH)
        assert refused(ledger, message) == [(field, LISTED)]

    def test_is_refused_by_the_list_of_its_application_and_category_only(self, ledger: Ledger) -> None:
        suppress(ledger, LEYAH, application="other")
        suppress(ledger, LEYAH, category="news")
        ledger.queue._unsubscribe_url = "https://mail.example.com/u"
        to = Message(to=[LEYAH])
        ledger.queue.send("g1", to)
        ledger.queue.send("g1", to.model_copy(update={"unsubscribe": "offers"}))
        assert len(refused(ledger, to, application="other")) == 1
        assert refused(ledger, to.model_copy(update={"unsubscribe": "news"})) == [("to[0]", LISTED)]

    def test_of_several_is_refused_with_its_index_and_so_are_the_others(self, ledger: Ledger) -> None:
        suppress(ledger, LEYAH)
        with pytest.raises(SuppressedRecipients) as error:
            ledger.queue.send_many([Send("g1", Message(to=[one])) for one in (NOOR, LEYAH)])
        assert [problem.field for problem in error.value.problems] == ["[1].to[0]"]
        assert ledger.rows(schema.job) == []

    def test_goes_to_the_others_if_the_caller_wants_that(self, ledger: Ledger) -> None:
        suppress(ledger, LEYAH)
        message = Message(to=[NOOR, LEYAH], cc=[LEYAH, "sam@example.com"], subject="Invoice 42")
        job = ledger.queue.send("g1", message, suppressed="drop", key="invoice-42")
        assert job.dropped == ("to[1]", "cc[0]")
        (stored,) = enqueued(ledger.queue)
        assert stored.body is not None
        assert [stored.body[name] for name in ("to", "cc")] == [[{"email": NOOR}], [{"email": "sam@example.com"}]]
        (noted,) = ledger.rows(schema.event)
        assert (noted.kind, noted.job_id, noted.number) == ("recipients_dropped", UUID(job.id), 2)
        assert noted.reason == "to[1]: added, cc[0]: added"
        again = ledger.queue.send("g1", message, suppressed="drop", key="invoice-42")
        assert (again.id, again.existed, again.dropped) == (job.id, True, ())
        assert len(ledger.rows(schema.event)) == 1

    def test_that_would_go_to_nobody_is_refused(self, ledger: Ledger) -> None:
        suppress(ledger, LEYAH)
        nobody = f"{LISTED}, and to has no other recipient"
        assert refused(ledger, Message(to=[LEYAH], cc=[NOOR]), suppressed="drop") == [("to[0]", nobody)]
        finished = MimeMessage(b"To: noor@example.com, leyah@example.com\n\n.")
        assert refused(ledger, finished, suppressed="drop") == [("mime.To[1]", LISTED)]

    def test_that_was_accepted_before_returns_its_job(self, ledger: Ledger) -> None:
        """A repeat after a lost answer must not look as if nothing had been sent."""
        message = Message(to=[LEYAH])
        job = ledger.queue.send("g1", message, key="k1")
        suppress(ledger, LEYAH)
        again = ledger.queue.send("g1", message, key="k1")
        assert (again.id, again.existed) == (job.id, True)
        with pytest.raises(KeyConflict):
            ledger.queue.send("g1", message.model_copy(update={"subject": "other"}), key="k1")

    def test_of_a_program_without_the_lists_key_is_left_to_the_claim(self, ledger: Ledger) -> None:
        """Or one bounce would stop a program that is the last to be given a new key."""
        ledger.queue._vault = vault = Vault({"k1": bytes(32)}, accept_unencrypted=True)
        suppress(ledger, LEYAH)
        ledger.queue._vault = Vault()
        job = ledger.send()
        assert claim(ledger, vault=vault) == []
        assert ledger.job(job).rule == SUPPRESSED

    def test_with_an_unknown_choice_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidJob, match="suppressed: is not one of refuse, drop"):
            ledger.queue.send("g1", Message(to=[NOOR]), suppressed="ignore")

    def test_in_the_callers_transaction_sees_what_that_has_changed(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            key = digest_key(connection, Vault())
            entry = Entry("default", digest_of(key, "default", LEYAH), ALL_MAIL, "added", 1, "test")
            suppressions.add(connection, [entry])
            with pytest.raises(SuppressedRecipients):
                ledger.queue.send("g1", Message(to=[LEYAH]), session=connection)
            connection.rollback()
        ledger.queue.send("g1", Message(to=[LEYAH]))

    def test_costs_no_statement_more_where_nobody_is_suppressed(self, pg_ledger: Ledger) -> None:
        """Where a statement is a round trip; what slips through for a second is found at the claim."""
        ledger = pg_ledger
        ledger.send()
        statements: list[str] = []
        event.listen(ledger.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        ledger.send("g2")
        assert len(statements) == 1
        ledger.clock.advance(1)
        suppress(ledger, LEYAH)
        assert refused(ledger, Message(to=[LEYAH])) == [("to[0]", LISTED)]


class TestAnOwnList:
    def test_is_asked_once_for_each_application_and_category(self, ledger: Ledger) -> None:
        asked = []

        def suppressed(application: str, category: str | None, addresses: Sequence[str]) -> list[str]:
            asked.append((application, category, list(addresses)))
            return ["LEYAH@example.com"]

        queue = SendQueue(ledger.engine, now=ledger.clock, suppressed=suppressed, unsubscribe_url="https://x.example/u")
        sends = [Send("g1", Message(to=[NOOR], bcc=[LEYAH])), Send("g1", Message(to=[LEYAH], unsubscribe="news"))]
        with pytest.raises(SuppressedRecipients) as error:
            queue.send_many(sends)
        assert [problem.field for problem in error.value.problems] == ["[0].bcc[0]", "[1].to[0]"]
        assert asked == [("default", None, [NOOR, LEYAH]), ("default", "news", [LEYAH])]
        assert queue.send("g1", sends[0].message, suppressed="drop").dropped == ("bcc[0]",)

    @pytest.mark.parametrize("answer", [None, "leyah@example.com", 1, [1], ZeroDivisionError("leyah@example.com")])
    def test_that_fails_stores_nothing(self, ledger: Ledger, answer: Any) -> None:
        def suppressed(*_: object) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        queue = SendQueue(ledger.engine, now=ledger.clock, suppressed=suppressed)
        with pytest.raises(SuppressionListFailed) as error:
            queue.send("g1", Message(to=[LEYAH]))
        assert "leyah" not in str(error.value)
        assert ledger.rows(schema.job) == []

    def test_that_hangs_stores_nothing_and_does_not_hang_the_caller(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(own_list, "ASK_S", 0.05)
        monkeypatch.setattr(async_own_list, "ASK_S", 0.05)
        go_on = Event()
        queue = SendQueue(ledger.engine, now=ledger.clock, suppressed=lambda *_: [str(go_on.wait(LIMIT_S))])
        for _ in range(own_list.THREADS + 1):
            with pytest.raises(SuppressionListFailed, match=r"did not answer within 0\.05 s"):
                queue.send("g1", Message(to=[LEYAH]))

        async def story() -> None:
            async def hangs(*_: object) -> list[str]:
                await asyncio.Event().wait()
                return []

            mails = [Send("g1", Message(to=[LEYAH]))]
            for ask in (hangs, lambda *_: [str(go_on.wait(LIMIT_S))]):
                with pytest.raises(SuppressionListFailed, match="did not answer"):
                    await async_own_list.AsyncOwnList(ask).hits(mails)
            assert await async_own_list.AsyncOwnList(lambda *_: [LEYAH]).hits(mails) == [
                Hit(0, "to[0]", "the application's own list")
            ]

        asyncio.run(story())
        go_on.set()
        assert ledger.rows(schema.job) == []
