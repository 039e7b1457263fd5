"""Filters of `Operators`: which jobs or deliveries a question or an act concerns. Pure.

What matches has to match every field that is given. Times are aware datetimes; ids are those that `Job`, `Batch` and
the lists show. ``application`` is the one that ``grant_id`` belongs to, and says nothing without it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Dead letters. ``rule``: the rule that gave them up; ``since``: given up then or later."""

    rule: str | None = None
    grant_id: str | None = None
    application: str = "default"
    batch_id: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtFilter:
    """Jobs in doubt. ``rule``: the rule by which they fell into doubt."""

    rule: str | None = None
    grant_id: str | None = None
    application: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """Deliveries of outcomes to receivers.

    ``states``: of ``waiting``, ``delivered``, ``given_up``; ``kinds``: of `sendq.outcomes.KINDS`; ``receiver``: as the
    list names it; ``job_id`` or ``batch_id``: what they are about; ``grant_id``: the grant and its jobs.
    """

    states: Collection[str] = ()
    kinds: Collection[str] = ()
    receiver: str | None = None
    job_id: str | None = None
    batch_id: str | None = None
    grant_id: str | None = None
    application: str = "default"
