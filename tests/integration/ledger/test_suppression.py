"""The suppression list on both databases: what puts recipients on it, and what it does to their mail."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, select

from sendq import Attachment, Message, MimeMessage, Operators, Vault
from sendq.facts.turns import Claimed, Unopened
from sendq.ledger import suppressions
from sendq.ledger.db import schema
from sendq.ledger.dispatching.offers import offer_whole_turns
from sendq.ledger.dispatching.turns import claim as usual_claim
from sendq.ledger.dispatching.turns import claim_at_once
from sendq.ledger.secrets import digest_key, stored_digest_key
from sendq.ledger.suppressions import Entry
from sendq.messages.digests import digest_of
from sendq.rules.rule_ids import NO_KEY, SUPPRESSED
from sendq.rules.suppression import ALL_MAIL
from tests.integration.ledger.test_mail_notices import report, sent
from tests.support.ledger import Ledger, end

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
        opened = offer_whole_turns(connection, ledger.due_in(connection), now=ledger.clock())
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
        assert (others, with_a_list) == (alone, alone + 1)
