"""A simulator of the Nylas v3 API, on a real socket, for our tests and yours.

It sends nothing. It validates requests like the API, returns answers in the same format, stores idempotency keys as
documented, fails on request (`Fault`), and records everything: ``requests`` is the log, ``mailbox`` the accepted mail.
What becomes of a mail is reported to a webhook (`Simulator.webhook`), signed as Nylas signs it.

    with Simulator() as nylas:                       # or the fixture of sendq.simulator.fixture
        nylas.will("throttle", grant="grant-1")      # the next request of this grant gets a 429
        ...                                          # send to nylas.url, with the key "test-key"
        nylas.wait_for(lambda sim: len(sim.mailbox) >= 5)

Needs the extra ``sendq[simulator]``. ``python -m sendq.simulator`` runs it as a process.
"""

from sendq.simulator.faults import Fault
from sendq.simulator.server import Simulator
from sendq.simulator.store import Accepted, Grant, Modified, Notification, Request

__all__ = ["Accepted", "Fault", "Grant", "Modified", "Notification", "Request", "Simulator"]
