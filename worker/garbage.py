"""Python's garbage collector, set for a process that makes a hundred thousand short-lived objects a second.

By default it walks through everything that is alive whenever a quarter more has survived than was there before: in a
worker, through all that its imports have made, for 500 requests whose objects reference counts free. Measured with 500
calls in flight, a quarter of the worker's CPU went into that.
"""

from __future__ import annotations

import gc

# Objects that are made and not freed between two looks at the youngest. 500 calls in flight are 100,000 objects, most
# of them older than one look; a look at so many takes ten milliseconds.
YOUNGEST = 20_000

# Looks at the youngest between two at the next older ones, and of these between two at all.
OLDER = 10


def settle() -> None:
    """Take what the start has made for granted, and look for garbage more rarely. To be called once it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST, OLDER, OLDER)
