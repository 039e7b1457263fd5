"""The witness: how often the dispatcher's lease was renewed, as Redis remembers it.

Redis may forget it (then it is written anew), but it is not restored together with the ledger: a ledger that counts
fewer has lost something (`sendq.ledger.dispatching.lineage`).
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

    def has_seen(self, line: UUID) -> int | None:
        """The highest count that it was told of this line, 0 if it knows none; None: it does not answer."""
        with suppress(RedisError, OSError, ValueError):
            return int(self._redis.get(_key(line)) or 0)
        return None

    def tell(self, line: UUID, renewals: int) -> None:
        """Remember a count that is committed. In vain if it does not answer: the next one says more."""
        with suppress(RedisError, OSError):
            self._redis.set(_key(line), renewals)

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def _key(line: UUID) -> str:
    return f"sendq:witness:{line.hex}"
