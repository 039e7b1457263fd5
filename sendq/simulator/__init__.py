"""A stand-in for the Nylas v3 API, on a real socket, for our tests and for yours.

It sends nothing. It checks requests as the API does, answers in its shapes, keeps idempotency keys as documented, fails
on request (`Fault`), and remembers everything: ``requests`` is the log, ``mailbox`` what was accepted.

    with Simulator() as nylas:                       # or the fixture of sendq.simulator.fixture
        nylas.will("throttle", grant="grant-1")      # the next request of this grant gets a 429
        ...                                          # send through nylas.url, with the key "test-key"
        nylas.wait_for(lambda sim: len(sim.mailbox) >= 5)

Needs the extra ``sendq[simulator]``. ``python -m sendq.simulator`` runs it as a process.
"""

from sendq.simulator.faults import Fault
from sendq.simulator.server import Simulator
from sendq.simulator.store import Accepted, Grant, Modified, Request

__all__ = ["Accepted", "Fault", "Grant", "Modified", "Request", "Simulator"]
