"""What a call of enqueue stores, planned before anything touches the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sendq.messages.content import Content


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

    def __repr__(self) -> str:
        return "Plan(…)"


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and for each job (or the batch) its id and the (application, key) that may name an older one instead."""

    plan: Plan
    ids: Sequence[UUID]
    names: Sequence[tuple[str, str] | None]
