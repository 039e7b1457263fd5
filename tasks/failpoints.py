"""Named places at which the tests of "nothing lost, nothing sent twice" kill a process.

    from tasks import failpoints
    …
    failpoints.reached("answered")

`reached` does nothing. The worker of those tests (``tests/chaos/entry.py``) replaces it with its own function at its
start; no setting or environment variable can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Every place by name, in the order in which a job passes them, with the state at that place.
POINTS: Mapping[str, str] = {
    "offering": "dispatcher: turns are opened, not yet committed",
    "offered": "dispatcher: turns are committed, not yet published",
    "published": "dispatcher: a bundle is in the broker, others may not be",
    "claiming": "worker: turns are claimed and jobs begun, not yet committed",
    "claimed": "worker: the claim is committed, nothing is on the wire",
    "calling": "turn: directly before the request",
    "answered": "turn: the answer is there, nothing is decided",
    "recording": "recorder: a group is written, not yet committed",
    "recorded": "recorder: the group is committed, no outcome has been reported",
    "burying": "rescuer: a dead worker's turns are taken back, not yet committed",
    "buried": "rescuer: that is committed",
}


def _go_on(_point: str) -> None:
    return


reached: Callable[[str], None] = _go_on
