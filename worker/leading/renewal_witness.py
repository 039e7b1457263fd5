"""The witness: how often the leader's lease was renewed, as Redis remembers it.

Redis may forget the count (the next renewal writes it again), but is not restored together with the ledger: a ledger
that counts fewer renewals has lost something (`sendq.ledger.dispatching.lineage`).
"""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from redis.exceptions import RedisError

from worker.redis.embedded import redis_client

# A broker that does not answer must not cost the lease.
TIMEOUT_S = 0.5


class RenewalWitness:
    """One connection, made when it is first asked."""

    def __init__(self, broker_url: str) -> None:
        # By default redis-py tries again, with pauses: the next renewal comes soon enough.
        self._redis = redis_client(
            broker_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None, retry_on_timeout=False
        )

    def renewals_of(self, line: UUID) -> int | None:
        """The highest count that is known of a lineage, 0 if none; None: Redis does not answer."""
        with suppress(RedisError, OSError, ValueError):
            return int(self._redis.get(_key(line)) or 0)
        return None

    def remember(self, line: UUID, renewals: int) -> None:
        """Remember a count that is committed; lost if Redis does not answer, until the next renewal."""
        with suppress(RedisError, OSError):
            self._redis.set(_key(line), renewals)

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def _key(line: UUID) -> str:
    return f"sendq:witness:{line.hex}"
