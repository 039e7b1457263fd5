"""Run the demo."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from settings import Settings
from worker.cli.output import complain, tell
from worker.demo.scene import Scene, live_view, look, plain_line
from worker.demo.stage import Stage, keep_log, staged
from worker.demo.story import enqueue, pass_on_reports
from worker.demo.summary import account, lines
from worker.processes.stopping import Stop, Stopping, stoppable

LIMIT_S = 55.0  # it promises to end within a minute
LIVE_S, PLAIN_S = 0.25, 1.0  # between two looks, for a terminal and without one

FAILED = 1

Show = Callable[[Scene], None]


def run_demo() -> int:
    """Run it; return the exit status: 0 if everything adds up, 1 if not, 128 plus the signal if it was stopped."""
    tell("starting: a ledger on SQLite, a Redis, a simulator of the Nylas API, a Celery worker")
    with stoppable() as stop:
        try:
            with staged(stop) as stage:
                return _play(stage, stop)
        except Stopping:
            complain("stopped; nothing is left running")
            return stop.exit_status


def _play(stage: Stage, stop: Stop) -> int:
    begun = time.monotonic()
    batch_id = enqueue(stage.queue)
    terminal = sys.stdout.isatty() and not _dumb()
    every_s = LIVE_S if terminal else PLAIN_S
    with _live() if terminal else _plain() as show:
        while True:
            scene = look(stage.ledger, stage.queue, batch_id, time.monotonic() - begun)
            show(scene)
            if scene.over or scene.elapsed_s > LIMIT_S or stage.worker.ended():
                break
            stop.wait(every_s)
    found = account(scene, stage.nylas, bounced=pass_on_reports(stage.queue, stage.nylas))
    tell()
    for line in lines(found, scene.elapsed_s, Settings().ledger_url.get_secret_value()):
        tell(line)
    if found.adds_up:
        return 0
    reason = "its worker ended" if stage.worker.ended() else "it does not add up"
    complain(f"the demo failed ({reason}); the worker's log is in {keep_log(stage.log)}")
    return FAILED


@contextmanager
def _plain() -> Iterator[Show]:
    yield lambda scene: tell(plain_line(scene))


@contextmanager
def _live() -> Iterator[Show]:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        yield lambda scene: live.update(live_view(scene), refresh=True)


def _dumb() -> bool:
    from rich.console import Console

    return Console().is_dumb_terminal
