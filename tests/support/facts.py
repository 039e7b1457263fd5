"""Test data for the hot path: a job as a claim returns it, and its lane."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.ids import new_id

_NEW: dict[str, Any] = {
    "batch_id": None,
    "operation": "send",
    "form": "json",
    "object_id": None,
    "priority": 1,
    "due_at": 0,
    "next_at": 0,
    "expires_at": None,
    "attempts": 0,
    "deaths": 0,
    "conflicts": 0,
    "generation": 0,
    "content_version": 0,
    "key_at": None,
    "doubt_at": None,
    "rule": None,
    "tags": None,
    "body": b"{}",
    "content_type": "application/json",
}


def claimed_job(**given: Any) -> ClaimedJob:
    """A send without attempts, with the fields that are ``given``."""
    return ClaimedJob(**{"id": new_id(), "lane_id": UUID(int=0)} | _NEW | given)


_LANE: dict[str, Any] = dict.fromkeys(Lane._fields) | {
    "application": "default",
    "provider": "google",
    "grant_id": "g1",
    "created_at": 0,
    "high_floor": 0,
    "normal_floor": 0,
    "low_floor": 0,
    "fence": 1,
    "turn_slots": 0,
    "width": 1,
    "ramp": 1,
    "ready_at": 0,
    "spacing": 0,
    "spacing_until": 0,
    "stretch": 0,
    "streak": 0,
    "suspected": False,
    "checks": 0,
    "refused": 0,
    "gone": False,
}


def lane(**given: Any) -> Lane:
    """A lane without turns, with the fields that are ``given``."""
    return Lane(**{**_LANE, "id": new_id(), **given})
