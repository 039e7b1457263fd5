"""Tune Python's garbage collector for a process that makes a hundred thousand short-lived objects per second.

By default, a full collection runs whenever the number of surviving objects has grown by a quarter. In a worker it would
traverse everything that the imports created, for 500 requests whose objects are freed by reference counting anyway.
"""

from __future__ import annotations

import gc

# Net new objects before a collection of the youngest generation: more than the calls in flight keep alive at one time,
# and few enough that a collection blocks the event loop only for milliseconds.
YOUNGEST = 20_000

# Collections of one generation per collection of the next older one.
OLDER = 10


def settle() -> None:
    """Exempt the objects that exist now from collection, and collect less often. Call it once after the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST, OLDER, OLDER)
