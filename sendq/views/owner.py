"""Whose a job or batch is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """The application of a job or batch, and the grants that it sends through: of a batch, those of all its jobs."""

    application: str
    grant_ids: frozenset[str]
