"""The holds over a lane: its own, its provider's and its application's."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select

from sendq.clock import Micros
from sendq.ledger.db import schema

# As which provider a hold of a whole application is stored.
WHOLE_APPLICATION = "*"


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold as it is stored; it may be over.

    ``provider`` is None when it is on the whole application, ``grant_id`` when it is on more than one grant.
    """

    application: str
    provider: str | None
    grant_id: str | None
    held_until: Micros
    held_since: Micros | None
    held_rule: str | None
    held_by: str | None

    @property
    def scope(self) -> str:
        """``application``, ``provider`` or ``grant``."""
        return "grant" if self.grant_id is not None else "provider" if self.provider is not None else "application"


def holds_over(connection: Connection, lane_id: UUID) -> list[StoredHold]:
    """The stored holds over a lane, the widest first; none for a lane that the dispatcher has not seen."""
    lane, pair = schema.lane.c, schema.pair.c
    names = ("held_until", "held_since", "held_rule", "held_by")
    own = connection.execute(
        select(lane.application, lane.provider, lane.grant_id, *(lane[name] for name in names)).where(
            lane.id == lane_id
        )
    ).first()
    if own is None:
        return []
    wide = connection.execute(
        select(pair.application, pair.provider, *(pair[name] for name in names))
        .where(
            pair.application == own.application,
            pair.provider.in_([own.provider, WHOLE_APPLICATION]),
            pair.held_until.is_not(None),
        )
        .order_by(pair.provider != WHOLE_APPLICATION)
    )
    found = [
        StoredHold(
            row.application, None if row.provider == WHOLE_APPLICATION else row.provider, None,
            row.held_until, row.held_since, row.held_rule, row.held_by,
        )
        for row in wide
    ]  # fmt: skip
    return found if own.held_until is None else [*found, StoredHold(*own)]


def hold_ends(connection: Connection, lane_id: UUID) -> Micros:
    """When the last of the holds over a lane ends; in the past if there is none."""
    return max((hold.held_until for hold in holds_over(connection, lane_id)), default=0)
