"""Leadership for tests of one loop: the test decides whether it leads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FixedLeadership:
    """A `worker.leading.leadership.Leads` with fixed answers."""

    leads: bool = True
    serves: bool = True
