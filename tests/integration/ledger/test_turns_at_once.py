"""Turns that are claimed in the transaction that offers them: as `claim` would, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from sendq import Send
from sendq.clock import moment
from sendq.errors import Retryable
from sendq.facts.turns import Claimed
from sendq.ledger.db import schema
from sendq.ledger.dispatching.offers import offer_turns
from sendq.ledger.dispatching.turns import claim, claim_at_once
from sendq.rules.preflight import KEY_MAX_AGE
from sendq.vault import Vault
from tests.support.ledger import MESSAGE, Ledger

# Or the plain jobs here would be left for that alone.
VAULT = Vault({"k1": bytes(32)}, accept_unencrypted=True)
STRICT = Vault({"k1": bytes(32)})


def at_once(ledger: Ledger, *, jobs_each: int = 50, **options: Any) -> list[Claimed]:
    """One round of a dispatcher that claims what it offers."""
    ledger.absorb()
    with ledger.writing() as connection:
        opened = ledger.opened_in(connection)
        given: dict[str, Any] = {"worker": ledger.worker, "now": ledger.clock(), "jobs_each": jobs_each} | options
        return claim_at_once(connection, opened, **given)


def state_of(ledger: Ledger) -> list[Any]:
    """All that a claim may change."""
    return [ledger.rows(table) for table in (schema.job, schema.lane, schema.event, schema.batch_change)]


class TestATurnThatIsClaimedAtOnce:
    def test_is_as_any_other(self, ledger: Ledger) -> None:
        high, low = ledger.send(priority="high"), ledger.send(priority="low")
        ledger.send(due_at=moment(ledger.clock()) + timedelta(hours=1))
        ledger.send("g2")
        ledger.absorb()
        with ledger.engine.connect() as connection:  # rolled back
            offered = offer_turns(connection, ledger.due_in(connection), now=ledger.clock())
            turns = [(turn.lane_id, turn.fence) for turn in offered]
            usual = claim(connection, turns, worker=ledger.worker, now=ledger.clock(), jobs_each=50)
            connection.rollback()
        found = at_once(ledger)
        by_lane = {one.lane.id: one for one in usual}
        assert [by_lane[one.lane.id] for one in found] == found
        first = next(one for one in found if one.lane.id == ledger.lane().id)
        assert [job.id for job in first.jobs] == [high, low]
        assert first.begun == {high}
        assert (ledger.lane().turn, ledger.lane().turn_worker) == ("claimed", ledger.worker)
        assert (ledger.job(high).state, ledger.job(high).turn) == ("sending", 1)
        assert (ledger.job(low).state, ledger.job(low).turn) == ("queued", None)

    def test_loads_no_more_than_it_is_told_to(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(5)])
        ledger.clock.advance(1)
        (claimed,) = at_once(ledger, jobs_each=3)
        assert len(claimed.jobs) == 3

    def test_has_the_bodies_in_the_clear(self, ledger: Ledger) -> None:
        ledger.queue._vault = VAULT
        ledger.send()
        (claimed,) = at_once(ledger, vault=VAULT)
        assert b"Invoice 42" in claimed.jobs[0].body


def expired(ledger: Ledger) -> None:
    ledger.send(expires_at=moment(ledger.clock()) + timedelta(seconds=1))
    ledger.clock.advance(2)


def too_old_a_key(ledger: Ledger) -> None:
    job = ledger.send()
    with ledger.writing() as connection:
        old = ledger.clock() - KEY_MAX_AGE - 1
        connection.execute(schema.job.update().where(schema.job.c.id == job).values(key_at=old, doubt_at=old))


def a_change_of_a_message(ledger: Ledger) -> None:
    ledger.modify("g1", ["m1"], unread=False)


def of_a_newer_version(ledger: Ledger) -> None:
    job = ledger.send()
    with ledger.writing() as connection:
        connection.execute(schema.job.update().where(schema.job.c.id == job).values(operation="fax"))


def sealed_with_a_missing_key(ledger: Ledger) -> None:
    ledger.queue._vault = Vault({"other": bytes([1]) * 32})
    ledger.send()


def damaged(ledger: Ledger) -> None:
    ledger.queue._vault = VAULT
    job = ledger.send()
    with ledger.writing() as connection:
        connection.execute(schema.payload.update().where(schema.payload.c.job_id == job).values(body=b"\x00" * 64))


def moved_to_another_grant(ledger: Ledger) -> None:
    ledger.queue._vault = VAULT
    ledger.send()
    ledger.absorb()
    with ledger.writing() as connection:
        connection.execute(schema.lane.update().values(grant_id="another"))


def a_ledger_that_is_shut(ledger: Ledger) -> None:
    ledger.send()
    with ledger.writing() as connection:
        connection.execute(schema.leader.update().values(shut_at=1, shut_because="lost"))


class TestATurnThatNeedsMoreThanALook:
    @pytest.mark.parametrize(
        "given",
        [
            expired,
            too_old_a_key,
            a_change_of_a_message,
            of_a_newer_version,
            sealed_with_a_missing_key,
            damaged,
            moved_to_another_grant,
            a_ledger_that_is_shut,
        ],
    )
    def test_is_left_as_it_is(self, ledger: Ledger, given: Callable[[Ledger], object]) -> None:
        given(ledger)
        ledger.queue.send("g2", MESSAGE)  # its turn is left too: all or none
        ledger.absorb()
        before = state_of(ledger)
        with ledger.writing() as connection:
            opened = ledger.opened_in(connection)
            assert [lane.is_offered for lane in opened] == [True, True]
            options: dict[str, Any] = {"worker": ledger.worker, "now": ledger.clock(), "jobs_each": 50, "vault": VAULT}
            assert claim_at_once(connection, opened, **options) == []
        assert state_of(ledger) == before

    def test_is_left_if_it_is_not_encrypted_though_there_is_a_key(self, ledger: Ledger) -> None:
        ledger.send()
        assert at_once(ledger, vault=STRICT) == []

    def test_is_left_while_the_ledger_has_lost_what_this_worker_knew(self, ledger: Ledger) -> None:
        ledger.send()
        assert at_once(ledger, is_whole=lambda standing: False) == []
        assert ledger.lane().turn is None


class TestAJobThatAnotherTransactionHasLocked:
    def test_is_not_waited_for(self, pg_ledger: Ledger) -> None:
        job: UUID = pg_ledger.send()
        before = state_of(pg_ledger)
        with pg_ledger.engine.connect() as other:
            other.execute(schema.job.select().where(schema.job.c.id == job).with_for_update())
            with pytest.raises(Retryable):
                at_once(pg_ledger)
            other.rollback()
        assert pg_ledger.lane().turn is None
        assert state_of(pg_ledger)[0] == before[0]
        (claimed,) = at_once(pg_ledger)
        assert claimed.begun == {job}
