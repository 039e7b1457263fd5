"""`worker.testing`: an application's tests carry out what was enqueued, in their own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sendq import AsyncSendQueue, Message, Options, Query, Send, SendQueue, State, Vault
from sendq.simulator import Simulator
from sendq.vault import new_key
from tests.support.ledger import MESSAGE
from worker.testing import run_waiting


@pytest.fixture
def api() -> Iterator[Simulator]:
    with Simulator(api_key="its-key") as simulator:
        yield simulator


class TestRunningWhatWaits:
    def test_carries_out_what_is_due_and_leaves_the_rest(self, ledger_url: str, api: Simulator) -> None:
        queue = SendQueue(ledger_url)
        before = threading.active_count()
        later = queue.send("g1", MESSAGE, due_at=datetime.now(UTC) + timedelta(hours=1))
        sent = queue.send("g1", MESSAGE)
        refused = queue.send("g1", Message(to=["refused@example.com"], subject="x", body="x"))
        throttled = queue.send("g2", Message(to=["throttle@example.com"], subject="x", body="x"))
        run_waiting(queue, api)
        states = [queue.job(job.id).state for job in (later, sent, refused, throttled)]
        assert states == [State.QUEUED, State.SENT, State.DEAD, State.QUEUED]
        assert queue.job(throttled.id).trail[0].status == 429
        assert len(api.mailbox) == 1
        queue.send_many([Send("g3", MESSAGE, Options(provider="microsoft")) for _ in range(20)])
        run_waiting(ledger_url, api)
        assert len([mail for mail in api.mailbox if mail.grant == "g3"]) == 20
        assert threading.active_count() == before
        queue.close()

    def test_ends_a_batch_whose_messages_it_finds(self, sqlite_ledger_url: str, api: Simulator) -> None:
        queue = SendQueue(sqlite_ledger_url)
        api.grant("g1")
        api.message("g1", "m1", unread=True)
        batch = queue.modify_matching("g1", Query(unread=True), unread=False)
        run_waiting(queue, api)
        view = queue.batch(batch.id)
        assert (view.total, view.progress, view.finished_at is not None) == (1, 1.0, True)
        queue.close()

    def test_gives_up_after_its_limit(self, sqlite_ledger_url: str) -> None:
        queue = SendQueue(sqlite_ledger_url)
        queue.send("g1", MESSAGE)
        with Simulator(latency=0.5) as slow, pytest.raises(TimeoutError, match=r"jobs are still due after 0\.01 s"):
            run_waiting(queue, slow, limit_s=0.01)
        queue.close()

    def test_of_an_asynchronous_queue_says_what_to_pass_instead(self, sqlite_ledger_url: str, api: Simulator) -> None:
        queue: Any = AsyncSendQueue(sqlite_ledger_url)
        with pytest.raises(TypeError, match="instead of AsyncSendQueue, pass the URL"):
            run_waiting(queue, api)

    def test_needs_the_keys_of_the_queue(self, sqlite_ledger_url: str, api: Simulator) -> None:
        keys = new_key("2026-11")
        queue = SendQueue(sqlite_ledger_url, vault=Vault.parse(keys))
        job = queue.send("g1", MESSAGE)
        with pytest.raises(ValueError, match="pass its keys as SENDQ_ENCRYPTION_KEYS"):
            run_waiting(queue, api)
        run_waiting(queue, api, settings={"SENDQ_ENCRYPTION_KEYS": keys})
        assert queue.job(job.id).state is State.SENT
        queue.close()
