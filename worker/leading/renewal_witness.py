"""The renewal witness: remembers in Redis how often the leader's lease was renewed.

Redis may forget the count (the next renewal writes it again), but it is not restored together with the ledger: a ledger
that counts fewer renewals has lost something (`sendq.ledger.dispatching.lineage`).
"""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from redis.exceptions import RedisError

from worker.redis.embedded import redis_client

# Short, so that a broker that does not answer does not make the leader lose its lease.
TIMEOUT_S = 0.5


class RenewalWitness:
    """One connection, opened on first use."""

    def __init__(self, broker_url: str) -> None:
        # No retries with pauses, which are redis-py's default: the next renewal comes soon enough.
        self._redis = redis_client(
            broker_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None, retry_on_timeout=False
        )

    def renewals_of(self, line: UUID) -> int | None:
        """The highest known count of a lineage, 0 if there is none; None if Redis does not answer."""
        with suppress(RedisError, OSError, ValueError):
            return int(self._redis.get(_key(line)) or 0)
        return None

    def remember(self, line: UUID, renewals: int) -> None:
        """Remember a committed count; if Redis does not answer, only the next renewal is remembered."""
        with suppress(RedisError, OSError):
            self._redis.set(_key(line), renewals)

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def _key(line: UUID) -> str:
    return f"sendq:witness:{line.hex}"
