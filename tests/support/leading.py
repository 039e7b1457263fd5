"""Leadership for tests of one loop: it leads, or does not, as the test says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FixedLeadership:
    """What loops ask (`worker.leading.leadership.Leads`), with the answers given."""

    leads: bool = True
    serves: bool = True
