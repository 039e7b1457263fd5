"""What concerns one message, and what concerns its account: the simulator's magic recipients, on real processes.

Waits are shrunk by the policy's file alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from sendq import Send, State, clock
from sendq.enqueueing.options import Options
from sendq.ids import lane_id
from sendq.ledger import grants
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading, writing
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import eventually

WAIT_S = 0.5
HELD = ("sending_paused", "quota_hour")


@pytest.fixture(scope="module")
def system(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("system")
    with pg_server.database() as name, running(pg_server.url(name), directory) as system:
        wait = f"wait = {{ default = {WAIT_S}, floor = {WAIT_S}, cap = {WAIT_S} }}"
        system.policy.write_text("".join(f'[[change]]\nid = "{rule}"\n{wait}\n' for rule in HELD))
        system.start_worker(SENDQ_ANNOUNCE_AFTER_S="0.5")
        yield system


class Account:
    """One grant, whose first message goes to a magic recipient and twenty others to somebody."""

    def __init__(self, system: System, magic: str, provider: str) -> None:
        self.system, self.grant = system, f"{magic}-{uuid4()}"
        options = Options(provider=provider)
        recipients = [f"{magic}@example.com", *(f"somebody-{number}@example.com" for number in range(20))]
        jobs = system.queue.send_many([Send(self.grant, mail(to), options) for to in recipients])
        self.magic, self.others = jobs[0].id, [job.id for job in jobs[1:]]

    def wait_for_the_others(self) -> None:
        eventually(lambda: {self.system.state(job) for job in self.others} == {State.SENT}, "the other messages sent")

    def wait_for_the_magic_one(self, state: State) -> None:
        eventually(lambda: self.system.state(self.magic) is state, f"the message {state.value}")

    def rules(self) -> list[str]:
        return [attempt.rule for attempt in self.system.queue.job(self.magic).trail]

    def lane(self) -> Any:
        with reading(self.system.engine) as connection:
            wanted = schema.lane.c.id == lane_id("default", self.grant)
            return connection.execute(select(schema.lane).where(wanted)).one()

    def owner_was_called(self) -> bool:
        """Whether the account's owner was ever asked to sign in again."""
        with reading(self.system.engine) as connection:
            wanted = (schema.event.c.grant_id == self.grant, schema.event.c.kind == "reauth_required")
            return connection.execute(select(schema.event).where(*wanted)).first() is not None

    def questions(self) -> int:
        """How often the API was asked about the grant."""
        return sum(one.grant == self.grant and one.operation == "grant" for one in self.system.api.requests)


class TestAnOutboundRule:
    def test_refuses_one_of_twenty_one_messages_and_the_other_twenty_go(self, system: System) -> None:
        account = Account(system, "blocked-rule", "nylas")
        account.wait_for_the_others()
        account.wait_for_the_magic_one(State.DEAD)
        assert account.rules() == ["outbound_rule"]
        assert "outbound rule 'blocked-rule'" in (system.queue.job(account.magic).trail[0].error or "")
        lane = account.lane()
        assert (lane.closed_at, lane.held_rule) == (None, None)
        assert account.questions() <= 2
        assert not account.owner_was_called()


class TestPausedSending:
    def test_holds_the_account_until_it_may_send_again_and_calls_nobody(self, system: System) -> None:
        account = Account(system, "paused", "nylas")
        account.wait_for_the_magic_one(State.SENT)
        account.wait_for_the_others()
        assert account.rules()[:1] == ["sending_paused"]
        assert account.lane().closed_at is None
        assert not account.owner_was_called()


class TestTheSendersQuota:
    def test_holds_the_account_until_the_quota_has_room_and_calls_nobody(self, system: System) -> None:
        account = Account(system, "sender-quota", "imap")
        account.wait_for_the_magic_one(State.SENT)
        account.wait_for_the_others()
        assert account.rules()[:1] == ["quota_hour"]
        assert account.lane().closed_at is None
        assert not account.owner_was_called()


class TestASignInThatTheMailServerRefuses:
    def test_closes_the_account_until_its_owner_who_is_called_has_signed_in(self, system: System) -> None:
        account = Account(system, "smtp-signin", "imap")
        eventually(account.rules, "the first attempt")
        eventually(account.owner_was_called, "the owner called")
        assert account.lane().closed_rule == "sign_in_refused_code"
        assert system.state(account.magic) is State.QUEUED
        assert system.queue.why(account.magic).reason == "reauth"
        assert {system.state(job) for job in account.others} == {State.QUEUED}
        system.queue.cancel(account.magic)  # this recipient would make the grant invalid again
        system.api.grant(account.grant, status="valid")
        with writing(system.engine) as connection:
            grants.reopen(connection, lane_id("default", account.grant), by="webhook", now=clock.now())
        account.wait_for_the_others()
