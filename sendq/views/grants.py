"""Grants, the holds over them, and what happened to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sendq.views.page import plain


class GrantState(StrEnum):
    """What blocks a grant's jobs, apart from holds of its provider or application."""

    OPEN = "open"  # nothing
    HELD = "held"  # a hold, until a time
    CLOSED = "closed"  # its owner must sign in again


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold in force, or a grant that is closed (``until`` None: until its owner signs in again).

    ``grant_id`` is None when the hold is on a provider, and ``provider`` too when it is on the whole application, or
    (``tag``) on all of its jobs with a tag.
    ``by``: an operator's name, or an automatic actor such as ``policy``.
    """

    application: str
    provider: str | None
    grant_id: str | None
    since: datetime | None
    until: datetime | None
    rule: str | None
    by: str | None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class HeldGroup:
    """What one rule holds or closed, of one provider of an application.

    scope         ``grant``: grants of their own; ``provider`` or ``application``: all of it, by one hold
    state         held, or closed: the owners must sign in again (``first_back`` and ``last_back`` are None)
    grants        how many; if ``more_grants``, there are more than were counted
    waiting       their waiting jobs; if ``more_waiting``, there are more than were counted
    oldest        when the oldest of these was due; None: none is due yet
    since         when the first was held or closed
    first_back    when the first of these holds ends, and ``last_back``, when the last one does
    """

    application: str
    provider: str | None
    rule: str | None
    scope: str
    state: GrantState
    grants: int
    more_grants: bool
    waiting: int
    more_waiting: bool
    oldest: datetime | None
    since: datetime | None
    first_back: datetime | None
    last_back: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class GrantView:
    """A grant: whether it is connected, what holds it and until when, and how many of its jobs are waiting.

    known         False: the dispatcher has not seen a job for it yet; its provider is then None
    state         of the grant itself; a hold of its provider or application does not change it
    since         when it was held or closed; with the ``rule`` that did it, ``by`` whom, and an operator's ``reason``
    until         when the hold of the grant itself ends
    suspected     closed, and the API is being asked whether its owner really has to sign in again
    announced_at  when the application was notified that the owner must sign in again
    gone          the grant no longer exists at Nylas; its jobs end
    holds         every hold in force over it: its application's, its provider's, its own
    costs         by kind of call: the units of its provider's limits that the last one used, if its answer stated them
    waiting       its waiting jobs; if ``more_waiting``, there are more than were counted
    eta           about when the last of these starts, if none is held by a person or waits for approval or for another
                  job; None: nothing waits, its owner must sign in first, or more wait than a budget of its application
                  lets begin now
    daily         the messages that it may send within 24 hours now, by its warm-up or, if that allows fewer, its pace;
                  None: it is not being warmed up
    window        when those of its jobs may begin that have none of their own, as `Window` is written; None: always
    opens_at      when it opens next; None: it is open, or there is none
    """

    grant_id: str
    application: str
    provider: str | None
    known: bool
    state: GrantState
    since: datetime | None
    until: datetime | None
    rule: str | None
    by: str | None
    reason: str | None
    suspected: bool
    announced_at: datetime | None
    gone: bool
    holds: tuple[HoldView, ...]
    waiting: int
    more_waiting: bool
    costs: Mapping[str, int] = field(default_factory=dict)
    eta: datetime | None = None
    daily: int | None = None
    window: str | None = None
    opens_at: datetime | None = None

    @property
    def connected(self) -> bool:
        """Whether its jobs can be sent once no hold is in force: its owner need not sign in again."""
        return self.state is not GrantState.CLOSED

    @property
    def held_until(self) -> datetime | None:
        """When the last hold over it ends, including its provider's and application's; None: it is not held."""
        return max((hold.until for hold in self.holds if hold.until is not None), default=None)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        held_until = self.held_until
        return plain(asdict(self) | {"connected": self.connected, "held_until": held_until})


@dataclass(frozen=True, slots=True)
class EventView:
    """Something that happened to a grant, a provider or an application, or that an operator did.

    ``kind`` is one of `sendq.ledger.events`; ``by`` an operator's name, or an automatic actor: ``policy``,
    ``escalation``, ``check``, ``reconcile``, ``webhook``. ``job_id``: the job concerned, or whose answer caused it.
    ``number``: of an act on many things, how many it changed; the other fields are then its filter. ``act``: the event
    of the act that this is a part of. ``category``: of entries of a suppression list; None: those for all mail.
    """

    id: str
    at: datetime
    kind: str
    application: str | None
    provider: str | None
    grant_id: str | None
    job_id: str | None
    batch_id: str | None
    rule: str | None
    by: str
    reason: str | None
    number: int | None = None
    act: str | None = None
    tag: str | None = None
    category: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))
