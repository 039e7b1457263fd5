"""Sends that may have gone out, end to end: a real worker, the API on a socket, both databases.

Time is short here: what took place is moved into the past in the ledger, instead of waiting for an hour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, select, update

from sendq import Message, MimeMessage, State, clock
from sendq.clock import SECOND
from sendq.enqueueing.expiry import NEVER
from sendq.ids import lane_id
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading, writing
from sendq.rules.reconcile import LOOKS_LEAST, ROUNDING
from sendq.simulator import Fault
from tests.support.system import System, mail, running_on
from tests.support.waiting import eventually

LONG_AGO = 3 * 3600 * SECOND
NOT_SENT = Fault.status(504, type="provider_error", message="Provider request timed out.", name="lost")
OVER = {"error": {"code": "ApplicationThrottled", "message": "Application is over its MailboxConcurrency limit."}}
THROTTLED = Fault.status(429, type="rate_limit_error", provider_error=OVER, headers={"Retry-After": "1"}, name="busy")
SENT = Fault.status(504, type="provider_error", message="Provider request timed out.", name="timed out", accepted=True)

numbers = itertools.count()


# The queries are the same for all of these, and tested on both databases (tests/integration/ledger/test_doubt.py).
both = pytest.mark.parametrize("system", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker; each test uses grants of its own."""
    with running_on(getattr(request, "param", "postgresql"), request, tmp_path_factory.mktemp("system")) as system:
        system.start_worker()
        yield system


@pytest.fixture
def grant(system: System) -> Iterator[str]:
    """A grant of this test's own; the API behaves as it should afterwards."""
    yield f"g{next(numbers)}"
    behaviour = system.api.behaviour
    behaviour.index_timeouts, behaviour.keeps_headers, behaviour.listing_delay = True, True, 0.0


def in_doubt(
    system: System, grant: str, fault: Fault = SENT, *, message: Message | MimeMessage | None = None, **options: Any
) -> str:
    """A send whose answer was lost, and whose repeat brought the same answer again."""
    system.api.will(fault, grant=grant, operation="send")
    job = system.queue.send(grant, message or mail(), **options).id
    eventually(lambda: system.state(job) is State.IN_DOUBT, "the doubt")
    eventually(lambda: row_of(system, job).look_at is not None, "its being taken up")
    return job


def sent(system: System, grant: str) -> str:
    job = system.queue.send(grant, mail()).id
    eventually(lambda: system.state(job) is State.SENT, "the later message")
    return job


def row_of(system: System, job: str) -> Row[Any]:
    with reading(system.engine) as connection:
        return connection.execute(select(schema.job).where(schema.job.c.id == UUID(job))).one()


def set_job(system: System, job: str, **values: Any) -> None:
    with writing(system.engine) as connection:
        connection.execute(update(schema.job).where(schema.job.c.id == UUID(job)).values(**values))


def long_ago(system: System, job: str) -> None:
    """Whatever was done for this job was done hours ago."""
    jobs, attempts = schema.job, schema.attempt
    past = {name: jobs.c[name] - LONG_AGO for name in ("key_at", "doubt_at", "refused_at", "due_at", "created_at")}
    with writing(system.engine) as connection:
        connection.execute(update(jobs).where(jobs.c.id == UUID(job)).values(**past))
        moved = {"begun_at": attempts.c.begun_at - LONG_AGO, "ended_at": attempts.c.ended_at - LONG_AGO}
        connection.execute(update(attempts).where(attempts.c.job_id == UUID(job)).values(**moved))


def questions(system: System, grant: str) -> int:
    return sum(one.grant == grant and one.operation == "list" for one in system.api.requests)


def look(system: System, job: str) -> Row[Any]:
    """Have the mailbox asked now; the job once the look is noted."""
    set_job(system, job, look_at=1, seen=None)
    eventually(lambda: row_of(system, job).seen is not None or system.state(job) is not State.IN_DOUBT, "the look")
    return row_of(system, job)


def accepted(system: System, grant: str) -> int:
    return sum(one.grant == grant for one in system.api.mailbox)


class TestAMessageThatWentOut:
    @both
    def test_is_found_by_its_metadata_long_before_its_key_is_over(self, system: System, grant: str) -> None:
        job = in_doubt(system, grant)
        look(system, job)
        (out,) = [one for one in system.api.mailbox if one.grant == grant]
        seen = system.queue.job(job)
        assert (seen.state, seen.message_id, seen.rule) == (State.SENT, out.id, "found")
        assert [one.rule for one in seen.trail][-2:] == ["provider_timeout", "found"]
        assert seen.trail[-1].sent == "yes"

    def test_is_found_by_its_header_where_timeouts_are_not_indexed(self, system: System, grant: str) -> None:
        system.api.behaviour.index_timeouts = False
        job = in_doubt(system, grant)
        long_ago(system, job)
        look(system, job)
        assert system.state(job) is State.SENT
        assert accepted(system, grant) == 1

    def test_is_found_by_the_send_events_of_an_agent_account_while_no_index_shows_it(
        self, system: System, grant: str
    ) -> None:
        system.api.behaviour.index_timeouts = False
        system.api.behaviour.listing_delay = 3600.0
        system.api.grant(grant, provider="nylas")
        job = in_doubt(system, grant, provider="nylas")
        look(system, job)
        assert (system.state(job), accepted(system, grant), questions(system, grant)) == (State.SENT, 1, 0)

    def test_is_found_by_its_metadata_where_the_provider_drops_headers(self, system: System, grant: str) -> None:
        system.api.behaviour.keeps_headers = False
        job = in_doubt(system, grant)
        look(system, job)
        assert system.state(job) is State.SENT

    def test_is_found_by_its_header_if_it_was_finished_mime_that_has_no_metadata(
        self, system: System, grant: str
    ) -> None:
        finished = MimeMessage(b"From: a@example.com\r\nTo: leyah@example.com\r\nSubject: 42\r\n\r\n42\r\n")
        job = in_doubt(system, grant, message=finished)
        look(system, job)
        assert system.state(job) is State.SENT

    def test_is_not_sent_again_while_no_index_shows_it(self, system: System, grant: str) -> None:
        system.api.behaviour.index_timeouts = False
        system.api.behaviour.listing_delay = 3600.0
        job = in_doubt(system, grant)
        long_ago(system, job)
        sent(system, grant)
        assert [look(system, job).seen for _ in range(2)] == ["silent"] * 2
        assert accepted(system, grant) == 2

    def test_is_not_sent_again_where_neither_mark_survives(self, system: System, grant: str) -> None:
        system.api.behaviour.index_timeouts = system.api.behaviour.keeps_headers = False
        job = in_doubt(system, grant)
        long_ago(system, job)
        sent(system, grant)
        assert [look(system, job).seen for _ in range(2)] == ["silent"] * 2
        assert accepted(system, grant) == 2


class TestAMessageThatDidNotGoOut:
    @both
    def test_goes_under_a_new_key_once_its_absence_was_proven_twice(self, system: System, grant: str) -> None:
        job = in_doubt(system, grant, NOT_SENT)
        long_ago(system, job)
        sent(system, grant)
        once = look(system, job)
        assert (once.seen, once.misses, once.state) == ("absent", 1, "in_doubt")
        assert once.look_at >= clock.now() + 240 * SECOND  # not at once: the same stale page would say it twice
        look(system, job)
        eventually(lambda: system.state(job) is State.SENT, "the new generation")
        keys = [one.key for one in system.api.requests if one.job == job and one.operation == "send"]
        assert set(keys) == {f"{job}:0", f"{job}:1"}
        assert accepted(system, grant) == 2
        assert "not_in_mailbox" in [one.rule for one in system.queue.job(job).trail]

    def test_does_not_go_before_its_keys_hour_is_over(self, system: System, grant: str) -> None:
        job = in_doubt(system, grant, NOT_SENT)
        sent(system, grant)
        seen = look(system, job)
        assert (seen.seen, seen.misses, seen.looks) == ("early", 0, 0)

    def test_does_not_go_while_no_later_message_shows_the_listing_up_to_date(self, system: System, grant: str) -> None:
        job = in_doubt(system, grant, NOT_SENT)
        long_ago(system, job)
        assert look(system, job).seen == "silent"
        why = system.queue.why(job)
        assert (why.reason, why.until is not None) == ("in_doubt", True)
        assert "no later message" in why.says or "nor a later message" in why.says

    def test_does_not_go_while_it_lies_among_the_drafts(self, system: System, grant: str) -> None:
        job = in_doubt(system, grant, NOT_SENT)
        long_ago(system, job)
        header = [{"name": "X-Sendq-Job", "value": job}]
        system.api.message(grant, f"draft-{job}", headers=header, folders=["DRAFT"])
        sent(system, grant)
        assert look(system, job).seen == "draft"

    @pytest.mark.parametrize("ending", ["expired", "cancelled", "dead"])
    def test_ends_if_it_is_not_to_go_any_more(self, system: System, grant: str, ending: str) -> None:
        job = in_doubt(system, grant, NOT_SENT, in_doubt="dead" if ending == "dead" else None)
        long_ago(system, job)
        sent(system, grant)
        if ending == "expired":
            set_job(system, job, expires_at=1)
        elif ending == "cancelled":
            system.queue.cancel(job)
        look(system, job)
        look(system, job)
        assert system.state(job) is State(ending)
        assert accepted(system, grant) == 1

    @both
    def test_goes_by_itself_if_that_was_chosen_and_looking_was_in_vain(self, system: System, grant: str) -> None:
        job = in_doubt(system, grant, NOT_SENT, in_doubt="resend", expires_at=NEVER)
        for _ in range(5):
            long_ago(system, job)
        set_job(system, job, looks=LOOKS_LEAST)
        eventually(lambda: system.state(job) is State.SENT, "the new generation")
        assert "in_doubt_resent" in [one.rule for one in system.queue.job(job).trail]
        with reading(system.engine) as connection:
            wanted = select(schema.event).where(schema.event.c.job_id == UUID(job))
            (event,) = connection.execute(wanted).all()
        assert (event.by, event.rule) == ("reconcile", "in_doubt_resent")


class TestAThrottleThatMayHaveComeAfterTheMessageWentOut:
    @both
    @pytest.mark.parametrize("went_out", [True, False])
    def test_is_settled_by_one_listing_long_before_the_keys_hour_is_over(
        self, system: System, grant: str, went_out: bool
    ) -> None:
        job = in_doubt(system, grant, replace(THROTTLED, accepted=went_out), provider="microsoft")
        row = row_of(system, job)
        assert row.look_at == row.refused_at + 900 * SECOND + ROUNDING  # when the index has had its time
        set_job(system, job, refused_at=row.refused_at - 903 * SECOND)
        look(system, job)
        eventually(lambda: system.state(job) is State.SENT, "the message")
        assert accepted(system, grant) == 1
        assert questions(system, grant) == 1
        keys = [one.key for one in system.api.requests if one.job == job and one.operation == "send"]
        assert keys == [f"{job}:0"] + [f"{job}:1"] * (not went_out)
        assert ("found" if went_out else "not_in_mailbox") in [one.rule for one in system.queue.job(job).trail]

    def test_is_not_sent_if_it_left_a_draft(self, system: System, grant: str) -> None:
        job = in_doubt(system, grant, THROTTLED, provider="microsoft")
        system.api.folder(grant, "AAMkAD", "\\Drafts")
        system.api.message(grant, "d1", headers=[{"name": "X-Sendq-Job", "value": job}], folders=["AAMkAD"])
        set_job(system, job, refused_at=row_of(system, job).refused_at - 903 * SECOND)
        assert look(system, job).seen == "draft"

    def test_costs_one_listing_each_time(self, system: System, grant: str) -> None:
        system.api.will(THROTTLED, grant=grant, operation="send", times=3)
        job = system.queue.send(grant, mail(), provider="microsoft", in_doubt="dead").id

        def waits_for_a_look(generation: int) -> bool:
            row = row_of(system, job)
            return row.generation == generation and row.look_at is not None

        for generation in range(3):
            eventually(partial(waits_for_a_look, generation), "the doubt")
            set_job(system, job, refused_at=row_of(system, job).refused_at - 903 * SECOND, look_at=1)
        eventually(lambda: system.state(job) is State.SENT, "the message")
        assert (questions(system, grant), accepted(system, grant)) == (3, 1)


class TestCourtesy:
    def test_nothing_is_asked_inside_a_hold(self, system: System, grant: str) -> None:
        job, other = in_doubt(system, grant), in_doubt(system, f"{grant}-open")
        with writing(system.engine) as connection:
            lane = schema.lane
            held = update(lane).where(lane.c.id == lane_id("default", grant))
            connection.execute(held.values(held_until=clock.now() + 3600 * SECOND, held_rule="test", held_by="test"))
        set_job(system, job, look_at=1)
        look(system, other)
        assert system.state(other) is State.SENT
        assert questions(system, grant) == 0

    def test_a_mailbox_that_hangs_keeps_no_other_waiting(self, system: System, grant: str) -> None:
        hanging = in_doubt(system, grant)
        system.api.will(Fault.hang(), grant=grant, operation="list")
        set_job(system, hanging, look_at=1)
        eventually(lambda: questions(system, grant) == 1, "the question that hangs")
        for number in range(3):
            job = in_doubt(system, f"{grant}-{number}")
            look(system, job)
            assert system.state(job) is State.SENT
        assert system.state(hanging) is State.IN_DOUBT

    def test_a_mailbox_that_refuses_is_left_alone_with_all_its_doubts(self, system: System, grant: str) -> None:
        jobs = [in_doubt(system, grant) for _ in range(3)]
        refusal = Fault.status(429, type="rate_limit_error", message="slow down", headers={"Retry-After": "900"})
        system.api.will(refusal, grant=grant, operation="list", times=None)
        for job in jobs:
            set_job(system, job, look_at=1)
        eventually(lambda: all(row_of(system, job).look_at > clock.now() + 600 * SECOND for job in jobs), "the rest")
        assert questions(system, grant) == 1
