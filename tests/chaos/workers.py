"""Scenarios that kill, freeze and stop workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.chaos.board import PLACES
from tests.chaos.crew import ANY_MOMENT
from tests.chaos.stage import CGROUP, Scenario, Stage
from tests.support.waiting import eventually

# The most visits to a place before a worker dies there (random from 1); rare places: the first visit.
VISITS = {"calling": 40, "waiting": 40, "answered": 40, "recording": 15, "recorded": 15, "claiming": 10, "claimed": 10,
          "offering": 5, "offered": 5, "published": 5, "burying": 1, "buried": 1}  # fmt: skip

# How long the crew has to reach an armed place before the next one is armed too.
PATIENCE_S = 3.0

# Less than a worker allocates within seconds.
OOM_BYTES = 200_000

# A death is noticed after 8 s, and by a leader that may have to be elected first.
BURIAL_S = 16.0


def kills(
    count: int, *, places: Sequence[str] = (*PLACES, ANY_MOMENT), gap_s: tuple[float, float] = (0.5, 3.0)
) -> Scenario:
    """A number of kills, equally often at each of ``places``, in an order determined by the seed.

    ``gap_s``: seconds between two kills, in addition to the start of a worker.
    """

    def act(stage: Stage) -> None:
        board = stage.crew.board
        schedule = [places[number % len(places)] for number in range(count)]
        stage.chance.shuffle(schedule)
        while schedule or any(map(board.armed, PLACES)):
            eventually(stage.crew.all_there, "a full crew")
            stage.pause(*gap_s)
            # A kill whose place is still armed waits; if all do, kill any worker, so that there is work to take back.
            place = next((one for one in schedule if one == ANY_MOMENT or not board.armed(one)), None)
            if place is not None:
                schedule.remove(place)
            _let_one_die(stage, place or ANY_MOMENT)
            _wait_for_deaths(stage, PATIENCE_S if place is not None else BURIAL_S)

    return Scenario("kills", f"{count} × `kill -9` around the wire", act, rate=50.0, sign="worker_declared_dead")


def _let_one_die(stage: Stage, place: str) -> None:
    crew = stage.crew
    if place == ANY_MOMENT:
        crew.kill(stage.chance.choice(crew.workers))
    else:
        crew.board.arm(place, visits=stage.chance.randint(1, VISITS[place]))


def _wait_for_deaths(stage: Stage, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(map(stage.crew.board.armed, PLACES)) and time.monotonic() < deadline:
        stage.pause(0.02)


def _kill_leaders(stage: Stage) -> None:
    for _ in range(5):
        eventually(stage.crew.all_there, "a full crew", limit_s=60)
        stage.crew.kill(stage.leader())
        stage.pause(3.0, 8.0)


def _freeze(stage: Stage) -> None:
    for worker in (stage.leader(), stage.chance.choice(stage.crew.workers)):
        stage.freeze(worker)
        stage.pause(13.0, 15.0)  # until after it is declared dead, which is 8 s after its last beat
        os.kill(worker.pid, signal.SIGCONT)
        stage.pause(3.0)


def _starve(stage: Stage) -> None:
    """The kernel's OOM killer ends workers: in a group of their own, whose limit is below what they use."""
    for number in range(3):
        eventually(stage.crew.all_there, "a full crew", limit_s=60)
        worker = stage.chance.choice(stage.crew.workers)
        group = CGROUP / f"sendq-chaos-{os.getpid()}-{number}"
        group.mkdir()
        try:
            # The limit counts what is allocated from now on, which the next second's work exceeds.
            (group / "memory.limit_in_bytes").write_text(str(OOM_BYTES))
            stage.crew.board.died("out of memory", worker.pid)
            (group / "cgroup.procs").write_text(str(worker.pid))
            eventually(lambda one=worker: one.process.poll() is not None, "its end", limit_s=60)  # type: ignore[misc]
        finally:
            eventually(partial(_removed, group), "the end of the group", limit_s=10)
        stage.pause(2.0, 5.0)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:  # its process has not quite ended
        return False
    return True


def _roll(stage: Stage) -> None:
    for _ in range(2):
        for worker in stage.crew.workers:
            worker.process.send_signal(signal.SIGTERM)
            eventually(lambda one=worker: one.process.poll() is not None, "its end", limit_s=45)  # type: ignore[misc]
            eventually(stage.crew.all_there, "its successor", limit_s=60)


def _set_clocks(stage: Stage) -> None:
    hour = 3600
    for seconds in (hour, -hour):
        for worker in (stage.leader(), stage.chance.choice(stage.crew.workers)):
            stage.crew.board.set_clock(worker.pid, seconds)
            stage.pause(6.0)
    stage.crew.board.set_clock(0, 0)
    stage.mended()


SCENARIOS = (
    Scenario("leaders", "5 × `kill -9` of the worker that dispatches", _kill_leaders, sign="worker_declared_dead"),
    Scenario(
        "frozen-workers", "workers stopped (SIGSTOP), buried, woken", _freeze, rate=80.0, sign="worker_registered_again"
    ),
    Scenario(
        "out-of-memory",
        "3 workers ended by the kernel's OOM killer",
        _starve,
        needs_cgroup=True,
        backlog=80,
        sign="worker_declared_dead",
    ),
    Scenario("rolling-restart", "every worker asked to stop by SIGTERM, twice", _roll, sign="worker_stopped"),
    Scenario("clocks", "one worker's clock an hour ahead, then one's an hour behind", _set_clocks),
)
