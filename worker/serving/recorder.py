"""The recorder: commits the outcomes of all turns of this process in groups.

What arrives during one commit forms the next group: under load a group covers many turns, otherwise an outcome is
committed at once. Nothing is ever dropped: while the ledger is unavailable, outcomes are kept, and they are written
first when it is back. A job goes on the wire only after its commit, so a process without a ledger begins no calls.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Engine, exc

from sendq.clock import Clock, Micros
from sendq.errors import Retryable
from sendq.facts.outcomes import Outcome, Sent
from sendq.facts.turns import Begin, End, Group, Recorded, Shrink
from sendq.ledger.db.engine import meaning_of
from sendq.ledger.db.kept_connection import KeptConnection
from sendq.ledger.dispatching.record import record
from sendq.ledger.enqueue import NO_VAULT
from sendq.rules.states import Event
from sendq.vault import Vault
from tasks import failpoints
from worker.telemetry import journal, metrics

# With more in one transaction, the first of them would wait too long for the last.
GROUP_MOST = 500

# Pause between attempts while the ledger is unavailable.
PAUSE_FIRST_S, PAUSE_MOST_S = 0.05, 1.0

# How often it is written that a pair works: far below `sendq.rules.pace.PROVEN_FOR`, and short, because for this long
# only one call at a time is made after a hold that another process recorded.
PROVEN_AGAIN_S = 2.0

TEXT_REFUSED = "(the ledger refused this text)"


class Entry(NamedTuple):
    """What one turn wants committed in one transaction; then ``done`` is called with the jobs that may begin."""

    pair: tuple[str, str]  # (application, provider)
    outcome: Outcome | None
    begins: Sequence[Begin]
    end: End | None
    done: Callable[[set[UUID]], None]
    shrink: Shrink | None = None


class Recorder:
    """One thread, one connection at a time."""

    def __init__(
        self,
        engine: Engine,
        *,
        now: Clock,
        on_recorded: Callable[[Sequence[Outcome], Recorded], None],
        on_paused: Callable[[str], None] = lambda application: None,
        run_there: Callable[[Callable[[], None]], None] = lambda step: step(),
        vault: Vault = NO_VAULT,
    ) -> None:
        """``on_recorded`` is called with every committed group (for events and logs); it must be quick.

        ``on_paused`` is called with each application that was paused, before any further job of it may begin.
        ``run_there`` runs a function in the thread of the turns that wait for their entries: once for a whole group.
        """
        self._vault, self._run_there = vault, run_there
        self._now, self._on_recorded, self._on_paused = now, on_recorded, on_paused
        self._connection = KeptConnection(engine)
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sendq-recorder", daemon=True)
        self._gone = threading.Event()
        self._proven_until: dict[tuple[str, str], float] = {}
        self._in_flight = 0  # entries of the group that is being committed
        self.tries = 0  # failed commits

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Have an entry committed, after all earlier ones."""
        self._entries.put(entry)

    @property
    def waiting(self) -> int:
        """The number of entries that are not yet committed."""
        return self._entries.qsize() + self._in_flight

    def stop(self, limit_s: float) -> bool:
        """Commit what is waiting and end; False if that was not possible within the limit."""
        self._entries.put(None)
        self._thread.join(limit_s)
        self._gone.set()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._commit_entries()
        finally:
            self._connection.close()

    def _commit_entries(self) -> None:
        while (first := self._entries.get()) is not None:
            entries = [first]
            last = False
            while len(entries) < GROUP_MOST and not self._entries.empty():
                entry = self._entries.get()
                if entry is None:
                    last = True
                    break
                entries.append(entry)
            self._in_flight = len(entries)
            self._commit_until_done(entries)
            self._in_flight = 0
            if last:
                return

    def _commit_until_done(self, entries: Sequence[Entry]) -> None:
        """Commit in one transaction; if the ledger rejects the data, in two halves, down to the faulty entry.

        Parts that are committed are done: if the connection breaks later, they are not written or reported again.
        """
        parts = deque([entries])
        pause = PAUSE_FIRST_S
        while parts and not self._gone.is_set():
            try:
                self._commit(parts[0])
                parts.popleft()
                pause = PAUSE_FIRST_S
            except Exception as error:
                if not _is_transient(error):
                    parts.extendleft(reversed(self._without_rejected(parts.popleft(), error)))
                    continue
                # The connection, a lock, a full disk: not the data.
                self.tries += 1
                metrics.commit_failed()
                log = journal.ledger_conflict if _is_conflict(error) else journal.ledger_unavailable
                log(error, waiting=sum(map(len, parts)) + self._entries.qsize())
                time.sleep(pause)
                pause = min(PAUSE_MOST_S, pause * 2)

    def _commit(self, entries: Sequence[Entry]) -> None:
        began = time.monotonic()
        group = self._group_of(entries)
        with self._connection.begin() as connection:
            recorded = record(connection, group, now=self._now(), vault=self._vault)
            failpoints.reached("recording")
        failpoints.reached("recorded")
        metrics.committed(len(group.outcomes), time.monotonic() - began)
        held = {entry.pair[0] for entry in entries if entry.outcome is not None and _holds_above(entry.outcome)}
        for pair in [pair for pair in self._proven_until if pair[0] in held]:
            del self._proven_until[pair]
        for pair, ramp in recorded.ramps.items():
            self._proven_until[pair] = 0.0 if ramp is not None else time.monotonic() + PROVEN_AGAIN_S
        self._run_there(partial(self._call_done, entries, recorded))
        try:
            self._on_recorded(group.outcomes, recorded)
        except Exception:  # it is recorded already; without this thread the worker would hang but look alive
            journal.bug("on_recorded")

    def _group_of(self, entries: Sequence[Entry]) -> Group:
        return Group(
            outcomes=[entry.outcome for entry in entries if entry.outcome is not None],
            proven=self._proven_by(entries),
            begins=[begin for entry in entries for begin in entry.begins],
            ends=[entry.end for entry in entries if entry.end is not None],
            shrinks=[entry.shrink for entry in entries if entry.shrink is not None],
        )

    def _proven_by(self, entries: Sequence[Entry]) -> dict[tuple[str, str], Micros]:
        """Pairs that a call has shown to work, with the time it began; repeated only every `PROVEN_AGAIN_S`."""
        proven: dict[tuple[str, str], Micros] = {}
        at = time.monotonic()
        for entry in entries:
            outcome = entry.outcome
            if outcome is not None and _proves(outcome) and self._proven_until.get(entry.pair, 0.0) < at:
                proven[entry.pair] = max(outcome.begun_at, proven.get(entry.pair, 0))
        return proven

    def _call_done(self, entries: Sequence[Entry], recorded: Recorded) -> None:
        for application in recorded.paused:
            self._on_paused(application)
        for entry in entries:
            entry.done(recorded.begun)

    def _without_rejected(self, entries: Sequence[Entry], error: Exception) -> list[Sequence[Entry]]:
        """What to commit instead of entries that were rejected: two halves, or one entry without its faulty part."""
        if len(entries) > 1:
            middle = len(entries) // 2
            return [entries[:middle], entries[middle:]]
        entry = entries[0]
        outcome = entry.outcome
        if outcome is None:
            journal.bug("recorder", lane=str(entry.end.lane_id if entry.end else None))
            self._run_there(partial(self._call_done, entries, Recorded()))
            return []
        if outcome.attempt is None or outcome.attempt.error == TEXT_REFUSED:
            # A bug in sendq. The job stays begun, where operators see it; its turn ends nevertheless.
            journal.bug("recorder", job=str(outcome.job_id), grant=outcome.grant_id, rule=outcome.rule)
            return [[entry._replace(outcome=None)]]
        journal.text_rejected(outcome, error)
        return [[entry._replace(outcome=_with_text_replaced(outcome))]]


def _proves(outcome: Outcome) -> bool:
    """Whether an answer shows that the application's key works: any answer that cannot be about the key itself."""
    if outcome.event is Event.ACCEPT:
        return True
    if outcome.attempt is None or outcome.attempt.status is None or outcome.attempt.route == "reauth":
        return False
    if outcome.hold is not None and (outcome.hold.gone or outcome.hold.missing):
        # Another application's key finds none of our grants.
        return False
    if outcome.attempt.status // 100 == 2 and outcome.sent == Sent.MAYBE:  # something else than the API answered
        return False
    return not _holds_above(outcome)


def _holds_above(outcome: Outcome) -> bool:
    """Whether it holds more than its grant: then everything it holds must be proven to work again."""
    return outcome.hold is not None and outcome.hold.above_grant


def _is_transient(error: Exception) -> bool:
    """Whether to retry the same transaction: the connection broke, a row was locked, or the pool was exhausted."""
    if not isinstance(error, exc.DBAPIError):
        return isinstance(error, exc.TimeoutError)
    return meaning_of(error) is not None


def _is_conflict(error: Exception) -> bool:
    """Whether another transaction was in the way; the ledger itself is well."""
    return isinstance(error, exc.DBAPIError) and isinstance(meaning_of(error), Retryable)


def _with_text_replaced(outcome: Outcome) -> Outcome:
    assert outcome.attempt is not None
    attempt = outcome.attempt._replace(error=TEXT_REFUSED, error_type=None, request_id=None)
    return outcome._replace(attempt=attempt, message_id=None)
