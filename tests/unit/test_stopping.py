"""Being asked to stop."""

from __future__ import annotations

import os
import signal

import pytest

from worker.processes.stopping import SIGNALS, Stopping, stoppable


class TestAskingToStop:
    @pytest.mark.parametrize("signum", SIGNALS)
    def test_a_signal_is_noted_and_interrupts_nothing(self, signum: signal.Signals) -> None:
        with stoppable() as stop:
            os.kill(os.getpid(), signum)
            assert stop.signum == signum
            assert stop.exit_status == 128 + signum

    def test_the_next_look_raises(self) -> None:
        with stoppable() as stop:
            stop.check()
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Stopping):
                stop.check()

    def test_a_wait_ends_at_once(self) -> None:
        with stoppable() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Stopping):
                stop.wait(3600)

    def test_the_first_signal_decides_the_status(self) -> None:
        with stoppable() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signum == signal.SIGTERM

    def test_afterwards_signals_mean_what_they_did_before(self) -> None:
        before = [signal.getsignal(signum) for signum in SIGNALS]
        with stoppable():
            assert [signal.getsignal(signum) for signum in SIGNALS] != before
        assert [signal.getsignal(signum) for signum in SIGNALS] == before

    def test_a_wait_ends_when_its_condition_holds(self) -> None:
        with stoppable() as stop:
            stop.wait(3600, until=lambda: True)
