"""Something between the workers and the API answers every call with a page and 200, and goes away again."""

from __future__ import annotations

import itertools

from sendq import Options, Send, State
from sendq.simulator import Fault, Request
from tests.support.system import System, mail, system  # noqa: F401  # a fixture
from tests.support.waiting import eventually

PAGE = Fault.body(200, b"<html><title>Welcome</title></html>", headers={"X-Request-Id": "r"}, kept="outcome")
BEHIND = Fault.body(200, b"{}", headers={"X-Request-Id": "r"}, kept="outcome", accepted=True)
GRANTS, EACH = 40, 5


def test_holds_the_application_and_everything_goes_out_once_afterwards(system: System) -> None:  # noqa: F811
    """Every third request reaches the API behind it, and only its answer is replaced."""
    numbers = itertools.count()

    def gate(request: Request) -> Fault | None:
        if request.operation != "send":
            return PAGE
        return BEHIND if next(numbers) % 3 == 0 else PAGE

    system.api.behaviour.gate = gate
    system.prove(provider="google")
    options = Options(provider="google")
    system.start_worker(SENDQ_ESCALATE_GRANTS="6")
    jobs = [job.id for job in system.queue.send_many([Send(f"g{n}", mail(), options) for n in range(GRANTS)] * EACH)]
    eventually(lambda: system.queue.why(jobs[-1]).says == "the application is held", "the hold of the application")
    held = system.queue.why(jobs[-1])
    assert (held.reason, held.rule, held.by) == ("held", "contradiction", "policy")
    eventually(lambda: not system.states()[State.SENDING], "the end of the calls that had begun before the hold")
    calls = sum(one.operation == "send" for one in system.api.requests)
    # The probe after the hold meets a page again, and is the only call.
    eventually(lambda: sum(one.operation == "send" for one in system.api.requests) > calls, "a probe")
    assert sum(one.operation == "send" for one in system.api.requests) == calls + 1
    system.api.behaviour.gate = None
    system.wait_for(State.SENT, len(jobs))
    assert set(system.accepted().values()) == {1}
    assert max(system.queue.job(job).attempts for job in jobs[:20]) <= 2
