"""The recorder: outcomes of all turns of this process, committed together.

While one commit is on its way to the disk, what comes in meanwhile becomes the next group; under load a group holds
many turns, at rest one outcome goes at once. Nothing is ever dropped: while the ledger is away, outcomes are kept and
are the first thing that is written when it is back. What may go on the wire waits for that, so a process without a
ledger begins no call.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from sqlalchemy import Engine, exc

from sendq.clock import Clock, Micros
from sendq.facts.outcomes import Outcome
from sendq.facts.turns import Begin, End, Group, Recorded, Shrink
from sendq.ledger.db.engine import is_disconnect, meaning_of
from sendq.ledger.dispatching.record import record
from sendq.ledger.enqueue import NO_VAULT
from sendq.rules.states import Event
from sendq.vault import Vault
from tasks import failpoints
from worker.telemetry import journal, metrics

# More in one transaction would make the first of them wait for the last.
GROUP_MOST = 500

# Between tries while the ledger is away.
PAUSE_FIRST_S, PAUSE_MOST_S = 0.05, 1.0

# That a pair works is written this often while it does: far below `sendq.rules.pace.PROVEN_FOR`, and short, for so long
# one call at a time is made after a hold that fell elsewhere.
PROVEN_AGAIN_S = 2.0

TEXT_REFUSED = "(the ledger refused this text)"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one turn wants committed at once, and whom to tell: ``done`` is called with the jobs that may begin."""

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
        told: Callable[[Sequence[Outcome], Recorded], None],
        run_there: Callable[[Callable[[], None]], None] = lambda step: step(),
        vault: Vault = NO_VAULT,
    ) -> None:
        """``told`` hears of every committed group (events, logs); it must be quick.

        ``run_there`` runs what it is given where those who wait for their entries are: once for a whole group.
        """
        self._vault, self._run_there = vault, run_there
        self._engine, self._now, self._told = engine, now, told
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sendq-recorder", daemon=True)
        self._gone = threading.Event()
        self._proven_until: dict[tuple[str, str], float] = {}
        self._in_flight = 0  # entries of the group that is being committed
        self.tries = 0  # commits in vain

    def start(self) -> None:
        """Begin to record."""
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Have an entry committed, after all that were put before it."""
        self._entries.put(entry)

    @property
    def waiting(self) -> int:
        """Entries that are not committed yet."""
        return self._entries.qsize() + self._in_flight

    def stop(self, limit_s: float) -> bool:
        """Commit what is there and end; False if the ledger did not let that happen within the limit."""
        self._entries.put(None)
        self._thread.join(limit_s)
        self._gone.set()
        return not self._thread.is_alive()

    def _run(self) -> None:
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
        """One transaction; if the ledger refuses what it says, two halves, down to the entry that is to blame.

        What is committed is out of the way: if the connection breaks after it, it is neither written nor told again.
        """
        parts = deque([entries])
        pause = PAUSE_FIRST_S
        while parts and not self._gone.is_set():
            try:
                self._commit(parts[0])
                parts.popleft()
                pause = PAUSE_FIRST_S
            except Exception as error:
                if not _passes_by_itself(error):
                    parts.extendleft(reversed(self._without_the_guilty(parts.popleft(), error)))
                    continue
                # The connection, a lock, a full disk: not what we wrote.
                self.tries += 1
                metrics.commit_failed()
                journal.ledger_unavailable(error, waiting=sum(map(len, parts)) + self._entries.qsize())
                time.sleep(pause)
                pause = min(PAUSE_MOST_S, pause * 2)

    def _commit(self, entries: Sequence[Entry]) -> None:
        began = time.monotonic()
        group = self._group_of(entries)
        with self._engine.begin() as connection:
            recorded = record(connection, group, now=self._now(), vault=self._vault)
            failpoints.reached("recording")
        failpoints.reached("recorded")
        metrics.committed(len(group.outcomes), time.monotonic() - began)
        held = {entry.pair[0] for entry in entries if entry.outcome is not None and _holds_above(entry.outcome)}
        for pair in [pair for pair in self._proven_until if pair[0] in held]:
            del self._proven_until[pair]
        for pair, ramp in recorded.ramps.items():
            self._proven_until[pair] = 0.0 if ramp is not None else time.monotonic() + PROVEN_AGAIN_S
        self._run_there(partial(_tell, entries, recorded.begun))
        try:
            self._told(group.outcomes, recorded)
        except Exception:  # what is recorded is recorded; without this thread the worker would hang, and look alive
            journal.bug("told")

    def _group_of(self, entries: Sequence[Entry]) -> Group:
        return Group(
            outcomes=[entry.outcome for entry in entries if entry.outcome is not None],
            proven=self._proven_by(entries),
            begins=[begin for entry in entries for begin in entry.begins],
            ends=[entry.end for entry in entries if entry.end is not None],
            shrinks=[entry.shrink for entry in entries if entry.shrink is not None],
        )

    def _proven_by(self, entries: Sequence[Entry]) -> dict[tuple[str, str], Micros]:
        """Pairs that a call has shown to work, and when it began; those that are known to work only now and then."""
        proven: dict[tuple[str, str], Micros] = {}
        at = time.monotonic()
        for entry in entries:
            outcome = entry.outcome
            if outcome is not None and _proves(outcome) and self._proven_until.get(entry.pair, 0.0) < at:
                proven[entry.pair] = max(outcome.begun_at, proven.get(entry.pair, 0))
        return proven

    def _without_the_guilty(self, entries: Sequence[Entry], error: Exception) -> list[Sequence[Entry]]:
        """What to commit instead of entries that were refused: halves, or the one to blame with less in it."""
        if len(entries) > 1:
            middle = len(entries) // 2
            return [entries[:middle], entries[middle:]]
        entry = entries[0]
        outcome = entry.outcome
        if outcome is None:
            journal.bug("recorder", lane=str(entry.end.lane_id if entry.end else None))
            self._run_there(partial(_tell, entries, set()))
            return []
        if outcome.attempt is None or outcome.attempt.error == TEXT_REFUSED:
            # A bug of ours. The job stays begun, for everybody to see; its turn ends all the same.
            journal.bug("recorder", job=str(outcome.job_id), grant=outcome.grant_id, rule=outcome.rule)
            return [[replace(entry, outcome=None)]]
        journal.text_rejected(outcome, error)
        return [[replace(entry, outcome=_with_text_replaced(outcome))]]


def _tell(entries: Sequence[Entry], begun: set[UUID]) -> None:
    for entry in entries:
        entry.done(begun)


def _proves(outcome: Outcome) -> bool:
    """Whether an answer shows that the application's key works: any but one that may be about the key itself."""
    if outcome.event is Event.ACCEPT:
        return True
    if outcome.attempt is None or outcome.attempt.status is None or outcome.attempt.route == "reauth":
        return False
    return not _holds_above(outcome)


def _holds_above(outcome: Outcome) -> bool:
    """Whether it holds more than its grant: then all that was held has to prove itself anew."""
    return outcome.hold is not None and outcome.hold.above_grant


def _passes_by_itself(error: Exception) -> bool:
    """Whether to try the same again: the connection broke, a lock was in the way, or the pool had nothing free."""
    if not isinstance(error, exc.DBAPIError):
        return isinstance(error, exc.TimeoutError)
    return is_disconnect(error) or meaning_of(error) is not None


def _with_text_replaced(outcome: Outcome) -> Outcome:
    assert outcome.attempt is not None
    attempt = outcome.attempt._replace(error=TEXT_REFUSED, error_type=None, request_id=None)
    return replace(outcome, attempt=attempt, message_id=None)
