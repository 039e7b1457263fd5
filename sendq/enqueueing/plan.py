"""What a call of enqueue stores, planned before anything touches the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sendq.clock import Micros
from sendq.messages.content import Content


class Following(NamedTuple):
    """A new job that waits for another one. ``field``: the position in its call, for problems. ``delay``: µs from when
    the other was sent; ``lifetime``: µs from its start to its expiry, None: that is set, or it has none.
    """

    job_id: UUID
    after_id: UUID
    lane_id: UUID
    application: str
    field: str
    delay: Micros
    unless: str | None
    replies: bool
    lifetime: Micros | None


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """What one call of enqueue stores: rows, ready to go in.

    ``jobs`` may be a generator if there are no payloads; both are read in chunks. ``pieces``, in order, name their
    contents by digest, and ``contents`` has each of them. ``wakes`` holds a row for each lane.
    ``message_digest`` makes the digest of a job's message alone, to compare with a key whose content was replaced. The
    ``repr`` shows nothing, because error trackers show the variables of every frame.
    """

    jobs: Iterable[Mapping[str, Any]]
    payloads: Sequence[Mapping[str, Any]] = ()
    pieces: Sequence[Mapping[str, Any]] = ()
    contents: Mapping[bytes, Content] = field(default_factory=dict)
    batch: Mapping[str, Any] | None = None
    keys: Sequence[Mapping[str, Any]] = ()
    wakes: Sequence[Mapping[str, Any]] = field(default_factory=list)
    message_digest: Callable[[UUID], bytes] | None = None
    followings: Sequence[Following] = ()

    def __repr__(self) -> str:
        return "Plan(…)"


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and for each job (or the batch) its id and the (application, key) that may name an older one instead.

    ``digests``: those of the contents, in order, if they were asked for.
    """

    plan: Plan
    ids: Sequence[UUID]
    names: Sequence[tuple[str, str] | None]
    digests: Sequence[bytes] = ()
