"""A fake of what a turn sees of its process: answers and time are scripted, so nothing really waits."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any, cast
from uuid import UUID

from sendq.clock import SECOND, Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.outcomes import Outcome
from sendq.facts.turns import Begin, Claimed, End, Shrink
from sendq.ids import new_id
from sendq.rules.pace import Pace, pacer_of, written
from sendq.rules.preflight import KEY_MAX_AGE
from sendq.rules.starts import first_to_begin, start_soon
from sendq.rules.states import Event
from tasks import turn
from tasks.calling.isolated import NoProcess
from tasks.calling.nylas import Application, NylasClient
from tasks.calling.upload import Upload
from tasks.policy.failure import Answer
from tasks.policy.table import POLICY
from tests.support.facts import claimed_job, lane
from worker.serving.call_tracker import Call, Wire
from worker.serving.slots import Slots

START: Micros = 1_780_000_000 * SECOND
WORKER = UUID(int=7)
COMMIT_S = 0.001
TURN_TIME: Micros = 2 * SECOND

# Eight calls at once, and no limit on their rate.
WIDE = Pace(8)


class Clock(selectors.DefaultSelector):
    """A clock that advances at once when the event loop would wait."""

    now: Micros = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nothing is going to happen"
        self.now += ceil(timeout * SECOND)
        return super().select(0)


class ScriptedLoop(asyncio.SelectorEventLoop):
    """An event loop that uses this clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(clock)

    def time(self) -> float:
        return (self._clock.now - START) / SECOND


def job(operation: str = "send", **values: Any) -> ClaimedJob:
    """A job as a claim loads it."""
    known = {
        "operation": operation,
        "form": "json" if operation == "send" else None,
        "object_id": None if operation in ("send", "list") else str(new_id()),
        "body": b"limit=20" if operation == "list" else b"{}",
        "target": None if operation == "send" else "message",
        "next_at": START,
        "key_at": START,
    }
    return claimed_job(**known | values)


def claim(
    jobs: Sequence[ClaimedJob],
    *,
    pace: Pace = WIDE,
    ramp: int = 1,
    slots: int | None = None,
    around: int = 0,
    **columns: Any,
) -> Claimed:
    """A turn as the ledger returns it: with as many jobs begun as the lane may have on the wire at once.

    ``around``: the holds of its pair or application since their last success.
    """
    known = {"fence": 3, "turn": "claimed", "turn_at": START, "width": pace.width, "ramp": ramp, "pace": written(pace)}
    row = lane(**known | columns)
    pacer = pacer_of(row, now=START)
    slots = min(ramp, len(jobs)) if slots is None else slots
    starts = start_soon(first_to_begin(jobs, slots), pacer, now=START)
    return Claimed(row, jobs, frozenset(starts), WORKER, slots, pacer, starts, around)


def answer(status: int | None = 200, body: Mapping[str, Any] | None = None, *, fault: str | None = None) -> Answer:
    """The answer to a call; by default a success."""
    body = {"data": {"id": "m1"}} if body is None and status == 200 else body
    return Answer(status, {}, b"" if body is None else json.dumps(body).encode(), fault)


@dataclass(frozen=True)
class Called:
    """One call of the API: its job, and when it began and ended."""

    job_id: UUID
    began: Micros
    ended: Micros


@dataclass(frozen=True)
class Recorded:
    """One entry for the ledger."""

    outcome: Outcome | None
    begins: tuple[UUID, ...]
    end: End | None
    at: Micros


Reply = tuple[float, Answer]  # (seconds until the answer, answer)


class Api:
    """The part of the API that a turn calls; each job has a scripted reply."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def send(self, application: Any, grant_id: str, body: Any, key: str, **options: Any) -> Answer:
        return await self._process.call(UUID(key.partition(":")[0]))

    async def modify(
        self, application: Any, grant_id: str, object_id: str, body: bytes, *, parameters: str = ""
    ) -> Answer:
        return await self._process.call(self._process.by_object(object_id))

    async def find(self, application: Any, grant_id: str, query: Mapping[str, str]) -> Answer:
        return await self._process.call(self._process.jobs[0].id)


@dataclass
class Process:
    """What a turn sees of its process (`tasks.turn.Surroundings`), and what the test sees of the turn."""

    replies: dict[UUID, Reply] = field(default_factory=dict)
    usually: Reply = (0.01, answer())
    clock: Clock = field(default_factory=Clock)
    turn_time: Micros = TURN_TIME
    slow_after_s: float = 5.0
    cancelled: set[UUID] = field(default_factory=set)  # jobs that the ledger no longer lets begin
    refuses_from: Micros | None = None  # no call may begin after this time
    process_free: bool = True
    process_after_s: float = 0.0
    commit_s: float = COMMIT_S
    key_max_age: Micros = KEY_MAX_AGE
    worker_id: UUID = WORKER
    policy = POLICY
    metadata_key = "sendq"

    failures: int = 0  # in a row, of rows that escalate
    outage_from: int = 1000
    calls: list[Called] = field(default_factory=list)
    records: list[Recorded] = field(default_factory=list)
    finished: list[End] = field(default_factory=list)
    holds: list[tuple[str, bool]] = field(default_factory=list)
    shrinks: list[tuple[Shrink, int]] = field(default_factory=list)
    bugs: list[UUID] = field(default_factory=list)
    isolated: list[UUID] = field(default_factory=list)
    broken: Callable[[], None] = lambda: None  # called as the application's part of each call
    recording: Callable[[], None] = lambda: None  # called as the ledger's part of each record

    def __post_init__(self) -> None:
        self.client = cast(NylasClient, Api(self))
        self._loop = ScriptedLoop(self.clock)
        self.wire = Wire(self._loop, Slots(100, slow_each=100), slow_after_s=self.slow_after_s)

    def run(self, claimed: Claimed) -> Process:
        """Carry out the turn to its end."""
        self.jobs, self.begun_at_claim = claimed.jobs, claimed.begun
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(turn.run(claimed, self))
        return self

    # --- called by the turn ---------------------------------------------------------------------------------------

    def now(self) -> Micros:
        return self.clock.now

    def chance(self) -> float:
        return 0.5

    def application(self, name: str) -> Application:
        self.broken()
        return cast(Application, object())

    def upload(self, job: Any) -> Upload:
        raise AssertionError("no job of these tests has files")

    def may_call(self, pair: tuple[str, str], offered_at: Micros) -> bool:
        return self.refuses_from is None or self.now() < self.refuses_from

    def hold(self, pair: tuple[str, str], scope: str, *, recorded: bool) -> None:
        self.holds.append((scope, recorded))

    def is_outage(self, application: str, lane_id: UUID) -> bool:
        self.failures += 1
        return self.failures >= self.outage_from

    def succeeded(self, application: str) -> None:
        self.failures = 0

    async def record(
        self, pair: tuple[str, str], outcome: Outcome | None, begins: Collection[Begin], end: End | None
    ) -> Collection[UUID]:
        wanted = tuple(one.job_id for one in begins)
        self.records.append(Recorded(outcome, wanted, end, self.now()))
        await asyncio.sleep(self.commit_s)
        self.recording()
        return [job_id for job_id in wanted if job_id not in self.cancelled]

    async def finish(self, pair: tuple[str, str], end: End) -> None:
        self.finished.append(end)

    @asynccontextmanager
    async def alone(self, provider: str, job: Any) -> AsyncIterator[NylasClient]:
        if not self.process_free:
            raise NoProcess("no memory")
        self.isolated.append(job.id)
        await asyncio.sleep(self.process_after_s)
        yield self.client

    def on_the_wire(self, provider: str, slow: Callable[[], None]) -> Call:
        return self.wire.call(provider, slow)

    def shrink(self, shrink: Shrink, spare: int) -> None:
        self.shrinks.append((shrink, spare))

    def bug(self, job_id: UUID, grant_id: str) -> None:
        self.bugs.append(job_id)

    # --- for the script and the test ------------------------------------------------------------------------------

    async def call(self, job_id: UUID) -> Answer:
        assert job_id in self.begun_by(self.now()), "a call is made for a job that the ledger has not begun"
        seconds, brought = self.replies.get(job_id, self.usually)
        began = self.now()
        await asyncio.sleep(seconds)
        self.calls.append(Called(job_id, began, self.now()))
        return brought

    def by_object(self, object_id: str) -> UUID:
        """The next job on an object; they are called in order."""
        of_it: list[UUID] = [one.id for one in self.jobs if one.object_id == object_id]
        return next(job_id for job_id in of_it if job_id not in self.called)

    def begun_by(self, at: Micros) -> set[UUID]:
        """The jobs that were committed as begun by then."""
        committed = [entry for entry in self.records if entry.at + self.commit_s * SECOND <= at]
        return {*self.begun_at_claim, *(job_id for entry in committed for job_id in entry.begins)}

    @property
    def called(self) -> list[UUID]:
        """The jobs that were called, in the order in which the calls ended."""
        return [call.job_id for call in self.calls]

    @property
    def outcomes(self) -> dict[UUID, Outcome]:
        return {entry.outcome.job_id: entry.outcome for entry in self.records if entry.outcome is not None}

    @property
    def events(self) -> list[Event]:
        return [entry.outcome.event for entry in self.records if entry.outcome is not None]

    @property
    def end(self) -> End:
        """The only recorded end of the turn."""
        (end,) = [entry.end for entry in self.records if entry.end is not None] + self.finished
        return end

    @property
    def most_at_once(self) -> int:
        return most_at_once(self.calls)

    @property
    def begun_at(self) -> list[float]:
        """When the calls began, in seconds since the start of the turn."""
        return sorted(round((call.began - START) / SECOND, 2) for call in self.calls)


def most_at_once(calls: Iterable[Called]) -> int:
    """The most calls that were on the wire at once."""
    changes = sorted([(call.began, 1) for call in calls] + [(call.ended, -1) for call in calls])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def fails() -> None:
    raise RuntimeError("a bug of ours")


def fails_once() -> Callable[[], None]:
    """A function that raises on its first call only."""
    first = iter([True])

    def maybe() -> None:
        if next(first, False):
            fails()

    return maybe
