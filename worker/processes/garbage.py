"""Python's garbage collector, set for a process that makes a hundred thousand short-lived objects a second.

By default it walks through everything that is alive whenever a quarter more has survived than was there before: in a
worker, through all that its imports have made, for 500 requests whose objects reference counts free.
"""

from __future__ import annotations

import gc

# Objects that are made and not freed between two looks at the youngest: so many that what is on the wire at one time
# does not by itself bring one look after the other, and so few that a look holds up the event loop for milliseconds.
YOUNGEST = 20_000

# Looks at the youngest between two at the next older ones, and of these between two at all.
OLDER = 10


def settle() -> None:
    """Take what the start has made for granted, and look for garbage more rarely. To be called once it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST, OLDER, OLDER)
