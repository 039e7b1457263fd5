"""A burst of notifications beside ordinary sends: each is applied once, and the sends go on."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import aiohttp
import pytest
from sqlalchemy import func, select

from sendq import State, clock
from sendq.clock import SECOND
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.mail_notices import APPLIED, REPEATED
from tests.integration.ledger.test_webhooks import SECRET, signed
from tests.support.processes import running as running_command
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import LIMIT_S, eventually

NUMBER = 5_000  # notifications, each of which comes twice
ROUNDS, ALONE_S, BURST_S = 3, 5.0, 7.0  # in turns, so that whatever else the machine does is in both
SENDS_EACH_S = 20
GRANTS = 20
LATENCY_S = 0.1  # of the API


def notification(number: int) -> bytes:
    mail = {"id": f"m{number}", "to": ["leyah@example.com"]}
    at = clock.now() // SECOND
    data = {"grant_id": "reported", "object": {"message": mail, "delivered": {"delivered_at": at}}}
    body = {"specversion": "1.0", "type": "message.delivered", "id": f"n{number}", "time": at, "data": data}
    return json.dumps(body).encode()


def reported_jobs(system: System) -> None:
    """Mails that were sent before, one for each notification."""
    job = system.queue.send("reported", mail(), provider="nylas").id
    eventually(lambda: system.state(job) is State.SENT, "the first mail")
    with writing(system.engine) as connection:
        row = dict(connection.execute(schema.job.select()).mappings().one())
        insert_rows(connection, schema.job, [row | {"id": new_id(), "message_id": f"m{n}"} for n in range(NUMBER)])


async def posted(url: str, bodies: Sequence[bytes], within_s: float) -> Counter[int]:
    """Post them at an even pace; the answers. What is answered 503 comes again, as from Nylas."""
    answers: Counter[int] = Counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session:

        async def post(place: int, body: bytes) -> None:
            await asyncio.sleep(place * within_s / len(bodies))
            headers = {"x-nylas-signature": signed(body)}
            for _ in range(10):
                async with session.post(url, data=body, headers=headers) as answer:
                    answers[answer.status] += 1
                    if answer.status != 503:
                        return
                await asyncio.sleep(1.0)

        await asyncio.gather(*(post(place, body) for place, body in enumerate(bodies)))
    return answers


class Sender:
    """Enqueues a mail at a steady pace, in a thread; notes which were enqueued while notifications came."""

    def __init__(self, system: System) -> None:
        self.system, self.beside = system, False
        self.jobs: dict[str, bool] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(LIMIT_S)

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(1 / SENDS_EACH_S):
            number += 1
            job = self.system.queue.send(f"g{number % GRANTS}", mail(), provider="google").id
            self.jobs[job] = self.beside

    def waits(self, *, beside: bool) -> list[float]:
        """Seconds from enqueueing to the recorded acceptance, sorted."""
        table = schema.job.c
        with reading(self.system.engine) as connection:
            rows = connection.execute(select(table.id, table.created_at, table.finished_at)).all()
        took = {str(row.id): (row.finished_at - row.created_at) / SECOND for row in rows}
        return sorted(took[job] for job, was in self.jobs.items() if was is beside)


@pytest.mark.long
def test_ten_thousand_notifications_within_half_a_minute_are_applied_once_and_sends_go_on(
    pg_server: PgServer, tmp_path: Path
) -> None:
    place = tmp_path / "receiver"
    place.mkdir()
    with pg_server.ledger() as url, running(url, tmp_path, latency=LATENCY_S) as system:
        system.start_worker()
        reported_jobs(system)
        environ = system.environ(NYLAS_WEBHOOK_SECRET=SECRET)
        with running_command(["webhooks", "--port", "0"], place, **environ) as receiver:
            address = receiver.line_with("default: ").split()[-1]
            numbers = [*range(NUMBER), *range(NUMBER)]
            Random(1).shuffle(numbers)
            bodies = [notification(number) for number in numbers]
            sender = Sender(system)
            sender.start()
            answers: Counter[int] = Counter()
            took_s = 0.0
            each = len(bodies) // ROUNDS + 1
            for round_ in range(ROUNDS):
                time.sleep(ALONE_S)
                sender.beside, began = True, time.monotonic()
                answers += asyncio.run(posted(address, bodies[round_ * each : (round_ + 1) * each], BURST_S))
                took_s += time.monotonic() - began
                sender.beside = False
            time.sleep(1.0)
            sender.stop()
            eventually(lambda: all(system.state(job) is State.SENT for job in sender.jobs), "every mail")
        count = schema.notice_count.c
        with reading(system.engine) as connection:
            summed = select(count.result, func.sum(count.number)).group_by(count.result)
            results = {result: int(number) for result, number in connection.execute(summed)}
            statuses = connection.execute(select(func.count()).select_from(schema.delivery_status)).scalar_one()
        assert (answers[200], results, statuses) == (2 * NUMBER, {APPLIED: NUMBER, REPEATED: NUMBER}, NUMBER)
        alone, beside = (sender.waits(beside=one) for one in (False, True))
        p99_alone, p99_beside = (one[round(0.99 * len(one)) - 1] for one in (alone, beside))
        print(  # speed depends on the machine: with -s, these are the figures
            f"{2 * NUMBER} in {took_s:.1f} s, {answers}; p99 of {len(alone)} sends alone {p99_alone:.3f} s, "
            f"of {len(beside)} beside {p99_beside:.3f} s"
        )
