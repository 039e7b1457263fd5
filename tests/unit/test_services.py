"""The services of a process: their order, and that none of them is left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from settings import Settings
from worker.leading.leader_loop import LeaderLoop
from worker.process import Process
from worker.processes.periodic_loop import PeriodicLoop
from worker.processes.services import Service, Services

# As they start. They stop in reverse: nothing is told or dispatched any more, the loops that ask the API through the
# engine stop before it, and what all of them use is closed last.
IN_ORDER = [
    "ledger", "witness", "wakeup", "exporter", "flower events", "heartbeat file", "engine",
    "reconciler", "pruner", "grant checker", "clock repair", "mail reports", "send events", "bounce holds",
    "budget watch", "followers", "batches", "rescuer", "dispatcher", "deliverer",
]  # fmt: skip


class Log:
    """Services that note what happens to them."""

    def __init__(self, *names: str, breaks: str = "") -> None:
        self.lines: list[str] = []
        self._breaks = breaks
        self.services = Services([self._service(name) for name in names])

    def _service(self, name: str) -> Service:
        return Service(name, lambda: self._note("start", name), lambda: self._note("stop", name))

    def _note(self, what: str, name: str) -> None:
        self.lines.append(f"{what} {name}")
        if name == self._breaks:
            raise RuntimeError("a bug of ours")


class TestServices:
    def test_start_in_order_and_stop_in_reverse(self) -> None:
        log = Log("a", "b", "c")
        log.services.start()
        log.services.stop()
        assert log.lines == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]

    def test_are_not_started_behind_one_that_cannot_and_those_before_it_stop(self) -> None:
        log = Log("a", "b", "c", "d", breaks="c")
        with pytest.raises(RuntimeError):
            log.services.start()
        assert log.lines == ["start a", "start b", "start c", "stop b", "stop a"]

    def test_that_were_stopped_by_a_failed_start_are_not_stopped_again(self) -> None:
        log = Log("a", "b", breaks="b")
        with pytest.raises(RuntimeError):
            log.services.start()
        log.services.stop()
        assert log.lines == ["start a", "start b", "stop a"]

    def test_all_stop_though_one_of_them_has_a_bug(self) -> None:
        log = Log("a", "b", "c", breaks="b")
        log.services.stop()
        assert log.lines == ["stop c", "stop b", "stop a"]


class TestAProcess:
    @pytest.fixture
    def process(self, tmp_path: Path) -> Iterator[Process]:
        """One that is not started: nothing needs a server before that."""
        settings = Settings.load({
            "NYLAS_API_KEY": "none",
            "REDIS_URL": "redis://127.0.0.1:1/0",  # nobody connects
            "SENDQ_METRICS_ADDRESS": "127.0.0.1:0",
            "SENDQ_RUN_DIR": str(tmp_path),
            "SENDQ_BOUNCE_HOLD_S": "3600",
            "SENDQ_BUDGETS": '{"default": "500/h"}',
            "SENDQ_HOME": str(tmp_path),
        })  # fmt: skip
        process = Process(settings, lambda bundles: None, cast(Any, None), consumes=lambda: True)
        yield process
        process.wakeup.close()
        process.ledger.dispose()

    def test_stops_its_services_in_this_order(self, process: Process) -> None:
        assert [service.name for service in process.services] == IN_ORDER

    def test_stops_every_loop_that_it_starts(self, process: Process) -> None:
        """Each loop that there is, found by its class: one that is left out of the list is neither started."""
        names = {service.name for service in process.services}
        found = [one for base in (PeriodicLoop, LeaderLoop) for one in base.__subclasses__()]
        loops = {one.__name__ for one in found if one.__module__.startswith("worker.")}
        # The one is a base, and the other belongs to Celery's application, which starts and stops it.
        loops -= {"LeaderLoop", "UnknownMessages"}
        assert {_words(name) for name in loops} <= names


def _words(name: str) -> str:
    """``GrantChecker`` as ``grant checker``."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
