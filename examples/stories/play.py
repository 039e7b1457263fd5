"""Plays a story: sets everything up, lets it happen, and gives the page."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from examples.stories.page import Page
from sendq import Message, SendQueue
from sendq.simulator import Simulator
from settings.environ import ROOT
from worker.demo.stage import staged
from worker.processes.children import with_packages
from worker.processes.stopping import Stop

# How long a story waits for what it tells of; far above what it takes.
LIMIT_S = 60.0
LOOK_S = 0.05

NOTE = """
*Recorded by `./dev stories`: a ledger, a Redis, a worker and the simulated API really ran, and this is what the
commands printed. Ids are replaced, and times count from nine o'clock.*
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a story acts on: the application's queue, the simulated API, and the environment of further processes."""

    queue: SendQueue
    nylas: Simulator
    environ: Mapping[str, str]

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something has happened. Raises TimeoutError that names it."""
        deadline = time.monotonic() + LIMIT_S
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {LIMIT_S:.0f} s: {what}")
            time.sleep(LOOK_S)

    def until_says(self, job_id: str, reason: str) -> None:
        """Wait until ``why`` gives this reason."""
        self.until(lambda: self.queue.why(job_id).reason == reason, f"{reason} as the reason of a job")

    def run(self, command: str, columns: int | None = None) -> str:
        """What a command of `sendq` prints; ``columns``: on a terminal of this width."""
        argv = [sys.executable, "-m", "worker.cli", *shlex.split(command)]
        if columns is not None:
            return _on_terminal(argv, {**self.environ, "COLUMNS": str(columns), "TERM": "xterm"})
        done = subprocess.run(argv, env=self.environ, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout


def _on_terminal(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    ours, its = os.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(argv, env=environ, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=its)
        os.close(its)
        printed = b""
        with contextlib.suppress(OSError):  # EIO is how a terminal says that all who wrote to it have ended
            while part := terminal.read(65536):
                printed += part
        if process.wait(60) != 0:
            raise subprocess.CalledProcessError(process.returncode, argv, printed)
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.decode().replace("\r\n", "\n"))


class Story(Protocol):
    """A module of this package that tells one."""

    TITLE: str
    SETTINGS: Mapping[str, str]

    def set_up(self, nylas: Simulator) -> None:
        """The grants, and what goes wrong."""

    def play(self, scene: Scene, page: Page) -> None:
        """What happens, written down as it does."""


def played(story: Story) -> str:
    """The page of a story. Raises what goes wrong on the way."""
    with staged(Stop(), prepare=story.set_up, settings=story.SETTINGS) as stage:
        scene = Scene(stage.queue, stage.nylas, with_packages(stage.environ))
        page = Page(story.TITLE, scene.run)
        page.tell(NOTE)
        story.play(scene, page)
        return page.text()


def invoice(number: int) -> Message:
    """The mail that the stories send."""
    return Message(to=["leyah@example.com"], subject=f"Invoice {number}", body="<p>Please pay.</p>")
