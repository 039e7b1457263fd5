"""A crew of supervised workers: one that dies is restarted at once, as by systemd or a kubelet."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.chaos.board import VARIABLE, Board
from tests.support.system import ROOT, Worker
from tests.support.waiting import eventually

LOOK_S = 0.05

Ready = Callable[[Worker], bool]

# The place of a kill from outside, at no particular place in the code.
ANY_MOMENT = "any moment"


# A hundred starts must not compile a hundred times, so bytecode is written regardless of the environment.
BYTECODE = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / ".run" / "bytecode")}


class Crew:
    """``size`` workers ``python -m program``, with logs and a board in ``directory``; ``ready`` checks if one works."""

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        size: int,
        *arguments: str,
        program: Sequence[str],
        ready: Ready,
    ) -> None:
        self.size, self.board, self.restarts = size, Board(directory / "board"), 0
        self._directory, self._program, self._arguments, self._ready = directory, program, arguments, ready
        self._environ = {**environ, **BYTECODE, VARIABLE: str(self.board.path)}
        self._workers: list[Worker] = []
        self._changed = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    @property
    def workers(self) -> Sequence[Worker]:
        """The workers that are running."""
        with self._changed:
            return list(self._workers)

    def start(self) -> None:
        """Start all workers and wait until they are ready."""
        self._fill_up()
        for worker in self.workers:
            eventually(lambda: self._ready(worker), "a worker that works")  # noqa: B023
        self._thread.start()

    def kill(self, worker: Worker) -> None:
        """``kill -9`` from outside; the supervisor starts a new one."""
        self.board.died(ANY_MOMENT, worker.pid)
        worker.process.send_signal(signal.SIGKILL)

    def all_there(self) -> bool:
        """Whether all workers are running and ready."""
        workers = self.workers
        return len(workers) == self.size and all(map(self._ready, workers))

    def stop(self) -> None:
        """Kill all workers."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for worker in self.workers:
            worker.process.send_signal(signal.SIGCONT)
            worker.kill()

    def _supervise(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._fill_up()

    def _fill_up(self) -> None:
        with self._changed:
            living = [worker for worker in self._workers if worker.process.poll() is None]
            self.restarts += len(self._workers) - len(living)
            while len(living) < self.size:
                log = self._directory / f"worker-{self.restarts}-{len(living)}.log"
                living.append(Worker(self._environ, log, *self._arguments, program=self._program))
            self._workers = living
