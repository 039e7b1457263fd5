"""Batches: what a bulk call returns, and the progress of its jobs and its walk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sendq.errors import Problem
from sendq.rules.states import State
from sendq.views.grants import HoldView
from sendq.views.page import plain


@dataclass(frozen=True, slots=True)
class Batch:
    """What a bulk call returns; ``total`` is the number of its jobs (None: a walk has to find the messages first; of a
    batch that is open, those added by this call). ``left_out``: messages that this call made no job for, because all
    their recipients are suppressed, and are dropped (``suppressed="drop"``); of an undo, messages that were changed and
    are not restored, because their snapshots are no longer kept.

    ``existed``: the key already named this batch, and nothing new was stored.
    """

    id: str
    total: int | None
    existed: bool = False
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """What a mail merge would do: the number of its ``rows``, of those that would be ``left_out`` because they are
    suppressed, and what would be refused, with the positions of the rows.
    """

    rows: int
    left_out: int
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class BatchError:
    """A dead letter of a batch: its job and message (None: a page of the walk), the rule, and the API's answer."""

    job_id: str
    object_id: str | None
    operation: str
    rule: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """Messages that an undo left alone for one reason: the rule, their number, and the ids of the first ten."""

    rule: str
    number: int
    object_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class WalkView:
    """How a batch finds its messages.

    ``state``: ``listing`` messages; ``making`` jobs for those found; ``done``; ``stopped`` (a page was given up,
    cancelled or expired; the batch's errors say why, and a retry of its dead letters continues the walk). ``pages``
    were listed, with ``found`` messages; ``listed`` of ``listings`` are complete (a query is one listing, each thread
    is one).
    """

    state: str
    pages: int
    found: int
    listings: int
    listed: int


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch and its progress.

    ``total`` is None until a walk has found its messages; while sends are added to it (``open``), it has those so far.
    ``grant_id`` is None if it has jobs of several grants. ``counts`` has the number of jobs in each final state, and in
    doubt. ``rate`` is in jobs per second over the last minute; ``eta`` follows from it, from holds and from the lane's
    pace, and is None when unknown (during a walk, while the lane is closed, while jobs wait for approval, while a
    person holds the batch: ``held_at``, and when more of its sends wait than a budget lets begin now). ``holds``: the
    holds in force of its grant, provider and application, of its tags, and of tags of its first thousand waiting jobs;
    one without ``until`` is of a grant that is closed. ``errors`` are the first dead letters, at most ten.
    ``unapproved``: how many of its jobs wait for approval, whether the batch or some of its messages need it.
    ``finished_at``: when its last job ended; a retry of its dead letters reopens it. ``window``: its own, or that of
    its grant, as `Window` is written; ``opens_at``: when that opens next, None while it is open. ``spread_until``: when
    the last of its messages is due, if they were spread.
    ``undoable``: it keeps what its messages were. ``undoes``: the batch that it undoes; ``left``: what it left alone.
    """

    id: str
    operation: str
    application: str | None
    grant_id: str | None
    total: int | None
    counts: Mapping[State, int]
    created_at: datetime
    walk: WalkView | None = None
    rate: float = 0.0
    eta: datetime | None = None
    errors: Sequence[BatchError] = ()
    cancelled_at: datetime | None = None
    held_at: datetime | None = None
    finished_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    open: bool = False
    holds: Sequence[HoldView] = ()
    unapproved: int = 0
    window: str | None = None
    opens_at: datetime | None = None
    spread_until: datetime | None = None
    undoable: bool = False
    undoes: str | None = None
    left: Sequence[LeftAlone] = ()

    @property
    def waiting(self) -> int:
        """Jobs that have not ended, including those on the wire; during a walk, only for messages found so far."""
        known = self.total if self.total is not None else self.walk.found if self.walk is not None else 0
        return known - sum(self.counts.values())

    @property
    def progress(self) -> float:
        """The share of jobs that have ended, from 0 to 1; 0 while the total is unknown."""
        if self.total is None:
            return 0.0
        return 1 - self.waiting / self.total if self.total else 1.0

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self)) | {"waiting": self.waiting, "progress": self.progress}
