"""Courtesy upstream, in numbers: a throttled account, a refused key, and a message that reached some of its readers.

The Exchange server of these tests is a model of the documented one: it admits so many calls, then refuses all until a
block is over; a sterner one begins its block anew with each call that it has to refuse.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sendq import Message, Send, State, clock
from sendq.clock import SECOND
from sendq.enqueueing.options import Options
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing
from sendq.ledger.operators.holds import release_pair
from sendq.simulator import Fault, Request
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import eventually

ADMITS = 100
BLOCK_S = 1.5  # stands for the documented twenty minutes, on both sides

THROTTLED = Fault.status(
    429,
    type="rate_limit_error",
    message="The Exchange account has been throttled or sync has been temporarily paused.",
    provider_error={"error": {"code": 503, "message": "the device SHOULD retry later"}},
)


@dataclass
class ExchangeServer:
    """Admits `ADMITS` calls for one grant, then blocks for `BLOCK_S`; ``lengthens``: anew with each call it refuses."""

    grant: str
    lengthens: bool
    admitted: int = 0
    blocked_until: float = 0.0
    refused_at: list[float] = field(default_factory=list)
    while_blocked: int = 0

    def __call__(self, request: Request) -> Fault | None:
        if request.grant != self.grant:
            return None
        now = time.monotonic()
        if now < self.blocked_until:
            self.while_blocked += 1
            if self.lengthens:
                self.blocked_until = now + BLOCK_S
        elif self.admitted == ADMITS:
            self.admitted, self.blocked_until = 0, now + BLOCK_S
        else:
            self.admitted += 1
            return None
        self.refused_at.append(now)
        return THROTTLED


@pytest.fixture(scope="module")
def system(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker, which waits as long as the server of these tests blocks."""
    directory = tmp_path_factory.mktemp("system")
    with pg_server.ledger() as url, running(url, directory) as system:
        with system.policy.open("a") as policy:
            policy.write(f'[[change]]\nid = "exchange_throttled"\nwait = {{ default = {BLOCK_S}, cap = {BLOCK_S} }}\n')
        system.start_worker()
        yield system


class Neighbours:
    """Twenty other lanes, each with a message now and then; how long each took from enqueue to the wire."""

    def __init__(self, system: System, name: str) -> None:
        self._system = system
        self._lanes = [(f"{name}-{number}", ("ews", "google")[number % 2]) for number in range(20)]
        self._enqueued: dict[str, float] = {}

    @contextmanager
    def busy(self) -> Iterator[None]:
        """They send while the block runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._send_until, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def send_around(self, rounds: int) -> None:
        """They send so many times each."""
        for lane, provider in itertools.islice(itertools.cycle(self._lanes), 20 * rounds):
            self._send(lane, provider)
            time.sleep(0.02)  # the pace of the load, not a wait for anything

    def waits(self) -> list[float]:
        """Seconds from enqueue to the wire, in order of length, once all are out."""
        jobs = set(self._enqueued)
        eventually(lambda: jobs <= {one.job for one in self._system.api.requests}, "the neighbours' messages")
        arrived = {one.job: one.wall for one in self._system.api.requests if one.job is not None}
        return sorted(arrived[job] - at for job, at in self._enqueued.items())

    def _send_until(self, over: threading.Event) -> None:
        for lane, provider in itertools.cycle(self._lanes):
            self._send(lane, provider)
            if over.wait(0.02):
                return

    def _send(self, lane: str, provider: str) -> None:
        job = self._system.queue.send(lane, mail(), provider=provider)
        self._enqueued[job.id] = time.time()


def late_one(waits: list[float]) -> float:
    """The wait that one in a hundred exceeds."""
    return waits[-1 - len(waits) // 100]


class TestAThrottledExchangeAccount:
    @pytest.mark.parametrize("lengthens", [False, True], ids=["that waits", "that lengthens its block"])
    def test_is_left_alone_while_it_blocks_and_nobody_else_notices(self, system: System, lengthens: bool) -> None:
        grant = f"exchange-{lengthens}"
        alone = Neighbours(system, f"alone-{lengthens}")
        alone.send_around(5)
        quiet = late_one(alone.waits())
        server = ExchangeServer(grant, lengthens)
        system.api.behaviour.gate = server
        beside = Neighbours(system, f"beside-{lengthens}")
        options = Options(provider="ews")
        jobs = [job.id for job in system.queue.send_many([Send(grant, mail(), options) for _ in range(300)])]
        with beside.busy():
            eventually(lambda: sum(one.grant == grant for one in system.api.mailbox) == 300, "300 messages")
        calls = [one for one in system.api.requests if one.grant == grant]
        assert len(calls) <= 303
        assert len(server.refused_at) == 2
        assert server.while_blocked == 0
        accepted = system.accepted()
        assert {job: accepted[job] for job in jobs} == dict.fromkeys(jobs, 1)
        eventually(lambda: system.states().keys() == {State.SENT}, "every job sent")
        # One at a time: the next begins after the last was answered.
        assert all(later.at >= (earlier.done_at or 0) for earlier, later in itertools.pairwise(calls))
        # Twice as long as alone, before or afterwards; what a busy machine itself needs now and then is no notice.
        alone_again = Neighbours(system, f"alone-again-{lengthens}")
        alone_again.send_around(5)
        quiet = max(quiet, late_one(alone_again.waits()))
        assert late_one(beside.waits()) <= max(2 * quiet, 0.25 * system.slowness)


class TestABadKey:
    def test_costs_few_calls_no_dead_letter_and_one_alert_and_all_goes_when_it_is_mended(
        self, pg_server: PgServer, tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        key.write_text("wrong-key")
        providers = ("google", "microsoft", None)
        with pg_server.ledger() as url, running(url, tmp_path) as system:
            with system.policy.open("a") as policy:
                policy.write('[[change]]\nid = "api_key"\nwait = { default = 2, cap = 2 }\n')
            sends = [
                Send(f"g{number % 500}", mail(), Options(provider=providers[number % 500 % 3]))
                for number in range(5000)
            ]
            system.queue.send_many(sends)
            worker = system.start_worker(NYLAS_API_KEY="", NYLAS_API_KEY_FILE=str(key), SENDQ_LOG_LEVEL="WARNING")
            # A probe of each pair, twice: the hold is renewed, and nobody is told anew.
            eventually(lambda: system.count(schema.attempt) >= 6, "the second probes")
            assert {one.status for one in system.api.requests} <= {401, None}
            assert len(system.api.requests) < 20
            assert set(system.states()) <= {State.QUEUED, State.SENDING}
            key.write_text("test-key")
            system.wait_for(State.SENT, 5000)
            refused = [one for one in system.api.requests if one.status == 401]
            assert len(refused) < 20
            assert len(system.api.requests) == 5000 + len(refused)
            said = [json.loads(line) for line in worker.said().splitlines() if line.startswith("{")]
            holds = [line for line in said if line["event"] == "held"]
            assert [(line["scope"], line["rule"]) for line in holds] == [("application", "api_key")]
            assert "Traceback" not in worker.said()

    def test_in_the_middle_begins_no_call_once_its_worker_knows(self, pg_server: PgServer, tmp_path: Path) -> None:
        """A hundred lanes are due, and two workers make two hundred calls at once each."""
        with pg_server.ledger() as url, running(url, tmp_path, latency=0.3) as system:
            system.prove(provider="google")
            sends = [Send(f"g{number % 100}", mail(), Options(provider="google")) for number in range(3000)]
            for _ in range(2):
                system.start_worker(SENDQ_CONCURRENCY="200")
            jobs = system.queue.send_many(sends)
            system.wait_for(State.SENT, 300)
            system.api.behaviour.api_key = "another-key"
            eventually(lambda: system.queue.why(jobs[-1].id).says == "the application is held", "the hold")
            eventually(lambda: not system.states()[State.SENDING], "the last answer")
            refused = [row for row in system.rows(schema.attempt) if row.rule == "api_key"]
            known_at = {
                worker: min(row.ended_at for row in refused if row.worker_id == worker)
                for worker in {row.worker_id for row in refused}
            }
            assert all(row.begun_at <= known_at[row.worker_id] for row in refused)
            first = min(known_at.values())
            assert max(row.begun_at for row in refused) - first <= SECOND * system.slowness
            assert set(system.states()) == {State.SENT, State.QUEUED}
            system.api.behaviour.api_key = "test-key"
            with writing(system.engine) as connection:
                release_pair(connection, "default", "*", by="anna", reason="mended", now=clock.now())
            system.wait_for(State.SENT, 3000)
            assert set(system.accepted().values()) == {1}


class TestAMessageThatReachedSomeOfItsReaders:
    def test_is_never_sent_again_and_says_who_may_have_it(self, system: System) -> None:
        body = {
            "message": "Sending to at least one recipent failed",
            "type": "api_error",
            "failures": {
                "ada@example.com": [550, "5.1.1 no such user"],
                "bea@example.com": [550, "5.1.1 no such user"],
            },
        }
        system.api.will(Fault.body(402, body, accepted=True), grant="partly", times=None)
        to = ["ada@example.com", "bea@example.com", "cleo@example.com"]
        job = system.queue.send("partly", Message(to=to, subject="Invoice 42", body="<p>42</p>"), provider="imap")
        eventually(lambda: system.state(job.id) is State.DEAD, "the dead letter")
        later = system.queue.send("partly-later", mail())
        eventually(lambda: system.state(later.id) is State.SENT, "a later message")
        assert sum(one.job == job.id for one in system.api.requests) == 1
        (attempt,) = system.queue.job(job.id).trail
        assert (attempt.sent, attempt.rule, attempt.status) == ("partly", "recipients_partly_refused", 402)
        assert attempt.error is not None
        assert "2 recipients refused" in attempt.error
        assert "example.com" not in attempt.error
