"""The leader's work on jobs that follow another (`sendq.ledger.dispatching.followers`).

Threads are read a few at a time and one per grant, as the reconciler searches mailboxes: regular jobs have priority.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy import Engine as Ledger

from sendq import clock
from sendq.clock import Micros
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import followers
from sendq.ledger.dispatching.followers import Ended
from sendq.ledger.dispatching.threads import Thread, threads_to_read
from sendq.vault import Vault
from settings import Settings
from tasks.calling.thread import ThreadRead, read_thread
from tasks.policy.failure import Failure, parse
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.leading.mailbox_readings import NOT_CONFIGURED, OF_THE_LEDGER, MailboxReadings
from worker.leading.work_poll import WorkPoll
from worker.serving.engine import Engine
from worker.telemetry import journal

ROUND_S = 1.0

# The longest pause that an account may ask for by its refusal of a reading.
PAUSE_MOST: Micros = clock.seconds(3_600)

# Before a follower is looked at again after an unexpected error.
AFTER_BUG_S = 600.0

# What is recorded if no answer says why a thread could not be read.
NO_ANSWER = "no_answer"

_FIRST = UUID(int=0)


class Followers(LeaderLoop):
    """See the module."""

    def __init__(
        self,
        ledger: Ledger,
        leadership: Leads,
        poll: WorkPoll,
        engine: Engine,
        settings: Settings,
        *,
        now: clock.Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("followers", leadership, every_s=ROUND_S, whole_ledger=True)
        self._ledger, self._poll, self._engine, self._settings = ledger, poll, engine, settings
        self._now, self._monotonic = now, monotonic
        self._skipped: dict[UUID, float] = {}  # waiting followers with an unexpected error, and until when; monotonic
        self._after = _FIRST
        self._turn = _FIRST  # the lane after which the next has its turn to be read
        self._readings: MailboxReadings[Thread, ThreadRead] = MailboxReadings(
            engine, late=ThreadRead(None), monotonic=monotonic
        )

    def stand_by(self) -> None:
        """Forget the readings on the wire: the leader begins its own."""
        self._readings.forget()

    def lead_once(self) -> None:
        """One round: act on readings, look at the next waiting followers, move on those whose time has come."""
        self._readings.conclude(self._conclude, loop="followers")
        if not self._poll.since(self.due_at).followers:
            return
        self._settle()
        self._move_on()
        self._begin_reading()

    def _settle(self) -> None:
        """Look at the next slice of waiting followers; further down a chain at once, as long as some end."""
        while self.may_act:
            with reading(self._ledger) as connection:
                ids, after = followers.settled(connection, after=self._after)
            at = self._monotonic()
            self._skipped = {job_id: until for job_id, until in self._skipped.items() if until > at}
            ids = [job_id for job_id in ids if job_id not in self._skipped]
            ended: list[Ended] = []
            for first in range(0, len(ids), followers.STEP):
                ended += self._step(ids[first : first + followers.STEP], followers.settle)
            self._after = after or _FIRST
            if after is not None or not ended:
                return

    def _move_on(self) -> None:
        more = True
        while more and self.may_act:
            with reading(self._ledger) as connection:
                ids = followers.movable(connection, now=self._now(), limit=followers.STEP)
            ids = [job_id for job_id in ids if job_id not in self._skipped]
            more = len(ids) == followers.STEP

            def move(connection: Connection, some: Sequence[UUID], *, now: Micros, vault: Vault) -> list[Ended]:
                nonlocal more
                ended, left = followers.move(connection, some, now=now, vault=vault)
                more = more or left
                return ended

            self._step(ids, move)

    def _step(self, ids: Sequence[UUID], act: Callable[..., list[Ended]]) -> list[Ended]:
        """Do something with some followers in one transaction; returns those that ended.

        If one of them causes an unexpected error, it is found by halves and put off, so that it stops no other.
        """
        if not ids:
            return []
        try:
            with writing(self._ledger) as connection:
                ended = act(connection, ids, now=self._now(), vault=self._settings.vault)
        except OF_THE_LEDGER:
            raise
        except Exception:
            if len(ids) > 1:
                middle = len(ids) // 2
                return self._step(ids[:middle], act) + self._step(ids[middle:], act)
            journal.bug("followers", job=str(ids[0]))
            self._skipped[ids[0]] = self._monotonic() + AFTER_BUG_S
            self._put_off(ids[0])
            return []
        self._note(ended)
        return ended

    def _put_off(self, job_id: UUID) -> None:
        """Have the ledger name a follower only later, so that it takes no place among those to move on."""
        try:
            with writing(self._ledger) as connection:
                followers.put_off(connection, job_id, until=self._now() + clock.seconds(AFTER_BUG_S))
        except OF_THE_LEDGER:
            raise
        except Exception:
            journal.bug("followers", job=str(job_id))

    def _begin_reading(self) -> None:
        room = self._readings.room
        if room <= 0:
            return
        with reading(self._ledger) as connection:
            threads, self._turn = threads_to_read(
                connection, now=self._now(), limit=room, busy=self._readings.busy(), after=self._turn
            )
        for thread in threads:
            try:
                application = self._engine.application(thread.application)
            except KeyError:
                self._failed(thread, NOT_CONFIGURED, 0)
                continue
            read = partial(read_thread, application=application, grant_id=thread.grant_id, message_id=thread.message_id)
            self._readings.begin(thread.lane_id, thread, read)

    def _conclude(self, thread: Thread, found: ThreadRead) -> None:
        now = self._now()
        if found.replied is None:
            stated, error = 0, NO_ANSWER
            if found.refusal is not None:
                said = parse(found.refusal, provider=thread.provider, operation="modify", now=now)
                if isinstance(said, Failure):
                    stated, error = min(said.stated or 0, PAUSE_MOST), said.type or str(said.status or NO_ANSWER)
            self._failed(thread, error, stated)
            return
        self._step([thread.job_id], partial(followers.conclude, replied=found.replied))

    def _failed(self, thread: Thread, error: str, stated: Micros) -> None:
        """A thread could not be read: it is tried again later."""
        journal.thread_not_read(thread.job_id, thread.grant_id, error)
        self._step([thread.job_id], partial(followers.conclude, replied=None, stated=stated, rule=error))

    def _note(self, ended: Iterable[Ended]) -> None:
        for one in ended:
            journal.follower_ended(one.id, one.after_id, one.rule)
