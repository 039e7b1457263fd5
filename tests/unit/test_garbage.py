from __future__ import annotations

import subprocess
import sys

SETTLED = """
import gc, weakref
from worker.processes import garbage

class Thing: pass

before = Thing()
before.itself = before
garbage.settle()
kept, walked = gc.get_freeze_count(), len(gc.get_objects())
seen = [Thing() for _ in range(3)]
for thing in seen:
    thing.itself = thing
dead = weakref.ref(seen[0])
del seen, thing
more = [[number] for number in range(2 * garbage.YOUNGEST)]
print(kept > 1000, walked < kept / 10, dead() is None)
"""


class TestAProcessThatHasSettled:
    def test_does_not_walk_through_what_its_start_has_made_and_still_collects_garbage(self) -> None:
        told = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True)
        assert told.stdout.split() == ["True"] * 3, told.stdout
