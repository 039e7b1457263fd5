"""Notifications about mail that arrive together are applied together: one transaction for all that came meanwhile.

A campaign's reports come in bursts, and a transaction for each would spend most of its time on its commit. Nothing
waits for a group to fill: the first notification is applied at once, and those that arrive while its transaction runs
are the next group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sendq.errors import LedgerUnavailable, SendqError
from sendq.facts.notices import MailNotice, OutcomeOptions
from sendq.queue import SendQueue
from sendq.webhooks.notice import Received
from sendq.webhooks.receiving import answer_of, taking_in

if TYPE_CHECKING:
    from sendq.async_queue import AsyncSendQueue

# Notifications in one transaction: it lasts some tens of milliseconds, and its locks as long.
GROUP_MOST = 200

# Notifications that may wait: ten groups, which a ledger that works stores well before their requests give up. Nylas
# delivers the others again; to keep them here would only make those that wait too late as well.
WAITING_MOST = 10 * GROUP_MOST

_BUSY = Received(503, "too many notifications wait for the ledger; deliver it again")

Waiting = list[tuple[MailNotice, asyncio.Future[Received]]]


class Groups:
    """Applies notifications about mail in groups, one group of each application at a time."""

    def __init__(self, queue: SendQueue | AsyncSendQueue, *, outcomes: OutcomeOptions) -> None:
        self._queue, self._outcomes = queue, outcomes
        # An ASGI application may be served by several event loops.
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Waiting]] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references only

    async def apply(self, notice: MailNotice, application: str) -> Received:
        """Apply a notification; returns the answer once its transaction has ended, or 503 if too many wait."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Received] = loop.create_future()
        waiting = self._loops.setdefault(loop, {})
        if len(waiting.get(application, ())) >= WAITING_MOST:
            return _BUSY
        if application in waiting:
            waiting[application].append((notice, done))
        else:
            waiting[application] = [(notice, done)]
            task = loop.create_task(self._run(waiting, application))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await done

    async def _run(self, waiting: dict[str, Waiting], application: str) -> None:
        while group := _next_group(waiting[application]):
            answers = await self._answers([notice for notice, _ in group], application)
            for (_, done), answer in zip(group, answers, strict=True):
                if done.done():  # its request has given up
                    continue
                if isinstance(answer, Received):
                    done.set_result(answer)
                else:
                    done.set_exception(answer)
        del waiting[application]

    async def _answers(self, notices: Sequence[MailNotice], application: str) -> list[Received | Exception]:
        try:
            return [answer_of(result) for result in await self._take_in(notices, application)]
        except LedgerUnavailable as error:
            return [Received(503, str(error))] * len(notices)
        except Exception as error:
            if len(notices) == 1:
                return [Received(503, str(error)) if isinstance(error, SendqError) else error]
        # One of them is at fault, or met a deadlock: the others need not be delivered again.
        return [(await self._answers([notice], application))[0] for notice in notices]

    async def _take_in(self, notices: Sequence[MailNotice], application: str) -> list[str]:
        action = taking_in(self._queue, notices, application, self._outcomes)
        if isinstance(self._queue, SendQueue):
            return await asyncio.to_thread(self._queue._ledger.write, None, action)
        return await self._queue._ledger.write(None, action)


def _next_group(waiting: Waiting) -> Waiting:
    """Take the next group off the list, and drop those whose requests have given up: Nylas delivers them again."""
    waiting[:] = [(notice, done) for notice, done in waiting if not done.done()]
    group = waiting[:GROUP_MOST]
    del waiting[:GROUP_MOST]
    return group
