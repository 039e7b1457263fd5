"""Filters of `Operators`: which grants, jobs or deliveries an act concerns. Pure.

What matches has to match every field that is given. Times are aware datetimes: not before ``since``, and before
``until``. A ``tag`` is written ``campaign=may``. Ids are those that `Job`, `Batch` and the lists show. A ``grant_id``
without an ``application`` is one of the application ``default``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFilter:
    """Grants, by what they are and what holds them.

    ``states``: of ``open``, ``held``, ``closed``; by default each act takes those that it makes sense for. ``rule``,
    ``since`` and ``until``: by what and when they were held or closed. ``batch_id``: the grant of this batch.
    """

    states: Collection[str] = ()
    rule: str | None = None
    provider: str | None = None
    application: str | None = None
    grant_id: str | None = None
    batch_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedFilter:
    """Queued jobs, and those whose call is in flight. ``rule``: what decided last; ``since``, ``until``: enqueued."""

    rule: str | None = None
    provider: str | None = None
    application: str | None = None
    grant_id: str | None = None
    batch_id: str | None = None
    tag: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Dead letters, or jobs that expired. ``rule``: what gave them up; ``since`` and ``until``: when.

    ``state``: ``dead`` or ``expired``.
    """

    state: str = "dead"
    rule: str | None = None
    provider: str | None = None
    application: str | None = None
    grant_id: str | None = None
    batch_id: str | None = None
    tag: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtFilter:
    """Jobs in doubt. ``rule``: what put them in doubt; ``since`` and ``until``: when they were enqueued."""

    rule: str | None = None
    provider: str | None = None
    application: str | None = None
    grant_id: str | None = None
    batch_id: str | None = None
    tag: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """Deliveries of outcomes to receivers.

    ``states``: of ``waiting``, ``delivered``, ``given_up``; ``kinds``: of `sendq.outcomes.KINDS`; ``receiver``: as the
    list names it; ``job_id`` or ``batch_id``: what they are about; ``grant_id``: the grant and its jobs.
    ``application``: the one that the grant belongs to.
    """

    states: Collection[str] = ()
    kinds: Collection[str] = ()
    receiver: str | None = None
    job_id: str | None = None
    batch_id: str | None = None
    grant_id: str | None = None
    application: str = "default"
