"""Scenarios in which the API is unreachable, silent, forgetful, slow or overloaded."""

from __future__ import annotations

from sendq.simulator import Fault
from sendq.simulator.store import Request
from tests.chaos.stage import Scenario, Stage

# A call ends after seconds instead of minutes, and is slow after one.
IMPATIENT = {"SENDQ_READ_TIMEOUT_S": "3", "SENDQ_SLOW_AFTER_S": "1", "SENDQ_CONNECT_TIMEOUT_S": "1"}


def _refuse(stage: Stage) -> None:
    stage.system.api.stop()
    stage.pause(6.0)
    stage.system.api.start()
    stage.mended()


def _say_nothing(stage: Stage) -> None:
    _answer_with(stage, Fault.hang(), share=1.0, seconds=8.0)


def _drop_what_was_accepted(stage: Stage) -> None:
    _answer_with(stage, Fault.drop(accepted=True), share=0.5, seconds=8.0)


def _time_out_what_was_accepted(stage: Stage) -> None:
    _answer_with(stage, Fault.named("timeout"), share=0.2, seconds=8.0)


def _storm(stage: Stage) -> None:
    unavailable = Fault.status(503, message="There was an error connecting to the user's mail provider.")
    _answer_with(stage, unavailable, share=0.8, seconds=8.0)


def _drip(stage: Stage) -> None:
    assert stage.api is not None
    stage.api.drip(0.25)
    stage.pause(8.0)
    stage.api.forward()
    stage.mended()


def _answer_with(stage: Stage, fault: Fault, *, share: float, seconds: float) -> None:
    """Let a share of all requests end with this fault for ``seconds``."""

    def gate(_request: Request) -> Fault | None:
        return fault if stage.chance.random() < share else None

    stage.system.api.behaviour.gate = gate
    stage.pause(seconds)
    stage.system.api.behaviour.gate = None
    stage.mended()


SCENARIOS = (
    Scenario("api-refused", "the API refuses connections for 6 s", _refuse, settings=IMPATIENT),
    Scenario("api-black-hole", "the API takes requests and never answers, for 8 s", _say_nothing, settings=IMPATIENT),
    Scenario("api-drops", "the API accepts and drops the connection (every 2nd call, 8 s)", _drop_what_was_accepted),
    Scenario("api-504", "the API accepts and answers 504 (every 5th call, 8 s)", _time_out_what_was_accepted),
    Scenario("api-drips", "answers come by the byte, one in 0.25 s, for 8 s", _drip, proxied=True, settings=IMPATIENT),
    Scenario("api-storm", "503 to four of five calls for 8 s", _storm),
)
