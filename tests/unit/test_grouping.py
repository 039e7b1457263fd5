"""Notifications about mail that wait for the group before them: those whose requests have given up, and too many."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from sendq import SendQueue
from sendq.facts.notices import MailNotice, OutcomeOptions
from sendq.ledger.mail_notices import APPLIED
from sendq.webhooks.grouping import WAITING_MOST, Groups
from sendq.webhooks.notice import Received


class SlowGroups(Groups):
    """Each group takes until it is let through."""

    def __init__(self) -> None:
        super().__init__(SendQueue("sqlite://"), outcomes=OutcomeOptions())
        self.taken: list[list[str]] = []
        self.through = asyncio.Event()

    async def _take_in(self, notices: Sequence[MailNotice], application: str) -> list[str]:
        self.taken.append([notice.id for notice in notices])
        await self.through.wait()
        return [APPLIED] * len(notices)

    def arrive(self, name: str) -> asyncio.Task[Received]:
        """A request with a notification."""
        notice = MailNotice(name, "message.bounced", None, "g1", [UUID(int=1)], None, None)
        return asyncio.get_running_loop().create_task(self.apply(notice, "default"))


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_request_that_has_given_up_is_not_stored_with_the_next_group() -> None:
    async def run() -> None:
        groups = SlowGroups()
        first = groups.arrive("first")
        await settle()
        given_up, waits = [groups.arrive(f"early {number}") for number in range(500)], groups.arrive("waits")
        await settle()
        for request in given_up:
            request.cancel()
        await settle()
        groups.through.set()
        assert [(await one).status for one in (first, waits)] == [200, 200]
        assert groups.taken == [["first"], ["waits"]]

    asyncio.run(run())


def test_more_than_can_be_stored_in_time_are_refused_at_once_and_the_others_stored() -> None:
    async def run() -> None:
        groups = SlowGroups()
        requests = [groups.arrive(str(number)) for number in range(WAITING_MOST + 20)]
        await settle()
        refused = [request for request in requests if request.done()]
        assert [request.result().status for request in refused] == [503] * len(refused)
        assert 0 < len(refused) <= 20
        groups.through.set()
        answers = [(await request).status for request in requests]
        assert answers.count(200) == sum(map(len, groups.taken)) == len(requests) - len(refused)
        assert (await groups.arrive("later")).status == 200

    asyncio.run(run())
